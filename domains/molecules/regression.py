r"""Properties of noisy molecules: the networks that guide by their gradient.

A regressor says what is known of the properties y of a molecule at any time of its way to noise,

    p(y | x_t) = N(y; mean(x_t, t), e^(log_variance(x_t, t)))    for each entry of y,

and learns it by -log p(y | x_t) at all times. Far into the noise it cannot know, and says so by
its variance, so that

    grad log p(y | x_t) = (y - mean) e^(-log_variance) grad mean + ...

is weak there and grows as the molecule takes shape. `Aim` is the sum of these log-densities at the
values that are asked, for `structdiff.guidance.Guided`: positions get its gradient, elements and
bonds its differences to first order in their one-hot vectors.

References:
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), section 4.
    https://arxiv.org/abs/2105.05233
    DiGress: Discrete Denoising Diffusion for Graph Generation (Vignac et al., 2023), section 5
    (a regressor of noisy graphs). https://arxiv.org/abs/2209.14734
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch, Part
from structdiff.denoiser import LIMIT
from structdiff.nn import ClockEmbedding, per_row
from structdiff.nn.graph_networks import GraphKind, graph_network
from structdiff.objectives import Terms, TimeDistribution, UniformTimes
from structdiff.processes import Finite, Process
from structdiff.random import Randomness

__all__ = ["Aim", "NoisyRegressor", "Regression", "log_density", "vectors"]

_CLOCK = 32  # features of a clock
_SUMS = 0.25  # factor on sums over the atoms of a molecule
_MOST = 10.0  # the log variance stays within +-this


def vectors(batch: Batch, process: Any) -> Batch:
    """The batch with its classes as one-hot vectors over all symbols."""
    dtype = batch["position"].dtype
    made = {
        name: F.one_hot(batch[name], process[name].symbols).to(dtype)
        for name in process.offering(Finite)
    }
    return batch.with_leaves({**batch.leaves, **made})


def log_density(mean: Tensor, log_variance: Tensor, value: Tensor) -> Tensor:
    """log N(value; mean, e^log_variance), entry by entry."""
    gap = (value - mean).square() * torch.exp(-log_variance)
    return -0.5 * (gap + log_variance + math.log(2 * math.pi))


class NoisyRegressor(nn.Module):
    """Mean and log variance of properties given noisy molecules, in standard units.

    Untrained it says N(0, 1), whatever it sees.

    Arguments:
        process: The process of the molecules, a product with `position`, `element`, maybe `bond`;
            leaves of a batch beside these are not looked at.
        entries: Numbers of all properties together.
        scale: Root mean square of a coordinate, Angstrom.
        kind: Which network, see `structdiff.nn.graph_networks`.
        layers: Rounds of messages.
        width: Features of a pair.
        hidden: Features of an atom.
        basis: Radial functions.
    """

    process: Any

    def __init__(
        self,
        process: Process,
        entries: int,
        scale: float,
        *,
        kind: GraphKind = "pairs",
        layers: int,
        width: int,
        hidden: int,
        basis: int,
    ) -> None:
        super().__init__()
        self.process = process
        self.scale = scale
        self.bonds = "bond" in self.process.offering(Finite)
        self.clocks = ClockEmbedding(_CLOCK)
        self.network = graph_network(
            kind,
            self.process["element"].symbols + 2 * _CLOCK + 1,
            hidden,
            pair_inputs=self.process["bond"].symbols + _CLOCK if self.bonds else 0,
            layers=layers,
            width=width,
            hidden=hidden,
            basis=basis,
        )
        last = nn.Linear(hidden, 2 * entries)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        pooled = 2 * hidden + self.process["element"].symbols
        self.head = nn.Sequential(nn.Linear(pooled, hidden), nn.SiLU(), last)

    def forward(self, batch: Batch, t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log variance, `(samples, entries)` each.

        Arguments:
            batch: Noisy molecules, classes as one-hot vectors (see `vectors`).
            t: Times by leaf.
        """
        layout, x = batch.layouts["position"], batch["position"]
        clock = {n: c.clamp(-LIMIT, LIMIT) for n, c in self.process.clock(t).items()}
        size = layout.spread(layout.size.to(x.dtype)).log().unsqueeze(1) - 3.0
        seen = [
            self.clocks(per_row(clock[n], layout).to(x.dtype)) for n in ("position", "element")
        ]
        atoms = torch.cat([batch["element"], size, *seen], 1)
        pairs = None
        if self.bonds:
            of_bonds = per_row(clock["bond"], batch.layouts["bond"]).to(x.dtype)
            pairs = torch.cat([batch["bond"], self.clocks(of_bonds)], 1)
        place = self.process["position"].encode(x, t["position"]) * self.scale
        rows = self.network(atoms, place, layout, pair_features=pairs).features
        sums = layout.sum(torch.cat([rows, batch["element"]], 1))
        pooled = torch.cat([layout.mean(rows), _SUMS * sums], 1)
        mean, spread = self.head(pooled).to(x.dtype).chunk(2, 1)
        return mean, _MOST * torch.tanh(spread / _MOST)


class Regression:
    """-log p(y | x_t) of the properties of noisy molecules, a term for each of them.

    Molecules of which a property is not known teach nothing of it.

    Arguments:
        columns: Property to its entries among those of the regressor.
        times: Law of the times; by default all alike, from data to noise.
    """

    def __init__(
        self, columns: Mapping[str, slice], times: TimeDistribution | None = None
    ) -> None:
        self.columns, self.times = dict(columns), times or UniformTimes()

    def __call__(self, regressor: nn.Module, batch: Batch, random: Randomness) -> Terms:
        """Noise at a time for each molecule, look, compare."""
        process: Any = regressor.process
        process = process.bind(batch)
        part = batch.part or Part(0, 1, batch.samples)
        drawn = self.times.draw(batch.samples, random, part=part).to(batch.device)
        t = process.times({n: layout.spread(drawn) for n, layout in batch.layouts.items()})
        noisy = batch.with_leaves(process.diffuse(batch.leaves, t, random))
        mean, log_variance = regressor(vectors(noisy, process), t)
        missed = {}
        for name, entries in self.columns.items():
            value = batch.condition[name].to(mean)
            said = log_density(mean[:, entries], log_variance[:, entries], value).sum(1)
            known = batch.present.get(name)
            missed[name] = -said if known is None else torch.where(known, -said, 0.0)
        return Terms(missed, dict.fromkeys(missed, drawn.new_zeros(())))


@dataclass(frozen=True, eq=False)
class Aim:
    """sum_k w_k log p(y_k | x_t) at the values asked of each molecule: a function to guide by.

    Arguments:
        regressor: From (batch, t), classes as one-hot vectors, to mean and log variance; see
            `NoisyRegressor`.
        columns: Property to its entries among those of the regressor.
        values: Property to what is asked, `(molecules, entries)`, in standard units; molecule i
            of a batch is number `batch.ids[i]` of these.
        scales: Property to its scale w.
    """

    regressor: nn.Module
    columns: Mapping[str, slice]
    values: Mapping[str, Tensor]
    scales: Mapping[str, float]

    def __call__(self, batch: Batch, t: Mapping[str, Tensor]) -> Tensor:
        """The weighted log-density, `(samples,)`."""
        mean, log_variance = self.regressor(batch, t)
        total: Tensor = mean.new_zeros(batch.samples)
        for name, scale in self.scales.items():
            value = self.values[name].to(mean)[batch.ids]
            entries = self.columns[name]
            found = log_density(mean[:, entries], log_variance[:, entries], value)
            total = total + scale * found.sum(1)
        return total
