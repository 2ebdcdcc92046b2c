"""Networks; nothing about diffusion in here."""

import importlib
from typing import TYPE_CHECKING, Any

from structdiff.nn.conditioning import ConditionFeatures
from structdiff.nn.egnn import EGNN
from structdiff.nn.embedding import ClockEmbedding, per_row
from structdiff.nn.pairs import Pairs
from structdiff.nn.tokens import TokenNetwork
from structdiff.nn.transformer import Transformer

if TYPE_CHECKING:
    from structdiff.nn.adapters import Adapted, TrainableCopy, zeroed
    from structdiff.nn.encoders import EncodedConditions, SequenceEncoder, SetEncoder
    from structdiff.nn.hooks import editing, reading

__all__ = [
    "EGNN",
    "Adapted",
    "ClockEmbedding",
    "ConditionFeatures",
    "EncodedConditions",
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

_LATER = {
    "Adapted": "adapters",
    "EncodedConditions": "encoders",
    "SequenceEncoder": "encoders",
    "SetEncoder": "encoders",
    "TrainableCopy": "adapters",
    "editing": "hooks",
    "reading": "hooks",
    "zeroed": "adapters",
}
"""What is loaded when it is asked for."""


def __getattr__(name: str) -> Any:
    """A part that is loaded now."""
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"structdiff.nn.{_LATER[name]}"), name)
