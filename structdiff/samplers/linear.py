r"""Linear multistep methods as one matrix of weights.

A method holds a state y, whose past is a linear combination of y_0 and of the estimates D_0, D_1,
..., whatever it does on the way: it extrapolates (in the estimates, or in the noise
e = (y - D) / rho), steps, and with the next estimate at hand may redo the last step by
interpolation. In units where a step from t to s is y_s = r y_t + (1 - r) M, all that a sampler
needs of this are the *effective estimates*

    M_i = (y_{i+1} - r_i y_i) / (1 - r_i) = sum_j w_{ij} D_{i-j},        sum_j w_{ij} = 1,

of the states y_i at which the denoiser is called. They are found once, by running the method on
the formal combinations; so a corrector, or polynomials of the noise, cost no state of their own
and act wherever estimates can be mixed.

References:
    UniPC (Zhao et al., 2023), section 3. https://arxiv.org/abs/2302.04867
    DPM-Solver++ (Lu et al., 2022), section 4. https://arxiv.org/abs/2211.01095
    Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023).
    https://arxiv.org/abs/2204.13902
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Coordinate", "Stage", "adams", "effective_weights", "exponential_weights", "keep"]

Coordinate = Callable[[Tensor], Tensor]
"""Clocks to the variable of a polynomial."""

SMALL = 1e-12
"""Weights below it are rounding."""


class Stage(NamedTuple):
    """What a step is made with: estimates by their number, and their weights.

    Arguments:
        places: Numbers of the estimates, `(k,)`.
        weights: Their weights, `(k,)`; they sum to one.
        noise: Whether the weights are on the noise e rather than on the estimates.
    """

    places: Sequence[int]
    weights: Tensor
    noise: bool = False


def keep(low: Tensor, high: Tensor, eta: float) -> Tensor:
    """How much of the state a step keeps, in units of alpha; 0 from pure noise and to clean."""
    h = torch.where(torch.isfinite(low) & torch.isfinite(high), high - low, torch.inf)
    return torch.exp(-h) * torch.sqrt(1 + eta**2 * torch.expm1(-2 * h))


def effective_weights(
    clock: Tensor,
    predict: Callable[[int], Stage],
    correct: Callable[[int], Stage | None],
    eta: float = 0.0,
) -> Tensor:
    """Weights of the effective estimate of each step, latest first.

    Arguments:
        clock: Clocks of the grid, `(steps + 1,)`.
        predict: The stage of step i, from estimates up to i.
        correct: The stage that redoes step i - 1 with estimate i at hand, or None.
        eta: Fresh noise of the steps.

    Returns:
        `(steps, columns)`, float64, without columns that are zero throughout.
    """
    steps = len(clock) - 1
    kept = keep(clock[:-1], clock[1:], eta).tolist()
    ratio = torch.exp(-clock)
    # Column 0 is y_0, column j + 1 the estimate D_j.
    estimate = torch.eye(steps + 1, dtype=torch.float64)[1:]
    seen, state = estimate.new_zeros(steps + 1, steps + 1), estimate.new_zeros(steps + 1)
    state[0] = seen[0, 0] = 1

    def mean(stage: Stage, y: Tensor, i: int) -> Tensor:
        """The effective estimate of a stage for step i from y."""
        places, weights = list(stage.places), stage.weights
        if not stage.noise:
            return weights @ estimate[places]
        noise = (seen[places] - estimate[places]) / ratio[places, None]
        return y - ratio[i] * (weights @ noise)

    rows = estimate.new_zeros(steps, steps)
    last = state
    for i in range(steps):
        again = correct(i) if i and kept[i - 1] < 1 else None
        if again is not None:
            r = kept[i - 1]
            state = r * last + (1 - r) * mean(again, last, i - 1)
        r, last = kept[i], state
        if r == 1:  # a step of no length cannot move what is seen, whatever it uses
            seen[i + 1], rows[i, 0] = seen[i], 1
            continue
        state = r * last + (1 - r) * mean(predict(i), last, i)
        seen[i + 1] = state
        row = (state - r * seen[i]) / (1 - r)
        rows[i, : i + 1] = row[1 : i + 2].flip(0)
    rows[rows.abs() < SMALL] = 0
    used = int(torch.nonzero(rows.abs().sum(0)).max()) + 1
    return rows[:, :used]


def adams(
    clock: Tensor, rate: float, coordinate: Coordinate | None, *, noise: bool = False
) -> Callable[[int, int, int], Stage]:
    """Stages that integrate the polynomial through estimates exactly.

    Arguments:
        clock: Clocks of the grid, `(steps + 1,)`.
        rate: Rate of the kernel.
        coordinate: The variable of the polynomial; the clock itself by default.
        noise: Whether it is one of the noise.

    Returns:
        The stage for a step, by (latest estimate, step, number of estimates).
    """
    finite = torch.isfinite(clock).tolist()
    one = torch.ones(1, dtype=torch.float64)

    def stage(latest: int, step: int, count: int) -> Stage:
        if not (finite[step] and finite[step + 1]):
            return Stage([latest], one)
        # An estimate at pure noise has no place in the clock, two at one time have one.
        places = [
            p
            for p in range(latest, max(-1, latest - count), -1)
            if finite[p] and not (p < latest and clock[p] == clock[p + 1])
        ]
        low, high = clock[step], clock[step + 1]
        return Stage(
            places, exponential_weights(clock[places], low, high, rate, coordinate), noise
        )

    return stage


def exponential_weights(
    nodes: Tensor, low: Tensor, high: Tensor, rate: float, coordinate: Coordinate | None = None
) -> Tensor:
    r"""Weights of the average of the interpolating polynomial against `e^{rate lambda}`.

    Arguments:
        nodes: Clocks of the estimates, `(k,)`, distinct and finite.
        low: Clock at the start of the step.
        high: Clock at its end.
        rate: Rate of the exponential.
        coordinate: The variable of the polynomial; the clock itself by default.

    Returns:
        k weights that sum to one, float64.
    """
    h = high - low
    points, masses = _gauss_legendre(32)
    exponent = rate * h * points
    density = masses * torch.exp(exponent - exponent.max())
    density = density / density.sum()
    if coordinate is None:
        place = (nodes - low) / h
    else:
        place, points = coordinate(nodes), coordinate(low + h * points)
    gaps = points - place[:, None]
    between = place[:, None] - place
    basis = torch.ones(len(nodes), len(points), dtype=torch.float64)
    for j in range(len(nodes)):
        for other in range(len(nodes)):
            if other != j:
                basis[j] *= gaps[other] / between[j, other]
    return basis @ density


@functools.cache
def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], from the eigenvalues of the Jacobi matrix."""
    i = torch.arange(1, n, dtype=torch.float64)
    off = i / torch.sqrt(4 * i**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0] ** 2
