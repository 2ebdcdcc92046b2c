"""The checks of PoseBusters on molecules alone, where it is installed (`pip install posebusters`).

Are bond lengths and angles within the bounds of distance geometry, rings and double bonds flat,
atoms apart, the energy near that of conformers: yes or no for each molecule.

References:
    PoseBusters: AI-Based Docking Methods Fail to Generate Physically Valid Poses or Generalise to
    Novel Sequences (Buttenschoen, Morris and Deane, 2024). https://doi.org/10.1039/D3SC04185A
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from structdiff.domains.molecules.measures.laws import Values, mean
from structdiff.domains.molecules.measures.resampling import Measure
from structdiff.domains.molecules.measures.valid import Valid

__all__ = ["busted", "compared"]

_MOST = 200  # molecules: it makes many conformers of each
_ALL = "PoseBusters: all checks"


def busted(valid: Valid) -> dict[str, Values]:
    """Whether some of the molecules pass each check; nothing where PoseBusters is not there."""
    if find_spec("posebusters") is None or not len(valid):
        return {}
    posebusters = import_module("posebusters")
    some = valid.some(_MOST)
    table = posebusters.PoseBusters(config="mol").bust([valid.mols[m] for m in some])
    checks = {
        f"PoseBusters: {_words(name)}": np.asarray(table[name].eq(True), bool) for name in table
    }
    every = np.stack([*checks.values()]).all(0)
    return {name: Values.of(ok, some) for name, ok in {_ALL: every, **checks}.items()}


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def compared(drawn: Mapping[str, Values]) -> list[Measure]:
    """The rate at which each check is passed.

    Arguments:
        drawn: Whether the molecules pass each check.
    """
    if not drawn:
        return []
    known = version("posebusters")
    return [
        Measure(
            name,
            mean(passed),
            len(passed),
            f"passed, PoseBusters {known}, config mol; of {len(passed):,}",
            "%",
            1.0,
        )
        for name, passed in drawn.items()
    ]
