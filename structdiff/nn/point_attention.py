r"""Invariant point attention: rows that are frames attend by features and by points in space.

The frame of a row is a rotation R and a translation t. Each row places points x = R p + t, with p
linear in its features. With strengths s_h > 0 row i hears row j in head h by a softmax over j of

    (q_i . k_j / sqrt(width) + bias_ij - s_h / (2 sqrt(9 points / 2)) |x_i - y_j|^2) / sqrt(3)

(without pairs there is no bias, and sqrt(2)). What it hears are values, points taken back to its
own frame with their lengths, and features of pairs. A motion of all frames moves all points alike,
so no output changes. Of |x|^2 - 2 x . y + |y|^2 the first term is the same for all j, and the rest
is a product of longer queries and keys: nothing has the size (rows, rows, points).

References:
    Highly accurate protein structure prediction with AlphaFold (Jumper et al., 2021), supplement,
    algorithms 22 and 23. https://www.nature.com/articles/s41586-021-03819-2
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn.padding import Padding
from structdiff.nn.pairs import Pairs
from structdiff.spaces.turns import assemble, components, matrix

__all__ = ["FrameUpdate", "InvariantPointAttention"]


class InvariantPointAttention(nn.Module):
    """What rows hear of the other rows of their sample, invariant under a motion of all frames.

    Heavy parts run in low precision under autocast; frames, distances and weights never do.

    Arguments:
        hidden: Features of a row.
        heads: Heads of attention.
        width: Entries of a query, of a key and of a value of a head.
        points: Points of a query and of a key of a head.
        value_points: Points of a value of a head.
        pair_inputs: Features of a pair; 0 for none.
        unit: Length that counts as one, in the units of the translations.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> network = InvariantPointAttention(8, heads=2)
        >>> frames = torch.eye(3).expand(5, 3, 3), torch.randn(5, 3)
        >>> network(torch.randn(5, 8), *frames, Layout.ragged([3, 2])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int = 8,
        width: int = 16,
        points: int = 4,
        value_points: int = 8,
        pair_inputs: int = 0,
        unit: float = 10.0,
    ) -> None:
        super().__init__()
        _check(heads=heads, width=width, points=points, value_points=value_points, unit=unit)
        self.hidden, self.heads, self.pair_inputs, self.unit = hidden, heads, pair_inputs, unit
        self.sizes = [width, width, width]
        self.points = [points, points, value_points]
        self.scalars = nn.Linear(hidden, heads * sum(self.sizes), bias=False)
        self.places = nn.Linear(hidden, 3 * heads * sum(self.points))
        self.bias = nn.Linear(pair_inputs, heads, bias=False) if pair_inputs else None
        # softplus of it is one
        self.strength = nn.Parameter(torch.full((heads,), math.log(math.e - 1)))
        self.leave = nn.Linear(heads * (width + 4 * value_points + pair_inputs), hidden)

    def forward(
        self,
        features: Tensor,
        rotation: Tensor,
        translation: Tensor,
        layout: Layout,
        *,
        pair_features: Tensor | None = None,
    ) -> Tensor:
        """Features to add, `(rows, hidden)`.

        Arguments:
            features: Invariant features, `(rows, hidden)`.
            rotation: Rotations of the frames, `(rows, 3, 3)`.
            translation: Their origins, `(rows, 3)`.
            layout: Which sample each row belongs to.
            pair_features: Features of the pairs, `(pairs, pair_inputs)`, in the order of
                `Layout.pairs`, the same for (i, j) and (j, i) and zero for (i, i); None for a
                network without `pair_inputs`.

        Raises:
            ValueError: If an input has another shape.
        """
        known = self._known(pair_features, layout)
        _check_inputs(features, rotation, translation, layout, self.hidden)
        padding, dtype = Padding.of(layout), translation.dtype
        place = (translation - layout.spread(layout.mean(translation))) / self.unit
        each = self.heads, sum(self.points)
        said = self.scalars(features).to(dtype).view(layout.rows, self.heads, sum(self.sizes))
        local = self.places(features).to(dtype).view(layout.rows, 3, math.prod(each))
        with torch.autocast(translation.device.type, enabled=False):
            world = (rotation @ local + place.unsqueeze(2)).view(layout.rows, 3, *each)
            weights = self._weights(said, world, known, padding)
            heard, points = self._gather(weights, said, world, padding)
            seen = rotation.transpose(1, 2) @ (points - place.unsqueeze(2))
            length = seen.square().sum(1).add(1e-8).sqrt()
            gathered = [heard, seen.flatten(1), length]
            if known is not None:
                of_pairs = torch.einsum("shij,sijc->sihc", weights, known)
                gathered.append(padding.packed(of_pairs.flatten(2)))
        out: Tensor = self.leave(torch.cat(gathered, 1))
        return out

    def _weights(
        self, said: Tensor, world: Tensor, known: Tensor | None, padding: Padding
    ) -> Tensor:
        """How much each row hears of each other, `(samples, heads, length, length)`."""
        query, key, _ = torch.split(said, self.sizes, 2)
        x, y, _ = (part.transpose(1, 2).flatten(2) for part in torch.split(world, self.points, 3))
        near = F.softplus(self.strength).to(x) / math.sqrt(4.5 * self.points[0])
        near = near.unsqueeze(1)
        far = y.square().sum(2, keepdim=True)
        asks = torch.cat([query / math.sqrt(self.sizes[0]), near * x, -near.expand_as(far) / 2], 2)
        tells = torch.cat([key, y, far], 2)
        score = self._dense(asks, padding) @ self._dense(tells, padding).transpose(2, 3)
        if self.bias is not None and known is not None:
            score = score + F.linear(known, self.bias.weight.to(known)).permute(0, 3, 1, 2)
        score = score / math.sqrt(2 if known is None else 3)
        if padding.real is not None:
            score = score.masked_fill(~padding.real[:, None, None], torch.finfo(score.dtype).min)
        return torch.softmax(score, 3)

    def _gather(
        self, weights: Tensor, said: Tensor, world: Tensor, padding: Padding
    ) -> tuple[Tensor, Tensor]:
        """Values `(rows, heads width)` and points `(rows, 3, heads points)` that rows hear."""
        width, points = self.sizes[2], self.points[2]
        z = world[:, :, :, -points:].transpose(1, 2).flatten(2)
        told = self._dense(torch.cat([said[:, :, -width:], z], 2), padding)
        heard = padding.packed((weights @ told).transpose(1, 2).flatten(2))
        heard = heard.view(len(said), self.heads, width + 3 * points)
        values, places = torch.split(heard, [width, 3 * points], 2)
        places = places.reshape(len(said), self.heads, 3, points).transpose(1, 2)
        return values.flatten(1), places.flatten(2)

    def _dense(self, x: Tensor, padding: Padding) -> Tensor:
        """`(rows, heads, entries)` to `(samples, heads, length, entries)`."""
        dense = padding.dense(x.flatten(1))
        return dense.view(*dense.shape[:2], *x.shape[1:]).transpose(1, 2)

    def _known(self, pair_features: Tensor | None, layout: Layout) -> Tensor | None:
        """Features of pairs as `(samples, length, length, pair_inputs)`.

        Raises:
            ValueError: If they have another shape.
        """
        number = sum(count * (count - 1) // 2 for count in layout.counts)
        want = (number, self.pair_inputs) if self.pair_inputs else None
        found = None if pair_features is None else tuple(pair_features.shape)
        if found != want:
            msg = f"pair_features must be (pairs, pair_inputs) = {want}, got {found}"
            raise ValueError(f"{msg}: give what the network was made for")
        if pair_features is None:
            return None
        samples, length = layout.samples, max(layout.counts, default=0)
        pairs, row = Pairs.complete(layout), layout.row
        start = length * (layout.sample * length + row)
        i, j = pairs.first, pairs.second
        place = torch.cat([start[i] + row[j], start[j] + row[i]])
        dense = pair_features.new_zeros(samples * length * length, self.pair_inputs)
        both = torch.cat([pair_features, pair_features])
        return dense.index_copy(0, place, both).view(samples, length, length, self.pair_inputs)


class FrameUpdate(nn.Module):
    """Frames moved by what their rows say, each in its own frame.

    The rotation by the quaternion (1, b, c, d), normalised, and a translation: from zero features
    frames stay where they are.

    Arguments:
        hidden: Features of a row.
        unit: Length that counts as one, in the units of the translations.

    Example:
        >>> frames = torch.eye(3).expand(5, 3, 3), torch.randn(5, 3)
        >>> rotation, translation = FrameUpdate(8)(torch.randn(5, 8), *frames)
        >>> rotation.shape, translation.shape
        (torch.Size([5, 3, 3]), torch.Size([5, 3]))
    """

    def __init__(self, hidden: int, *, unit: float = 10.0) -> None:
        super().__init__()
        self.unit = unit
        self.move = nn.Linear(hidden, 6)
        nn.init.zeros_(self.move.bias)

    def forward(
        self, features: Tensor, rotation: Tensor, translation: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New rotations and translations.

        Arguments:
            features: Invariant features, `(rows, hidden)`.
            rotation: Rotations of the frames, `(rows, 3, 3)`.
            translation: Their origins, `(rows, 3)`.
        """
        turn, shift = self.move(features).to(translation.dtype).split(3, 1)
        with torch.autocast(translation.device.type, enabled=False):
            cosine = torch.rsqrt(1 + turn.square().sum(1))
            b, c, d = components(turn * cosine.unsqueeze(1))
            moved = (rotation @ (self.unit * shift).unsqueeze(2)).squeeze(2)
            return rotation @ assemble(matrix(cosine, (b, c, d))), translation + moved


def _check(**settings: float) -> None:
    """Refuse what makes no attention.

    Raises:
        ValueError: If a number is out of range.
    """
    for name, value in settings.items():
        if not value > 0:
            msg = f"{name} must be positive, got {value}: give a larger one"
            raise ValueError(msg)


def _check_inputs(
    features: Tensor, rotation: Tensor, translation: Tensor, layout: Layout, hidden: int
) -> None:
    """Refuse inputs of another shape.

    Raises:
        ValueError: If one has.
    """
    rows = layout.rows
    wanted = {"features": (rows, hidden), "rotation": (rows, 3, 3), "translation": (rows, 3)}
    for (name, want), x in zip(wanted.items(), (features, rotation, translation), strict=True):
        if x.shape != want:
            msg = f"{name} must be {want}, got {tuple(x.shape)}: one for each row of the layout"
            raise ValueError(msg)
