"""Artifacts: what a run leaves on disk."""

from structdiff.artifacts.folder import SCHEMA, RunFolder, differences
from structdiff.artifacts.job import Job, Made, Part, partition, piecewise
from structdiff.artifacts.store import (
    load_tensors,
    read_json,
    save_tensors,
    write_atomic,
    write_json,
)
from structdiff.artifacts.table import write_csv

__all__ = [
    "SCHEMA",
    "Job",
    "Made",
    "Part",
    "RunFolder",
    "differences",
    "load_tensors",
    "partition",
    "piecewise",
    "read_json",
    "save_tensors",
    "write_atomic",
    "write_csv",
    "write_json",
]
