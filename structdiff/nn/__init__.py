"""Networks; nothing about diffusion in here."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.nn.conditioning import ConditionFeatures
from structdiff.nn.egnn import EGNN
from structdiff.nn.embedding import ClockEmbedding, per_row
from structdiff.nn.pairs import Pairs
from structdiff.nn.tokens import TokenNetwork
from structdiff.nn.transformer import Transformer

if TYPE_CHECKING:
    from structdiff.nn.adapters import Adapted, TrainableCopy, zeroed
    from structdiff.nn.encoders import EncodedConditions, GraphEncoder, SequenceEncoder, SetEncoder
    from structdiff.nn.energy import EnergyGradient
    from structdiff.nn.hooks import editing, reading

__all__ = [
    "Adapted",
    "ClockEmbedding",
    "ConditionFeatures",
    "EGNN",
    "EncodedConditions",
    "EnergyGradient",
    "GraphEncoder",
    "Pairs",
    "SequenceEncoder",
    "SetEncoder",
    "TokenNetwork",
    "TrainableCopy",
    "Transformer",
    "editing",
    "per_row",
    "reading",
    "zeroed",
]

__getattr__ = later(
    __name__,
    {
        "Adapted": "adapters",
        "EncodedConditions": "encoders",
        "EnergyGradient": "energy",
        "GraphEncoder": "encoders",
        "SequenceEncoder": "encoders",
        "SetEncoder": "encoders",
        "TrainableCopy": "adapters",
        "editing": "hooks",
        "reading": "hooks",
        "zeroed": "adapters",
    },
)
