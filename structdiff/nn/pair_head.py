"""What a network says of pairs: w silu(A h_i + A h_j + B m_ij), the same for (i, j) and (j, i)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.nn.casting import linear
from structdiff.nn.pairs import Pairs

__all__ = ["PairHead"]


class PairHead(nn.Module):
    """Outputs of pairs, from the features of their ends and their own.

    Arguments:
        rows: Features of a row.
        width: Features of a pair, and inside.
        outputs: Outputs of a pair.

    Example:
        >>> import torch
        >>> from structdiff.layout import Layout
        >>> head = PairHead(4, 8, 3)
        >>> pairs = Pairs.complete(Layout.ragged([3]))
        >>> head(torch.randn(3, 4), torch.randn(3, 8), pairs).shape
        torch.Size([3, 3])
    """

    def __init__(self, rows: int, width: int, outputs: int) -> None:
        super().__init__()
        self.rows = nn.Linear(rows, width)
        self.pairs = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, outputs)

    def forward(self, h: Tensor, m: Tensor, pairs: Pairs) -> Tensor:
        """Outputs `(pairs, outputs)`.

        Arguments:
            h: Features of the rows, `(rows, features)`.
            m: Features of the pairs, `(pairs, width)`; symmetric in the ends.
            pairs: The edges.
        """
        of_rows = linear(self.rows, h)
        ends = of_rows.index_select(0, pairs.first) + of_rows.index_select(0, pairs.second)
        return linear(self.out, F.silu(ends + linear(self.pairs, m)))
