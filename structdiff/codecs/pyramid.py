r"""A backbone that sees of a field what is still in the walk: the noisier, the fewer places.

In the Haar basis a field is a pyramid of resolutions, and with `Dropped` its fine levels leave the
walk first: after their end they are noise that knows nothing. The state keeps them, the network
need not see them. So at a clock below that of the k-th end the network is handed the field of the
levels that are left, smaller by 2^k along each axis, and of those that left nothing is said:

    output = B pad(B_k^T network(B_k (first block of B^T x))),

B the basis of all levels, B_k that of the levels left. Both are orthogonal, so noise is as strong
in the small field as in the large one. Walking back, a level enters where its noise, drawn long
before, is joined to what the network has made of the coarser ones.

References:
    Dimensionality-Varying Diffusion Process (Zhang et al., 2023), section 3.
    https://arxiv.org/abs/2211.16032
    Subspace Diffusion Generative Models (Jing et al., 2022). https://arxiv.org/abs/2205.01490
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.processes.covariance_bases import HaarBasis
from structdiff.schedules.by_entry import Dropped

__all__ = ["Pyramid", "ends_by_level"]


def ends_by_level(basis: HaarBasis, event: tuple[int, ...], ends: Tensor) -> Tensor:
    """The end of each entry of a field, by its level: what `Dropped` takes.

    Arguments:
        basis: The basis.
        event: Shape of one x.
        ends: Last time of each level, from the finest to the means, `(levels + 1,)`.

    Raises:
        ValueError: If there are other many, or a finer level stays longer than a coarser one.

    Example:
        >>> ends_by_level(HaarBasis(1), (4,), torch.tensor([0.5, 1.0])).tolist()
        [1.0, 1.0, 0.5, 0.5]
    """
    if ends.shape != (basis.levels + 1,) or bool((ends.diff() < 0).any()):
        must = f"ends must be {basis.levels + 1} rising times, the finest level's first"
        msg = f"{must}, got {ends.tolist()}"
        raise ValueError(msg)
    basis.check(event)
    return ends[basis.depth(event)]


class Pyramid(nn.Module):
    """A backbone of fields of any size, handed the levels that are in the walk.

    How many these are is read from the clock of the least noisy sample, once a call; samples of a
    batch in training are therefore best drawn at near times, or all of them see all levels.

    Arguments:
        backbone: The backbone, see `Backbone`; its leaf may have any multiple of its least size.
        basis: The basis of the process of the leaf, over the axes of places.
        schedule: The schedule of that process, with ends by level (`ends_by_level`).
        leaf: Name of the leaf.

    Raises:
        ValueError: If the ends differ within a level, or a finer one stays longer.
    """

    def __init__(
        self, backbone: nn.Module, basis: HaarBasis, schedule: Dropped, *, leaf: str = "x"
    ) -> None:
        super().__init__()
        self.backbone, self.basis, self.leaf = backbone, basis, leaf
        depth = basis.depth(schedule.event)
        ends = [
            torch.unique(schedule.entries[depth == level]) for level in range(basis.levels + 1)
        ]
        if any(len(each) != 1 for each in ends):
            msg = "the ends of a schedule must be equal within a level: make them by ends_by_level"
            raise ValueError(msg)
        times = torch.cat(ends).clamp(max=1)
        if bool((times.diff() < 0).any()):
            msg = (
                f"a finer level must leave no later than a coarser one, got ends {times.tolist()}"
            )
            raise ValueError(msg)
        clocks = schedule.reference(times[:-1]).clock
        self.clocks: list[float] = clocks.tolist()

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """The backbone's output at the levels that it saw, zero at the others."""
        latest = float(clock[self.leaf].amax())
        gone = sum(latest < end for end in self.clocks)
        if not gone:
            return self.call(batch, clock, previous)
        small = batch.with_leaves({**batch.leaves, self.leaf: self.coarse(batch[self.leaf], gone)})
        if previous is not None:
            previous = {**previous, self.leaf: self.coarse(previous[self.leaf], gone)}
        output = self.call(small, clock, previous)
        whole = self.fine(output[self.leaf], batch[self.leaf].shape[1:])
        return {**output, self.leaf: whole}

    def call(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """The backbone."""
        output: Mapping[str, Tensor] = self.backbone(batch, clock, previous)
        return output

    def coarse(self, x: Tensor, gone: int) -> Tensor:
        """The field of what is left when so many levels are gone."""
        u = self.basis.analyse(x)
        for axis in self.basis.axes:
            place = axis % (x.ndim - 1) + 1
            u = u.narrow(place, 0, x.shape[place] >> gone)
        left = self.basis.levels - gone
        return HaarBasis(left, self.basis.axes).synthesise(u) if left else u

    def fine(self, x: Tensor, event: tuple[int, ...]) -> Tensor:
        """The field of a shape whose coarse levels are those of x and whose fine ones are zero."""
        axis = self.basis.axes[0] % len(event)
        gone = (event[axis] // x.shape[axis + 1]).bit_length() - 1
        left = self.basis.levels - gone
        u = HaarBasis(left, self.basis.axes).analyse(x) if left else x
        whole = x.new_zeros(len(x), *event)
        whole[tuple(slice(side) for side in u.shape)] = u
        return self.basis.synthesise(whole)
