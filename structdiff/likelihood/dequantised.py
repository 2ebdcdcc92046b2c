r"""The log-probability of integers under a density: dequantisation.

Data that come as integers (pixels, counts) are the lower ends x of bins of a width w. A density p
on real numbers gives the bin the probability P(x) = int p(x + w u) w^D du over the unit cube, and
for any law q(u | x) on it

    log P(x) >= E_q[log p(x + w u) - log q(u | x)] + D log w,

with equality where q is the law of u given x under p. The uniform law (Theis et al.) wastes what
p changes within a bin; a normal cut to the bin wastes little where p was trained with noise at
its first time; a learned one (Ho et al.) fits what is left. A density without the term D log w is
against another unit, so that bits per dimension would depend on how data were scaled.

References:
    A Note on the Evaluation of Generative Models (Theis, van den Oord and Bethge, 2016).
    https://arxiv.org/abs/1511.01844
    Flow++ (Ho et al., 2019), section 3.1: variational dequantisation.
    https://arxiv.org/abs/1902.00275
    Maximum Likelihood Training of Score-Based Diffusion Models (Song, Durkan, Murray and Ermon,
    2021), appendix B. https://arxiv.org/abs/2101.09258
    Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs (Zheng et al., 2023),
    section 4.2: the truncated normal. https://arxiv.org/abs/2305.03935
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.processes.leaf import sum_event
from structdiff.random import Randomness

__all__ = [
    "Dequantiser",
    "InBin",
    "IntegerBound",
    "LearnedBins",
    "NormalBins",
    "UniformBins",
    "integer_bound",
]


class InBin(NamedTuple):
    """Places in the bins, in (0, 1), of the shape of x, and log q of each row, `(rows,)`."""

    u: Tensor
    log_prob: Tensor


def inside(u: Tensor) -> Tensor:
    """u kept off the ends of the bin, where rounding may have put it."""
    edge = torch.finfo(u.dtype).eps
    return u.clamp(edge, 1 - edge)


class Dequantiser(nn.Module, ABC):
    """A law of the place in the bin, given the bin."""

    @abstractmethod
    def forward(self, x: Tensor, random: Randomness) -> InBin:
        """A draw for each entry, and its log density against the unit cube."""


class UniformBins(Dequantiser):
    """Uniform in the bin.

    Example:
        >>> from structdiff.random import Generator
        >>> UniformBins()(torch.zeros(2, 3), Generator(0)).log_prob
        tensor([0., 0.])
    """

    def forward(self, x: Tensor, random: Randomness) -> InBin:
        """Independent uniform numbers; log density 0."""
        return InBin(random.uniform(x.shape, x.dtype, x.device), x.new_zeros(len(x)))


class NormalBins(Dequantiser):
    """A normal about the middle of the bin, cut to it.

    Arguments:
        std: Standard deviation before the cut, in widths of the bin; positive. That of the
            density's own noise at its first time fits a model of the noised middles.

    Raises:
        ValueError: If std is not positive.
    """

    def __init__(self, std: float = 0.2) -> None:
        super().__init__()
        if not 0 < std < math.inf:
            msg = f"std must be positive and finite, got {std}"
            raise ValueError(msg)
        self.std = std

    def forward(self, x: Tensor, random: Randomness) -> InBin:
        """Through the quantile function, in float64."""
        end = 0.5 / self.std
        mass = math.erf(end / math.sqrt(2))
        v = random.uniform(x.shape, torch.float64, x.device)
        z = torch.special.ndtri((1 - mass) / 2 + mass * v)
        normal = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        density = normal - math.log(self.std) - math.log(mass)
        return InBin(inside((0.5 + self.std * z).to(x)), sum_event(density).to(x))


class LearnedBins(Dequantiser):
    """u = sigmoid(mean(x) + e^{log_std(x)} z): the variational law.

    Train it, alone or with the model, on the mean of `IntegerBound.draws` for a log density that
    is differentiable in the leaves.

    Arguments:
        network: x `(rows, *event)` to `(rows, *event, 2)`: mean and log standard deviation.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, random: Randomness) -> InBin:
        """Differentiable in the network.

        Raises:
            ValueError: If the network's output is not `(*x.shape, 2)`.
        """
        said = self.network(x)
        if said.shape != (*x.shape, 2):
            must = f"the network must return {(*x.shape, 2)}, mean and log standard deviation"
            msg = f"{must}, got {tuple(said.shape)}"
            raise ValueError(msg)
        mean, log_std = said.unbind(-1)
        z = random.normal(x.shape, x.dtype, x.device)
        logit = mean + log_std.exp() * z
        normal = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_std
        slope = F.logsigmoid(logit) + F.logsigmoid(-logit)  # log du / d logit
        return InBin(inside(torch.sigmoid(logit)), sum_event(normal - slope))


@dataclass(frozen=True)
class IntegerBound:
    """A lower bound on the log-probability of integer records, in nats; never a bare number.

    Arguments:
        draws: log p - log q + D log w of each draw, `(draws, samples)`.
        entries: Number D of integers of each sample, `(samples,)`.
        kind: What the number is.
        measure: What it is against.
        units: What it counts.
    """

    draws: Tensor
    entries: Tensor
    kind: str = "lower bound on log P of integers, by dequantisation"
    measure: str = "counting on integers, the density's own on other leaves"
    units: str = "nats"

    @property
    def total(self) -> Tensor:
        """Nats per sample, `(samples,)`: the mean of the draws, an unbiased bound."""
        return self.draws.mean(0)

    @property
    def error(self) -> Tensor:
        """Standard error of the total from the draws, `(samples,)`; NaN for one draw."""
        if len(self.draws) == 1:
            return torch.full_like(self.draws[0], torch.nan)
        return self.draws.std(0) / math.sqrt(len(self.draws))

    @property
    def bits_per_dimension(self) -> Tensor:
        """-log2 P per integer, `(samples,)`: what a code of these samples costs at most."""
        return -self.total / math.log(2) / self.entries

    def __str__(self) -> str:
        """Means over samples with their errors, where more than one draw or sample tells them."""
        bits = self.bits_per_dimension
        alone = len(bits) == 1
        spread = bits.new_tensor(math.nan) if alone else bits.std() / math.sqrt(len(bits))
        rows = [
            f"{self.kind}; {self.units}, against: {self.measure}",
            f"  total {_told(self.total.mean(), self.error.mean())} a sample",
            f"  {_told(bits.mean(), spread)} bits per dimension (mean over {len(bits)} samples)",
        ]
        return "\n".join(rows)


def _told(mean: Tensor, error: Tensor) -> str:
    """A mean with its error, where there is one."""
    spread = "" if math.isnan(float(error)) else f" +- {float(error):.2g}"
    return f"{float(mean):.4g}{spread}"


def integer_bound(
    log_prob: Callable[[Batch], Tensor],
    batch: Batch,
    dequantisers: Mapping[str, Dequantiser],
    random: Randomness,
    *,
    width: float | Mapping[str, float] = 1.0,
    draws: int = 1,
) -> IntegerBound:
    """A bound on the log-probability of integers under a density of real numbers.

    Arguments:
        log_prob: A batch to log densities in nats, `(samples,)`: `flow_log_prob(...).total`, or
            minus the total of a bound.
        batch: Records whose named leaves hold the lower ends of bins, as the model sees them.
        dequantisers: A law of the place in the bin for each leaf of integers.
        random: Where the places come from.
        width: Distance of neighbouring values in the model's units, for all leaves or by leaf.
        draws: Independent repetitions, at least 1.

    Raises:
        ValueError: If a leaf is not there or has given entries, a width is not there or not
            positive, or `draws` is below 1.

    Example:
        >>> from structdiff.random import Generator
        >>> batch = Batch.of(torch.tensor([0.0, 3.0]))
        >>> uniform = lambda b: torch.full((2,), 0.25).log()  # on [0, 4)
        >>> integer_bound(uniform, batch, {"x": UniformBins()}, Generator(0)).bits_per_dimension
        tensor([2., 2.])
    """
    unknown = dequantisers.keys() - batch.leaves.keys()
    if unknown or not dequantisers:
        has = f"the batch has the leaves {sorted(batch.leaves)}"
        msg = f"dequantisers must name leaves of integers, got {sorted(dequantisers)}: {has}"
        raise ValueError(msg)
    held = sorted(dequantisers.keys() & batch.given.keys())
    if held:
        has = f"the leaves {held} of integers have given entries, which have no probability"
        msg = f"{has}: put what is given in leaves of its own, without a dequantiser"
        raise ValueError(msg)
    widths = {n: width.get(n, 0.0) if isinstance(width, Mapping) else width for n in dequantisers}
    if not all(0 < w < math.inf for w in widths.values()) or draws < 1:
        msg = f"width must be positive and draws at least 1, got {widths} and {draws}"
        raise ValueError(msg)
    entries = {
        n: batch.layouts[n].size.to(batch[n].device) * math.prod(batch[n].shape[1:])
        for n in dequantisers
    }
    scale = torch.stack([math.log(widths[n]) * entries[n].to(batch[n]) for n in entries]).sum(0)
    values = [
        _one_draw(log_prob, batch, dequantisers, widths, random.scoped(step=i)) + scale
        for i in range(draws)
    ]
    return IntegerBound(torch.stack(values), torch.stack(list(entries.values())).sum(0))


def _one_draw(
    log_prob: Callable[[Batch], Tensor],
    batch: Batch,
    dequantisers: Mapping[str, Dequantiser],
    widths: Mapping[str, float],
    random: Randomness,
) -> Tensor:
    """log p - log q at one place in the bins, `(samples,)`."""
    leaves, log_q = dict(batch.leaves), []
    for name, law in dequantisers.items():
        layout = batch.layouts[name]
        place = law(batch[name], random.scoped(leaf=name, ids=batch.ids, layout=layout))
        leaves[name] = batch[name] + widths[name] * place.u
        log_q.append(layout.sum(place.log_prob))
    return log_prob(batch.with_leaves(leaves)) - torch.stack(log_q).sum(0)
