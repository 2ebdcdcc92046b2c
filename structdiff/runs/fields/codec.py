"""The codec of a run of fields, from its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from structdiff.codecs.latent import LatentCodec
from structdiff.runs.fields.record import Fields
from structdiff.runs.fields.settings import CodecConfig, FieldConfig

__all__ = ["codec_of", "description_of"]


def codec_of(config: FieldConfig, fields: Fields) -> LatentCodec | None:
    """The untrained codec of the settings; None where the model is of the fields themselves.

    Raises:
        ValueError: If it does not fit the fields.
    """
    # Codecs are loaded when they are asked for: a run needs one of them at most.
    from structdiff.codecs.kinds import make_codec

    if config.codec.kind == "none":
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.codec.training.seed)
        return make_codec(description_of(config.codec, fields.event))


def description_of(codec: CodecConfig, event: tuple[int, ...]) -> dict[str, Any]:
    """The kind and the settings of a codec, see `structdiff.codecs.kinds`."""
    widths = [codec.width * 2**level for level in range(codec.halvings)]
    towers = {"event": list(event), "widths": widths, "factors": [2] * codec.halvings}
    codes = {"classes": codec.codes, "width": codec.channels}
    real = {"channels": codec.channels, "deviation": codec.deviation}
    make: dict[str, Callable[[], dict[str, Any]]] = {
        "standardise": lambda: _described("Standardise", event=list(event), axes=[0]),
        "wavelet": lambda: _wavelets(event, codec.halvings),
        "kl": lambda: _described("Autoencoder", **towers, **real),
        "vq": lambda: _described("VectorQuantiser", **towers, **codes),
        "residual-vq": lambda: _described(
            "ResidualQuantiser", **towers, **codes, levels=codec.books
        ),
    }
    return make[codec.kind]()


def _described(kind: str, **settings: Any) -> dict[str, Any]:
    return {"kind": kind, "settings": settings}


def _wavelets(event: tuple[int, ...], levels: int) -> dict[str, Any]:
    """Wavelets, each band with unit variance."""
    channels = event[0] * 2 ** (levels * (len(event) - 1))
    latent = [channels, *(side >> levels for side in event[1:])]
    each = _described("Standardise", event=latent, axes=[0])
    return _described(
        "Chain", codecs=[_described("Wavelet", event=list(event), levels=levels), each]
    )
