r"""The variance of a reverse step on R^n.

From t to s the mean of x_s is exact at the estimate of x_0, its variance is not: by the law of
total variance, with x_s = keep x_t + data x_0 + noise z,

    Var[x_s | x_t] = noise^2 + data^2 Var[x_0 | x_t].

A step without more knowledge leaves out the second term (beta-tilde, right for data that are a
point). A denoiser says more by an extra of its estimate: `variance`, of an entry of x_0, or
`interpolation`, the place v between beta-tilde and beta on the scale of logarithms. Networks with
a head for it have a parameterisation that does (`InterpolatedVariance`, `ResidualVariance`); the
denoisers of this module add it to any other:

- `FixedVariance`: v itself; 0 is beta-tilde and 1 is beta, which bound the entropy of the step.
- `NormalVariance`: that of data N(m, s^2), s^2 sigma^2 / (alpha^2 s^2 + sigma^2); with s = 1 it
  is beta.
- `AnalyticVariance`: the best one number for all entries at a time, E |x_0 - x_0(x_t)|^2 / d. For
  the exact denoiser that is sigma^2 / alpha^2 (1 - sigma^2 E |score|^2 / d), as Analytic-DPM has
  it: by the residual no digits are lost where there is more noise than signal, and it is the best
  one for a mean that is not exact.

Other leaves (classes, manifolds) are left as they are.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 3.2.
    https://arxiv.org/abs/2006.11239
    Analytic-DPM (Bao, Li, Zhu and Zhang, 2022), theorems 1 and 2.
    https://arxiv.org/abs/2201.06503
    Estimating the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models (Bao et
    al., 2022), theorem 2. https://arxiv.org/abs/2206.07309
    Estimating High Order Gradients of the Data Distribution by Denoising (Meng et al., 2021),
    theorem 1: the second-order score. https://arxiv.org/abs/2111.04726
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, final

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.clock_table import ClockTable
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Gaussian, Process
from structdiff.processes.leaf import expand
from structdiff.random import Randomness
from structdiff.schedules import Grid

__all__ = [
    "AnalyticVariance",
    "FixedVariance",
    "NormalVariance",
    "ReverseVariance",
    "second_order_score",
]


def gaussian_leaves(process: Process, who: str) -> tuple[str, ...]:
    """Names of the leaves on R^n.

    Raises:
        ValueError: If there are none.
    """
    known: Any = process
    names: tuple[str, ...] = known.offering(Gaussian)
    if not names:
        msg = f"{who} is about Gaussian noise on R^n, but no leaf of the process has it"
        raise ValueError(f"{msg}: use the denoiser as it is")
    return names


class ReverseVariance(Denoiser, ABC):
    """A denoiser whose estimates on R^n say a variance too.

    Arguments:
        denoiser: Any denoiser.

    Raises:
        ValueError: If no leaf of its process is Gaussian.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.names = gaussian_leaves(denoiser.process, type(self).__name__)
        self.denoiser, self.process = denoiser, denoiser.process

    @abstractmethod
    def extras(self, name: str, x_t: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        """What is added to the estimate of a Gaussian leaf.

        Arguments:
            name: The leaf.
            x_t: Its noisy rows.
            t: Its times.
        """

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates, with extras."""
        estimates = dict(self.denoiser(batch, t, previous))
        for name in self.names:
            said = estimates[name]
            more = self.extras(name, batch[name], t[name])
            estimates[name] = replace(said, extras={**said.extras, **more})
        return estimates


class FixedVariance(ReverseVariance):
    """A fixed place between beta-tilde and beta.

    Arguments:
        denoiser: Any denoiser.
        factor: v in [0, 1]: the variance is beta^v beta-tilde^(1 - v).

    Raises:
        ValueError: If `factor` is not in [0, 1] or no leaf of the process is Gaussian.

    Example:
        >>> from structdiff import DDPM, Batch, Discrete, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Discrete.ddpm())
        >>> exact = NormalDenoiser(process, torch.zeros(1), torch.ones(1))
        >>> right, short = FixedVariance(exact, 1.0), FixedVariance(exact, 0.0)
        >>> for denoiser in (right, short):
        ...     sampler = DDPM(denoiser, UniformTime(32))
        ...     drawn = sampler.sample(Batch.of(torch.zeros(20_000)), Generator(0))
        ...     print(round(drawn["x"].std().item(), 1))
        1.0
        0.9
    """

    def __init__(self, denoiser: Denoiser, factor: float) -> None:
        super().__init__(denoiser)
        if not 0 <= factor <= 1:
            must = "factor must be in [0, 1], 0 for beta-tilde and 1 for beta"
            raise ValueError(f"{must}, got {factor}")
        self.factor = factor

    def extras(self, name: str, x_t: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        """The factor."""
        del name, t
        return {"interpolation": x_t.new_full((), self.factor)}


class NormalVariance(ReverseVariance):
    """The variance that data N(m, std^2) have given x_t.

    Arguments:
        denoiser: Any denoiser.
        std: Standard deviation of the data's entries, at least 0: one number, or a tensor that
            broadcasts against the rows of the leaves.

    Raises:
        ValueError: If `std` is negative or not finite, or no leaf of the process is Gaussian.
    """

    std: Tensor

    def __init__(self, denoiser: Denoiser, std: float | Tensor = 1.0) -> None:
        super().__init__(denoiser)
        known = torch.as_tensor(std, dtype=torch.float64)
        if not bool(((known >= 0) & (known < torch.inf)).all()):
            msg = f"std must be at least 0 and finite, got {known.tolist()}"
            raise ValueError(msg)
        self.register_buffer("std", known)

    def extras(self, name: str, x_t: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        """std^2 sigma^2 / (alpha^2 std^2 + sigma^2)."""
        process: Any = self.process
        alpha, sigma, _ = process[name].level(t, x_t)
        signal = self.std.to(x_t) ** 2
        total = alpha**2 * signal + sigma**2
        known = torch.where(total > 0, total, 1.0)  # clean entries have no variance
        return {"variance": signal * sigma**2 / known}


class AnalyticVariance(ReverseVariance):
    """The best variance that is the same for all entries at a time, measured on data.

    Arguments:
        denoiser: Any denoiser.
        shares: By Gaussian leaf, the variance of x_0 given x_t over that of N(0, 1) data,
            sigma^2 / (alpha^2 + sigma^2), as a table of the clock; see `fit`.
        largest: The largest variance that the data can have: ((b - a) / 2)^2 for entries in
            [a, b].

    Raises:
        ValueError: If a Gaussian leaf has no table or `largest` is not positive.

    Example:
        >>> from structdiff import Batch, Gaussian, Generator, Linear, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> normal = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
        >>> data = Batch.of(Generator(0).normal((20_000,), torch.float32, "cpu"))
        >>> fitted = AnalyticVariance.fit(normal, data, UniformTime(8), Generator(1))
        >>> round(fitted.extras("x", torch.zeros(1), torch.tensor(0.5))["variance"].item(), 2)
        0.92
        >>> round(Linear().sigma(torch.tensor(0.5)).item() ** 2, 2)
        0.92
    """

    def __init__(
        self,
        denoiser: Denoiser,
        shares: Mapping[str, ClockTable],
        *,
        largest: float = float("inf"),
    ) -> None:
        super().__init__(denoiser)
        if sorted(shares) != sorted(self.names):
            msg = (
                f"shares must have the Gaussian leaves {sorted(self.names)}, got {sorted(shares)}"
            )
            raise ValueError(msg)
        if not largest > 0:
            msg = f"largest must be positive, got {largest}"
            raise ValueError(msg)
        self.largest = largest
        # A list: a ModuleDict refuses names such as "type" or "a.b".
        self.tables = torch.nn.ModuleList([shares[name] for name in self.names])

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        denoiser: Denoiser,
        batch: Batch,
        grid: Grid,
        random: Randomness,
        *,
        largest: float = float("inf"),
    ) -> Self:
        """Measure the residuals of a denoiser, by one call for each time of a grid.

        Arguments:
            denoiser: Any denoiser.
            batch: Clean samples, nothing of them given: n rows of d entries know a variance to a
                share of sqrt(2 / (n d)).
            grid: Times, of which those with a finite clock count: best those of the walk.
            random: Where the noise comes from.
            largest: As above.

        Raises:
            ValueError: If entries are given, or no time of the grid has a finite clock.
        """
        names = gaussian_leaves(denoiser.process, cls.__name__)
        if batch.given:
            msg = f"batch has given entries of {sorted(batch.given)}: fit on samples without"
            raise ValueError(msg)
        process: Any = denoiser.process.bind(batch)
        times = grid.times().to(batch.device)
        times = times[times >= 0]
        points: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
        for i, time in enumerate(times.unbind()):
            t = process.times(time)
            x_t = process.diffuse(batch.leaves, t, random.scoped(step=i))
            said = denoiser(batch.with_leaves(x_t), t, None)
            error = process.loss(said, batch.leaves, x_t, t)
            for name in names:
                points[name].append((time, _share(process[name], error[name], x_t[name], time)))
        tables = {name: _table(process[name], pairs) for name, pairs in points.items()}
        return cls(denoiser, tables, largest=largest)

    def extras(self, name: str, x_t: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        """The share at the clock, clipped to [0, sigma^2 / alpha^2] and to the largest."""
        process: Any = self.process
        clock = expand(process[name].clock(t).double(), x_t)
        share = self.tables[self.names.index(name)](clock)
        # A score of 0 would mean sigma^2 / alpha^2, the unit times 1 + SNR^-1.
        variance = torch.sigmoid(-2 * clock) * torch.minimum(share, 1 + torch.exp(-2 * clock))
        return {"variance": variance.clamp(max=self.largest).to(x_t.dtype)}


def _share(leaf: Any, error: Tensor, x: Tensor, time: Tensor) -> Tensor:
    """Mean squared residual of a dimension over the variance of N(0, 1) data."""
    dimensions = leaf.space.dimensions(x, leaf.layout, leaf.held_rows)
    mean = error.double().sum() / dimensions.double().sum()
    share: Tensor = mean / torch.sigmoid(-2 * leaf.clock(time))
    return share


def _table(leaf: Any, pairs: list[tuple[Tensor, Tensor]]) -> ClockTable:
    """Shares of falling times by their rising clocks."""
    times, shares = (torch.stack(part) for part in zip(*pairs, strict=True))
    clock = leaf.clock(times)
    seen = torch.isfinite(clock)
    return ClockTable(clock[seen], shares[seen])


def second_order_score(covariance: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    r"""The second derivative of log p_t from the covariance of x_0 given x_t.

    grad^2 log p_t(x_t) = alpha^2 / sigma^4 Cov[x_0 | x_t] - 1 / sigma^2.

    Arguments:
        covariance: `(..., n, n)`; where entries are independent given x_t, the diagonal matrix
            of an estimate's variances.
        alpha: Factor on the data, broadcasts against the covariance.
        sigma: Noise level, positive, likewise.

    Example:
        >>> alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
        >>> given = sigma**2 * torch.eye(1)  # of N(0, 1) data, whose x_t is N(0, 1) too
        >>> round(second_order_score(given, alpha, sigma).item(), 6)
        -1.0
    """
    unit = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    return (alpha / sigma**2) ** 2 * covariance - unit / sigma**2
