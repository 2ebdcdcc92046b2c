"""What is asked of a run: whole numbers, where noise comes from, checksums that tell models."""

from __future__ import annotations

import json
import operator
from hashlib import blake2b
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch

from structdiff import __version__
from structdiff.artifacts import Part, RunFolder
from structdiff.counter import Counter
from structdiff.random import Generator, Randomness

__all__ = ["checksum", "circumstances", "model_checksum", "noise_of", "whole"]


def whole(name: str, value: SupportsIndex, least: int) -> int:
    """A whole number of at least some size.

    Raises:
        ValueError: If it is another thing.

    Example:
        >>> whole("seed", 3, 0)
        3
    """
    try:
        number = operator.index(value)
    except TypeError:
        msg = f"{name} must be a whole number, got {value!r}"
        raise ValueError(msg) from None
    if number < least:
        msg = f"{name} must be at least {least}, got {value}"
        raise ValueError(msg)
    return number


def noise_of(seed: int, part: Part, keyed: Literal["batch", "sample"]) -> Randomness:
    """Random numbers of a part of a request.

    Arguments:
        seed: Start of the random numbers.
        part: The part.
        keyed: By `batch` they follow from the part's key, one stream for all of it; by `sample`
            from each sample's number, the same in every batch.
    """
    if keyed == "sample":
        return Counter(seed)
    state = np.random.SeedSequence([seed, *part.key]).generate_state(1)
    return Generator(int(state[0]))


def checksum(*parts: bytes) -> str:
    """A digest of some bytes, which tells where one part ends and the next begins."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def model_checksum(folder: RunFolder, settings: Any, codec: Any) -> str:
    """What tells the model of a run from others.

    Arguments:
        folder: The run.
        settings: Its settings that matter to the model, for JSON.
        codec: State of its codec, for JSON.
    """
    return checksum(json.dumps([settings, codec]).encode(), folder.ema.read_bytes())


def circumstances(folder: RunFolder, device: torch.device) -> dict[str, str]:
    """What a job's samples do not follow from, and is worth knowing: versions, path, device."""
    return {
        "structdiff": __version__,
        "torch": torch.__version__,
        "run": str(folder.path),
        "device": str(device),
    }
