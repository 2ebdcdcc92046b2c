"""Where points come from: anyone's files of columns, and data sets of geomstats.

Rows that are no points are left out and counted while they are few; more of them are refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from structdiff.domains.manifolds.codec import ManifoldsCodec
from structdiff.domains.manifolds.columns import Angles, find
from structdiff.domains.manifolds.defaults import DEFAULT, NAMES
from structdiff.domains.manifolds.points import PARTS, Data, Points
from structdiff.domains.manifolds.readers.arrays import Arrays
from structdiff.domains.manifolds.readers.files import opened
from structdiff.domains.manifolds.readers.table import Source
from structdiff.domains.manifolds.readers.tables import TextTable
from structdiff.domains.manifolds.rows import Rows, fresh, known
from structdiff.domains.manifolds.split import Split, by_groups, by_rows
from structdiff.runs import Settings

__all__ = ["Data", "DataConfig", "Points", "open_source", "read", "read_points"]


class DataConfig(Settings):
    """Which points."""

    path: str | None = None
    """A table (.csv, .tsv, .txt, with or without a header) or an .npz, also as .gz or .xz; or
    emg, emg3 or cities of geomstats; without one, emg3."""
    columns: str | None = None
    """Which columns are a point of which space: COLUMNS:KIND, as in lat,lon:sphere, phi,psi:torus
    or 3..9:torus:degrees; several leaves with a semicolon between, each with a name if need be
    (place=lat,lon:sphere; depth:euclidean). Kinds: sphere, sphere-vector, torus, so3-bunge,
    so3-quaternion, so3-quaternion-xyzw, so3-matrix, spd, spd-upper, log-euclidean,
    log-euclidean-upper, simplex, hyperbolic, ball, euclidean. Without it, names and values say."""
    angles: Angles = "auto"
    """Units of angles; by default degrees of latitude and longitude, and of others what their
    range says."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows that is looked at during training."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows that is kept for judging."""
    split_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the order in which rows are drawn for the parts."""
    split_by: str | None = None
    """A column whose values are groups, such as a session or a protein: no group is in two
    parts."""
    validation_path: str | None = None
    """A file of its own for validation, with the same columns."""
    test_path: str | None = None
    """A file of its own for the test, with the same columns."""
    skip_bad: float = Field(default=0.01, ge=0, le=1)
    """Share of the rows that may be left out since they are no points; more are refused."""

    @model_validator(mode="after")
    def _leaves_some(self) -> DataConfig:
        if self.validation + self.test >= 1:
            msg = (
                f"data.validation + data.test = {self.validation + self.test:g} leaves nothing to "
                "train on: choose smaller shares"
            )
            raise ValueError(msg)
        return self


def read(
    path: str | Path | None = None,
    *,
    columns: str | None = None,
    angles: Angles = "auto",
    validation: float = 0.1,
    test: float = 0.1,
    split_seed: int = 0,
    split_by: str | None = None,
    validation_path: str | Path | None = None,
    test_path: str | Path | None = None,
    skip_bad: float = 0.01,
    codec: ManifoldsCodec | None = None,
) -> Data:
    """Reads points and splits them; the arguments are the settings of `DataConfig`.

    Arguments:
        path: A table of text, an .npz, or a name; by default covariances of geomstats.
        columns: The schema, see `columns`; guessed by default.
        angles: Units of angles.
        validation: Share of the rows for validation.
        test: Share of the rows for the test.
        split_seed: Seed of the order of rows.
        split_by: A column whose groups are not torn.
        validation_path: A file of its own for validation.
        test_path: A file of its own for the test.
        skip_bad: Share of the rows that may be left out.
        codec: That of a trained model, if there is one: then the columns are the model's.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If nothing can be read, too many rows are no points, or the data are not those
            of the codec.
    """
    source = open_source(path)
    words = () if split_by is None else (find(split_by, [*source.shapes], source.name),)
    read_rows = known(codec, columns, angles) if codec else fresh(columns, angles)
    rows = read_rows(source, words, skip_bad)
    shares = 0.0 if validation_path else validation, 0.0 if test_path else test
    split = _split(rows, shares, split_seed, words)
    if not len(split.train):
        msg = f"{source.name} has {len(rows.table)} rows, none is left to train on: give more"
        raise ValueError(msg)
    made = codec or _made(source, rows, split)
    whole = Points(made.points(rows.points), rows.table.number)
    parts = [whole.subset(part) for part in split]
    notes = [*source.notes, *rows.notes]
    for place, own in ((1, validation_path), (2, test_path)):
        if own is not None:
            parts[place] = read_points(own, made, angles=angles, skip_bad=skip_bad)
            notes += [f"{own}: {note}" for note in parts[place].notes]
    notes += [f"no row is for {n}" for n, p in zip(PARTS, parts, strict=True) if not len(p)]
    return Data(parts[0], parts[1], parts[2], made, source.name, tuple(notes))


def read_points(
    path: str | Path | None,
    codec: ManifoldsCodec,
    *,
    columns: str | None = None,
    angles: Angles = "auto",
    skip_bad: float = 0.01,
) -> Points:
    """All rows of a file, as a trained model sees them.

    Arguments:
        path: The file.
        codec: Of the model.
        columns: Which columns of the file are the model's leaves; by default of the same names.
        angles: Units of angles; by default the model's.
        skip_bad: Share of the rows that may be left out; the notes of the points tell of them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or has other leaves than the model.
    """
    rows = known(codec, columns, angles)(open_source(path), (), skip_bad)
    return Points(codec.points(rows.points), rows.table.number, rows.notes)


def _made(source: Source, rows: Rows, split: Split) -> ManifoldsCodec:
    """The codec of the rows for training.

    Raises:
        ValueError: If a column never changes.
    """
    chosen = {name: points[split.train] for name, points in rows.points.items()}
    try:
        return ManifoldsCodec.of(rows.leaves, chosen)
    except ValueError as error:
        msg = f"{source.name}: {error}"
        raise ValueError(msg) from None


def open_source(path: str | Path | None) -> Source:
    """A file of columns, or a data set by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    if path is not None and not str(path):
        msg = "data.path is empty: give the name of a file, or leave it out"
        raise ValueError(msg)
    name = DEFAULT if path is None else str(path)
    place = Path(os.path.expanduser(name))
    if name in NAMES and not place.exists():
        return NAMES[name]()
    with opened(place) as stream:
        first = stream.read(6)
    if first == b"\x93NUMPY":
        msg = f"{name} is an .npy, one array without a name: write it with numpy.savez"
        raise ValueError(msg)
    return Arrays(place) if first[:2] == b"PK" else TextTable(place)


def _split(rows: Rows, shares: tuple[float, float], seed: int, words: Sequence[str]) -> Split:
    if words:
        return by_groups(rows.table.columns[words[0]], *shares, seed)
    return by_rows(len(rows.table), *shares, seed)
