r"""Which steps to take: the cheapest path of N steps, by dynamic programming.

A chain has the points 0, ..., n, point 0 being pure noise (or no token known) and point n the
data. When what a path costs is the sum of what its steps cost, as the terms of the bound are, the
cheapest path of N steps to j, at D_N(j), follows from those of N - 1 steps,

    D_N(j) = min over i < j of D_{N-1}(i) + cost(i, j),        D_0(0) = 0,

so that the best grids of every size are found together, in O(n^2) each. What is found is best for
the costs as given, estimates of an expectation as they may be.

References:
    Learning to Efficiently Sample from Diffusion Probabilistic Models (Watson, Ho, Norouzi and
    Chan, 2021). https://arxiv.org/abs/2106.03802
    Autoregressive Diffusion Models (Hoogeboom et al., 2022), parallelised steps.
    https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Paths", "all_paths", "best_path", "reveal_costs"]


@dataclass(frozen=True, eq=False)
class Paths:
    """The cheapest paths from 0 to n with 1, ..., N steps.

    Arguments:
        totals: What they cost, `(N,)`; infinite where there is none.
        before: The point before j on the cheapest path of k + 1 steps from 0 to j, `(N, n + 1)`.
    """

    totals: Tensor
    before: Tensor

    def path(self, steps: int) -> Tensor:
        """Points of the cheapest path with exactly so many steps, 0 to n, `(steps + 1,)`.

        Raises:
            ValueError: If `steps` is not in 1, ..., N, or every such path costs infinitely much.
        """
        check_steps(steps, len(self.totals))
        if self.totals[steps - 1] == torch.inf:
            msg = f"every path of steps = {steps} has an infinite cost: allow more of its moves"
            raise ValueError(msg)
        points = [self.before.shape[1] - 1]
        for before in reversed(self.before[:steps].tolist()):
            points.append(before[points[-1]])
        return torch.tensor(points[::-1])


def check_steps(steps: int, most: int) -> None:
    """Refuse a number of steps that no path has."""
    if not 1 <= steps <= most:
        msg = f"steps must be in 1, ..., {most}, got {steps}: each step goes at least one point on"
        raise ValueError(msg)


def all_paths(cost: Tensor, steps: int | None = None) -> Paths:
    """Cheapest paths for every number of steps at once.

    Arguments:
        cost: What the step from point i to point j > i costs, `(n + 1, n + 1)`; infinite where
            there is no such step. Entries with j <= i are not looked at. Of equal paths the one
            with the earlier last point is taken.
        steps: Largest number of steps, in 1, ..., n; n by default.

    Raises:
        ValueError: If the costs are not a square of two points at least or one is NaN or minus
            infinity, or `steps` is out of range.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0, 5.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
        >>> all_paths(cost).totals.tolist()
        [5.0, 3.0]
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) < 2:
        must = "a square (n + 1, n + 1) with n >= 1"
        msg = f"cost must be {must}, got shape {tuple(cost.shape)}"
        raise ValueError(msg)
    later = torch.ones_like(cost, dtype=torch.bool).triu(1)
    forward = torch.where(later, cost.double(), torch.inf)
    if bool((forward.isnan() | (forward == -torch.inf)).any()):
        msg = "cost must be a number or inf for every step from i to j > i, got NaN or -inf"
        raise ValueError(msg)
    points = len(cost) - 1
    most = points if steps is None else steps
    check_steps(most, points)
    total = torch.full_like(forward[0], torch.inf)
    total[0] = 0
    totals, before = [], []
    for _ in range(most):
        total, index = (total.unsqueeze(1) + forward).min(0)
        totals.append(total[-1])
        before.append(index)
    return Paths(torch.stack(totals), torch.stack(before))


def best_path(cost: Tensor, steps: int) -> Tensor:
    """Points of the cheapest path from 0 to n with exactly so many steps, `(steps + 1,)`.

    Arguments:
        cost: As in `all_paths`.
        steps: Number of steps, in 1, ..., n.

    Raises:
        ValueError: As `all_paths`, and if every such path costs infinitely much.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0, 5.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
        >>> best_path(cost, 2).tolist()
        [0, 1, 2]
    """
    return all_paths(cost, steps).path(steps)


def reveal_costs(losses: Tensor) -> Tensor:
    """What it costs to reveal tokens i, ..., j - 1 in one call of the network, `(n + 1, n + 1)`.

    They are drawn independently given the i that are known, so each costs what the first one
    does: (j - i) L_i. Where tokens tell of each other, L falls and few calls cost more nats; the
    cost of n calls, the sum of L, is the bound of the order-agnostic model.

    Arguments:
        losses: L_i, the expected -log-probability of one more token, in a random order, when i
            are known, `(n,)`, i from 0.

    Raises:
        ValueError: If the losses are not a vector with an entry, or one is not finite.

    Example:
        >>> reveal_costs(torch.tensor([3.0, 1.0])).tolist()
        [[inf, 3.0, 6.0], [inf, inf, 1.0], [inf, inf, inf]]
    """
    if losses.ndim != 1 or not len(losses):
        msg = f"losses must be a vector, not empty, got shape {tuple(losses.shape)}"
        raise ValueError(msg)
    if not bool(losses.isfinite().all()):
        msg = f"losses must be finite, got {losses[~losses.isfinite()][0].item()}"
        raise ValueError(msg)
    point = torch.arange(len(losses) + 1, device=losses.device)
    count = (point - point[:, None]).double()
    each = torch.cat([losses.double(), losses.new_zeros(1).double()])
    return torch.where(count > 0, count * each[:, None], torch.inf)
