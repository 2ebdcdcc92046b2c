"""A model of fields: a codec, a denoiser of what it makes, and drawing from both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from structdiff.artifacts import Part
from structdiff.batch import Batch
from structdiff.codecs.latent import LatentCodec
from structdiff.denoiser import Denoiser
from structdiff.guidance.inverse.observation import Observation
from structdiff.operators import Measurement
from structdiff.runs import noise_of
from structdiff.runs.fields.centre import centre_of, needed
from structdiff.runs.fields.conditions import folded
from structdiff.runs.fields.record import Fields, Record
from structdiff.runs.fields.request import Given, Request, Seen
from structdiff.runs.fields.settings import FieldConfig
from structdiff.runs.fields.walks import walk_of
from structdiff.samplers import Carry

__all__ = ["FieldModel", "Watch"]

Watch = Callable[[int, Tensor], None]
"""Called with the steps done and what the model holds the fields to be."""

_CHUNK = 64  # fields that are decoded together


class Decoded(Measurement):
    """What is measured of a field, as a measurement of its latent.

    Arguments:
        operator: What is measured of a field.
        codec: Its codec.
    """

    def __init__(self, operator: Measurement, codec: LatentCodec) -> None:
        super().__init__(codec.latent, operator.measured)
        self.operator, self.codec = operator, codec

    def forward(self, x: Tensor) -> Tensor:
        """A(decode(z))."""
        seen: Tensor = self.operator(self.codec.decode(x))
        return seen


@dataclass(frozen=True, eq=False)
class FieldModel:
    """A model of fields.

    Arguments:
        config: Settings; `sampler` says how to draw.
        fields: What the fields are.
        codec: Their codec, or None.
        denoiser: The denoiser of the leaf.
    """

    config: FieldConfig
    fields: Fields
    codec: LatentCodec | None
    denoiser: Denoiser

    @property
    def record(self) -> Record:
        """Latents to batches and back."""
        return Record(self.fields, self.codec)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((w.device for w in self.denoiser.parameters()), torch.device("cpu"))

    @property
    def always(self) -> frozenset[str]:
        """Conditions that the model always sees."""
        return frozenset({self.fields.near} if self.config.noise.centre else ())

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Fields as latents, in chunks."""
        codec = self.codec
        if codec is None:
            return x
        return torch.cat([codec.encode(part) for part in torch.split(x, _CHUNK)])

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents as fields, in chunks."""
        codec = self.codec
        if codec is None:
            return z
        return torch.cat([codec.decode(part) for part in torch.split(z, _CHUNK)])

    @torch.no_grad()
    def draw(
        self,
        asked: Request,
        part: Part,
        *,
        done: Callable[[float], None] | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Draw a part of a request; nothing is rejected or corrected.

        Arguments:
            asked: What to draw.
            part: Which samples of it.
            done: Called after each step with the share of the steps that are done.
            watch: Called with the steps done and the fields as estimated so far.

        Returns:
            Fields, `(samples, *event)`, in [-1, 1].

        Raises:
            ValueError: If what is asked does not fit the model or the settings.
        """
        config, record = self.config.sampler, self.record
        batch, known = self._known(self._blank(asked, part), asked, part)
        seen = None if asked.seen is None else self._seen(asked, asked.seen, part)
        walk = walk_of(
            config,
            record,
            self.denoiser,
            batch,
            known=known,
            seen=seen,
            begin=self._begin(asked, part),
            always=self.always,
        )
        random = noise_of(asked.seed, part, config.randomness)
        steps = walk.bind(batch, random).steps

        def report(step: int, carry: Carry) -> None:
            if done is not None:
                done(step / steps)
            if watch is not None and carry.previous is not None and not record.classes:
                watch(step, self.decode(carry.previous[record.leaf].value).clamp(-1, 1))

        drawn = walk.sample(batch, random, report)
        x = self.decode(record.whole(drawn[record.leaf])).clamp(-1, 1)
        return x if asked.given is None else self._pasted(x, asked, asked.given, part)

    def _blank(self, asked: Request, part: Part) -> Batch:
        """What is to be drawn: shapes, conditions and numbers."""
        record, rows, device = self.record, part.high - part.low, self.device
        dtype = torch.int64 if record.classes else torch.get_default_dtype()
        z = torch.zeros(rows, *record.latent, dtype=dtype, device=device)
        condition = {}
        for name, value in asked.condition.items():
            here = asked.part(value, part.low, part.high).to(device)
            made = name in self.fields.conditions
            condition[name] = folded(here, record.latent[1:]) if made else here
        return record.batch(z, condition, ids=torch.arange(part.low, part.high, device=device))

    def _begin(self, asked: Request, part: Part) -> Tensor | None:
        """The latents that the walk begins at, or None where it begins in noise alone."""
        if self.config.sampler.start == 1:
            return None
        centre = centre_of(f"sampler.start = {self.config.sampler.start:g}", self.fields)
        shown = asked.part(asked.condition[centre.name], part.low, part.high).to(self.device)
        return self.record.flat(self.encode(centre(shown)))

    def _known(self, batch: Batch, asked: Request, part: Part) -> tuple[Batch, Batch | None]:
        """The batch with what is given, or what is given apart from it.

        Only where training had given entries, or they look as in training, may they be held.
        """
        if asked.given is None or not asked.given.held:
            return batch, None
        record, given = self.record, asked.given
        source = asked.part(given.source, part.low, part.high).to(self.device)
        known = asked.part(given.known, part.low, part.high).to(self.device)
        # What is not known must say nothing: codecs look at what is beside a place too.
        z, held = self.encode(blanked(source, known)), latent_mask(known, record.latent)
        leaf = record.flat(z)
        mask = record.flat(held.expand(z.shape)).contiguous()
        leaf = torch.where(mask, leaf, 0)
        holding = batch.with_leaves({record.leaf: leaf}).with_given({record.leaf: mask})
        absorbing = record.classes and self.config.noise.process == "absorbing"
        if self.config.loss.given or absorbing:
            return holding, None
        return batch, holding

    def _pasted(self, x: Tensor, asked: Request, given: Given, part: Part) -> Tensor:
        """The fields with what is known of them in its place."""
        source = asked.part(given.source, part.low, part.high).to(x)
        known = asked.part(given.known, part.low, part.high).to(self.device)
        return torch.where(known, source, x)

    def _seen(self, asked: Request, seen: Seen, part: Part) -> Observation:
        """The measurement of the leaf.

        Raises:
            ValueError: If the leaf is codes, or a latent and the method is not dps, or the walk
                or the noise lies around a field that is shown.
        """
        record, inverse = self.record, self.config.sampler.inverse
        kind = self.config.codec.kind
        if record.classes:
            msg = f"a measurement has no meaning for the codes of codec.kind {kind}: take kl"
            raise ValueError(msg)
        around = list(needed(self.config, self.fields))
        if around:
            msg = (
                f"a measurement is followed by noise around 0 alone, got {' and '.join(around)}: "
                "show it to the model as its task does, or leave the measurement out"
            )
            raise ValueError(msg)
        operator = seen.operator.to(self.device)
        if self.codec is not None:
            if inverse != "dps":
                msg = (
                    f"sampler.inverse {inverse} measures fields, and codec.kind {kind} has "
                    "latents: take dps, which goes through the decoder"
                )
                raise ValueError(msg)
            operator = Decoded(operator, self.codec)
        y = asked.part(seen.y, part.low, part.high).to(self.device)
        return Observation(operator, y, noise_std=seen.noise, leaf=record.leaf)


def blanked(x: Tensor, known: Tensor) -> Tensor:
    """Fields whose unknown places have the mean of the known ones, channel by channel.

    Example:
        >>> known = torch.tensor([[[True, True, False]]])
        >>> blanked(torch.tensor([[[1.0, 3.0, 9.0]]]), known)
        tensor([[[1., 3., 2.]]])
    """
    axes = tuple(range(2, x.ndim))
    count = known.sum(axes, keepdim=True).clamp(min=1)
    mean = torch.where(known, x, 0.0).sum(axes, keepdim=True) / count
    return torch.where(known, x, mean)


def latent_mask(known: Tensor, latent: tuple[int, ...]) -> Tensor:
    """Which places of a latent are known: those all of whose fields' places are.

    Arguments:
        known: `(samples, 1, *places)`, bool.
        latent: Shape of a latent; its last axes are places.

    Example:
        >>> known = torch.tensor([[[True, True, True, False]]])
        >>> latent_mask(known, (8, 2)).tolist()
        [[[True, False]]]
    """
    axes = known.ndim - 2
    places = latent[len(latent) - axes :]
    free = folded((~known).float(), places).amax(1, keepdim=True) > 0
    # Codes of one book have no axis of channels.
    return ~free.squeeze(1) if len(latent) == axes else ~free
