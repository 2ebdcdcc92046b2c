r"""Conditions that are fields: made from the clean field while training, given when drawing.

A small image, a grey one, an image with a hole, a mel spectrogram: each is a map of the clean
field, maybe with draws of its own. The network sees it as channels beside the noisy field. Where
that is a latent, with fewer places, blocks of places are *folded* into channels,

    (channels, factor h, factor w) -> (channels factor^2, h, w),

so that nothing of it is lost.

References:
    Palette: Image-to-Image Diffusion Models (Saharia et al., 2022). https://arxiv.org/abs/2111.05826
    Image Super-Resolution via Iterative Refinement (Saharia et al., 2021).
    https://arxiv.org/abs/2104.07636
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.objectives import Objective, Terms
from structdiff.random import Randomness

__all__ = ["Made", "Making", "fold_of", "folded"]


class Making(nn.Module, ABC):
    """What makes a condition of a clean field.

    Attributes:
        source: Shape of what it is made of where that is not the field, as the wave of a
            spectrogram; the data set then has it under the name of the condition.
    """

    source: tuple[int, ...] | None = None

    @abstractmethod
    def forward(self, clean: Tensor, random: Randomness) -> Tensor:
        """The condition, `(samples, channels, *places)`, of as many places or fewer.

        Arguments:
            clean: Fields, `(samples, *event)`, or `(samples, *source)`.
            random: Where draws come from; their first axis is samples.
        """


def fold_of(places: Sequence[int], latent: Sequence[int]) -> int:
    """How many places along each axis go to one place of a latent.

    Example:
        >>> fold_of((28, 28), (7, 7)), fold_of((30, 28), (8, 7))
        (4, 4)
    """
    pairs = zip(places, latent, strict=True)
    return max(-(-place // other) for place, other in pairs)


def folded(x: Tensor, latent: Sequence[int]) -> Tensor:
    """A field at the places of a latent; blocks become channels, and rims are filled with zeros.

    One that has no more places than the latent stays as it is.

    Arguments:
        x: `(samples, channels, *places)`.
        latent: Places of the latent, as many axes.

    Example:
        >>> folded(torch.zeros(2, 3, 28, 28), (7, 7)).shape
        torch.Size([2, 48, 7, 7])
    """
    factor = fold_of(x.shape[2:], latent)
    if factor == 1:
        return x
    short = [factor * n - m for n, m in zip(latent, x.shape[2:], strict=True)]
    x = F.pad(x, [side for gap in reversed(short) for side in (0, gap)])
    axes = len(latent)
    cut = x.reshape(*x.shape[:2], *(n for side in latent for n in (side, factor)))
    inside, outside = range(3, 3 + 2 * axes, 2), range(2, 2 + 2 * axes, 2)
    moved = cut.permute(0, 1, *inside, *outside)
    return moved.reshape(len(x), -1, *latent)


class Made(Objective):
    """Another objective on batches whose conditions are made first.

    Before, such a condition is the clean field, or what else it is made of.

    Arguments:
        objective: What looks at the batch.
        makings: Name to what makes the condition.
        latent: Places of the leaf.
    """

    def __init__(
        self, objective: Objective, makings: Mapping[str, Making], latent: Sequence[int]
    ) -> None:
        self.objective, self.makings, self.latent = objective, dict(makings), tuple(latent)

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the batch with its conditions."""
        return self.objective(denoiser, self.made(batch, random), random)

    def made(self, batch: Batch, random: Randomness) -> Batch:
        """The batch with its conditions made."""
        layout, condition = Layout.regular(batch.samples, batch.device), dict(batch.condition)
        for name, making in self.makings.items():
            scoped = random.scoped(leaf=f"making of {name}", ids=batch.ids, layout=layout)
            with torch.no_grad():
                found = making(condition[name], scoped)
            condition[name] = folded(found, self.latent)
        return batch.with_condition(condition).with_present(batch.present)
