"""Laws of the categorical process, by enumeration."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff import Batch, Categorical, Discrete, Flow, Layout, Product, absorbing, marginal
from structdiff import uniform as redraw
from structdiff.processes import Estimate, Grid, RankOne
from structdiff.schedules import CLEAN, Linear, Survival
from structdiff.testing import ExactDenoiser
from tests.processes.cases import CHAINS, LAW, Case, Fixed, grid, time

ONE = {name: case for name, case in CHAINS.items() if case.process.event == ()}
cases = pytest.mark.parametrize("case", ONE.values(), ids=ONE.keys())
LABELS = [(name, eta) for name, case in ONE.items() for eta in case.etas]
STEPS = [(ONE[name], eta) for name, eta in LABELS]
PAIRS = [(0.2, 0.7), (0.0, 0.3), (CLEAN, 0.5), (0.5, 1.0), (CLEAN, 1.0)]
pairs = pytest.mark.parametrize(("s", "t"), PAIRS)


def bound_to(process: Categorical, rows: int) -> Categorical:
    return process.bind(Batch({"x": process.empty(rows)}, {"x": Layout.regular(rows)}))


def table(process: Categorical, *sizes: int) -> tuple[Categorical, list[Tensor]]:
    """All combinations of symbols as rows, and a process bound to them."""
    axes = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
    return bound_to(process, math.prod(sizes)), [axis.flatten() for axis in axes]


def marginals(process: Categorical, t: float) -> Tensor:
    """q(x_t | x_0), `(K, S)`."""
    bound, (x_0, x_t) = table(process, process.classes, process.symbols)
    log_prob = bound.log_prob(x_t, x_0, time(t))
    return log_prob.exp().reshape(process.classes, process.symbols)


def forward(case: Case, s: float, t: float) -> Tensor:
    """q(x_t | x_s), `(S, S)`: exp(R log(alpha_s / alpha_t)), or the product of matrices."""
    process = case.process
    if isinstance(process.transition, Grid):
        steps = process.transition.matrices
        start, end = (round(max(u, 0) * len(steps)) for u in (s, t))
        eye = torch.eye(process.symbols).double()
        return functools.reduce(torch.matmul, steps[start:end], eye)
    before, after = (process.schedule.alpha(time(u)) for u in (s, t))
    if after == 0:
        return process.stationary.expand(process.symbols, -1)
    assert case.generator is not None
    return torch.linalg.matrix_exp(case.generator * torch.log(before / after))


def reverse(process: Categorical, t: float, s: float, eta: float) -> Tensor:
    """The step at the oracle, `(K, S_t, S_s)`; rows that x_0 cannot reach are zero."""
    k, n = process.classes, process.symbols
    bound, (x_0, x_t, x_s) = table(process, k, n, n)
    (plan,) = bound.plan(grid(t, s), eta)
    oracle = bound.oracle(x_0, x_t, time(t))
    kernel = bound.reverse_log_prob(x_s, x_t, oracle, plan).exp().reshape(k, n, n)
    return torch.where(marginals(process, t)[..., None] > 0, kernel, 0.0)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@cases
@pairs
def test_semigroup(case: Case, s: float, t: float) -> None:
    """A13, D01(a)."""
    process = case.process
    kernel = forward(case, s, t)
    close(kernel.sum(1), torch.ones(process.symbols).double())
    close(marginals(process, s) @ kernel, marginals(process, t))


@cases
def test_corrupt_and_diffuse_draw_those_laws(case: Case) -> None:
    """By 100,000 quantiles, exact to one in that many a symbol."""
    process, n = case.process, 100_000
    noise = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    bound = bound_to(process, n)
    for start in range(process.classes):
        x = torch.full((n,), start)
        drawn = bound.diffuse(x, time(0.4), Fixed(noise))
        frequency = torch.bincount(drawn, minlength=process.symbols).double() / n
        close(frequency, marginals(process, 0.4)[start], 4 / n)
        drawn = bound.corrupt(x, time(0.3), time(0.6), Fixed(noise))
        frequency = torch.bincount(drawn, minlength=process.symbols).double() / n
        close(frequency, forward(case, 0.3, 0.6)[start], 4 / n)
    prior = torch.bincount(bound.prior(Fixed(noise)), minlength=process.symbols).double() / n
    close(prior, process.stationary, 4 / n)


@pytest.mark.parametrize(("case", "eta"), STEPS, ids=[f"{n}-{e}" for n, e in LABELS])
@pairs
def test_undoing(case: Case, s: float, t: float, eta: float) -> None:
    """The oracle step brings q(x_t | x_0) to q(x_s | x_0)."""
    kernel = reverse(case.process, t, s, eta)
    undone = torch.einsum("ki,kij->kj", marginals(case.process, t), kernel)
    close(undone, marginals(case.process, s))


@cases
@pairs
def test_bayes(case: Case, s: float, t: float) -> None:
    """D01(b): at eta = 1 the pair (x_s, x_t) has one law both ways, for every x_0."""
    pair = marginals(case.process, t)[..., None] * reverse(case.process, t, s, 1.0)
    forwards = marginals(case.process, s)[:, :, None] * forward(case, s, t)
    close(pair, forwards.transpose(1, 2))


@cases
def test_the_kernel_is_affine_in_the_estimate(case: Case) -> None:
    """At a decoded estimate: the mean of the kernels at the oracles."""
    process = case.process
    k, n = process.classes, process.symbols
    bound, (x_t, x_s) = table(process, n, n)
    logits = torch.randn(n, 1, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = logits.expand(n, n, k).reshape(n * n, k)
    for eta in case.etas:
        (plan,) = bound.plan(grid(0.7, 0.3), eta)
        estimate = bound.decode(logits, x_t, time(0.7))
        kernel = bound.reverse_log_prob(x_s, x_t, estimate, plan).exp().reshape(n, n)
        p = estimate.value.exp().reshape(n, n, k)[:, 0]
        close(kernel, torch.einsum("ik,kij->ij", p, reverse(process, 0.7, 0.3, eta)))
        close(kernel.sum(1), torch.ones(n).double())


@cases
def test_step_draws_its_kernel(case: Case) -> None:
    process, n = case.process, 4000
    q = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    bound = bound_to(process, n)
    logits = torch.tensor([0.3, -0.5, 1.0, 0.1, 0.4], dtype=torch.float64)[: process.classes]
    eta = 0.5 if 0.5 in case.etas else 1.0
    for at in torch.nonzero(marginals(process, 0.7).sum(0))[:, 0].tolist():
        x_t = torch.full((n,), at)
        estimate = bound.decode(logits.expand(n, -1), x_t, time(0.7))
        (plan,) = bound.plan(grid(0.7, 0.3), eta)
        drawn = bound.step(x_t, estimate, plan, Fixed(q))
        frequency = torch.bincount(drawn, minlength=process.symbols).double() / n
        close(frequency, bound.log_kernel(estimate, x_t, plan)[0].exp(), 1 / n)


@pytest.mark.parametrize("transition", [redraw(3), absorbing(3), marginal(LAW)])
def test_d3pm_matrices(transition: RankOne) -> None:
    """D01(b), D02, A02: the T one-step matrices of a paper, their products and posteriors."""
    steps = 10
    betas = torch.linspace(0.05, 0.6, steps, dtype=torch.float64)
    process = Categorical(Survival(Discrete(betas)), transition)
    n = process.symbols
    eye = torch.eye(n).double()
    one_step = [(1 - beta) * eye + beta * process.stationary for beta in betas]
    products = [eye, *itertools.accumulate(one_step, torch.matmul)]
    for i in range(1, steps + 1):
        t, s = i / steps, (i - 1) / steps if i > 1 else CLEAN
        now = products[i][: process.classes]
        close(marginals(process, t), now, 1e-12)
        likelihood = one_step[i - 1].T[None]  # (x_t, x_s)
        joint = likelihood * products[i - 1][: process.classes, None, :]
        posterior = torch.where(now[..., None] > 0, joint / now[..., None], 0.0)
        close(reverse(process, t, s, 1.0), posterior, 1e-12)


def test_multinomial_diffusion() -> None:
    """D02: Hoogeboom's posterior and loss are those of the uniform chain."""
    steps, k = 20, 4
    betas = torch.linspace(0.02, 0.5, steps, dtype=torch.float64)
    process = Categorical(Survival(Discrete(betas)), redraw(k))
    products = torch.cumprod(1 - betas, 0)
    eye = torch.eye(k).double()
    i = 12
    a, before = 1 - betas[i - 1], products[i - 2]
    theta = (a * eye + (1 - a) / k)[None] * (before * eye + (1 - before) / k)[:, None]
    theta = theta / theta.sum(-1, keepdim=True)
    close(reverse(process, i / steps, (i - 1) / steps, 1.0), theta)
    bound, (x_0, x_t) = table(process, k, k)
    guess = bound.decode(torch.arange(16.0).double().reshape(16, 1) * eye[:1], x_t, time(0.6))
    (plan,) = bound.plan(grid(i / steps, (i - 1) / steps), 1.0)
    p = bound.log_kernel(guess, x_t, plan).exp().reshape(k, k, k)
    kl = (theta * (theta / p).log()).sum(-1).flatten()
    ours = bound.divergence(bound.oracle(x_0, x_t, time(0.6)), guess, x_t, plan)
    close(ours, kl, 1e-12)
    stationary = marginals(Categorical(Survival(Linear()), redraw(k)), 1.0)
    close(stationary, torch.full((k, k), 1 / k).double(), 1e-4)


@cases
def test_divergences(case: Case) -> None:
    """Against the sums that define them."""
    process = case.process
    k, n = process.classes, process.symbols
    bound, (x_0, x_t) = table(process, k, n)
    (plan,) = bound.plan(grid(0.7, 0.3), 1.0)
    logits = torch.randn(k * n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    estimate = bound.decode(logits, x_t, time(0.7))
    true = reverse(process, 0.7, 0.3, 1.0).reshape(k * n, n)
    model = bound.log_kernel(estimate, x_t, plan).exp()
    terms = torch.where(true > 0, true * (true / model).log(), 0.0)
    possible = marginals(process, 0.7).flatten() > 0
    ours = bound.divergence(bound.oracle(x_0, x_t, time(0.7)), estimate, x_t, plan)
    close(ours[possible], terms.sum(-1)[possible])
    log_p = estimate.value.gather(1, x_0[:, None])[:, 0]
    close(bound.loss(estimate, x_0, x_t, time(0.7))[possible], -log_p[possible])
    close(bound.reconstruction(estimate, x_0, x_t, time(0.1))[possible], -log_p[possible])
    q, law = marginals(process, 1.0), process.stationary
    kl = torch.where(q > 0, q * (q / law).log(), 0.0).sum(1)
    torch.testing.assert_close(bound.prior_divergence(x_0).reshape(k, n)[:, 0], kl)


@cases
def test_forgetting(case: Case) -> None:
    """At alpha(1) = 0 the law at t = 1 is the prior, and the reported divergence is zero."""
    process = case.process
    left = float(process.schedule.alpha(time(1.0))) if process.transition.continuous else 1e-4
    close(marginals(process, 1.0), process.stationary.expand(process.classes, -1), left)
    x = torch.arange(process.symbols)
    prior = bound_to(process, process.symbols).prior_log_prob(x)
    close(prior.double().exp(), process.stationary, 1e-7)


@cases
@pytest.mark.parametrize("t", [0.7, 1.0])
def test_pair_law_of_the_exact_denoiser_of_several_points(case: Case, t: float) -> None:
    """One class-valued row: exact at eta = 1 though x_0 is not known."""
    process = case.process
    k = process.classes
    weights = torch.arange(1, k + 1, dtype=torch.float64) / (k * (k + 1) / 2)
    product = Product({"x": process})
    denoiser = ExactDenoiser(product, Batch.of(torch.arange(k)), weights)
    reached = weights @ marginals(process, t)
    x_t = torch.nonzero(reached > 0)[:, 0]
    estimate = denoiser(Batch.of(x_t), {"x": time(t)})["x"]
    bound = bound_to(process, len(x_t))
    (plan,) = bound.plan(grid(t, 0.3), 1.0)
    kernel = bound.log_kernel(estimate, x_t, plan).exp()
    before = weights @ marginals(process, 0.3)
    pair = before[:, None] * forward(case, 0.3, t)
    close(reached[x_t, None] * kernel, pair.T[x_t])


def test_variational_bound_of_two_bits() -> None:
    """A02: summed over all x_t, never below -log p, and close with many steps."""
    process = Categorical(Flow(), redraw(2), event=(2,))
    data = torch.tensor(list(itertools.product([0, 1], [0, 1])))
    weights = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(data), weights)
    x_0, x_t = data.repeat_interleave(4, 0), data.repeat(4, 1)
    bound = process.bind(Batch.of(x_t))
    gaps = []
    for steps in (2, 8, 32):
        times = grid(*(1 - i / steps for i in range(steps)), CLEAN)
        total = bound.prior_divergence(x_0)
        for i, plan in enumerate(bound.plan(times, 1.0)):
            estimate = denoiser(Batch.of(x_t), {"x": times[i]})["x"]
            mass = bound.log_prob(x_t, x_0, times[i]).exp()
            oracle = bound.oracle(x_0, x_t, times[i])
            if i < steps - 1:
                term = bound.divergence(oracle, estimate, x_t, plan)
            else:
                term = bound.reconstruction(estimate, x_0, x_t, times[i])
            total = total + (mass * term).reshape(4, 4).sum(1).repeat_interleave(4)
        gaps.append(total[::4] + weights.log())
    means = [float(weights @ gap) for gap in gaps]
    assert min(means) > 0
    assert means[2] < means[1] < means[0]
    assert means[2] < 0.02


def test_entries_of_a_row_are_independent() -> None:
    case = CHAINS["absorbing event"]
    batch = case.batch()
    process, flat = case.process.bind(batch), bound_to(ONE["absorbing"].process, 6)
    x_0, x_t = batch["x"], torch.tensor([[3, 1], [0, 3], [3, 3]])
    t = time(0.6)
    one = flat.log_prob(x_t.flatten(), x_0.flatten(), t).reshape(3, 2).sum(1)
    torch.testing.assert_close(process.log_prob(x_t, x_0, t), one)
    logits = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    estimate = process.decode(logits, x_t, t)
    (plan,) = process.plan(grid(0.6, 0.2), 1.0)
    x_s = torch.where(x_t == 3, x_0, x_t)
    single = Estimate(estimate.value.reshape(6, 3))
    ours = process.reverse_log_prob(x_s, x_t, estimate, plan)
    theirs = flat.reverse_log_prob(x_s.flatten(), x_t.flatten(), single, plan)
    close(ours, theirs.reshape(3, 2).sum(1))
    oracle = process.oracle(x_0, x_t, t)
    assert oracle.value.exp().argmax(-1).equal(x_0)


def test_decoding_masks_what_cannot_be() -> None:
    """Absorbing: an unmasked symbol is x_0. Marginal: so is a class that noise never gives."""
    process = bound_to(ONE["absorbing"].process, 4)
    logits = torch.tensor([[0.0, 1.0, 2.0]]).double().expand(4, 3)
    value = process.decode(logits, torch.tensor([0, 1, 2, 3]), time(0.5)).value.exp()
    close(value[:3], torch.eye(3).double())
    close(value[3], logits[0].softmax(-1))
    process = bound_to(ONE["marginal with an impossible class"].process, 3)
    value = process.decode(logits[:3], torch.tensor([0, 1, 2]), time(0.5)).value.exp()
    close(value[1], torch.eye(3).double()[1])
    close(value[[0, 2]], logits[:2].softmax(-1))


def test_combine_clips_and_renormalises() -> None:
    process = bound_to(ONE["uniform"].process, 2)
    a = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]).double()
    b = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]).double()
    x = torch.tensor([0, 1])
    history = [(x, Estimate(a.log())), (x, Estimate(b.log()))]
    weights = (time(1.5), time(-0.5))
    mixed = process.combine(history, weights, x).value.exp()
    expected = (1.5 * a - 0.5 * b).clamp(min=0)
    close(mixed, expected / expected.sum(1, keepdim=True))
    close(process.combine(history, weights[:1], x).value, a.log())


def test_large_vocabulary_in_float32() -> None:
    """K = 50,000: kernels are laws, without a matrix."""
    k = 50_000
    process = bound_to(Categorical(Flow(), absorbing(k)), 2)
    logits = torch.randn(2, k, generator=torch.Generator().manual_seed(0))
    x_t = torch.tensor([k, k])
    (plan,) = process.plan(grid(0.6, 0.59), 1.0)
    kernel = process.log_kernel(process.decode(logits, x_t, time(0.6)), x_t, plan)
    assert kernel.dtype == torch.float32
    torch.testing.assert_close(kernel.exp().sum(-1), torch.ones(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(kernel[:, k].exp(), torch.full((2,), 0.59 / 0.6))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Categorical(Linear(), redraw(3)), r"alpha \+ sigma = 1: use Flow"),
        (lambda: RankOne(3, torch.ones(2) / 2), r"at least classes = 3 >= 1 symbols, got shape"),
        (lambda: RankOne(2, torch.ones(2)), "sum to 1, its sum is 2: divide by the sum"),
        (lambda: marginal(torch.tensor([1.5, -0.5])), "must be non-negative"),
        (
            lambda: bound_to(Categorical(Flow(), redraw(2)), 1).plan(grid(0.2, 0.5), 0.0),
            "times must fall",
        ),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]


def test_transitions_are_laws() -> None:
    close(redraw(4).stationary, torch.full((4,), 0.25).double())
    close(absorbing(2).stationary, F.one_hot(torch.tensor(2), 3).double())
    close(marginal(LAW).stationary, LAW)
    assert (absorbing(2).symbols, redraw(4).symbols) == (3, 4)
