r"""Products of features with spherical harmonics along all paths of Clebsch-Gordan coefficients.

From features of degree a and harmonics of degree b one of degree l is made if |a - b| <= l <=
a + b; coefficients and harmonics are those of the library e3nn, in its order and signs, and in its
normalisation by components.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.nn.casting import linear
from structdiff.nn.tensor_messages import Edges, turned_sum

__all__ = ["HarmonicProduct", "e3nn_o3", "mix"]


def e3nn_o3() -> Any:
    """e3nn's module of O(3).

    Raises:
        ImportError: If e3nn is not installed.
    """
    try:
        from e3nn import o3
    except ImportError:
        msg = "tensor products need the library e3nn: pip install 'structdiff[e3]'"
        raise ImportError(msg) from None
    return o3


def mix(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A mix of channels that keeps their variance.

    Arguments:
        inputs: Channels.
        outputs: Channels after it.
        bias: Whether a constant is added; none may be where they turn.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class HarmonicProduct(nn.Module):
    """All products of one degree of the sources with the harmonics, summed over the edges.

    Arguments:
        degree: Degree of the sources.
        channels: Their channels.
        width: Features of a pair.
        harmonics: Highest degree of the harmonics.
        after: Highest degree of the products.
        parity: Whether reflections go through.
    """

    table: Tensor
    path: Tensor

    def __init__(
        self, degree: int, channels: int, width: int, harmonics: int, after: int, *, parity: bool
    ) -> None:
        super().__init__()
        self.degree, self.channels = degree, channels
        paths = [
            (other, result)
            for result in range(after + 1)
            for other in range(abs(degree - result), min(degree + result, harmonics) + 1)
            if not parity or (degree + other + result) % 2 == 0
        ]
        self.degrees = [result for _, result in paths]
        self.sizes = [2 * result + 1 for result in self.degrees]
        blocks = []
        for (other, result), size in zip(paths, self.sizes, strict=True):
            block = torch.zeros((harmonics + 1) ** 2, size, 2 * degree + 1).double()
            known = e3nn_o3().wigner_3j(degree, other, result, dtype=torch.float64)
            block[other**2 : (other + 1) ** 2] = math.sqrt(size) * known.permute(1, 2, 0)
            blocks.append(block)
        # In float64 whatever the weights are in: a rounded product is no product of vectors.
        table = torch.cat(blocks, 1).flatten(1)
        self.register_buffer("table", table, persistent=False)
        path = torch.arange(len(paths)).repeat_interleave(torch.tensor(self.sizes))
        self.register_buffer("path", path, persistent=False)
        self.enter = mix(channels, channels)
        self.weights = mix(width, len(paths) * channels)

    def forward(self, x: Tensor, u: Tensor, harmonics: Tensor, edges: Edges) -> list[Tensor]:
        """Products by path, `(rows, 2l + 1, channels)` each.

        Arguments:
            x: Features of this degree, `(rows, 2 degree + 1, channels)`.
            u: Features of the pairs, `(pairs, width)`.
            harmonics: Of the edges, `(2 pairs, (harmonics + 1)^2)`.
            edges: The edges.
        """
        turns = (harmonics @ self.table.to(x)).view(-1, len(self.path), 2 * self.degree + 1)
        weights = linear(self.weights, u).to(x.dtype).view(-1, len(self.sizes), self.channels)
        gathered = turned_sum(self.enter(x), turns, weights, self.path, edges)
        return list(torch.split(gathered, self.sizes, 1))
