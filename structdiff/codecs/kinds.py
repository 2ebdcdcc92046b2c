"""Codecs by name: what a file or a setting calls them, and what makes them.

A codec is described by the name of its class and its settings, as JSON. A description may hold
others, as that of a chain does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from structdiff.codecs.latent import LatentCodec

__all__ = ["KINDS", "described", "make_codec"]

KINDS: Mapping[str, str] = {
    "Autoencoder": "structdiff.codecs.autoencoder",
    "Blocks": "structdiff.codecs.blocks",
    "Chain": "structdiff.codecs.chain",
    "Couplings": "structdiff.codecs.flows",
    "Identity": "structdiff.codecs.standardise",
    "Mel": "structdiff.codecs.mel",
    "ResidualFrames": "structdiff.codecs.residual_frames",
    "ResidualQuantiser": "structdiff.codecs.residual_quantiser",
    "Standardise": "structdiff.codecs.standardise",
    "VectorQuantiser": "structdiff.codecs.quantiser",
    "Wavelet": "structdiff.codecs.wavelet",
}
"""Name of a class to its module, which is loaded when it is asked for."""

_FORM = {"kind", "settings"}


def described(codec: LatentCodec) -> dict[str, Any]:
    """The kind and the settings of a codec, as JSON.

    Example:
        >>> from structdiff.codecs.standardise import Identity
        >>> described(Identity((2,)))
        {'kind': 'Identity', 'settings': {'event': [2], 'classes': 0}}
    """
    return {"kind": type(codec).__name__, "settings": codec.settings()}


def make_codec(
    description: Mapping[str, Any], others: Mapping[str, type[LatentCodec]] | None = None
) -> LatentCodec:
    """A new codec of a description, not trained and not fitted.

    Arguments:
        description: What `described` gave.
        others: Classes by name that `KINDS` does not know.

    Raises:
        ValueError: If it is no description, the kind is not known, or it has no such settings.

    Example:
        >>> make_codec({"kind": "Identity", "settings": {"event": [2], "classes": 0}}).event
        (2,)
    """
    if not _is_description(description):
        msg = f"a codec is described by kind and settings, got {description!r}"
        raise ValueError(msg)
    kind = _class_of(description["kind"], others or {})
    settings = {name: _inner(value, others) for name, value in description["settings"].items()}
    try:
        return kind(**settings)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"a codec of the kind {kind.__name__!r} cannot be made of its settings: {why}"
        raise ValueError(msg) from None


def _is_description(value: Any) -> bool:
    if not isinstance(value, Mapping) or value.keys() != _FORM:
        return False
    return isinstance(value["kind"], str) and isinstance(value["settings"], Mapping)


def _class_of(kind: str, others: Mapping[str, type[LatentCodec]]) -> type[LatentCodec]:
    if kind in KINDS:
        found: type[LatentCodec] = getattr(import_module(KINDS[kind]), kind)
        return found
    if kind in others:
        return others[kind]
    known = ", ".join(sorted({*KINDS, *others}))
    msg = f"a codec of the kind {kind!r} is not known; known are {known}"
    raise ValueError(msg)


def _inner(value: Any, others: Mapping[str, type[LatentCodec]] | None) -> Any:
    """Descriptions inside a setting as codecs."""
    if _is_description(value):
        return make_codec(value, others)
    if isinstance(value, list):
        return [_inner(item, others) for item in value]
    return value
