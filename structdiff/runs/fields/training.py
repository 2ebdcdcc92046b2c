"""Training a model of fields: the codec, the latents of the data, the model of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.artifacts import RunFolder, differences
from structdiff.batch import Batch
from structdiff.codecs.latent import LatentCodec
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.objectives import Objective
from structdiff.runs.codecs import Samples, fit_codec
from structdiff.runs.fields.build import build, codec_of, objective_of
from structdiff.runs.fields.model import FieldModel
from structdiff.runs.fields.objective import shown, times_of
from structdiff.runs.fields.record import Fields, FieldSet, Record
from structdiff.runs.fields.settings import FieldConfig
from structdiff.runs.fit import fit
from structdiff.runs.latents import encode_data
from structdiff.runs.restore import averaged, model_of
from structdiff.training import pick_device
from structdiff.training.distributed import first_alone, shard

__all__ = ["load_model", "train_model"]

_LOOKED_AT = 256  # samples of a validation


class Plain:
    """The fields of a data set, by number.

    Arguments:
        data: The data set.
        most: How many at most; None for all.
    """

    def __init__(self, data: FieldSet, most: int | None = None) -> None:
        self.data = data
        self.samples = len(data) if most is None else min(most, len(data))

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: NDArray[np.int64]) -> Tensor:
        """Some of them."""
        return self.data.fields(index)


class Collating:
    """Batches of latents with their conditions.

    A condition that is made of the clean field is that field here, see `Made`; one that is made of
    something else is what the data set has of it.

    Arguments:
        data: The data set.
        fields: What its fields are.
        codec: Their codec, or None.
        latents: Their latents, where these are kept; otherwise they are made.
    """

    def __init__(
        self,
        data: FieldSet,
        fields: Fields,
        codec: LatentCodec | None,
        latents: Samples | None = None,
    ) -> None:
        self.data, self.fields, self.codec, self.latents = data, fields, codec, latents
        self.record = Record(fields, codec)

    @torch.no_grad()
    def __call__(self, index: NDArray[np.int64]) -> Batch:
        """A batch of some samples."""
        index = np.ascontiguousarray(index)  # a process has every so-manieth of a batch
        condition, present = self.data.conditions(index)
        if self.latents is not None and not self.fields.conditions:
            return self.record.batch(self.latents[index], condition, present)
        x = self.data.fields(index)
        shown = {name: x for name, one in self.fields.conditions.items() if one.source is None}
        if self.latents is not None:
            z = self.latents[index]
        else:
            z = x if self.codec is None else self.codec.encode(x)
        return self.record.batch(z, {**condition, **shown}, present)


def train_model(
    folder: RunFolder,
    domain: str,
    config: FieldConfig,
    fields: Fields,
    state: Mapping[str, Any],
    train: FieldSet,
    validation: FieldSet | None,
    *,
    words: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Train, or go on with a run that was stopped, in whatever phase; after `load_together`.

    Arguments:
        folder: The run.
        domain: Name of the domain.
        config: Settings.
        fields: What the fields are.
        state: State of the codec of objects.
        train: What is trained on.
        validation: What is validated on.
        words: What to say of the data, line by line.
        say: Where to report.

    Raises:
        ValueError: If settings and data do not fit, or the folder has another run.
        Stopped: If a signal asked to stop; the state is saved.
    """
    codec = untrained(config, fields)
    model_of(lambda: build(config, fields, Record(fields, codec)), "the settings")
    identity = train.identity()
    if shard()[0] == 0:
        folder.open(domain, config.model_dump(mode="json"))
        folder.begin(identity, state)
        for line in words:
            say(line)
    latents: Samples | None = None
    if codec is not None and not config.codec.joint:
        codec = _fitted(folder, config, codec, train, validation, say)
        latents = _latents(folder, config, codec, train, say) if config.codec.learned else None
        codec = codec.cpu()  # batches are made there
    module, objective = trained_of(config, fields, codec)
    encoder = None if config.codec.joint else codec
    fit(
        folder,
        domain,
        config,
        config.training,
        module,
        objective,
        samples=len(train),
        collate=Collating(train, fields, encoder, latents),
        identity=identity,
        codec=state,
        validate=_validation(config, fields, encoder, objective, validation),
    )


def trained_of(
    config: FieldConfig, fields: Fields, codec: LatentCodec | None
) -> tuple[Any, Objective]:
    """What is trained, a denoiser or a codec with one, and what is made small."""
    record = Record(fields, codec)
    if not config.codec.joint:
        return build(config, fields, record), objective_of(config, fields, record)
    from structdiff.codecs.joint import JointObjective

    objective: Any = JointObjective(record.leaf, times_of(config))
    return joint_of(config, fields, codec), shown(config, fields, record, objective)


def joint_of(config: FieldConfig, fields: Fields, codec: LatentCodec | None) -> Any:
    """An autoencoder and the denoiser of its latents, as one module."""
    from structdiff.codecs.joint import JointLatent, MixedPrior

    codec = codec or untrained(config, fields)
    record = Record(fields, codec)
    prior = MixedPrior(build(config, fields, record), record.leaf, record.latent[0])
    return JointLatent(cast("Any", codec), prior)


def untrained(config: FieldConfig, fields: Fields) -> LatentCodec | None:
    """The codec as it begins.

    Raises:
        ValueError: If it does not fit the fields.
    """
    try:
        return codec_of(config, fields)
    except ValueError as error:
        msg = (
            f"codec.kind {config.codec.kind} does not fit fields of shape {fields.event}: {error}"
        )
        raise ValueError(msg) from None


def _fitted(
    folder: RunFolder,
    config: FieldConfig,
    codec: LatentCodec,
    train: FieldSet,
    validation: FieldSet | None,
    say: Callable[[str], None],
) -> LatentCodec:
    """The codec, trained and fitted, or as it is kept."""
    held_out = None
    if validation is not None and len(validation):
        held_out = Plain(validation, _LOOKED_AT)
    return fit_codec(
        folder.path,
        codec,
        Plain(train),
        identity=train.identity(),
        training=config.codec.training,
        held_out=held_out,
        seed=config.codec.training.seed,
        device=config.codec.training.device,
        say=say,
    )


def _latents(
    folder: RunFolder,
    config: FieldConfig,
    codec: LatentCodec,
    train: FieldSet,
    say: Callable[[str], None],
) -> Samples:
    """The latents of the data, from the disk."""
    return first_alone(
        lambda: encode_data(
            folder.path / "latents",
            codec,
            Plain(train),
            identity=train.identity(),
            device=pick_device(config.codec.training.device),
            say=say,
        )
    )


def _validation(
    config: FieldConfig,
    fields: Fields,
    codec: LatentCodec | None,
    objective: Objective,
    validation: FieldSet | None,
) -> Callable[[Denoiser], dict[str, float]] | None:
    """The objective of some samples that are not trained on, with the same noise each time."""
    if validation is None or not len(validation):
        return None
    few = min(_LOOKED_AT, len(validation))
    chosen = np.unique(np.linspace(0, len(validation) - 1, few).astype(np.int64))
    batch = Collating(validation, fields, codec)(chosen).to(pick_device(config.training.device))

    @torch.no_grad()
    def validate(denoiser: Denoiser) -> dict[str, float]:
        return {"validation_loss": float(objective(denoiser, batch, Counter(0)).total)}

    return validate


def load_model(folder: RunFolder, config: FieldConfig, fields: Fields) -> FieldModel:
    """The model of a finished run, with averaged weights.

    Raises:
        FileNotFoundError: If the training has not ended.
        ValueError: If a file is damaged, or does not fit this version.
    """
    device, codec = config.training.device, untrained(config, fields)
    if config.codec.joint:
        both: Any = averaged(folder, lambda: joint_of(config, fields, None), device)
        return FieldModel(config, fields, both.codec, both.denoiser)
    record = Record(fields, codec)
    denoiser = averaged(folder, lambda: build(config, fields, record), device)
    if codec is not None:
        codec = kept_codec(folder, codec).to(pick_device(device))
    return FieldModel(config, fields, codec, denoiser)


def kept_codec(folder: RunFolder, codec: LatentCodec) -> LatentCodec:
    """The fitted codec of a run.

    Arguments:
        folder: The run.
        codec: What the settings make.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or another than the settings say.
    """
    from structdiff.codecs.kinds import described
    from structdiff.codecs.stored import load_codec

    path = folder.path / "codec.safetensors"
    if not path.exists():
        msg = f"{path} does not exist: restore it from a copy, or train again with another --out"
        raise FileNotFoundError(msg)
    kept = load_codec(path)
    changed = differences(described(kept), described(codec))
    if changed:
        msg = f"{path} is another codec than {folder.config} says: {'; '.join(changed)}"
        raise ValueError(f"{msg}. Restore the two from a copy")
    return kept
