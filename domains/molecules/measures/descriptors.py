"""Frechet distances of molecules, in descriptors of graphs or in features of a network.

The Frechet ChemNet distance takes features of a network that its authors trained; structdiff does
not come with it. Who has it passes what it makes of SMILES to `frechet_chemnet`, or the network
itself, as a callable, to `chemistry_report`. Without it there is the same distance in 27
descriptors of RDKit, each less its mean over the reference and divided by its standard deviation
there: sizes, polarity, rings, shape and branching. What is further off than 6 deviations counts as
6, lest one odd molecule be all of the number. The two distances are not comparable.

Of finite samples both are biased: compare at equal numbers, and with that of real molecules.

References:
    Frechet ChemNet Distance: A Metric for Generative Models for Molecules in Drug Discovery
    (Preuer et al., 2018). https://doi.org/10.1021/acs.jcim.8b00234
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from rdkit.Chem import Descriptors

from structdiff.domains.molecules.measures.laws import Numbers
from structdiff.domains.molecules.measures.valid import Valid
from structdiff.domains.molecules.readers.files import opened
from structdiff.domains.molecules.readers.packed import load_arrays
from structdiff.domains.molecules.reports.report import Row
from structdiff.metrics.frechet import frechet

__all__ = ["DESCRIPTORS", "descriptor_distance", "descriptors", "frechet_chemnet"]

DESCRIPTORS = (
    "MolWt", "HeavyAtomCount", "MolLogP", "MolMR", "TPSA", "LabuteASA",
    "NumHAcceptors", "NumHDonors", "NumHeteroatoms", "NumRotatableBonds",
    "RingCount", "NumAromaticRings", "NumAliphaticRings", "NumSaturatedRings",
    "NumSpiroAtoms", "NumBridgeheadAtoms", "FractionCSP3", "BertzCT", "BalabanJ",
    "HallKierAlpha", "Kappa1", "Kappa2", "Kappa3", "Chi0v", "Chi1v", "Chi2v", "Chi3v",
)  # fmt: skip
"""Names of the descriptors, as in `rdkit.Chem.Descriptors`."""
_FAR = 6  # standard deviations


def descriptors(valid: Valid) -> Numbers:
    """The descriptors of some of the molecules, `(molecules, 27)`; without those not finite."""
    functions = [getattr(Descriptors, name) for name in DESCRIPTORS]
    rows = [[f(mol) for f in functions] for _, mol in valid.each(valid.heavy, "descriptors")]
    table = np.array(rows, np.float64).reshape(-1, len(functions))
    return np.asarray(table[np.isfinite(table).all(1)])


def descriptor_distance(drawn: Numbers, real: Numbers, *, seed: int = 0) -> Row:
    """The squared Frechet distance of standardised descriptors, with a 95 % interval.

    Arguments:
        drawn: Descriptors of the molecules that are measured, `(molecules, descriptors)`.
        real: Those of the reference.
        seed: Where the resampling starts.
    """
    protocol = (
        f"squared, {len(DESCRIPTORS)} RDKit descriptors ({', '.join(DESCRIPTORS)}) standardised "
        f"over the data, at most {_FAR} deviations; not the Frechet ChemNet distance"
    )
    if min(len(drawn), len(real)):
        width = real.std(0)
        scale = np.where(width > 0, width, 1)
        drawn, real = (
            np.clip((table - real.mean(0)) / scale, -_FAR, _FAR) for table in (drawn, real)
        )
    return _row("descriptor Frechet distance", drawn, real, protocol, seed)


def frechet_chemnet(
    generated: ArrayLike | Path, reference: ArrayLike | Path, *, seed: int = 0
) -> Row:
    """The squared Frechet distance of features that ChemNet makes of valid molecules.

    Arguments:
        generated: Features of drawn molecules, `(molecules, features)`, or an .npz that holds
            them as `features`.
        reference: Those of real molecules.
        seed: Where the resampling starts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the features cannot be compared: fewer than 2 molecules, other numbers of
            features, NaN, or a file without them.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(100, 4))
        >>> round(frechet_chemnet(features + 1, features).value, 6)
        4.0
    """
    both = [_features(source) for source in (generated, reference)]
    frechet(*(torch.from_numpy(part) for part in both), resamples=2)
    protocol = f"squared, {both[0].shape[1]} features that were given"
    return _row("Frechet ChemNet distance", both[0], both[1], protocol, seed)


def _features(source: ArrayLike | Path) -> Numbers:
    if not isinstance(source, Path):
        return np.asarray(source, np.float64)
    if not source.is_file():
        msg = f"{source} is no file: give an .npz with the array features, or the array itself"
        raise FileNotFoundError(msg)
    with opened(source) as stream:
        arrays = load_arrays(stream)
    if "features" not in arrays:
        has = ", ".join(sorted(arrays)) or "nothing"
        msg = f"{source} must hold the array features, (molecules, features), it holds {has}"
        raise ValueError(msg)
    return np.asarray(arrays["features"], np.float64)


def _row(name: str, drawn: Numbers, real: Numbers, protocol: str, seed: int) -> Row:
    """The distance and its interval, of two standard errors; NaN of fewer than 2 molecules."""
    protocol = f"{protocol}; {len(drawn):,} against {len(real):,}; 1.96 standard errors"
    if min(len(drawn), len(real)) < 2:
        nan = float("nan")
        return Row(name, nan, nan, nan, protocol, "")
    found = frechet(torch.from_numpy(drawn), torch.from_numpy(real), seed=seed)
    half = 1.96 * found.error
    return Row(name, found.value, max(0.0, found.value - half), found.value + half, protocol, "")
