r"""At which noise levels a loss is what it is.

Much noise leaves the coarse traits of the data to be learned, little noise the fine ones: a loss
by parts of the log-SNR says which of them a network lacks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LossByClock"]


class LossByClock:
    """Means of a loss in bins of the clock.

    Show it the losses by `Warping(objective, LossByClock(), leaf)`, or by `observe`.

    Arguments:
        edges: Rising edges of the bins of the clock, log-SNR / 2; below the first and above the
            last one are bins too.

    Raises:
        ValueError: If the edges do not rise or there are none.

    Example:
        >>> report = LossByClock([-1.0, 1.0])
        >>> report.observe(torch.tensor([-3.0, 0.0, 0.5, 4.0]), torch.tensor([4.0, 1.0, 3.0, 0.5]))
        >>> print(report)
        log-SNR from  to      losses  mean
           -inf     -2.0           1  4
           -2.0      2.0           2  2 +- 1
            2.0      inf           1  0.5
    """

    def __init__(self, edges: Sequence[float] = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)) -> None:
        self.edges = torch.tensor(edges, dtype=torch.float64)
        if not len(self.edges) or not bool((self.edges.diff() > 0).all()):
            msg = f"edges must rise and be at least one, got {list(edges)}"
            raise ValueError(msg)
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.sums = torch.zeros(3, len(self.edges) + 1, dtype=torch.float64)

    def observe(self, clock: Tensor, loss: Tensor) -> None:
        """Take note of losses at clocks, `(n,)` each."""
        clock, loss = clock.detach().cpu().double(), loss.detach().cpu().double()
        place = torch.bucketize(clock, self.edges, right=True)
        powers = torch.stack([torch.ones_like(loss), loss, loss.square()])
        self.sums = self.sums.index_add(1, place, powers)

    def count(self) -> Tensor:
        """How many losses each bin has seen, `(bins,)`."""
        return self.sums[0]

    def mean(self) -> Tensor:
        """Mean loss of each bin, `(bins,)`; NaN where nothing was seen."""
        return self.sums[1] / self.sums[0]

    def error(self) -> Tensor:
        """Standard error of the means, `(bins,)`; NaN for fewer than two losses."""
        count, mean = self.sums[0], self.mean()
        square = (self.sums[2] / count - mean**2).clamp(min=0)
        return torch.where(count > 1, (square / (count - 1)).sqrt(), torch.nan)

    def __str__(self) -> str:
        """A row for each bin that has seen a loss."""
        ends = [-float("inf"), *(2 * self.edges).tolist(), float("inf")]
        rows = ["log-SNR from  to      losses  mean"]
        numbers = zip(
            ends,
            ends[1:],
            self.count().tolist(),
            self.mean().tolist(),
            self.error().tolist(),
            strict=False,
        )
        for low, high, count, mean, error in numbers:
            if count:
                spread = f" +- {error:.2g}" if count > 1 else ""
                rows.append(f"{low:7.1f} {high:8.1f} {count:11.0f}  {mean:.4g}{spread}")
        return "\n".join(rows)
