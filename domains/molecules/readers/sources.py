"""Data sets by name: where they lie, or how they get here.

`qm9` is looked for as `qm9/qm9_3d.npz` or `qm9_3d.npz` below $STRUCTDIFF_DATA, then in the cache
($STRUCTDIFF_CACHE or ~/.cache/structdiff). If it is not there it is made once, from the wheel
`qm9pack-1.0.3-py3-none-any.whl` below $STRUCTDIFF_DATA, from an installed qm9pack, or from the
wheel that is fetched from the package index $STRUCTDIFF_PYPI (else $PIP_INDEX_URL, else PyPI); its
SHA-256 is known here.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022)
    https://arxiv.org/abs/2203.17003, for the split.
"""

from __future__ import annotations

import html
import importlib.util
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from structdiff.domains.molecules.readers.files import cache_folder
from structdiff.domains.molecules.readers.qm9 import (
    MOLECULES,
    TABLES,
    convert_folder,
    convert_wheel,
)

__all__ = ["NAMES", "Split", "is_named", "locate", "qm9", "qm9_split"]

WHEEL = "qm9pack-1.0.3-py3-none-any.whl"
SHA256 = "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0"
_FILE = "qm9_3d.npz"
_LINK = re.compile(r"<a\b[^>]*?href=[\"']([^\"']+)[\"']", re.IGNORECASE)
_BLOCK = 1 << 18
_PATIENCE = 60.0  # seconds without a byte


class Split(NamedTuple):
    """The molecules of each part, by their place in the data set."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def locate(name: Path | str) -> Path:
    """Returns the path of a data set of this name; any other path, or one that exists, as it is.

    Raises:
        FileNotFoundError: If the data set is not here and cannot be fetched.
        ValueError: If what is found cannot be used.
    """
    path = Path(os.path.expanduser(name))  # a home that is not there is left as it stands
    found = NAMES.get(str(name))
    return path if found is None or path.exists() else found()


def is_named(name: Path | str) -> bool:
    """Whether this is the name of a data set, and of no file or folder that is here."""
    return str(name) in NAMES and not Path(name).exists()


def qm9() -> Path:
    """Returns the npz with the 130,831 molecules of QM9, made when it is first asked for.

    Raises:
        FileNotFoundError: If it is not here and cannot be fetched.
        ValueError: If the tables or the wheel are damaged, or the cache cannot be written.
    """
    cached = cache_folder() / "qm9" / _FILE
    for path in (*_given(_FILE), cached):
        if path.is_file():
            return path
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot make {cached.parent}: {error.strerror}; set STRUCTDIFF_CACHE to a folder "
            "that may be written"
        ) from error
    installed = _installed()
    wheels = [path for path in _given(WHEEL) if path.is_file()]
    if wheels:
        _check(wheels[0])
        convert_wheel(wheels[0], cached)
    elif installed is not None:
        convert_folder(installed, cached)
    else:
        wheel = cached.with_name(f".{uuid4().hex}.whl")
        try:
            _fetch(wheel)
            convert_wheel(wheel, cached)
        finally:
            wheel.unlink(missing_ok=True)
    return cached


def qm9_split() -> Split:
    """Returns EDM's split of QM9: a permutation with seed 0, cut at 100,000 and 117,748.

    Example:
        >>> [len(part) for part in qm9_split()]
        [100000, 17748, 13083]
    """
    order = np.random.RandomState(0).permutation(MOLECULES)  # noqa: NPY002 (EDM's generator)
    test = int(0.1 * MOLECULES)
    cuts = [100_000, MOLECULES - test]
    train, validation, rest = np.split(order.astype(np.int64), cuts)
    return Split(train, validation, rest)


NAMES = {"qm9": qm9}


def _given(file: str) -> Iterator[Path]:
    """Where a file of QM9 may lie below $STRUCTDIFF_DATA."""
    folder = os.environ.get("STRUCTDIFF_DATA")
    if folder:
        yield Path(folder).expanduser() / "qm9" / file
        yield Path(folder).expanduser() / file


def _installed() -> Path | None:
    """The tables of an installed qm9pack; its code is not run."""
    spec = importlib.util.find_spec("qm9pack")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "data"
        if all((folder / table).is_file() for table in TABLES):
            return folder
    return None


def _check(wheel: Path) -> None:
    digest = sha256()
    with wheel.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        raise ValueError(
            f"{wheel.name} has the SHA-256 {digest.hexdigest()}, not {SHA256}: it is damaged or "
            "not what it says; fetch it again"
        )


def _fetch(target: Path) -> None:
    """Fetches the wheel from the package index and checks it."""
    given = os.environ.get("STRUCTDIFF_PYPI") or os.environ.get("PIP_INDEX_URL")
    index = f"{(given or 'https://pypi.org/simple').rstrip('/')}/qm9pack/"
    try:
        url = _link(index)
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer, target.open("xb") as file:
            total = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(
                total=total, desc=WHEEL, unit="B", unit_scale=True, leave=False, disable=None
            ) as bar:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except (OSError, urllib.error.URLError, LookupError, ValueError) as error:
        raise FileNotFoundError(
            f"qm9 is not here and cannot be fetched from {index}: {error}. Where there is a net, "
            "run `pip download qm9pack==1.0.3 --no-deps -d FOLDER`, and set STRUCTDIFF_DATA to "
            "that folder; or set STRUCTDIFF_PYPI to another package index"
        ) from error
    _check(target)


def _link(index: str) -> str:
    """The address of the wheel on an index page, or on that page of an index of plain files."""
    address = f"{index}index.html" if index.startswith("file:") else index
    with urllib.request.urlopen(address, timeout=_PATIENCE) as answer:
        page = answer.read().decode("utf-8", "replace")
    for link in map(html.unescape, _LINK.findall(page)):
        url = urllib.parse.urldefrag(urllib.parse.urljoin(address, link)).url
        if url.endswith(f"/{WHEEL}"):
            return url
    raise LookupError(f"{WHEEL} is not on that page")
