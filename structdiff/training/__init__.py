"""Training: the loop, its settings, and what makes it resumable."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.training.average import MovingAverage
from structdiff.training.config import TrainingConfig
from structdiff.training.failure import Failure
from structdiff.training.source import Source
from structdiff.training.trainer import NonFiniteLoss, Stopped, Trainer, pick_device

if TYPE_CHECKING:
    from structdiff.training.policy import PolicyGradient, Rollout

__all__ = [
    "Failure",
    "MovingAverage",
    "NonFiniteLoss",
    "PolicyGradient",
    "Rollout",
    "Source",
    "Stopped",
    "Trainer",
    "TrainingConfig",
    "pick_device",
]

__getattr__ = later(
    __name__,
    {
        "PolicyGradient": "policy",
        "Rollout": "policy",
    },
)
