"""A trained model of fields in a folder: training it, loading it, drawing from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, final

import torch
from torch import Tensor

from structdiff.artifacts import Part, RunFolder, partition, piecewise
from structdiff.runs.asked import whole
from structdiff.runs.fields.centre import needed
from structdiff.runs.fields.model import FieldModel, Watch
from structdiff.runs.fields.record import LABEL, Fields, FieldSet
from structdiff.runs.fields.request import (
    Given,
    Request,
    Seen,
    check_given,
    check_seen,
    labels_of,
    rows_of,
)
from structdiff.runs.fields.settings import FieldConfig
from structdiff.runs.fields.training import load_model, train_model
from structdiff.runs.progress import Progress
from structdiff.runs.restore import stored_codec, stored_config
from structdiff.runs.settings import with_sampler

__all__ = ["Boundary", "FieldRun"]


class Boundary(Protocol):
    """The codec of a domain's objects."""

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        ...


Config = TypeVar("Config", bound=FieldConfig)
Codec = TypeVar("Codec", bound=Boundary)


class FieldRun(ABC, Generic[Config, Codec]):
    """A model of fields in a folder; each domain has a class of its own.

    Arguments:
        folder: The folder.
        config: Settings of the run.
        codec: The codec of the domain's objects.
        model: The model.
        changed: Settings of the sampler that are not those of the run.
    """

    domain: ClassVar[str]
    """Name of the domain."""
    unit: ClassVar[str]
    """What is drawn, in the singular."""
    kind: type[Config]
    """What its settings are."""

    @final
    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        codec: Codec,
        model: FieldModel,
        changed: frozenset[str] = frozenset(),
    ) -> None:
        self.folder, self.config, self.codec, self.model = folder, config, codec, model
        self.changed = changed

    @staticmethod
    @abstractmethod
    def codec_from(state: dict[str, Any]) -> Codec:
        """The codec of objects with that state.

        Raises:
            ValueError: If it is not the state of one.
        """

    @staticmethod
    @abstractmethod
    def fields_of(config: Config, codec: Codec) -> Fields:
        """What the fields are.

        Raises:
            ValueError: If the settings do not fit the data.
        """

    @classmethod
    @final
    def trained(
        cls,
        config: Config,
        out: Path | str,
        codec: Codec,
        train: FieldSet,
        validation: FieldSet | None = None,
        *,
        words: Sequence[str] = (),
        say: Callable[[str], None] = print,
    ) -> Self:
        """Train, or go on with a run that was stopped; called after `load_together`.

        Arguments:
            config: Settings.
            out: Folder of the run.
            codec: The codec of objects.
            train: What is trained on.
            validation: What is validated on.
            words: What to say of the data, line by line.
            say: Where to report.

        Raises:
            ValueError: If settings and data do not fit, or the folder has another run.
            Stopped: If a signal asked to stop; the state is saved.
        """
        folder = RunFolder(out)
        train_model(
            folder,
            cls.domain,
            config,
            cls.fields_of(config, codec),
            codec.state(),
            train,
            validation,
            words=words,
            say=say,
        )
        return cls.load(folder.path)

    @classmethod
    @final
    def load(cls, path: Path | str) -> Self:
        """The model with averaged weights.

        Raises:
            FileNotFoundError: If the folder is not a finished run's.
            ValueError: If a file is damaged, or does not fit this version.
        """
        folder = RunFolder(path)
        config = stored_config(folder, cls.domain, cls.kind)
        codec = stored_codec(folder, cls.codec_from)
        return cls(folder, config, codec, load_model(folder, config, cls.fields_of(config, codec)))

    @property
    @final
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @final
    def drawing(self, **changes: float | str | None) -> Self:
        """The same run with other settings of the sampler; None leaves one as it is.

        Raises:
            ValueError: If a setting is not known or out of range.
        """
        config = self.kind.model_validate(with_sampler(self.config, changes).model_dump())
        model = FieldModel(config, self.model.fields, self.model.codec, self.model.denoiser)
        changed = {name for name, value in changes.items() if value is not None}
        return type(self)(self.folder, config, self.codec, model, self.changed | changed)

    @final
    def request(
        self,
        samples: int,
        *,
        label: Tensor | Sequence[int] | None = None,
        texts: Mapping[str, Tensor] | None = None,
        fields: Mapping[str, Tensor] | None = None,
        given: Given | None = None,
        seen: Seen | None = None,
        seed: int = 0,
    ) -> Request:
        """What to draw.

        Arguments:
            samples: How many.
            label: Numbers of classes, taken in turn; None for no class.
            texts: Name to int64 `(1 or samples, length)`.
            fields: Name to `(1 or samples, channels, *places)`, as `Fields.conditions` make them.
            given: Known places.
            seen: What was measured.
            seed: Start of the random numbers.

        Raises:
            ValueError: If a number is out of range, or something does not fit the model.
        """
        samples = whole(f"the number of {self.unit}s", samples, 1)
        seed = whole("seed", seed, 0)
        condition = {**(texts or {}), **(fields or {})}
        if label is not None:
            condition[LABEL] = labels_of(label, self.model.fields, samples)
        known = self.model.fields
        unknown = sorted(condition.keys() - set(known.named))
        if unknown:
            has = f"the conditions {list(known.named)}" if known.named else "no conditions"
            msg = f"the model knows {has}, not {unknown}"
            raise ValueError(msg)
        for setting, centre in needed(self.config, known).items():
            if centre.name not in condition:
                msg = f"{setting} needs {centre.name!r}, which is not given: give it"
                raise ValueError(msg)
        lacking = sorted(set(known.named) - condition.keys())
        if lacking and not self.config.loss.dropout:
            msg = (
                f"the model was trained with {lacking} always known (loss.dropout = 0): give "
                f"{'it' if len(lacking) == 1 else 'them'}"
            )
            raise ValueError(msg)
        guides = condition.keys() - self.model.always
        if not guides and "guidance" in self.changed and self.config.sampler.guidance != 1:
            msg = (
                f"guidance is {self.config.sampler.guidance:g}, but nothing is asked to guide by: "
                "give a condition (a label), or leave guidance out"
            )
            raise ValueError(msg)
        found = {name: rows_of(name, x, samples) for name, x in condition.items()}
        if given is not None:
            check_given(given, known, samples)
        if seen is not None:
            check_seen(seen, known, samples)
        if seen is not None and given is not None:
            msg = "given and a measurement cannot be followed at once: leave one out"
            raise ValueError(msg)
        return Request(samples, seed, found, given, seen)

    @final
    def draw(
        self,
        asked: Request,
        part: Part,
        *,
        done: Callable[[float], None] | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Fields of a part of a request, on the CPU, see `FieldModel.draw`."""
        return self.model.draw(asked, part, done=done, watch=watch).cpu()

    @final
    def fields(
        self, asked: Request, *, progress: bool = True, watch: Watch | None = None
    ) -> Tensor:
        """All fields of a request, `(samples, *event)`.

        Arguments:
            asked: What to draw.
            progress: Whether to show a bar.
            watch: Called with the steps done and the estimated fields of the first batch.
        """
        parts, drawn = partition(asked.samples, self.config.sampler.batch_size), list[Tensor]()
        with Progress(asked.samples, unit=self.unit, show=progress) as bar:

            def make(part: Part) -> Tensor:
                show = watch if part.low == 0 else None
                return self.draw(asked, part, done=bar.walk(part), watch=show)

            for part, made in piecewise(parts, make):
                bar.settle(part.high - part.low)
                drawn.append(made)
        return torch.cat(drawn)

    @final
    def facts(self) -> dict[str, Any]:
        """What the model is, for cards and pages."""
        config, codec = self.config, self.model.codec
        weights = sum(weight.numel() for weight in self.model.denoiser.parameters())
        own = 0 if codec is None else sum(weight.numel() for weight in codec.parameters())
        inside = "transformer" if self.model.record.classes else config.network.kind
        shapes = " x ".join(map(str, self.model.fields.event))
        latent = " x ".join(map(str, self.model.record.latent))
        found = {"fields": shapes, "codec": config.codec.kind, "latents": latent}
        return {
            **found,
            "network": f"{inside} of width {config.network.width}, {weights:,} parameters",
            **({"codec parameters": f"{own:,}"} if own else {}),
        }
