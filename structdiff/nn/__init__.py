"""Networks; nothing about diffusion in here."""

from structdiff.nn.egnn import EGNN
from structdiff.nn.embedding import ClockEmbedding, per_row
from structdiff.nn.pairs import Pairs

__all__ = ["EGNN", "ClockEmbedding", "Pairs", "per_row"]
