r"""Times drawn where the loss is large.

The mean of a loss L(t) over a law p of times is the mean of L p / r over any other law r. It
varies least where r is proportional to p sqrt(E L^2):

- `ImportanceTimes` know L in closed form for normal data and their exact denoiser, of which a
  trained one is not far where noise prevails: E |x_0 - estimate|^2 = s^2 / (1 + SNR s^2).
- `HistoryTimes` look at the losses of training.

The three losses of LSGM are of this kind. For VP noise and s = 1, with the noise's own error
|eps - eps'|^2 = SNR |x_0 - x_0'|^2 and beta(t) = g^2,

| loss | weight and law of its mean | times are uniform in |
|---|---|---|
| likelihood, g^2 / sigma^2 | `SNR`, `UniformClock` | log sigma |
| unweighted, 1 | `SNR`, `UniformTimes` | the integral of alpha^2 |
| reweighted, g^2 | `SigmoidWeight`, `UniformClock` | sigma^2 |

References:
    Score-based Generative Modeling in Latent Space (Vahdat, Kreis and Kautz, 2021), section 3.3
    and appendix B. https://arxiv.org/abs/2106.05931
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), eq. 18.
    https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.objectives.times import POINTS, Tabulated, TimeDistribution, UniformTimes, between
from structdiff.objectives.weights import Weight
from structdiff.schedules import Schedule

__all__ = ["HistoryTimes", "ImportanceTimes"]


class ImportanceTimes(Tabulated):
    """The law under which a weighted loss of normal data varies least.

    Use it as `Denoising(weight, ImportanceTimes(...), mean_over=law)`.

    Arguments:
        schedule: The schedule that turns times into clocks.
        weight: The weight of the loss.
        mean_over: Law of the times that the mean is over.
        std: Standard deviation s of the data's entries, positive.

    Raises:
        ValueError: If `std` is not positive.

    Example:
        >>> from structdiff.objectives.weights import SNR
        >>> from structdiff.schedules import SimpleLinear  # alpha^2 = 1 - t
        >>> law = ImportanceTimes(SimpleLinear(), SNR(), UniformTimes(0.0, 1.0))
        >>> round(law.quantile(torch.tensor(0.75)).item(), 4)  # density 2 (1 - t)
        0.5
    """

    def __init__(
        self,
        schedule: Schedule,
        weight: Weight,
        mean_over: TimeDistribution,
        std: float = 1.0,
    ) -> None:
        if not std > 0:
            msg = f"std must be positive, got {std}"
            raise ValueError(msg)
        u = torch.linspace(0, 1, 4 * POINTS - 3, dtype=torch.float64)
        times = mean_over.quantile(u)
        middle = schedule((times[1:] + times[:-1]) / 2).clock
        loss = weight(middle) * std**2 / (1 + std**2 * torch.exp(2 * middle))
        mass = F.pad((loss / loss.sum()).cumsum(0), (1, 0))
        even = torch.linspace(0, 1, POINTS, dtype=torch.float64)
        super().__init__(between(even, mass, times))


class HistoryTimes(TimeDistribution):
    """The law under which a loss as it has been seen varies least.

    Parts of equal probability under `mean_over` are drawn as often as the root mean square of the
    losses there, with what was seen long ago forgotten; until each part was seen, `mean_over`
    itself. `Warping` shows them the losses, which must be counted by the density of these times,
    as `ContinuousBound` and `Denoising` with `mean_over` do. Of several processes that train
    together each has a history of its own.

    Arguments:
        schedule: The schedule that turns clocks into times.
        mean_over: Law of the times that the mean is over.
        bins: Number of parts, at least 1.
        decay: How much of what was seen is kept at each observation, in [0, 1].
        even: Share of the draws from `mean_over`, in (0, 1]: no time is forgotten.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from structdiff.schedules import SimpleLinear  # clock log(1 / t - 1) / 2
        >>> law = HistoryTimes(SimpleLinear(), UniformTimes(0.0, 1.0), bins=2, even=0.01)
        >>> law.observe(torch.tensor([1.0, -1.0]), torch.tensor([3.0, 1.0]))
        >>> round(law.quantile(torch.tensor(0.75)).item(), 2)
        0.5
    """

    def __init__(
        self,
        schedule: Schedule,
        mean_over: TimeDistribution | None = None,
        *,
        bins: int = 64,
        decay: float = 0.99,
        even: float = 0.05,
    ) -> None:
        if bins < 1 or not 0 <= decay <= 1 or not 0 < even <= 1:
            must = "bins must be at least 1, decay in [0, 1] and even in (0, 1]"
            raise ValueError(f"{must}, got {bins}, {decay} and {even}")
        self.schedule, self.mean_over = schedule, mean_over or UniformTimes()
        self.decay, self.even = decay, even
        self.edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
        self.total = torch.zeros(bins, dtype=torch.float64)
        self.weight = torch.zeros(bins, dtype=torch.float64)
        self.nodes = self.mean_over.quantile(self.edges)

    def observe(self, clock: Tensor, loss: Tensor) -> None:
        """Losses, counted by the density of these times, at clocks, `(n,)` each."""
        time = self.schedule.time(clock.detach().cpu().double())
        time = time.clamp(float(self.nodes[0]), float(self.nodes[-1]))
        share = self.shares()[self.place(time)] * len(self.total)
        square = (loss.detach().cpu().double() * share).square()
        self.total = (self.decay * self.total).index_add(0, self.place(time), square)
        self.weight = (self.decay * self.weight).index_add(
            0, self.place(time), torch.ones_like(square)
        )

    def place(self, t: Tensor) -> Tensor:
        """The part that a time lies in."""
        index = torch.searchsorted(self.nodes.to(t.device), t.contiguous(), right=True) - 1
        return index.clamp(0, len(self.total) - 1)

    def shares(self) -> Tensor:
        """How often each part is drawn, `(bins,)`."""
        even = torch.full_like(self.total, 1 / len(self.total))
        if not bool((self.weight > 0).all()):
            return even
        size = (self.total / self.weight).sqrt()
        if float(size.sum()) == 0:
            return even
        return (1 - self.even) * size / size.sum() + self.even * even

    def quantile(self, u: Tensor) -> Tensor:
        """A part, and within it as under `mean_over`."""
        mass = F.pad(self.shares().cumsum(0), (1, 0)).to(u.device)
        mass = mass / mass[-1]
        return self.mean_over.quantile(
            between(u.double().clamp(0, 1), mass, self.edges.to(u.device))
        )

    def density(self, t: Tensor) -> Tensor:
        """That of `mean_over`, by the share of the part."""
        share = self.shares().to(t.device)[self.place(t.double())]
        return self.mean_over.density(t) * share * len(self.total)
