r"""From a noisy field and what is known of it to a field: the backbone around any such network.

A *field* is a tensor `(samples, channels, *places)` over a line, a plane or a space: a waveform, a
spectrogram, an image, a volume, or a latent of one. Inside is a network

    network(x, condition, context, mask) -> (samples, outputs, *places)

of features `(samples, condition)` that say the clock and the conditions of a sample, and of tokens
`(samples, tokens, context)` with a mask of those that count. What has places of its own (an image
to be enlarged, a mel spectrogram, the estimate before) is brought to the field's places and
becomes further channels of x; an absent one is zero.

References:
    Palette: Image-to-Image Diffusion Models (Saharia et al., 2022), section 3: conditions as
    channels. https://arxiv.org/abs/2111.05826
    Analog Bits (Chen, Zhang and Hinton, 2022), section 3.2: the estimate before.
    https://arxiv.org/abs/2208.04202
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.nn.conditioning import ConditionFeatures
from structdiff.nn.embedding import ClockEmbedding

__all__ = ["FieldNetwork", "MakeField"]

_CLOCK = 64
_CLEAN = 20.0


class MakeField(Protocol):
    """What makes the network inside."""

    def __call__(
        self, inputs: int, outputs: int, *, condition: int = 0, context: int = 0
    ) -> nn.Module:
        """The network.

        Arguments:
            inputs: Channels of x.
            outputs: Channels of the output.
            condition: Features of a sample; 0 for none.
            context: Features of a token; 0 where there are no tokens.
        """
        ...


class FieldNetwork(nn.Module):
    """A backbone of one leaf that is a field.

    Arguments:
        make: Makes the network inside, see `MakeField`; `partial(UNet, width=32)` does.
        channels: Channels of the leaf.
        leaf: Name of the leaf.
        outputs: Channels of the output; by default those of the leaf.
        features: Width of the features of a sample.
        numbers: Name to the number of entries of each real condition.
        kinds: Name to the number of classes of each class condition.
        fields: Name to the channels of each condition that is a field.
        texts: Name to the number of symbols of each condition that is a text: int64
            `(samples, length)`, where 0 is no symbol but padding.
        known: Whether the network is told which entries are given; the leaf is clean there.
        self_conditioning: Whether the previous estimate is an input.

    Raises:
        ValueError: If a number is not positive; on a call, if a condition is unknown or has
            another shape.

    Example:
        >>> from functools import partial
        >>> from structdiff.nn import UNet
        >>> network = FieldNetwork(partial(UNet, width=8), 1, kinds={"label": 10}, features=16)
        >>> batch = Batch.of(torch.zeros(2, 1, 8, 8))
        >>> network(batch, {"x": torch.tensor(0.5)}, None)["x"].shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        make: MakeField,
        channels: int,
        *,
        leaf: str = "x",
        outputs: int | None = None,
        features: int = 128,
        numbers: Mapping[str, int] | None = None,
        kinds: Mapping[str, int] | None = None,
        fields: Mapping[str, int] | None = None,
        texts: Mapping[str, int] | None = None,
        known: bool = False,
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        if channels < 1 or features < 1:
            msg = f"channels and features must be positive, got {channels} and {features}"
            raise ValueError(msg)
        self.leaf, self.channels, self.known = leaf, channels, known
        self.fields, self.self_conditioning = dict(fields or {}), self_conditioning
        self.conditions = ConditionFeatures(numbers or {}, kinds)
        self.clock = ClockEmbedding(_CLOCK)
        seen = _CLOCK + self.conditions.width + len(self.fields)
        first, second = nn.Linear(seen, features), nn.Linear(features, features)
        self.enter = nn.Sequential(first, nn.SiLU(), second)
        self.texts = tuple(texts or {})
        self.symbols = nn.ModuleList(
            nn.Embedding(symbols, features, padding_idx=0) for symbols in (texts or {}).values()
        )
        self.nothing = nn.Parameter(torch.randn(features)) if self.texts else None
        inputs = channels * (1 + self_conditioning) + known + sum(self.fields.values())
        outputs = channels if outputs is None else outputs
        context = features if self.texts else 0
        self.network = make(inputs, outputs, condition=features, context=context)
        # Of a class one feature is 1 and the others 0: weights made for many features that all
        # vary would leave it hardly heard beside the clock.
        if seen > _CLOCK:
            nn.init.normal_(first.weight[:, _CLOCK:])

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """Outputs `(samples, outputs, *places)` of the leaf.

        Arguments:
            batch: The noisy field with its conditions.
            clock: The leaf's clock, `()`, `(samples,)` or `(samples, channels, *places)`.
            previous: Values of the previous estimate, or None.
        """
        x, time = batch[self.leaf], clock[self.leaf]
        parts = [x]
        if self.self_conditioning:
            shown = torch.zeros_like(x) if previous is None else previous[self.leaf]
            parts.append(shown.to(x.dtype))
        if self.known:
            given = time >= _CLEAN if time.ndim > 1 else torch.zeros_like(x, dtype=torch.bool)
            parts.append(given.all(1, keepdim=True).to(x.dtype))
        parts += [self._field(batch, name, channels, x) for name, channels in self.fields.items()]
        features = self.enter(self._features(batch, _noisiest(time, len(x))).to(x.dtype))
        output = self.network(torch.cat(parts, 1), features, *self._tokens(batch, len(x)))
        return {self.leaf: output}

    def _features(self, batch: Batch, time: Tensor) -> Tensor:
        """Features of the clock, the conditions, and of which fields are there."""
        apart = {*self.fields, *self.texts}
        plain = batch.with_condition(
            {name: value for name, value in batch.condition.items() if name not in apart}
        ).with_present({name: x for name, x in batch.present.items() if name not in apart})
        there = [_present(batch, name).unsqueeze(1) for name in self.fields]
        features = [self.clock(time), self.conditions(plain), *there]
        return torch.cat([value.to(time.dtype) for value in features], 1)

    def _field(self, batch: Batch, name: str, channels: int, like: Tensor) -> Tensor:
        """A condition at the places of the leaf, zero where it is absent."""
        if name not in batch.condition:
            return like.new_zeros(len(like), channels, *like.shape[2:])
        value = batch.condition[name].to(like.dtype)
        if value.ndim != like.ndim or value.shape[1] != channels:
            must = f"(samples, {channels}, ...) with {like.ndim - 2} axes of places"
            msg = f"condition {name!r} must have shape {must}, got {tuple(value.shape)}"
            raise ValueError(msg)
        if value.shape[2:] != like.shape[2:]:
            value = F.interpolate(value, size=like.shape[2:], mode="nearest")
        there = _present(batch, name).reshape(-1, *(1,) * (like.ndim - 1))
        return torch.where(there > 0, value, 0.0)

    def _tokens(self, batch: Batch, samples: int) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of all texts and which of them count; one that says nothing is always there."""
        if self.nothing is None:
            return None, None
        tokens = [self.nothing.expand(samples, 1, -1)]
        masks = [torch.ones(samples, 1, dtype=torch.bool, device=batch.device)]
        for name, symbols in zip(self.texts, self.symbols, strict=True):
            if name in batch.condition:
                text = batch.condition[name]
                place = torch.arange(text.shape[1], device=text.device)
                where = _places(place, self.nothing.shape[0]).to(self.nothing.dtype)
                tokens.append(symbols(text) + where)
                masks.append((text != 0) & (_present(batch, name) > 0).unsqueeze(1))
        return torch.cat(tokens, 1), torch.cat(masks, 1)


def _noisiest(time: Tensor, samples: int) -> Tensor:
    """The least clock of each sample, `(samples,)`."""
    return time.flatten(1).amin(1) if time.ndim > 1 else time.expand(samples)


def _present(batch: Batch, name: str) -> Tensor:
    """Whether a condition is known, `(samples,)`, 0 or 1."""
    if name not in batch.condition:
        return torch.zeros(batch.samples, device=batch.device)
    known = batch.present.get(name)
    return torch.ones(batch.samples, device=batch.device) if known is None else known.float()


def _places(place: Tensor, width: int) -> Tensor:
    """Sines and cosines of positions, `(places, width)`."""
    half = (width + 1) // 2
    speed = 10000.0 ** (-torch.arange(half, device=place.device) / half)
    angle = place.unsqueeze(1) * speed
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :width]
