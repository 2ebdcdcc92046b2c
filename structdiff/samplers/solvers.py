r"""Published multistep solvers, with their own weights.

`Multistep` integrates its polynomials exactly; the papers' formulas differ from that where they
round. With h the step in the clock, h_0 and h_1 the ones before, and m_0, m_1, m_2 the last
estimates, the second order of DPM-Solver++ is m_0 + h / (2 h_0) (m_0 - m_1); its third halves the
last difference of the exact polynomial. UniPC is exact but for one difference, where it has
B(h) / 2 with B(h) = h (`bh1`) or 1 - e^{-h} (`bh2`).

References:
    DPM-Solver++ (Lu et al., 2022), algorithm 2, and its code. https://arxiv.org/abs/2211.01095
    UniPC (Zhao et al., 2023), algorithm 7. https://arxiv.org/abs/2302.04867
    Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023), eq. 15.
    https://arxiv.org/abs/2204.13902
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.samplers.base import Space
from structdiff.samplers.linear import Stage, effective_weights, exponential_weights
from structdiff.samplers.multistep import Mixed, Multistep
from structdiff.schedules import Grid

__all__ = ["DEIS", "DPMSolver", "Ruled", "UniPC"]

Rule = Callable[[Tensor], Tensor]


class Ruled(Mixed):
    """Any rule from clocks to weights.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        rule: Clocks of the grid, `(steps + 1,)`, to weights of each step, `(steps, columns)`,
            latest estimate first; each row sums to one.
        nominal: Its order on R^n.
        eta: Fresh noise, 0 by default.
    """

    def __init__(
        self, denoiser: Denoiser, grid: Grid, rule: Rule, nominal: int, *, eta: float = 0.0
    ) -> None:
        super().__init__(denoiser, grid, eta=eta)
        self.rule, self.nominal = rule, nominal

    def order(self, space: Space) -> int:
        """Nominal for deterministic walks; with fresh noise at most 2 on R^n, 1 on manifolds."""
        if space == "classes" or (space == "manifold" and self.eta > 0):
            return 1
        return min(self.nominal, 2) if self.eta > 0 else self.nominal

    def mix(self) -> Sequence[Any]:
        """The rule in the clock of each leaf."""
        return self.process.weights(self.rule, self.times)


def DEIS(denoiser: Denoiser, grid: Grid, *, order: int = 2) -> Multistep:  # noqa: N802
    """Polynomials of the noise in the log-SNR (`logrho` tAB); order 1 is DDIM.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        order: Number of estimates, 1 to 4: the paper's r plus one.
    """
    return Multistep(denoiser, grid, order=order, interpolate="noise")


def DPMSolver(  # noqa: N802
    denoiser: Denoiser,
    grid: Grid,
    *,
    order: int = 2,
    eta: float = 0.0,
    lower_final: bool = True,
) -> Ruled:
    """DPM-Solver++(2M) or (3M); with eta = 1 its SDE form.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        order: 1 to 3. Of the published third order the error is second order, since it halves
            the last difference; `Multistep(order=3)` is of the third.
        eta: Fresh noise, 0 by default.
        lower_final: Whether the order falls to one towards the end, as is usual below 15 steps.

    Raises:
        ValueError: If the order is out of range.
    """
    _check_order(order, 3)

    def rule(clock: Tensor) -> Tensor:
        return effective_weights(
            clock,
            lambda i: _dpm(clock, i, _order(clock, i, order, lower_final)),
            lambda _: None,
            eta,
        )

    return Ruled(denoiser, grid, rule, min(order, 2), eta=eta)


def UniPC(  # noqa: N802
    denoiser: Denoiser, grid: Grid, *, order: int = 2, variant: Literal["bh1", "bh2"] = "bh2"
) -> Ruled:
    """UniPC of an order: a predictor of that order and a corrector through one estimate more.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        order: 1 to 3; it falls to one towards the end.
        variant: Which B(h).

    Raises:
        ValueError: If the order or the variant is none of these.
    """
    _check_order(order, 3)
    if variant not in ("bh1", "bh2"):
        msg = f"variant must be 'bh1' or 'bh2', got {variant!r}"
        raise ValueError(msg)

    def rule(clock: Tensor) -> Tensor:
        return effective_weights(
            clock,
            lambda i: _unified(clock, i, i, _order(clock, i, order, True), variant),
            lambda i: _unified(clock, i, i - 1, 1 + _order(clock, i - 1, order, True), variant),
        )

    return Ruled(denoiser, grid, rule, order + 1)


def _check_order(order: int, highest: int) -> None:
    if order not in range(1, highest + 1):
        msg = f"order must be in 1, ..., {highest}, got {order}"
        raise ValueError(msg)


def _order(clock: Tensor, i: int, order: int, lower: bool) -> int:
    """Estimates that step i uses: what there is, and fewer towards the end."""
    steps = len(clock) - 1
    finite = int(torch.isfinite(clock[: i + 1]).sum())
    if not torch.isfinite(clock[i : i + 2]).all():
        return 1
    return max(1, min(order, finite, steps - i if lower else order))


def _dpm(clock: Tensor, i: int, order: int) -> Stage:
    """Step i of DPM-Solver++, by its differences."""
    m = torch.eye(order, dtype=torch.float64)
    weights = m[0]
    if order > 1:
        h = clock[i + 1] - clock[i]
        before = (clock[i] - clock[i - 1]) / h
        first = (m[0] - m[1]) / before
        weights = weights + first / 2
    if order > 2:
        older = (clock[i - 1] - clock[i - 2]) / h
        second = (first - (m[1] - m[2]) / older) / (before + older)
        mass = -torch.expm1(-h)
        slope, bend = 1 / mass - 1 / h, (0.5 - (h - mass) / h**2) / mass
        weights = m[0] + slope * (first + before * second) + bend * second
    return Stage(range(i, i - order, -1), weights)


def _unified(clock: Tensor, latest: int, step: int, count: int, variant: str) -> Stage:
    """A stage of UniPC for a step, through `count` estimates up to the latest."""
    places = list(range(latest, latest - count, -1))
    if count == 1 or not torch.isfinite(clock[step : step + 2]).all():
        return Stage([latest], torch.ones(1, dtype=torch.float64))
    if count > 2:
        weights = exponential_weights(clock[places], clock[step], clock[step + 1], 1.0)
        return Stage(places, weights)
    h = clock[step + 1] - clock[step]
    other = latest if latest != step else latest - 1
    half = 0.5 * h / (clock[other] - clock[step])
    if variant == "bh1":
        half = -half * h / torch.expm1(-h)
    return Stage([step, other], torch.stack([1 - half, half]))
