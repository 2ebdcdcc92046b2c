"""Codecs of tensors on disk: one safetensors file with the weights and how the codec is made.

The file is whole or absent, its checksum finds damage, and nothing in it is unpickled: the kind
is looked up by name, the settings are JSON, what was trained or measured are tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from structdiff.artifacts import load_tensors, save_tensors
from structdiff.codecs.kinds import described, make_codec
from structdiff.codecs.latent import LatentCodec

__all__ = ["codec_checksum", "load_codec", "save_codec"]

SCHEMA = 1
"""Version of what a file of a codec holds."""


def save_codec(path: Path | str, codec: LatentCodec) -> None:
    """Write a codec, atomically.

    Raises:
        OSError: If the file cannot be written; what was there is untouched.
    """
    content = {"schema": str(SCHEMA), "codec": json.dumps(described(codec), sort_keys=True)}
    save_tensors(Path(path), codec.state_dict(), content)


def load_codec(
    path: Path | str, *, others: Mapping[str, type[LatentCodec]] | None = None
) -> LatentCodec:
    """Read what `save_codec` wrote, ready for use.

    Arguments:
        path: The file.
        others: Classes of one's own, by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, another thing than a codec, or written by a newer version.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from structdiff.codecs.standardise import Identity
        >>> with TemporaryDirectory() as folder:
        ...     save_codec(Path(folder) / "codec.safetensors", Identity((2,)))
        ...     load_codec(Path(folder) / "codec.safetensors").event
        (2,)
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    try:
        codec = make_codec(_description(metadata), others)
    except ValueError as error:
        msg = f"{path} cannot be read: {error}. Restore it from a copy, or fit the codec again"
        raise ValueError(msg) from None
    try:
        codec.load_state_dict(tensors, assign=True)  # keeps the precision of the file
    except RuntimeError as error:
        said = [line.strip() for line in str(error).splitlines()]
        why = said[min(1, len(said) - 1)]
        msg = f"{path} holds weights that do not fit its settings: {why} Restore it from a copy"
        raise ValueError(msg) from None
    return codec.eval().requires_grad_(requires_grad=False)


def codec_checksum(codec: LatentCodec) -> str:
    """What tells a codec from others: its kind, its settings, its weights."""
    digest = hashlib.blake2b(json.dumps(described(codec), sort_keys=True).encode(), digest_size=16)
    for name, x in sorted(codec.state_dict().items()):
        digest.update(name.encode() + save({"x": x.detach().cpu().contiguous()}))
    return digest.hexdigest()


def _description(metadata: Mapping[str, str]) -> Any:
    """How the codec is made.

    Raises:
        ValueError: If it is not said, or in a newer way.
    """
    if not {"schema", "codec"} <= metadata.keys():
        msg = "it has no schema and no codec in its metadata, so it is not the file of a codec"
        raise ValueError(msg)
    if not metadata["schema"].isdigit() or int(metadata["schema"]) > SCHEMA:
        has = f"it has schema {metadata['schema']}"
        msg = f"{has}, this version reads up to {SCHEMA}: upgrade structdiff"
        raise ValueError(msg)
    try:
        return json.loads(metadata["codec"])
    except (json.JSONDecodeError, RecursionError) as error:
        msg = f"how it is made is no JSON ({error})"
        raise ValueError(msg) from None
