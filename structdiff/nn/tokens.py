"""A transformer over symbols: from noisy symbols to logits of classes.

A row begins as the embedding of its own symbol and a sum of features of the near symbols, one
table for each distance: what near symbols say on their own is known before the first layer. Short
trainings gain most by this, those of masked rows above all, whose own symbol says nothing.

The rows of a sample are a line (a text), or the places of a grid: the codes of an image, or the
levels of codes of a sound. On a grid distances are steps along its axes, and nothing is near
across its borders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.nn.attention import grid as places_of
from structdiff.nn.conditioning import ConditionFeatures
from structdiff.nn.embedding import ClockEmbedding
from structdiff.nn.transformer import Transformer

__all__ = ["TokenNetwork"]

_CLOCK = 32
_KNOWN = 64


class TokenNetwork(nn.Module):
    """Logits of each row of one class leaf, from the symbols of all rows of its sample.

    The logit of a class is the product of its embedding with the features of the row, so symbols
    0 to `classes - 1` are the classes; the others (a mask) are inputs only.

    Arguments:
        symbols: Number of symbols that a row can be, at least `classes`.
        classes: Number of classes.
        width: Features of a row.
        layers: Number of layers.
        heads: Heads of attention.
        leaf: Name of the leaf.
        numbers: Name to the number of entries of each real condition.
        kinds: Name to the number of classes of each class condition.
        clocked: Whether the clock is an input; where the symbols tell all that it does, as those
            of an absorbing process do, it need not be.
        self_conditioning: Whether the previous estimate is an input.
        causal: Whether a row sees only rows before it, and itself.
        expand: Width inside the row-wise network, over `width`.
        neighbours: How many near rows are mixed before attention; by default 3, on a grid none.
        near: How many near symbols have features in the beginning of a row: half of them on
            each side or, where causal, all before it; 0 for none. On a grid the nearest ones.
        grid: Places along each axis, the last fastest, of the grid whose places the rows of each
            sample are; None where they are a line.

    Raises:
        ValueError: If there are fewer symbols than classes, a half symbol is near, or rows on
            a grid are mixed; on a call, if a sample has not the rows of the grid.

    Example:
        >>> from structdiff.layout import Layout
        >>> network = TokenNetwork(28, 27, width=8, layers=2, heads=2)
        >>> batch = Batch({"token": torch.zeros(5).long()}, {"token": Layout.ragged([3, 2])})
        >>> network(batch, {"token": torch.tensor(0.5)}, None)["token"].shape
        torch.Size([5, 27])
    """

    def __init__(
        self,
        symbols: int,
        classes: int,
        *,
        width: int,
        layers: int,
        heads: int,
        leaf: str = "token",
        numbers: Mapping[str, int] | None = None,
        kinds: Mapping[str, int] | None = None,
        clocked: bool = True,
        self_conditioning: bool = False,
        causal: bool = False,
        expand: int = 4,
        neighbours: int | None = None,
        near: int = 10,
        grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if symbols < classes:
            msg = f"symbols must be at least the number of classes {classes}, got {symbols}"
            raise ValueError(f"{msg}: each class is a symbol")
        if near < 0 or (near % 2 and not causal):
            msg = f"near must be 0, or even where both sides are seen, got {near}: take 10"
            raise ValueError(msg)
        if grid is not None and (neighbours or not grid or min(grid) < 1):
            msg = f"a grid must have positive sizes and no neighbours, got {tuple(grid)} and"
            raise ValueError(f"{msg} {neighbours}: near symbols know the axes, neighbours do not")
        self.leaf, self.classes = leaf, classes
        self.grid = None if grid is None else tuple(grid)
        self.embedding = nn.Embedding(symbols, width)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.near = (
            _NearSymbols(symbols, width, near, causal=causal, grid=self.grid) if near else None
        )
        self.previous = nn.Linear(classes, width, bias=False) if self_conditioning else None
        self.clock = ClockEmbedding(_CLOCK) if clocked else None
        self.conditions = ConditionFeatures(numbers or {}, kinds)
        known = self.conditions.width + (_CLOCK if clocked else 0)
        self.known = nn.Linear(known, _KNOWN) if known else None
        self.transformer = Transformer(
            width,
            layers,
            heads,
            condition=_KNOWN if known else 0,
            causal=causal,
            expand=expand,
            neighbours=(0 if grid else 3) if neighbours is None else neighbours,
            axes=len(grid) if grid else 1,
        )

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """Logits `(rows, classes)` of the leaf.

        Arguments:
            batch: Symbols, int64 `(rows,)`, with their layout and the conditions.
            clock: The leaf's clock, `()` or `(rows,)`.
            previous: Log-probabilities of the previous estimate, `(rows, classes)`, or None.
        """
        layout, places = batch.layouts[self.leaf], None
        if self.grid is not None:
            self._check(layout)
            places = places_of(self.grid, layout.sample.device)
        table = self.embedding.weight
        # Embeddings have unit length, rows unit variance.
        x = self.embedding(batch[self.leaf]) * math.sqrt(table.shape[1])
        if self.near is not None:
            x = x + self.near(batch[self.leaf], layout)
        if self.previous is not None and previous is not None:
            x = x + self.previous(previous[self.leaf].exp().to(x.dtype)).to(x.dtype)
        known, of_rows = self._known(batch, clock)
        h = self.transformer(x, layout, known, condition_of_rows=of_rows, places=places)
        return {self.leaf: F.linear(h, table[: self.classes], self.bias)}

    def _check(self, layout: Layout) -> None:
        rows = math.prod(self.grid or ())
        others = set(layout.counts) - {rows}
        if others:
            msg = f"samples must have {rows} rows, the places of {self.grid}, got {min(others)}"
            raise ValueError(msg)

    def _known(self, batch: Batch, clock: Mapping[str, Tensor]) -> tuple[Tensor | None, bool]:
        """Features of the clock and the conditions, and whether they are of rows or of samples."""
        features, of_rows = self.conditions(batch).to(self.bias.dtype), False
        if self.known is None:
            return None, of_rows
        if self.clock is not None:
            time = clock[self.leaf].to(self.bias.dtype)
            of_rows = time.ndim > 0
            if of_rows:
                features = batch.layouts[self.leaf].spread(features)
            seen = self.clock(time.expand(features.shape[0]))
            features = torch.cat([seen, features], 1)
        found: Tensor = self.known(features)
        return found, of_rows


class _NearSymbols(nn.Module):
    """Sum over distances k of a feature of the symbol k rows away, or of there being no row."""

    steps: Tensor
    inside: Tensor | None

    def __init__(
        self,
        symbols: int,
        width: int,
        near: int,
        *,
        causal: bool,
        grid: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.symbols = symbols
        steps, inside = _on_line(near, causal), None
        if grid is not None:
            steps, inside = _on_grid(near, causal, grid)
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("inside", inside, persistent=False)
        self.table = nn.Parameter(torch.empty(near * (symbols + 1), width))
        nn.init.normal_(self.table, std=0.5 / math.sqrt(near))

    def forward(self, symbol: Tensor, layout: Layout) -> Tensor:
        row = torch.arange(layout.rows, device=symbol.device).unsqueeze(1)
        other = row + self.steps
        inside = other.clamp(0, layout.rows - 1)
        here = (other == inside) & (layout.sample[inside] == layout.sample.unsqueeze(1))
        if self.inside is not None:
            here = here & self.inside.repeat(layout.samples, 1)
        seen = torch.where(here, symbol[inside], self.symbols)
        place = seen + (self.symbols + 1) * torch.arange(len(self.steps), device=symbol.device)
        return F.embedding_bag(place, self.table, mode="sum")


def _on_line(near: int, causal: bool) -> Tensor:
    """Steps to near rows, `(near,)`."""
    first = -near if causal else -(near // 2)
    steps = torch.arange(first, first + near + 1)
    return steps[steps != 0]


def _on_grid(near: int, causal: bool, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rows to the nearest places of a grid, `(near,)`, and where they are on it."""
    origin = (0,) * len(grid)
    around = itertools.product(range(-near, near + 1), repeat=len(grid))
    before = [step for step in around if (step < origin if causal else step != origin)]
    # Opposite steps are together, so that as many are on each side.
    before.sort(key=lambda step: (sum(k * k for k in step), max(step, tuple(-k for k in step))))
    steps = torch.tensor(before[:near])
    other = places_of(grid).unsqueeze(1) + steps
    inside = ((other >= 0) & (other < torch.tensor(grid))).all(2)
    strides = torch.tensor([math.prod(grid[axis + 1 :]) for axis in range(len(grid))])
    return (steps * strides).sum(1), inside
