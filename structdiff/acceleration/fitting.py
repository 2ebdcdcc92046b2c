r"""Weights of a multistep sampler by least squares to a model's own fine solve.

Pilot samples walk the coarse grid. At step i weights w, of sum one, give their next state; to
first order in tangent space at the state y of the fine solve,

    log_y(x(w)) = sum_j w_j log_y(x_j),        x_j: the step with estimate D_{i-j} alone,

which is exact on R^n. The w that brings the pilots nearest to their fine solve is that of least
squares. It is sought around the weights of a polynomial method, w = p + c, with a penalty on c
of `ridge` times the squares that it acts on: few pilots, or a step on which little depends, then
leave the polynomial as it is. Errors of earlier steps are in the walk, so later weights mend them.

References:
    Optimal Linear Subspace Search (Duan, Wang, Chen, Huang and Qian, 2023).
    https://arxiv.org/abs/2305.14677
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structdiff.acceleration.pilots import Pilots
from structdiff.random import Generator
from structdiff.samplers.base import Carry
from structdiff.samplers.multistep import Multistep

__all__ = ["Fit", "fit_weights"]

Record = Mapping[str, Tensor]


class Fit(NamedTuple):
    """What a fit found.

    Arguments:
        weights: Leaf to `(steps, columns)`, latest estimate first.
        end: Where the pilots went with them.
    """

    weights: dict[str, Tensor]
    end: Record


@torch.no_grad()
def fit_weights(
    pilots: Pilots,
    nodes: Sequence[int],
    method: Multistep,
    *,
    rows: Mapping[str, Tensor],
    ridge: float,
    doubt: float = 1e-3,
    extra: int = 1,
) -> Fit:
    """Fit the weights of one step after the other.

    Arguments:
        pilots: The fine solve.
        nodes: Its nodes at which the sampler calls the model.
        method: The polynomial method whose weights are the start, on the same grid.
        rows: By leaf, which rows to fit to, `(rows,)` bool.
        ridge: Penalty on leaving the polynomial, relative.
        doubt: How uncertain an estimate is taken to be, in deviations of the data.
        extra: How many more estimates than the polynomial the fit may use.
    """
    bound = method.bind(pilots.batch, Generator(pilots.seed))
    process: Any = bound.process
    geometry = process.geometry
    carry, ends = bound.start(), [*nodes[1:], len(pilots.times)]
    columns = 1 + max(bound.memory) + extra
    tables: dict[str, list[Tensor]] = {n: [] for n in carry.x}
    history: tuple[Any, ...] = ()
    for i in range(bound.steps):
        estimate = bound.denoise(carry.x, i, carry.previous)
        history = ((carry.x, estimate), *history)[:columns]
        truth = pilots.states[ends[i]]
        reached = [bound.advance(carry.x, each, i) for each in _alone(process, history, carry.x)]
        weights = {}
        for name, y in truth.items():
            given = bound.mixing[i][name]
            start = torch.zeros(len(history), dtype=torch.float64)
            start[: len(given)] = torch.stack([*given]).double().cpu()
            chosen = rows[name]
            errors = [geometry[name].log(y, x[name])[chosen] for x in reached]
            gram = _gram(geometry[name], [e.double() for e in errors])
            noise = int(chosen.sum()) * (doubt * pilots.scale[name]) ** 2
            weights[name] = _around(start, gram, ridge, noise)
            tables[name].append(
                torch.nn.functional.pad(weights[name], (0, columns - len(history)))
            )
        cast = {n: tuple(w.to(truth[n]).unbind()) for n, w in weights.items()}
        mixed = process.combine(history, cast, carry.x)
        carry = Carry(bound.advance(carry.x, mixed, i), previous=estimate)
    return Fit({n: torch.stack(table) for n, table in tables.items()}, carry.x)


def _alone(process: Any, history: Sequence[Any], x: Record) -> list[Any]:
    """Each estimate of the history as the effective one at x."""
    first = history[0][1]
    pair = {n: (v.new_zeros(()), v.new_ones(())) for n, v in x.items()}
    return [first, *(process.combine((history[0], past), pair, x) for past in history[1:])]


def _gram(geometry: Any, errors: Sequence[Tensor]) -> Tensor:
    """Inner products of tangent vectors, summed over rows, float64 on the CPU."""
    size = len(errors)
    gram = torch.empty(size, size, dtype=torch.float64, device=errors[0].device)
    for a in range(size):
        for b in range(a + 1):
            gram[a, b] = gram[b, a] = geometry.dot(errors[a], errors[b]).sum()
    return gram.cpu()


def _around(start: Tensor, gram: Tensor, ridge: float, noise: float) -> Tensor:
    """Weights of sum one that make `w gram w` small near the start."""
    if len(start) == 1:
        return start
    # Differences from the latest estimate, whose weight follows from the others.
    others = torch.eye(len(start) - 1, dtype=torch.float64)
    change = torch.cat([-torch.ones(1, len(others), dtype=torch.float64), others])
    squares = change.T @ gram @ change
    penalty = torch.diag(ridge * squares.diagonal() + noise)
    moved: Tensor = torch.linalg.solve(squares + penalty, change.T @ (gram @ start))
    return start - change @ moved
