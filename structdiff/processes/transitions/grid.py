r"""Chains that are given by their T one-step matrices.

Step i of T is the time i / T, and only such times (and `CLEAN`) exist. The products from the
data, T x S x S in float64, are kept; a product between two other times is made when it is asked
for. There is no generator, so no rates, and the schedule of the process serves as its clock
alone. A reverse step may leave out steps of the grid.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    section 3.1 and appendix A.2.3. https://arxiv.org/abs/2107.03006
    Vector Quantized Diffusion Model for Text-to-Image Synthesis (Gu et al., 2022), eqs. 5-8.
    https://arxiv.org/abs/2111.14822
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.draws import draw_class
from structdiff.processes.leaf import expand
from structdiff.processes.transitions.base import (
    Bayes,
    Jump,
    Kernel,
    Reverse,
    Still,
    Transition,
    row_steps,
)
from structdiff.processes.transitions.generated import check_eta, invert, safe_log
from structdiff.processes.transitions.rank_one import check_law
from structdiff.processes.transitions.semigroup import reachable, stationary_law
from structdiff.processes.transitions.table import Table, weigh
from structdiff.schedules import Schedule

__all__ = ["Grid"]


class Grid(Transition):
    """A chain of T steps.

    Checks that times lie on the grid read them on the host.

    Arguments:
        matrices: q(x_i = b | x_{i-1} = a) at [i - 1, a, b], `(T, S, S)`.
        classes: Number K <= S of data classes, the first of the symbols; all by default.
        stationary: The law of the prior, `(S,)`; by default the one that the last matrix
            leaves as it is.

    Raises:
        ValueError: If a matrix has a row that is no law; if the last matrix has several laws
            and none is named.

    Example:
        >>> flip = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> Grid(torch.stack([flip, flip])).products[2]
        tensor([[0.6250, 0.3750],
                [0.3750, 0.6250]], dtype=torch.float64)
    """

    matrices: Tensor
    products: Tensor
    edges: Tensor

    def __init__(
        self, matrices: Tensor, classes: int | None = None, stationary: Tensor | None = None
    ) -> None:
        matrices = check_matrices(matrices)
        symbols = matrices.shape[-1]
        classes = symbols if classes is None else classes
        if not 1 <= classes <= symbols:
            msg = f"classes must be in 1 to {symbols}, the rows of the matrices, got {classes}"
            raise ValueError(msg)
        if stationary is None:
            last = matrices[-1]
            law = stationary_law("the last of matrices", last, reachable(last))
        else:
            law = check_law(classes, stationary)
        if len(law) != symbols:
            msg = f"stationary must have {symbols} numbers, as the matrices, got {len(law)}"
            raise ValueError(msg)
        super().__init__(classes, law)
        products = [torch.eye(symbols, dtype=torch.float64)]
        for matrix in matrices:
            products.append(products[-1] @ matrix)
        self.register_buffer("matrices", matrices, persistent=False)
        self.register_buffer("products", torch.stack(products), persistent=False)
        self.register_buffer("edges", law.cumsum(0), persistent=False)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.matrices)

    @property
    def continuous(self) -> bool:
        """There is no generator."""
        return False

    def place(self, t: Tensor) -> Tensor:
        """Which step a time is, int64; 0 for `CLEAN`.

        Raises:
            ValueError: If a time is none of them.
        """
        steps = t.double() * self.steps
        index = steps.round()
        off = (steps - index).abs() > (1e-9 if t.dtype == torch.float64 else 1e-3)
        off = (t >= 0) & (off | (index > self.steps))
        if bool(off.any()):
            first = float(t[off].flatten()[0])
            near = f"{int(first * self.steps)}/{self.steps}"
            mend = f"take UniformTime() with a number of steps that divides {self.steps}"
            msg = f"times must be i / {self.steps} on this chain, got {first:.6g} after {near}"
            raise ValueError(f"{msg}: {mend}")
        return index.clamp(min=0).long()

    def between(self, start: int, end: int) -> Tensor:
        """The product of the matrices after `start` up to `end`, `(S, S)`."""
        if start == 0:
            return self.products[end]
        product = torch.eye(self.symbols, dtype=torch.float64, device=self.matrices.device)
        for matrix in self.matrices[start:end]:
            product = product @ matrix
        return product

    def redraw(self, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        return invert(self.edges, uniform)

    def kernel(self, schedule: Schedule, s: Tensor | None, t: Tensor, x: Tensor) -> Kernel:
        """A matrix where rows share the times."""
        del schedule
        end = self.place(t)
        start = torch.zeros_like(end) if s is None else self.place(s)
        if start.ndim == end.ndim == 0:
            return Table(self.between(int(start), int(end)).to(x.device))
        start, end = (expand(place.to(x.device), x) for place in (start, end))
        if not bool((start == 0).all()):
            return GridKernel(self.matrices.to(x.device), start, end)
        return CleanKernel(self.products.to(x.device), end)

    def reverse(
        self, schedule: Schedule, times: Tensor, eta: float, x: Tensor
    ) -> Sequence[Reverse]:
        """At eta 1, between times of the grid."""
        check_eta(self, eta)
        if times.ndim > 1:
            return row_steps(self, schedule, times, eta, x)
        places = self.place(times).tolist()
        tables = {i: Table(self.products[i].to(x.device)) for i in set(places)}
        return [
            Still(self.symbols)
            if t == s
            else Bayes(tables[s], tables[t], Table(self.between(s, t).to(x.device)))
            for t, s in zip(places[:-1], places[1:], strict=True)
        ]

    def settled(self, x_t: Tensor) -> Tensor | None:
        """Nowhere: what is certain is barred otherwise."""
        del x_t
        return None

    def barred(self, schedule: Schedule, t: Tensor, x_t: Tensor) -> Tensor | None:
        """Classes with probability zero to be x_t at t."""
        return self.kernel(schedule, None, t, x_t).column(x_t)[..., : self.classes] == -torch.inf

    def rates(self, log_p: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """None."""
        self._refuse()

    def divergence_rate(self, log_p: Tensor, x_0: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """None."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        what = "this chain is given by its matrices on a grid and has no generator"
        msg = f"{what}, so no rates: use plan and divergence, or a continuous transition"
        raise ValueError(msg)


class CleanKernel(Kernel):
    """q(x_t | x_0) at times by row.

    Arguments:
        products: From the data, `(T + 1, S, S)`.
        end: Which one, shaped to broadcast against rows.
    """

    def __init__(self, products: Tensor, end: Tensor) -> None:
        self.products, self.end = products, end

    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        return draw_class(safe_log(self.products[self.end, x_s]), uniform)

    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """An entry."""
        return safe_log(self.products[self.end, x_s, x_t])

    def column(self, x_t: Tensor) -> Tensor:
        """A column."""
        return safe_log(self.products.mT[self.end, x_t])

    def push(self, log_law: Tensor) -> Tensor:
        """A product by row."""
        y, scale = weigh(log_law)
        return safe_log((y.unsqueeze(-2) @ self.products[self.end]).squeeze(-2)) + scale


class GridKernel(Kernel):
    """q(x_t | x_s) at times by row: one product after the other.

    Arguments:
        matrices: One step each, `(T, S, S)`.
        start: Step of s, shaped to broadcast against rows.
        end: Step of t, likewise.
    """

    def __init__(self, matrices: Tensor, start: Tensor, end: Tensor) -> None:
        self.matrices, self.start, self.end = matrices, start, end

    def _run(self, y: Tensor, order: Sequence[int], matrices: Tensor) -> Tensor:
        for i in order:
            inside = ((self.start <= i) & (i < self.end)).unsqueeze(-1)
            y = torch.where(inside, y @ matrices[i], y)
        return y

    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        return draw_class(self.push(torch.log(self._one(x_s))), uniform)

    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """An entry."""
        return self.column(x_t).gather(-1, x_s.unsqueeze(-1)).squeeze(-1)

    def column(self, x_t: Tensor) -> Tensor:
        """By products from the right."""
        back = range(len(self.matrices) - 1, -1, -1)
        return safe_log(self._run(self._one(x_t), back, self.matrices.mT))

    def push(self, log_law: Tensor) -> Tensor:
        """By products from the left."""
        y, scale = weigh(log_law)
        return safe_log(self._run(y, range(len(self.matrices)), self.matrices)) + scale

    def _one(self, x: Tensor) -> Tensor:
        return F.one_hot(x, self.matrices.shape[-1]).double()


def check_matrices(matrices: Tensor) -> Tensor:
    """One-step matrices in float64, rows summing to one.

    Raises:
        ValueError: If they are none.
    """
    q = matrices.detach().double().cpu()
    if q.ndim != 3 or q.shape[1] != q.shape[2] or not q.numel():
        msg = f"matrices must have shape (T, S, S), got {tuple(q.shape)}"
        raise ValueError(msg)
    sums = q.sum(-1)
    bad = torch.nonzero(~((q >= 0).all(-1) & ((sums - 1).abs() <= 1e-6)))
    if len(bad):
        step, row = bad[0].tolist()
        must = "must be non-negative and sum to 1"
        least, total = float(q[step, row].min()), float(sums[step, row])
        msg = f"row {row} of matrices[{step}] {must}, got a least of {least:.4g}, sum {total:.6g}"
        raise ValueError(msg)
    return q / sums.unsqueeze(-1)
