"""Codecs: objects at the boundary become records and back."""

from structdiff.codecs.base import Codec
from structdiff.codecs.conditions import Condition, encode_conditions
from structdiff.codecs.sizes import SizeLaw, draw_sizes

__all__ = ["Codec", "Condition", "SizeLaw", "draw_sizes", "encode_conditions"]
