"""The codec of a run of latents: trained in a folder of its own, fitted, kept.

- `codec/` is the run in which a learned codec was trained, and goes on where it was stopped;
- `codec.safetensors` is the codec, trained and fitted. From the moment that it is there it is the
  truth: it is not made again, so the latents that a model was trained on stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from structdiff.artifacts import RunFolder, differences, load_tensors, partition
from structdiff.batch import Batch
from structdiff.codecs.chain import Chain
from structdiff.codecs.kinds import described
from structdiff.codecs.latent import LatentCodec, LearnedCodec
from structdiff.codecs.stored import load_codec, save_codec
from structdiff.objectives import Terms
from structdiff.random import Generator, Randomness
from structdiff.runs.asked import whole
from structdiff.training import Source, Trainer, TrainingConfig, pick_device
from structdiff.training.distributed import first_alone, shard

__all__ = ["Encoded", "Samples", "fit_codec", "train_codec"]

Reconstruct = Callable[[LearnedCodec, Batch, Randomness], Terms]


class Samples(Protocol):
    """Samples by number; a tensor `(samples, *event)` is one."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """Some of them, `(n, *event)`, by their numbers, an int64 array."""
        ...


class Encoded:
    """Samples as codecs make them, one after the other, when they are asked for.

    Arguments:
        data: The samples.
        codecs: The codecs, of which none is trained any more.
    """

    def __init__(self, data: Samples, codecs: Sequence[LatentCodec]) -> None:
        self.data, self.codecs = data, tuple(codecs)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.data)

    @torch.no_grad()
    def __getitem__(self, index: Any, /) -> Tensor:
        """Latents of some of them."""
        x = self.data[index]
        for codec in self.codecs:
            x = codec.encode(x)
        return x


def train_codec(
    folder: RunFolder,
    codec: LearnedCodec,
    data: Samples,
    training: TrainingConfig,
    *,
    identity: Mapping[str, Any],
    held_out: Samples | None = None,
    objective: Reconstruct | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train a codec in a folder of its own, or go on where that was stopped.

    The codec ends with the averaged weights. With several processes all of them call.

    Arguments:
        folder: The folder.
        codec: The codec; it is trained in place.
        data: Samples to train on.
        training: Settings of the training.
        identity: What tells the data from others, for JSON, see `RunFolder.begin`.
        held_out: Samples to validate on: the metrics have the mean of each term there, and of
            what is lost the mean square (of real latents).
        objective: What is made small; `Reconstruction()` by default.
        say: Where to report.

    Raises:
        ValueError: If the folder was begun with other settings or data.
        Stopped: If a signal asked to stop; the state is saved.
    """
    if shard()[0] == 0:
        config = {"codec": described(codec), "training": training.model_dump(mode="json")}
        folder.open("codec", config)
        folder.begin(identity, described(codec))
        count = sum(p.numel() for p in codec.parameters() if p.requires_grad)
        say(f"the codec {type(codec).__name__} ({count:,} weights) is trained in {folder.path}")
    source = Source(
        len(data),
        lambda index: Batch.of(data[index]),
        batch_size=training.batch_size,
        seed=training.seed,
        shard=shard(),
    )
    validate = None if held_out is None else _validation(held_out, training)
    objective = objective or _reconstruction()
    Trainer(codec, objective, source, training, folder=folder, validate=validate).run()
    weights, _ = first_alone(lambda: load_tensors(folder.ema))
    codec.load_state_dict(weights)
    codec.eval()


def _reconstruction() -> Reconstruct:
    from structdiff.codecs.reconstruction import Reconstruction  # loads networks

    made: Reconstruct = Reconstruction()
    return made


def _validation(
    held_out: Samples, training: TrainingConfig
) -> Callable[[LearnedCodec], dict[str, float]]:
    """Means over samples that are not trained on."""

    @torch.no_grad()
    def validate(codec: LearnedCodec) -> dict[str, float]:
        device, total = pick_device(training.device), dict[str, float]()
        for part in partition(len(held_out), training.batch_size):
            x = held_out[np.arange(part.low, part.high)].to(device)
            terms = dict(codec.terms(x, Generator(training.seed + part.low)))
            lost = codec.decode(codec.encode(x)) - x
            terms["squared_error"] = lost.square().flatten(1).mean(1)
            for name, value in terms.items():
                total[name] = total.get(name, 0.0) + float(value.double().sum())
        return {f"validation_{name}": value / len(held_out) for name, value in total.items()}

    return validate


def fit_codec(
    run: Path | str,
    codec: LatentCodec,
    data: Samples,
    *,
    identity: Mapping[str, Any],
    training: TrainingConfig | None = None,
    held_out: Samples | None = None,
    objective: Reconstruct | None = None,
    samples: int = 2048,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> LatentCodec:
    """The codec of a run: trained where it learns, fitted, and kept; or the one that is kept.

    Of a chain, each part sees what the ones before make of the data; one of them may learn.

    Arguments:
        run: Folder of the run.
        codec: The codec as it begins.
        data: Samples to train on and to fit to.
        identity: What tells the data from others, for JSON.
        training: Settings of the training; needed where something learns.
        held_out: Samples to validate on.
        objective: What training makes small, see `train_codec`.
        samples: How many samples, drawn from the data, the codec is fitted to.
        seed: What is drawn follows from it.
        device: Where to fit, see `pick_device`; the codec that is returned is there.
        say: Where to report.

    Raises:
        ValueError: If the kept codec is another one or damaged, `training` is missing, or the
            data do not fit.
        Stopped: If a signal asked to stop.
    """
    path, target = Path(run) / "codec.safetensors", pick_device(device)
    if first_alone(path.exists):
        return _kept(path, codec).to(target)
    parts = codec.parts if isinstance(codec, Chain) else (codec,)
    learning = [part for part in parts if isinstance(part, LearnedCodec)]
    if learning and (training is None or len(learning) > 1):
        names = [type(part).__name__ for part in learning]
        msg = f"{names} learn: one codec of a run may, and needs settings of its training"
        raise ValueError(msg)
    samples = whole("samples", samples, 1)
    index = np.random.default_rng([seed, len(data)]).permutation(len(data))[:samples]
    sample = data[np.sort(index)].to(target)
    for number, part in enumerate(parts):
        if isinstance(part, LearnedCodec) and training is not None:
            before = [each.cpu() for each in parts[:number]]
            train_codec(
                RunFolder(Path(run) / "codec"),
                part,
                Encoded(data, before),
                training,
                identity=identity,
                held_out=None if held_out is None else Encoded(held_out, before),
                objective=objective,
                say=say,
            )
        part.to(target).eval().requires_grad_(requires_grad=False)
        part.fit(sample)
        if part is not parts[-1]:
            sample = encode_many(part, sample)
    if shard()[0] == 0:
        save_codec(path, codec)
    return codec.to(target)


@torch.no_grad()
def encode_many(codec: LatentCodec, x: Tensor, batch_size: int = 128) -> Tensor:
    """Latents of many samples, made in batches."""
    return torch.cat([codec.encode(part) for part in torch.split(x, batch_size)])


def _kept(path: Path, codec: LatentCodec) -> LatentCodec:
    """The codec in a file.

    Raises:
        ValueError: If it is another one than asked.
    """
    kept = load_codec(path, others={type(codec).__name__: type(codec)})
    changed = differences(described(kept), described(codec))
    if changed:
        msg = (
            f"{path} is another codec than the settings say: {'; '.join(changed)}. Use the same "
            "settings to go on, or another folder"
        )
        raise ValueError(msg)
    return kept
