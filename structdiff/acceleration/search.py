"""Search over a few numbers by trying neighbours: for grids, noise levels, ends of a walk.

References:
    WaveGrad (Chen et al., 2020), section 4.3: noise levels for few steps by search.
    https://arxiv.org/abs/2009.00713
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["coordinate_search"]


def coordinate_search(
    metric: Callable[[tuple[float, ...]], float],
    start: Sequence[float],
    moves: Sequence[float],
    *,
    rounds: int = 3,
    shrink: float = 0.5,
) -> tuple[tuple[float, ...], float]:
    """Move one number at a time, by less in every round, and keep what is better.

    What is returned is never worse than the start. The metric is asked once for each point.

    Arguments:
        metric: What is to be small; infinite or NaN where a point is not allowed.
        start: First numbers.
        moves: How far each is moved in the first round; 0 keeps it.
        rounds: Number of rounds.
        shrink: Factor on the moves from round to round.

    Returns:
        The best numbers and their metric.

    Raises:
        ValueError: If there are not as many moves as numbers, or the metric of the start is not
            finite.

    Example:
        >>> coordinate_search(lambda x: (x[0] - 1) ** 2 + abs(x[1]), (0.0, 0.5), (0.5, 0.5))
        ((1.0, 0.0), 0.0)
    """
    if len(moves) != len(start):
        msg = f"moves must be one for each of {len(start)} numbers, got {len(moves)}"
        raise ValueError(msg)
    known: dict[tuple[float, ...], float] = {}

    def ask(point: tuple[float, ...]) -> float:
        if point not in known:
            value = metric(point)
            known[point] = value if math.isfinite(value) else math.inf
        return known[point]

    best = tuple(start)
    if ask(best) == math.inf:
        msg = f"the metric of start = {best} must be finite"
        raise ValueError(msg)
    for turn in range(rounds):
        for axis, move in enumerate(moves):
            for signed in (move, -move):
                while signed:
                    step = signed * shrink**turn
                    point = (*best[:axis], best[axis] + step, *best[axis + 1 :])
                    if ask(point) >= known[best]:
                        break
                    best = point
    return best, known[best]
