r"""The network of points on manifolds: one residual network for all leaves of a record.

It sees each leaf through the smooth coordinates of its space, blurred as far as its clock says the
noise reaches, and through the clock itself. It says for each leaf what its parameterisation
asks for, in the coordinates of tangent vectors of the space: decoding projects it to the space.
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

_PURE = -5.0
"""The clock from which all is noise."""


class PointNetwork(nn.Module):
    """A backbone of records whose leaves are points, one row a sample.

    Arguments:
        spaces: The space of each leaf.
        outputs: Shape of a row of the output of each leaf.
        width: Features of a layer.
        blocks: Number of residual blocks.
        waves: Random waves of the record's coordinates.
        octaves: Their range of frequencies.
        finest: The clock of the least noise of the training: with less, points are as good as
            clean and look like that.

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
        finest: float = 7.0,
    ) -> None:
        super().__init__()
        self.spaces, self.outputs, self.finest = dict(spaces), dict(outputs), finest
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
        points = [space.features(batch[name]) for name, space in self.spaces.items()]
        clocks = [
            per_row(clock[name].clamp(_PURE, self.finest), batch.layouts[name]).to(points[0])
            for name in self.spaces
        ]
        context = torch.cat([self.clock(one) for one in clocks], 1)
        # The clock is log(alpha / sigma).
        blurs = [c.neg().exp()[:, None].expand_as(p) for c, p in zip(clocks, points, strict=True)]
        point = torch.cat(points, 1)
        said = self.body(point, context, torch.cat(blurs, 1)).to(point.dtype)
        parts = said.split(self.sizes, 1)
        return {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(self.outputs.items(), parts, strict=True)
        }


def _features(space: Manifold) -> int:
    """How many numbers a space's coordinates are."""
    return space.features(space.origin(torch.float32, "cpu")[None]).shape[1]
