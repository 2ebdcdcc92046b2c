r"""Laws of processes, by sampling.

Two ways to draw one law are compared through smooth features (cosines of random projections, for
any space), record by record from the same data: the mean difference of each feature must be zero
within its standard error. Names: s < t are two times, q(. | .) is the forward law.

References:
    A Kernel Two-Sample Test (Gretton et al., 2012), for the features.
    https://jmlr.org/papers/v13/gretton12a.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.random import Generator
from structdiff.testing.noise import Addressed

__all__ = ["Bench"]

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Bench:
    """A bound process, many copies of some records, and two times.

    Arguments:
        process: The process, a product, not bound.
        data: The clean records.
        copies: How often each record is drawn.
        s: The earlier time.
        t: The later one.
        substeps: Steps from t to s: 1 where one step is exact.
        limit: Largest difference that passes, in standard errors.
        seed: Start of all random numbers.
    """

    process: Any
    data: Batch
    copies: int
    s: float
    t: float
    substeps: int
    limit: float
    seed: int

    def __post_init__(self) -> None:
        many = self.data.select(list(range(self.data.samples)) * self.copies)
        object.__setattr__(self, "many", many)
        object.__setattr__(self, "bound", self.process.bind(many))
        object.__setattr__(self, "random", Generator(self.seed))

    many: Batch = None  # type: ignore[assignment]
    bound: Any = None
    random: Generator = None  # type: ignore[assignment]

    def time(self, t: float) -> Any:
        """Times by leaf."""
        return self.bound.times(torch.tensor(t, dtype=torch.float64))

    def noisy(self, t: float) -> State:
        """A draw of q(x_t | x_0) for every copy."""
        state: State = self.bound.diffuse(self.many.leaves, self.time(t), self.random)
        return state

    @property
    def deterministic(self) -> bool:
        """Whether the process has steps at eta 0; a chain of any matrices has Bayes' rule only."""
        try:
            self.bound.plan(torch.tensor([self.t, self.s], dtype=torch.float64), 0.0)
        except ValueError:
            return False
        return True

    def undo(self, x: State, eta: float) -> State:
        """Oracle steps from t to s."""
        times = torch.linspace(self.t, self.s, self.substeps + 1, dtype=torch.float64)
        for time, coefficients in zip(times, self.bound.plan(times, eta), strict=False):
            oracle = self.bound.oracle(self.many.leaves, x, self.time(float(time)))
            x = self.bound.step(x, oracle, coefficients, self.random)
        return x

    def same(self, law: str, got: list[State], expected: list[State], slack: float = 0.0) -> None:
        """Assert that two lists of states, jointly, have one law given the record."""
        a, b = self.features(got, expected)
        gap = a - b
        error = gap.std(0) / math.sqrt(len(gap))
        excess = (gap.mean(0).abs() - slack).clamp(min=0)
        worst = int((excess / error.clamp(min=1e-12)).argmax())
        if excess[worst] > self.limit * error[worst]:
            msg = (
                f"{law}: a feature has mean {float(a[:, worst].mean()):.4f} where"
                f" {float(b[:, worst].mean()):.4f} is expected,"
                f" {float(excess[worst] / error[worst]):.1f} standard errors apart"
                f" (at most {self.limit:g})"
            )
            raise AssertionError(msg)

    def features(self, got: list[State], expected: list[State]) -> tuple[Tensor, Tensor]:
        """96 cosines per sample, the mean over its rows, at three length scales.

        Phases differ from record to record, so that laws given the record are told apart even
        where they are alike on average.
        """
        rows = [
            torch.cat(
                [x[n].flatten(1) if x[n].ndim > 1 else x[n][:, None] for x in each for n in x], 1
            )
            for each in (got, expected)
        ]
        a, b = (x.double() for x in rows)
        scale = b.std(0).clamp(min=1e-6)
        generator = torch.Generator().manual_seed(self.seed)
        width = torch.tensor([0.5, 1.0, 2.0], dtype=a.dtype).repeat(32)
        slope = torch.randn(a.shape[1], 96, generator=generator, dtype=a.dtype)
        slope = slope * width / scale[:, None] / math.sqrt(a.shape[1])
        layout = next(iter(self.many.layouts.values()))
        phase = torch.rand(self.data.samples, 96, generator=generator, dtype=a.dtype) * 2 * math.pi
        phase = phase[layout.sample % self.data.samples]
        first, second = (layout.mean(torch.cos(x @ slope + phase)) for x in (a, b))
        return first, second


def semigroup(bench: Bench) -> None:
    """Corrupting from s to t, and from clean, is diffusing to t."""
    s, t = bench.time(bench.s), bench.time(bench.t)
    clean = bench.time(-1.0)
    through = bench.bound.corrupt(bench.noisy(bench.s), s, t, bench.random)
    bench.same(
        "semigroup: corrupt from s to t is not diffuse to t", [through], [bench.noisy(bench.t)]
    )
    direct = bench.bound.corrupt(bench.many.leaves, clean, t, bench.random)
    bench.same("semigroup: corrupt from clean is not diffuse", [direct], [bench.noisy(bench.t)])


def forgetting(bench: Bench) -> None:
    """At t = 1 the data is forgotten, up to the reported divergence (Pinsker's inequality)."""
    reported = bench.bound.prior_divergence(bench.many.leaves)
    total = sum(bench.many.layouts[n].sum(value.double()) for n, value in reported.items())
    largest = float(torch.as_tensor(total).max())
    if math.isnan(largest) or largest < -1e-6:
        msg = f"forgetting: prior_divergence must not be negative, got {largest:.4g}"
        raise AssertionError(msg)
    if math.isfinite(largest):
        slack = 2 * math.sqrt(max(largest, 0) / 2)
        prior = bench.bound.prior(bench.random)
        law = (
            "forgetting: q(x_1 | x_0) is farther from the prior than "
            f"prior_divergence = {largest:.3g} says"
        )
        bench.same(law, [bench.noisy(1.0)], [prior], slack)


def undoing(bench: Bench) -> None:
    """Oracle steps bring q(x_t | x_0) to q(x_s | x_0), at eta 1 and, where there is one, 0."""
    for eta in (0.0, 1.0) if bench.deterministic else (1.0,):
        law = (
            f"undoing: the oracle step from t to s at eta = {eta:g} does not bring "
            "q(x_t | x_0) to q(x_s | x_0)"
        )
        bench.same(law, [bench.undo(bench.noisy(bench.t), eta)], [bench.noisy(bench.s)])


def bayes(bench: Bench) -> None:
    """At eta 1 the pair (x_s, x_t) has one law both ways."""
    x_t, x_s = bench.noisy(bench.t), bench.noisy(bench.s)
    later = bench.bound.corrupt(x_s, bench.time(bench.s), bench.time(bench.t), bench.random)
    law = "Bayes: the pair (x_s, x_t) differs between corrupting x_s and stepping back from x_t"
    bench.same(law, [bench.undo(x_t, 1.0), x_t], [x_s, later])


def density(bench: Bench) -> None:
    """`log_prob` is the law of `diffuse`, by the overlap of two of them from either side."""
    bound, t = bench.bound, bench.time(bench.t)
    ours, theirs = bench.many.leaves, _next(bench)
    x = bench.noisy(bench.t)
    y = bound.diffuse(theirs, t, bench.random)
    share = _overlap(bench, bound.log_prob(x, ours, t), bound.log_prob(x, theirs, t))
    other = _overlap(bench, bound.log_prob(y, theirs, t), bound.log_prob(y, ours, t))
    law = "density: the overlap of q(x_t | two records), from draws of the one,"
    _is_zero(bench, share - other, law, float(other.mean()))
    # The same against features, since an overlap alone cannot tell a density from its square.
    a, b = bench.features([x], [y])
    a, b = share[:, None] * a, other[:, None] * b
    worst = int(((a - b).mean(0).abs() / (a - b).std(0).clamp(min=1e-12)).argmax())
    law = "density: the mean of a feature over the overlap, from draws of the one,"
    _is_zero(bench, (a - b)[:, worst], law, float(b[:, worst].mean()))


def _overlap(bench: Bench, own: State, other: State) -> Tensor:
    """min(1, q_other / q_own) at draws of q_own; its mean is the same from both sides."""
    return torch.exp((_total(bench, other) - _total(bench, own)).clamp(max=0))


def _next(bench: Bench) -> State:
    """Each copy's record, replaced by the next one with as many rows."""
    counts = [
        tuple(lay.counts[i] for lay in bench.data.layouts.values())
        for i in range(bench.data.samples)
    ]
    order = [
        next(
            j % len(counts)
            for j in range(i + 1, i + 1 + len(counts))
            if counts[j % len(counts)] == counts[i]
        )
        for i in range(len(counts))
    ]
    return bench.data.select(order * bench.copies).leaves


def kernel(bench: Bench) -> None:
    """`reverse_log_prob` is the law of `step`, and `divergence` its relative entropy."""
    bound, t = bench.bound, bench.time(bench.t)
    times = torch.tensor([bench.t, bench.s], dtype=torch.float64)
    (step,) = bound.plan(times, 1.0)
    x_t = bench.noisy(bench.t)
    oracle = bound.oracle(bench.many.leaves, x_t, t)
    other = bound.oracle(_next(bench), x_t, t)
    rows = {n: torch.arange(lay.rows).repeat(2) for n, lay in bench.many.layouts.items()}
    halves = {n: torch.full((len(r),), 0.5, dtype=torch.float64) for n, r in rows.items()}
    both = {n: type(e)(torch.cat([e.value, other[n].value])) for n, e in oracle.items()}
    middle = bound.mean(both, halves, rows)
    x = bound.step(x_t, oracle, step, bench.random)
    y = bound.step(x_t, middle, step, bench.random)
    own, across = (bound.reverse_log_prob(x, x_t, e, step) for e in (oracle, middle))
    back, there = (bound.reverse_log_prob(y, x_t, e, step) for e in (oracle, middle))
    share, other_share = _overlap(bench, own, across), _overlap(bench, there, back)
    law = "kernel: the overlap of two reverse kernels, from draws of the one,"
    _is_zero(bench, share - other_share, law, float(other_share.mean()))
    stated = _total(bench, bound.divergence(oracle, middle, x_t, step))
    law = "divergence: the mean log ratio of the kernels"
    gap = _total(bench, own) - _total(bench, across) - stated
    _is_zero(bench, gap, law, float(stated.mean()))


def _total(bench: Bench, per_row: State) -> Tensor:
    """Nats per sample."""
    return torch.stack([bench.many.layouts[n].sum(x.double()) for n, x in per_row.items()]).sum(0)


def _is_zero(bench: Bench, gap: Tensor, law: str, expected: float) -> None:
    """Assert that the mean is zero within its standard error."""
    got, error = float(gap.mean()), float(gap.std()) / math.sqrt(len(gap))
    if not abs(got) <= bench.limit * error + 1e-9:
        msg = (
            f"{law} is {expected + got:.4f} where {expected:.4f} is expected, with "
            f"a standard error of {error:.2g}"
        )
        raise AssertionError(msg)


def holding(bench: Bench) -> None:
    """Given rows stay at their values, exactly."""
    held = {
        n: lay.row.remainder(2) == lay.sample.remainder(2) for n, lay in bench.many.layouts.items()
    }
    batch = bench.many.with_given(held)
    process = bench.process.bind(batch)
    t = process.times(torch.tensor(bench.t, dtype=torch.float64))
    x_t = process.diffuse(batch.leaves, t, bench.random)
    (step,) = process.plan(torch.tensor([bench.t, bench.s], dtype=torch.float64), 1.0)
    # Any estimate will do: the oracle of some other records.
    oracle = process.oracle(_next(bench), x_t, t)
    states = {
        "prior": process.prior(bench.random),
        "diffuse": x_t,
        "step": process.step(x_t, oracle, step, bench.random),
    }
    for what, state in states.items():
        for name, mask in held.items():
            moved = (
                (state[name][mask] != batch[name][mask]).flatten(1)
                if state[name].ndim > 1
                else state[name][mask] != batch[name][mask]
            )
            if bool(moved.any()):
                msg = f"holding: {what} moved {int(moved.sum())} given entries, expected 0"
                raise AssertionError(msg)


def dtypes(bench: Bench) -> None:
    """States keep the dtype of the data."""
    for dtype in (torch.float32, torch.float64):
        leaves = {
            n: x.to(dtype) if x.is_floating_point() else x for n, x in bench.data.leaves.items()
        }
        process = bench.process.bind(bench.data.with_leaves(leaves))
        t = process.times(torch.tensor(bench.t, dtype=torch.float64))
        x_t = process.diffuse(leaves, t, bench.random)
        (step,) = process.plan(torch.tensor([bench.t, bench.s], dtype=torch.float64), 1.0)
        states = {"prior": process.prior(bench.random), "diffuse": x_t}
        states["step"] = process.step(x_t, process.oracle(leaves, x_t, t), step, bench.random)
        for what, state in states.items():
            for name, x in state.items():
                if x.dtype != leaves[name].dtype:
                    msg = (
                        f"dtype: {what} returned {x.dtype} where the data is {leaves[name].dtype}"
                    )
                    raise AssertionError(msg)


def independence(bench: Bench) -> None:
    """A sample alone becomes what it becomes in a batch, bit for bit."""
    whole = _walk(bench, bench.data)
    for i in range(bench.data.samples):
        alone = _walk(bench, bench.data.select([i]))
        for name, x in alone.items():
            rows = bench.data.layouts[name].rows_of(torch.tensor([i]))
            if not torch.equal(whole[name][rows], x):
                gap = float((whole[name][rows].double() - x.double()).abs().max())
                msg = (
                    f"batch independence: sample {i} differs by {gap:.2g} from "
                    "itself alone, expected 0"
                )
                raise AssertionError(msg)


def _walk(bench: Bench, batch: Batch) -> State:
    process, random = bench.process.bind(batch), Addressed(bench.seed)
    t = process.times(torch.tensor(bench.t, dtype=torch.float64))
    x_t = process.diffuse(batch.leaves, t, random.scoped(step=0))
    (step,) = process.plan(torch.tensor([bench.t, bench.s], dtype=torch.float64), 1.0)
    state: State = process.step(
        x_t, process.oracle(batch.leaves, x_t, t), step, random.scoped(step=1)
    )
    return state
