r"""A small classifier of fields: whose features distances are measured in, and who says the class.

It is trained on the training part of the data by `structdiff.training.Trainer`, with shifts of a
few places, and looked at on the test part. It judges only: nothing that it says goes into training
or drawing. Every number that it gives is told together with what it is (see `Judge.about`) and how
often it is right on real data, for no measure is better than that.

    x (channels, h, w) -> [convolution, norm, SiLU, halving] ... -> mean over a grid of at most
    4 x 4 cells -> features -> classes.

References:
    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et
    al., 2017): distances of features. https://arxiv.org/abs/1706.08500
    Exposing Flaws of Generative Model Evaluation Metrics and Their Unfair Treatment of Diffusion
    Models (Stein et al., 2023): they depend on the features. https://arxiv.org/abs/2306.04675
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.artifacts import RunFolder, load_tensors, read_json, write_json
from structdiff.batch import Batch
from structdiff.objectives.denoising import Terms
from structdiff.random import Randomness
from structdiff.runs.asked import checksum
from structdiff.training.config import TrainingConfig
from structdiff.training.source import Source
from structdiff.training.trainer import Trainer

__all__ = ["JUDGING", "Judge", "Labelled", "load_judge", "logits", "train_judge"]

JUDGING = TrainingConfig(
    steps=1_500,
    batch_size=64,
    learning_rate=2e-3,
    warm_up=100,
    weight_decay=1e-2,
    ema=0.995,
    bf16=False,
    validate_every=1_000_000,
)
"""How a judge is trained, unless said otherwise."""

_FACTS = "judge.json"
_CELLS = 4
_LARGEST = 64  # places along an axis; those of larger fields are averaged first
_SMALLEST = 7  # places that are not halved any more
_TOGETHER = 512


@dataclass(frozen=True, eq=False)
class Labelled:
    """Fields with their classes, made when they are asked for.

    Arguments:
        labels: Number of the class of each, `(samples,)`.
        fields: Makes some of them, float32 `(samples, channels, height, width)`, from their
            numbers.
        identity: What tells these data from others, for JSON.
    """

    labels: NDArray[np.int64]
    fields: Callable[[NDArray[np.int64]], Tensor]
    identity: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, x: Tensor, labels: Tensor) -> Labelled:
        """Fields in memory.

        Arguments:
            x: `(samples, channels, height, width)`.
            labels: Number of the class of each, `(samples,)`.
        """
        whole = x.detach().float().cpu()
        known = labels.cpu().numpy().astype(np.int64)
        digest = checksum(whole.contiguous().numpy().tobytes(), known.tobytes())
        identity = {"samples": len(whole), "digest": digest}
        return cls(known, lambda index: whole[index], identity)


class Judge(nn.Module):
    """A classifier of fields.

    Arguments:
        event: Channels, height and width.
        classes: Number of classes, at least 2.
        width: Channels at full size.
        features: Numbers that distances are measured in.

    Attributes:
        facts: How it was trained and how often it is right, once it was.

    Raises:
        ValueError: If a number is out of range; on a call, if fields have another shape.

    Example:
        >>> judge = Judge((1, 28, 28), 10)
        >>> x = torch.zeros(3, 1, 28, 28)
        >>> judge.features(x).shape, judge(x).shape
        (torch.Size([3, 128]), torch.Size([3, 10]))
    """

    def __init__(
        self, event: Sequence[int], classes: int, *, width: int = 24, features: int = 128
    ) -> None:
        super().__init__()
        if len(event) != 3 or min(event) < 1 or min(event[1:]) < 2:
            msg = f"event must be channels, height and width of at least 2, got {tuple(event)}"
            raise ValueError(msg)
        if classes < 2 or width < 4 or width % 4 or features < 1:
            has = f"classes {classes}, width {width} and features {features}"
            msg = f"a judge needs 2 classes, a width that 4 divides and features, got {has}"
            raise ValueError(msg)
        self.event, self.classes, self.width = tuple(event), classes, width
        self.facts = dict[str, Any]()
        self.shrink = -(-max(event[1:]) // _LARGEST)
        places = [-(-n // self.shrink) for n in event[1:]]
        stride = 2 if max(places) > _LARGEST // 2 + 8 else 1
        places, channels = [-(-n // stride) for n in places], width
        layers = _block(event[0], width, 5, stride)
        while max(places) > _SMALLEST and min(places) >= 4:
            wider = min(2 * channels, 4 * width)
            layers += [nn.MaxPool2d(2), *_block(channels, wider, 3)]
            channels, places = wider, [n // 2 for n in places]
        self.body = nn.Sequential(*layers)
        self.cells = (min(_CELLS, places[0]), min(_CELLS, places[1]))
        self.inner = nn.Linear(channels * self.cells[0] * self.cells[1], features)
        self.outer = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Features `(samples, features)` of fields `(samples, channels, height, width)`."""
        if tuple(x.shape[1:]) != self.event:
            msg = f"the judge knows fields of shape {self.event}, got {tuple(x.shape[1:])}"
            raise ValueError(msg)
        if self.shrink > 1:
            x = F.avg_pool2d(x, self.shrink, ceil_mode=True)
        held = F.adaptive_avg_pool2d(self.body(x), self.cells)
        found: Tensor = F.silu(self.inner(held.flatten(1)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(samples, classes)`."""
        found: Tensor = self.outer(self.features(x))
        return found

    def about(self) -> str:
        """What it is and how good, in words."""
        if not self.facts:
            return f"a judge of {self.classes} classes that was not trained"
        facts = self.facts
        right = f"{facts['accuracy']:.2%} +- {facts['error']:.2%} of {facts['tested on']:,} others"
        return (
            f"a classifier trained on {facts['trained on']:,} real samples, right on {right} "
            f"(weights {facts['weights'][:8]})"
        )

    def settings(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        sizes = {"width": self.width, "features": self.outer.in_features}
        return {"event": list(self.event), "classes": self.classes, **sizes}


def _block(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    near = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)
    return [near, nn.GroupNorm(4, outputs), nn.SiLU()]


class _Crossed:
    """The cross-entropy of the classes of shifted fields, as an objective.

    Arguments:
        shift: Most places that a field is moved along each axis.
    """

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def __call__(self, judge: Judge, batch: Batch, random: Randomness) -> Terms:
        """The loss of each sample."""
        x = shifted(batch["x"], self.shift, random) if self.shift else batch["x"]
        loss = F.cross_entropy(judge(x), batch.condition["label"], reduction="none")
        return Terms({"x": loss}, {})


def shifted(x: Tensor, most: int, random: Randomness) -> Tensor:
    """Fields moved by whole places, the same for all channels; rims are repeated.

    Arguments:
        x: `(samples, channels, height, width)`.
        most: Largest move along each axis.
        random: Where the moves come from.
    """
    moves = random.uniform((len(x), 2), torch.float32, x.device)
    moves = (moves * (2 * most + 1)).long() - most
    for axis in (2, 3):
        size = x.shape[axis]
        place = torch.arange(size, device=x.device) + moves[:, axis - 2].unsqueeze(1)
        shape = [len(x), 1, 1, 1]
        shape[axis] = size
        x = x.gather(axis, place.clamp(0, size - 1).reshape(shape).expand_as(x))
    return x


def train_judge(
    train: Labelled,
    test: Labelled,
    event: Sequence[int],
    classes: int,
    *,
    folder: Path | str | None = None,
    config: TrainingConfig = JUDGING,
    shift: int = 2,
) -> Judge:
    """Trains a judge and looks how often it is right; a folder is gone on with, or just read.

    Arguments:
        train: What it learns from: the part for training alone.
        test: What it is looked at on.
        event: Channels, height and width of a field.
        classes: Number of classes.
        folder: Where weights, `metrics.jsonl` and what was found are kept; None keeps nothing.
        config: Settings of the training.
        shift: Most places that fields are moved by in training.

    Raises:
        ValueError: If there is nothing to train on or to look at, or a class is out of range.
    """
    for name, part in (("train", train), ("test", test)):
        if not len(part) or not 0 <= part.labels.min() <= part.labels.max() < classes:
            msg = f"{name} must have samples with classes from 0 to {classes - 1}: it has others"
            raise ValueError(msg)
    run = None if folder is None else RunFolder(folder)
    if run is not None and (run.path / _FACTS).exists():
        return load_judge(run.path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        judge = Judge(event, classes)
    if run is not None:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        run.open("judge", {"judge": judge.settings(), "training": config.model_dump(mode="json")})
        run.begin({"train": dict(train.identity), "test": dict(test.identity)}, judge.settings())

    def collate(index: NDArray[np.int64]) -> Batch:
        label = torch.from_numpy(train.labels[index])
        return Batch.of(train.fields(index)).with_condition({"label": label})

    source = Source(len(train), collate, batch_size=config.batch_size, seed=config.seed)
    trainer = Trainer(judge, _Crossed(min(shift, min(event[1:]) // 8)), source, config, folder=run)
    trainer.run()
    trainer.average.swap()
    judge.eval()
    judge.facts = _facts(judge, train, test)
    if run is not None:
        write_json(run.path / _FACTS, judge.facts)
    return judge


def load_judge(folder: Path | str) -> Judge:
    """A judge that was trained into a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is damaged.
    """
    run = RunFolder(folder)
    settings, facts = read_json(run.codec), read_json(run.path / _FACTS)
    try:
        judge = Judge(**settings)
        judge.load_state_dict(load_tensors(run.ema)[0])
    except (TypeError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        msg = f"{run.path} holds no judge of this version ({why}): remove it, and train again"
        raise ValueError(msg) from None
    judge.facts = dict(facts)
    return judge.eval()


@torch.no_grad()
def logits(judge: Judge, x: Tensor) -> Tensor:
    """Logits of many fields, in pieces, on the judge's device."""
    device = next(judge.parameters()).device
    return torch.cat([judge(part.to(device)) for part in torch.split(x, _TOGETHER)])


def _facts(judge: Judge, train: Labelled, test: Labelled) -> dict[str, Any]:
    right = []
    for index in np.array_split(np.arange(len(test)), max(1, len(test) // _TOGETHER)):
        guess = logits(judge, test.fields(index)).argmax(1)
        right.append(guess.cpu().numpy() == test.labels[index])
    share, many = float(np.concatenate(right).mean()), len(test)
    weights = [x.detach().cpu().contiguous().numpy().tobytes() for x in judge.parameters()]
    return {
        "trained on": len(train),
        "tested on": many,
        "accuracy": share,
        "error": float(np.sqrt(share * (1 - share) / many)),
        "weights": checksum(*weights),
    }
