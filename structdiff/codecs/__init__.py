"""Codecs: objects at the boundary become records and back."""

from structdiff.codecs.base import Codec
from structdiff.codecs.bits import Bits
from structdiff.codecs.categories import Categories
from structdiff.codecs.codebook import Codebook, Quantised
from structdiff.codecs.conditions import Condition, encode_conditions
from structdiff.codecs.embedded import Clamped, ClassDenoiser
from structdiff.codecs.risk import minimum_risk
from structdiff.codecs.sizes import SizeLaw, draw_sizes

__all__ = [
    "Bits",
    "Categories",
    "Clamped",
    "ClassDenoiser",
    "Codebook",
    "Codec",
    "Condition",
    "Quantised",
    "SizeLaw",
    "draw_sizes",
    "encode_conditions",
    "minimum_risk",
]
