"""Codecs: objects to records at the boundary."""

from structdiff.codecs.base import Codec

__all__ = ["Codec"]
