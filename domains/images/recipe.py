"""The images recipe: settings, tasks, and what the fields of a run are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.images import LEAF
from structdiff.domains.images.tasks import Task, making_of
from structdiff.runs import Settings
from structdiff.runs.fields.record import Fields
from structdiff.runs.fields.settings import FieldConfig
from structdiff.training import TrainingConfig

__all__ = ["SEEN", "DataConfig", "ImagesConfig", "TaskConfig", "fields_of"]

SEEN = "seen"
"""Name of the condition of a task."""


class DataConfig(Settings):
    """Which images."""

    path: str | None = None
    """A folder of images whose sub-folders are classes, a tar archive of one, idx files as MNIST
    has them or their folder, or an .npz; without one, scikit-learn's handwritten digits."""
    size: int | None = Field(default=None, ge=2, le=100_000)
    """Side of a square that images are cut to, from the middle, and scaled to; by default they
    must have one size."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; by default as the images are."""
    labelled: bool = True
    """Whether the model knows classes, if the images have some."""
    workers: int = Field(default=0, ge=0, le=1_000)
    """Processes that decode files."""


class TaskConfig(Settings):
    """What the model is trained to do with a picture that it is shown."""

    kind: Task = "none"
    """Nothing; to fill a hole; to enlarge; to colour a grey one."""
    factor: int = Field(default=4, ge=2, le=64)
    """How many times smaller each side is of what super-resolution enlarges."""


class ImagesConfig(FieldConfig):
    """Everything about a run."""

    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    training: TrainingConfig = TrainingConfig(
        steps=3_000, batch_size=64, learning_rate=1e-3, warm_up=200, validate_every=1_000
    )


def fields_of(config: ImagesConfig, codec: ImageCodec) -> Fields:
    """What the fields of a run are.

    Raises:
        ValueError: If the task does not fit the images.
    """
    making = making_of(config.task.kind, codec.event, config.task.factor)
    conditions = {} if making is None else {SEEN: making}
    # An image with a hole tells nothing of the hole.
    near = SEEN if config.task.kind in ("super-resolution", "colourisation") else ""
    # One class tells nothing.
    classes = codec.classes if config.data.labelled and len(codec.classes) > 1 else ()
    return Fields(LEAF, codec.event, classes, conditions, near=near)
