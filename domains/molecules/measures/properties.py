"""What molecules are like: likeness to drugs, partition, ease of synthesis.

QED is the quantitative estimate of drug-likeness, in [0, 1]; logP the logarithm of the partition
between octanol and water by Crippen's contributions of atoms; SA the score of synthetic
accessibility from 1 (easy) to 10 (hard), which RDKit has among its contributions: where it was
installed without them, SA is left out.

References:
    Quantifying the Chemical Beauty of Drugs (Bickerton et al., 2012).
    https://doi.org/10.1038/nchem.1243
    Prediction of Physicochemical Parameters by Atomic Contributions (Wildman and Crippen, 1999).
    https://doi.org/10.1021/ci990307l
    Estimation of Synthetic Accessibility Score of Drug-like Molecules (Ertl and Schuffenhauer,
    2009). https://doi.org/10.1186/1758-2946-1-8
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, RDConfig
from rdkit.Chem import QED, rdMolDescriptors

from structdiff.domains.molecules.measures.laws import Values, wasserstein
from structdiff.domains.molecules.measures.resampling import Measure
from structdiff.domains.molecules.measures.valid import Valid

__all__ = ["compared", "properties", "synthetic_accessibility"]


@cache
def synthetic_accessibility() -> Callable[[Chem.Mol], float] | None:
    """RDKit's score of synthetic accessibility; None where RDKit came without it."""
    path = Path(RDConfig.RDContribDir, "SA_Score", "sascorer.py")
    spec = spec_from_file_location("sascorer", path)
    if not os.access(path, os.R_OK) or spec is None or spec.loader is None:
        return None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    scorer: Callable[[Chem.Mol], float] = module.calculateScore
    return scorer


def _partition(mol: Chem.Mol) -> float:
    return float(rdMolDescriptors.CalcCrippenDescriptors(mol)[0])


def properties(valid: Valid) -> dict[str, Values]:
    """Each property of some of the molecules."""
    scorers: dict[str, Callable[[Chem.Mol], float] | None] = {
        "QED": QED.qed,
        "logP": _partition,
        "SA": synthetic_accessibility(),
    }
    known = {name: scorer for name, scorer in scorers.items() if scorer is not None}
    table = [
        [scorer(mol) for scorer in known.values()]
        for _, mol in valid.each(valid.heavy, "properties")
    ]
    columns = np.array(table, np.float64).reshape(-1, len(known)).T
    return {
        name: Values.of(column, valid.some()) for name, column in zip(known, columns, strict=True)
    }


def compared(
    drawn: Mapping[str, Values], real: Mapping[str, Values], counts: str
) -> list[Measure]:
    """Distances of the properties.

    Arguments:
        drawn: Properties of the molecules that are measured.
        real: Those of the reference.
        counts: How many molecules these are, in words.
    """
    return [
        Measure(
            name,
            wasserstein(mine, real[name]),
            2 * len(mine) + len(real[name]),
            f"1-Wasserstein; means {_mean(mine)} and of the data {_mean(real[name])}; {counts}",
            "",
        )
        for name, mine in drawn.items()
    ]


def _mean(values: Values) -> str:
    return f"{values.value.mean():.3g}" if len(values) else "-"
