"""From data and settings to a finished run: the frame that the domains fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import nn

from structdiff.artifacts import RunFolder
from structdiff.batch import Batch
from structdiff.objectives import Terms
from structdiff.random import Randomness
from structdiff.training import Source, Trainer, TrainingConfig, pick_device
from structdiff.training.distributed import finish, first_alone, shard, start

__all__ = ["fit", "load_together"]

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


def load_together(load: Callable[[], T], training: TrainingConfig) -> T:
    """What `load` gives, in each of the processes; the first calls it alone and may cache."""
    start(pick_device(training.device))
    return first_alone(load)


def fit(
    folder: RunFolder,
    domain: str,
    config: BaseModel,
    training: TrainingConfig,
    denoiser: Model,
    objective: Callable[[Model, Batch, Randomness], Terms],
    *,
    samples: int,
    collate: Callable[[NDArray[np.int64]], Batch],
    identity: Mapping[str, Any],
    codec: Mapping[str, Any],
    costs: Sequence[float] | None = None,
    validate: Callable[[Model], Mapping[str, float]] | None = None,
    words: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Train a denoiser, or go on with a run that was stopped; called after `load_together`.

    Arguments:
        folder: The run.
        domain: Name of the domain.
        config: All settings of the run, which are kept with it.
        training: Those of the training.
        denoiser: What is trained, a denoiser or any module.
        objective: What is made small.
        samples: Number of training samples.
        collate: Makes a batch of samples from their indices.
        identity: What tells the training data from others, see `RunFolder.begin`.
        codec: State of the codec.
        costs: Cost of each sample, for batches of a cost.
        validate: Called with the denoiser at averaged weights, for the metrics.
        words: What to say of the data, line by line, when the folder is open.
        say: Where to report.

    Raises:
        ValueError: If the folder has another config or was begun with other data.
    """
    if shard()[0] == 0:
        folder.open(domain, config.model_dump(mode="json"))
        folder.begin(identity, codec)
        for line in words:
            say(line)
    source = Source(
        samples,
        collate,
        batch_size=training.batch_size,
        costs=costs,
        budget=training.batch_cost,
        seed=training.seed,
        shard=shard(),
    )
    Trainer(denoiser, objective, source, training, folder=folder, validate=validate).run()
    finish()
