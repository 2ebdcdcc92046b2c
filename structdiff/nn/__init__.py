"""Networks; nothing about diffusion in here."""

from structdiff.nn.conditioning import ConditionFeatures
from structdiff.nn.egnn import EGNN
from structdiff.nn.embedding import ClockEmbedding, per_row
from structdiff.nn.pairs import Pairs
from structdiff.nn.tokens import TokenNetwork
from structdiff.nn.transformer import Transformer

__all__ = [
    "EGNN",
    "ClockEmbedding",
    "ConditionFeatures",
    "Pairs",
    "TokenNetwork",
    "Transformer",
    "per_row",
]
