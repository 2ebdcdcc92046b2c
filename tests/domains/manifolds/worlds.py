"""Places on the earth, and files of them."""

from pathlib import Path

import numpy as np

_RANDOM = np.random.default_rng(2)
EARTH = np.round(
    np.stack([_RANDOM.uniform(-90, 90, 40), _RANDOM.uniform(-180, 180, 40)], 1), 3
).tolist()
ROWS = "".join(f"{a},{b}\n" for a, b in EARTH)


def write(folder, text, name="some.csv"):
    path = Path(folder) / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def all_rows(data):
    """The rows of all parts in the order of the file, as they are written."""
    parts = [part for part in (data.train, data.validation, data.test) if len(part)]
    tables = [data.codec.decode(part.batch()) for part in parts]
    values = [np.stack([*table.columns.values()], 1) for table in tables]
    order = np.argsort(np.concatenate([part.rows for part in parts]))
    return np.concatenate(values)[order]
