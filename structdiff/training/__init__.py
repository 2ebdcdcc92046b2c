"""Training: the loop, its settings, and what makes it resumable."""

from structdiff.training.average import MovingAverage
from structdiff.training.config import TrainingConfig
from structdiff.training.failure import Failure
from structdiff.training.source import Source
from structdiff.training.trainer import NonFiniteLoss, Stopped, Trainer, pick_device

__all__ = [
    "Failure",
    "MovingAverage",
    "NonFiniteLoss",
    "Source",
    "Stopped",
    "Trainer",
    "TrainingConfig",
    "pick_device",
]
