"""Cheapest paths, against all of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from structdiff.acceleration import all_paths, best_path, reveal_costs


def costs(n: int, seed: int) -> Tensor:
    """Of any sign; the entries that no path uses are the best, were they used."""
    random = torch.Generator().manual_seed(seed)
    cost = torch.randn(n + 1, n + 1, dtype=torch.float64, generator=random)
    return torch.where(torch.ones_like(cost).triu(1) > 0, cost, -1e6)


def total(cost: Tensor, path: list[int]) -> float:
    return sum(float(cost[i, j]) for i, j in itertools.pairwise(path))


def every(n: int, steps: int) -> list[list[int]]:
    """All paths from 0 to n with so many steps."""
    return [[0, *inside, n] for inside in itertools.combinations(range(1, n), steps - 1)]


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cheapest_of_all_subsets(n: int, seed: int) -> None:
    """D04, X09: for every number of steps, the one path that enumeration finds."""
    cost = costs(n, seed)
    paths = all_paths(cost)
    assert len(paths.totals) == n
    for steps in range(1, n + 1):
        best = min(every(n, steps), key=lambda path: total(cost, path))
        assert best_path(cost, steps).tolist() == paths.path(steps).tolist() == best
        assert float(paths.totals[steps - 1]) == pytest.approx(total(cost, best), abs=1e-12)


@pytest.mark.parametrize("n", range(2, 9))
def test_ties_cost_the_least_and_take_the_earliest_last_point(n: int) -> None:
    """Costs of few values: many paths are equal, and the one taken has the earliest points."""
    random = torch.Generator().manual_seed(n)
    cost = torch.randint(0, 2, (n + 1, n + 1), generator=random)
    for steps in range(1, n + 1):
        least = min(total(cost, path) for path in every(n, steps))
        equal = [path for path in every(n, steps) if total(cost, path) == least]
        taken = best_path(cost, steps).tolist()
        assert taken == min(equal, key=lambda path: path[::-1])


def test_one_step_and_all_steps_leave_no_choice() -> None:
    cost = costs(20, 3)
    assert best_path(cost, 1).tolist() == [0, 20]
    assert best_path(cost, 20).tolist() == list(range(21))
    paths = all_paths(cost)
    assert paths.totals[0] == cost[0, 20]
    assert float(paths.totals[-1]) == pytest.approx(float(cost.diagonal(1).sum()), abs=1e-12)


def test_forbidden_steps_are_not_taken() -> None:
    """Steps of at most two points: five need three of them."""
    point = torch.arange(6)
    near = (point - point[:, None]) <= 2
    cost = torch.where(near, costs(5, 0).abs(), torch.inf)
    paths = all_paths(cost)
    assert paths.totals.isinf().tolist() == [True, True, False, False, False]
    assert int(paths.path(3).diff().max()) == 2
    with pytest.raises(ValueError, match="every path of steps = 2 has an infinite cost"):
        paths.path(2)


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("falling", [False, True])
def test_tokens_revealed_in_calls(n: int, falling: bool) -> None:
    """D04: (j - i) L_i; brute force over all partitions of the n tokens into calls."""
    random = torch.Generator().manual_seed(n)
    losses = torch.rand(n, dtype=torch.float64, generator=random)
    losses = losses.sort(descending=True).values if falling else losses
    paths = all_paths(reveal_costs(losses))
    for calls in range(1, n + 1):
        prices = []
        for path in every(n, calls):
            known, price = 0, 0.0
            for call in range(calls):
                for _ in range(path[call], path[call + 1]):
                    price += losses[known].item()
                known = path[call + 1]
            prices.append(price)
        assert paths.totals[calls - 1].item() == pytest.approx(min(prices), abs=1e-12)
    assert paths.totals[0].item() == pytest.approx(n * losses[0].item(), abs=1e-12)
    assert paths.totals[-1].item() == pytest.approx(losses.sum().item(), abs=1e-12)
    if falling:
        assert bool((paths.totals.diff() <= 1e-12).all())


def surprise(joint: Tensor, known: tuple[int, ...], at: int) -> float:
    """E[-log p(x_at | x_known)] under a joint law `(2, ..., 2)`: a difference of entropies."""

    def entropy(kept: set[int]) -> float:
        gone = [d for d in range(joint.ndim) if d not in kept]
        law = joint.sum(gone) if gone else joint
        return float(-torch.xlogy(law, law).sum())

    return entropy({*known, at}) - entropy(set(known))


def test_costs_are_those_of_calls_with_the_exact_conditionals() -> None:
    """D04: over all orders of four coupled bits; as many calls as bits reach the entropy."""
    n, random = 4, torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(16, dtype=torch.float64, generator=random)
    joint = torch.softmax(logits, 0).reshape(2, 2, 2, 2)
    losses = []
    for i in range(n):
        pairs = [(a, b) for a in itertools.combinations(range(n), i) for b in set(range(n)) - {*a}]
        losses.append(sum(surprise(joint, a, b) for a, b in pairs) / len(pairs))
    cost = reveal_costs(torch.tensor(losses, dtype=torch.float64))
    orders = list(itertools.permutations(range(n)))
    for path in (path for calls in range(1, n + 1) for path in every(n, calls)):
        nats = sum(
            surprise(joint, order[:i], order[k])
            for order in orders
            for i, j in itertools.pairwise(path)
            for k in range(i, j)
        )
        assert total(cost, path) == pytest.approx(nats / len(orders), abs=1e-12)
    entropy = float(-torch.xlogy(joint, joint).sum())
    totals = all_paths(cost).totals
    assert totals[-1].item() == pytest.approx(entropy, abs=1e-12)
    assert bool((totals.diff() < 0).all())


def test_two_levels_of_loss_are_found() -> None:
    """One call where knowing more does not help: the break is at the first fall of the loss."""
    losses = torch.tensor([2.0] * 3 + [1.0] * 5)
    assert best_path(reveal_costs(losses), 2).tolist() == [0, 3, 8]
    assert all_paths(reveal_costs(losses)).totals.tolist() == [16.0] + [11.0] * 7


NAN, MINUS = torch.zeros(3, 3), torch.zeros(3, 3)
NAN[0, 2], MINUS[1, 2] = math.nan, -math.inf


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: best_path(torch.zeros(3, 3), 0), r"steps must be in 1, ..., 2, got 0"),
        (lambda: best_path(torch.zeros(3, 3), 3), r"steps must be in 1, ..., 2, got 3"),
        (lambda: all_paths(torch.zeros(4, 4), 2).path(3), r"steps must be in 1, ..., 2, got 3"),
        (lambda: all_paths(torch.zeros(3, 2)), r"square .* got shape \(3, 2\)"),
        (lambda: all_paths(torch.zeros(1, 1)), r"square .* got shape \(1, 1\)"),
        (lambda: all_paths(NAN), "got NaN or -inf"),
        (lambda: all_paths(MINUS), "got NaN or -inf"),
        (lambda: reveal_costs(torch.zeros(2, 2)), r"a vector, not empty, got shape \(2, 2\)"),
        (lambda: reveal_costs(torch.zeros(0)), r"got shape \(0,\)"),
        (lambda: reveal_costs(torch.tensor([1.0, math.inf])), "losses must be finite, got inf"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
