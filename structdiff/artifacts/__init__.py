"""Artifacts: what a run leaves on disk."""

from structdiff.artifacts.folder import SCHEMA, RunFolder, differences
from structdiff.artifacts.store import (
    load_tensors,
    read_json,
    save_tensors,
    write_atomic,
    write_json,
)

__all__ = [
    "SCHEMA",
    "RunFolder",
    "differences",
    "load_tensors",
    "read_json",
    "save_tensors",
    "write_atomic",
    "write_json",
]
