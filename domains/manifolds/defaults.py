"""Data that come with geomstats, read from its files at run time; geomstats is not imported.

`emg` are 3,600 covariance matrices of eight electrodes on a forearm, one for each 200 samples of
one hand sign; `emg3` are those of its first three electrodes. `cities` are the 50 largest cities.

References:
    Geomstats: A Python Package for Riemannian Geometry in Machine Learning (Miolane et al., 2020).
    https://jmlr.org/papers/v21/19-027.html
    Classification of EMG signals ... MYO armband recordings of four sessions (geomstats 2.8, MIT).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from structdiff.domains.manifolds.readers.table import Given, Source, Table
from structdiff.domains.manifolds.readers.tables import TextTable

__all__ = ["DEFAULT", "NAMES"]

DEFAULT = "emg3"
WINDOW = 200


def _file(*parts: str) -> Path:
    """A file of the installed geomstats.

    Raises:
        ValueError: If it is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec("geomstats")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place).joinpath("datasets", "data", *parts)
        if path.is_file():
            return path
    what = "has no" if spec else "is not installed, which has"
    msg = (
        f"geomstats {what} {'/'.join(parts)}: pip install 'structdiff[manifolds]', or give data "
        "of your own with --data PATH"
    )
    raise ValueError(msg)


def cities() -> Source:
    """The 50 largest cities of the world: lat, lng, and their names."""
    table = TextTable(_file("cities", "cities.csv")).read(["lat", "lng"], ["city_ascii"])
    return Given(table, "cities")


def electromyography(electrodes: int = 8) -> Source:
    """Covariances of windows of 200 samples side by side, within a hand sign of a session.

    Arguments:
        electrodes: How many, the first of eight.

    Returns:
        Columns cov, `(3600, electrodes, electrodes)`, sign and session.
    """
    names = [f"c{i}" for i in range(electrodes)]
    table = TextTable(_file("emg", "emg.csv")).read(names, ["label", "exp"])
    signal = np.stack([table.columns[name] for name in names], 1)
    sign, session = table.columns["label"], table.columns["exp"]
    ends = np.flatnonzero((sign[1:] != sign[:-1]) | (session[1:] != session[:-1])) + 1
    starts = np.concatenate(
        [
            np.arange(low, high - WINDOW + 1, WINDOW)
            for low, high in zip([0, *ends], [*ends, len(sign)], strict=True)
        ]
    )
    windows = signal[starts[:, None] + np.arange(WINDOW)]
    windows -= windows.mean(1, keepdims=True)
    cov = np.einsum("nti,ntj->nij", windows, windows) / (WINDOW - 1)
    columns = {"cov": cov, "sign": sign[starts], "session": session[starts]}
    name = f"covariances of {electrodes} electrodes"
    return Given(Table(columns), name)


NAMES: Mapping[str, Callable[[], Source]] = {
    "emg": electromyography,
    "emg3": lambda: electromyography(3),
    "cities": cities,
}
"""Data sets by name."""
