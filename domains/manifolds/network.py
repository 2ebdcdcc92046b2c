r"""The network of points on manifolds: one residual network for all leaves of a record.

It sees each leaf through the smooth coordinates of its space and through its clock, and says for
each leaf what its parameterisation asks for, in the coordinates of tangent vectors (or points) of
the space: decoding projects it to the space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.nn import ClockEmbedding, per_row
from structdiff.nn.residual import ResidualNetwork
from structdiff.spaces import Manifold

__all__ = ["PointNetwork"]


class PointNetwork(nn.Module):
    """A backbone of records whose leaves are points, one row a sample.

    Arguments:
        spaces: The space of each leaf.
        outputs: Shape of a row of the output of each leaf.
        width: Features of a layer.
        blocks: Number of residual blocks.
        waves: Random waves of the record's coordinates.
        octaves: Their range of frequencies.

    Example:
        >>> from structdiff.spaces import Torus
        >>> network = PointNetwork({"x": Torus(2)}, {"x": (2,)}, width=8, waves=4)
        >>> network(Batch.of(torch.zeros(3, 2)), {"x": torch.zeros(3)}, None)["x"].shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        spaces: Mapping[str, Manifold],
        outputs: Mapping[str, tuple[int, ...]],
        *,
        width: int = 384,
        blocks: int = 2,
        waves: int = 256,
        octaves: float = 8.0,
    ) -> None:
        super().__init__()
        self.spaces, self.outputs = dict(spaces), dict(outputs)
        self.clock = ClockEmbedding(32, lowest=0.25, highest=8.0)
        self.sizes = [math.prod(shape) for shape in self.outputs.values()]
        self.body = ResidualNetwork(
            sum(_features(space) for space in spaces.values()),
            32 * len(self.spaces),
            sum(self.sizes),
            width=width,
            blocks=blocks,
            waves=waves,
            octaves=octaves,
        )

    def forward(
        self,
        batch: Batch,
        clock: Mapping[str, Tensor],
        previous: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Outputs by leaf."""
        del previous
        point = torch.cat([space.features(batch[name]) for name, space in self.spaces.items()], 1)
        waves = [self.clock(per_row(clock[name], batch.layouts[name])) for name in self.spaces]
        said = self.body(point, torch.cat(waves, 1).to(point.dtype)).to(point.dtype)
        parts = said.split(self.sizes, 1)
        return {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(self.outputs.items(), parts, strict=True)
        }


def _features(space: Manifold) -> int:
    """How many numbers a space's coordinates are."""
    return space.features(space.origin(torch.float32, "cpu")[None]).shape[1]
