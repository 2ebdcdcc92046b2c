"""Files that are whole or absent.

Everything is written to a temporary file in the same folder, flushed to the disk and renamed: a
process killed at any moment leaves the old file or the new one. Tensors are kept in safetensors
with a checksum, and nothing that is read is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = [
    "load_tensors",
    "read_json",
    "remove_temporary",
    "save_tensors",
    "write_atomic",
    "write_json",
]

_CHECKSUM = "checksum"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file or leave what was there.

    Raises:
        OSError: If the folder cannot be written or the disk is full; the message names the file
            and nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        msg = (
            f"could not write {path}: {reason}. What was there is untouched; free space or choose "
            "another folder"
        )
        raise OSError(error.errno, msg) from error


def remove_temporary(path: Path) -> None:
    """Remove what a writer of this file that was killed has left beside it."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        msg = f"{path} does not exist: is {path.parent} the folder of a run?"
        raise FileNotFoundError(msg) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"{path} is damaged: {error}. Restore it from a copy, or train into a new folder"
        raise ValueError(msg) from None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Checksum of names, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(x.shape)}{x.dtype}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data if x.numel() else b"")
    return digest.hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and text atomically as safetensors, with a checksum."""
    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    whole = {name: x.detach().to("cpu", copy=True).contiguous() for name, x in tensors.items()}
    text = dict(metadata or {}) | {_CHECKSUM: _digest(whole)}
    write_atomic(path, save(whole, text))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save_tensors` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, changed or not safetensors.
    """
    if not path.exists():
        msg = f"{path} does not exist"
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} is truncated or not a safetensors file ({error}): restore it from a copy"
        raise ValueError(msg) from None
    if metadata.pop(_CHECKSUM, None) != _digest(tensors):
        msg = (
            f"{path} was changed after its writing (its checksum differs): restore it from a copy"
        )
        raise ValueError(msg)
    return tensors, metadata
