r"""Estimates that are tilted towards and away from each other.

With denoisers of laws p_0, p_1, p_2, ... and scales w_i, the score of a tilted denoiser is

    s = s_0 + sum_i w_i (s_i - s_0),

that of p_0 prod_i (p_i / p_0)^w_i at each time on R^n and manifolds; on classes each row's law of
x_0 is that product. So with the reference p_0 and one other law

- unconditional and conditional: classifier-free guidance (`ClassifierFree` has it by name),
- a condition that is not wanted, and one that is: a negative prompt,
- a worse model (smaller, less trained, more dropout), and the model: autoguidance,
- the model on a degraded x_t, and on x_t: `Degraded`,

and with several laws their composition, in which w < 0 is "not". At w = 0 the reference is what is
returned, and at w = 1 of one law that law, bit for bit and in one call.

References:
    Compositional Visual Generation with Composable Diffusion Models (Liu et al., 2022), eq. 11.
    https://arxiv.org/abs/2206.01714
    Guiding a Diffusion Model with a Bad Version of Itself (Karras et al., 2024), section 3.
    https://arxiv.org/abs/2406.02507
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), eq. 6.
    https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.strengths import Scale, check_scales, shares
from structdiff.processes import Estimate, Process

__all__ = ["Answers", "Conditioned", "Mixed", "Tilted", "conditioned"]


@dataclass(frozen=True)
class Answers:
    """What several denoisers say, with weights that sum to one.

    Arguments:
        estimates: Their estimates.
        weights: The weight of each, by leaf.
    """

    estimates: Sequence[Mapping[str, Estimate]]
    weights: Mapping[str, Sequence[float]]

    def of(self, name: str) -> tuple[list[Estimate], list[float]]:
        """Estimates of a leaf that have a weight, and their weights."""
        pairs = zip(self.estimates, self.weights[name], strict=True)
        used = [(one[name], w) for one, w in pairs if w != 0]
        return [estimate for estimate, _ in used], [w for _, w in used]

    def tilted(self, process: Any) -> dict[str, Estimate]:
        """The estimate of the tilted law, by leaf."""
        return {name: _tilt(process[name], *self.of(name)) for name in self.weights}


def _tilt(leaf: Any, estimates: list[Estimate], weights: list[float]) -> Estimate:
    found: Estimate = estimates[0] if weights == [1] else leaf.tilt(estimates, weights)
    return found


class Mixed(Denoiser, ABC):
    """A denoiser that is tilted by scales: one that has several looks at a record."""

    @abstractmethod
    def looks(self, batch: Batch) -> tuple[list[tuple[Denoiser, Batch]], list[Scale]]:
        """Whom to ask about what, the reference first, and the scales of the others."""

    @final
    def ask(self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None) -> Answers:
        """The answers that have a weight in any leaf; the others are not asked for."""
        looks, scales = self.looks(batch)
        weights = shares(scales, t)
        used = [i for i in range(len(looks)) if any(row[i] != 0 for row in weights.values())]
        found = [denoiser(seen, t, previous) for denoiser, seen in (looks[i] for i in used)]
        return Answers(found, {name: [row[i] for i in used] for name, row in weights.items()})

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The tilted estimate."""
        return self.ask(batch, t, previous).tilted(self.process.bind(batch))


class Tilted(Mixed):
    """A denoiser that is tilted from a reference towards others.

    Arguments:
        reference: The denoiser of p_0.
        directions: Scale w_i, a number or a function of time, and denoiser of p_i.

    Raises:
        ValueError: If a scale is not finite or the processes have different leaves.

    Example:
        >>> from structdiff.processes import Gaussian
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import NormalDenoiser
        >>> worse, better = (
        ...     NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.full((1,), std))
        ...     for std in (2.0, 1.0)
        ... )
        >>> t, x = {"x": torch.tensor(0.5)}, Batch.of(torch.ones(1))
        >>> Tilted(worse, [(2.0, better)])(x, t)["x"].value  # 2 (1) - 1.6
        tensor([0.4000])
    """

    def __init__(self, reference: Denoiser, directions: Sequence[tuple[Scale, Denoiser]]) -> None:
        super().__init__()
        self.scales = [scale for scale, _ in directions]
        check_scales(self.scales)
        self.denoisers = nn.ModuleList([reference, *(denoiser for _, denoiser in directions)])
        self.process = reference.process
        leaves = [_leaves(denoiser) for denoiser in (reference, *(d for _, d in directions))]
        if any(names != leaves[0] for names in leaves):
            msg = f"all denoisers must have the leaves of the reference, got {leaves}"
            raise ValueError(msg)

    def looks(self, batch: Batch) -> tuple[list[tuple[Denoiser, Batch]], list[Scale]]:
        """All denoisers, on the batch as it is."""
        return [(denoiser, batch) for denoiser in self.denoisers], self.scales  # type: ignore[misc]


def _leaves(denoiser: Denoiser) -> list[str]:
    process: Any = denoiser.process
    return sorted(process.offering(Process))


def conditioned(batch: Batch, condition: Mapping[str, Tensor]) -> Batch:
    """The batch with these conditions for all samples; its others are absent."""
    everyone = (batch.samples,)
    told = {
        name: value.to(batch.device).expand(*everyone, *value.shape)
        for name, value in condition.items()
    }
    absent = torch.zeros(everyone, dtype=torch.bool, device=batch.device)
    others = {name: absent for name in batch.condition if name not in told}
    return batch.with_condition({**batch.condition, **told}).with_present(others)


class Conditioned(Denoiser):
    """A denoiser that is told these conditions, whatever the batch says.

    Arguments:
        denoiser: Any denoiser.
        condition: Name to the value, of one sample, that holds for all; other conditions are
            absent, so with no names it is the unconditional denoiser.

    Example:
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Cosine
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Gaussian(Cosine())})
        >>> denoiser = ExactDenoiser(process, Batch.of(torch.tensor([-1.0, 1.0])))
        >>> cat = Conditioned(denoiser, {"kind": torch.tensor(3)})
        >>> dog = Conditioned(denoiser, {"kind": torch.tensor(5)})
        >>> cat_not_dog = Tilted(Conditioned(denoiser, {}), [(3.0, cat), (-1.0, dog)])
    """

    def __init__(self, denoiser: Denoiser, condition: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.denoiser, self.condition = denoiser, dict(condition)
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimate under the conditions."""
        seen = conditioned(batch, self.condition)
        estimate: Mapping[str, Estimate] = self.denoiser(seen, t, previous)
        return estimate
