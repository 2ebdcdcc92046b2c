"""The chemistry of drawn molecules beside real ones: geometry, rings, properties, strain, parts.

All of it is of the valid molecules; how many those are stands in the first row. Each measure is
taken twice against the same real molecules: of what was drawn, and of as many other real ones,
which says what the number would be if the model were perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from structdiff.domains.molecules.chemistry import implied
from structdiff.domains.molecules.measures import (
    busters,
    descriptors,
    geometry,
    parts,
    properties,
    rings,
    strain,
)
from structdiff.domains.molecules.measures.laws import Values
from structdiff.domains.molecules.measures.resampling import Measure, rows_of
from structdiff.domains.molecules.measures.valid import Valid
from structdiff.domains.molecules.reports.report import Report, Row, comparison
from structdiff.domains.molecules.structures import Structures
from structdiff.domains.molecules.tally import interval

__all__ = ["Chemistry", "ChemistryReport", "ChemNet", "chemistry_report"]

ChemNet = Callable[[Sequence[str]], ArrayLike]
"""From SMILES to features, `(molecules, features)`."""
MODEL, REAL = "drawn", "as many real ones"


@dataclass(frozen=True, eq=False)
class Chemistry:
    """What is measured of a set of molecules, found when it is asked for and once."""

    valid: Valid

    @cached_property
    def geometry(self) -> tuple[Values, Values, Values]:
        """Lengths, angles and dihedrals."""
        molecules = self.valid.structures
        return (
            geometry.lengths(molecules),
            geometry.angles(molecules),
            geometry.dihedrals(molecules),
        )

    @cached_property
    def rings(self) -> tuple[Values, Values]:
        """Sizes of rings, and how many each molecule has."""
        sizes = rings.ring_sizes(self.valid)
        return sizes, rings.ring_counts(sizes, len(self.valid))

    @cached_property
    def properties(self) -> dict[str, Values]:
        """QED, logP and SA."""
        return properties.properties(self.valid)

    @cached_property
    def strain(self) -> Values:
        """Strain, kcal/mol."""
        return strain.strain(self.valid)

    @cached_property
    def parts(self) -> tuple[Values, Values]:
        """Fragments and scaffolds."""
        return parts.fragments(self.valid), parts.scaffolds(self.valid)

    @cached_property
    def descriptors(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """RDKit's descriptors."""
        return descriptors.descriptors(self.valid)

    @cached_property
    def checks(self) -> dict[str, Values]:
        """Those of PoseBusters."""
        return busters.busted(self.valid)

    def features(self, chemnet: ChemNet) -> ArrayLike:
        """What a network makes of the molecules."""
        return chemnet(self.valid.smiles)


@dataclass(frozen=True, eq=False)
class ChemistryReport:
    """The measures of drawn and of as many real molecules, and what they were taken from.

    Arguments:
        reports: "drawn" and "as many real ones".
        drawn: The molecules that were drawn.
        real: The real molecules that both are compared with.
    """

    reports: dict[str, Report]
    drawn: Chemistry
    real: Chemistry

    def table(self) -> str:
        """All measures of both, Markdown."""
        return comparison(self.reports)

    def protocols(self) -> list[tuple[str, str]]:
        """How each measure was taken."""
        return [(row.name, row.protocol) for row in self.reports[MODEL].rows]


def chemistry_report(
    generated: Structures,
    reference: Structures,
    *,
    chemnet: ChemNet | None = None,
    most: int = 1000,
    resamples: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> ChemistryReport:
    """Measures the chemistry of generated molecules.

    Distances of bond lengths, angles, dihedrals and rings, of QED, logP and SA; strain by MMFF94;
    similarity of fragments and scaffolds; a Frechet distance; the checks of PoseBusters, where it
    is installed.

    Arguments:
        generated: All that was drawn.
        reference: Real molecules. They are parted at random: as many as were drawn, at most half,
            for the measures of real ones, the others for both to be compared with.
        chemnet: From SMILES to the features of ChemNet, for the Frechet ChemNet distance.
        most: Of how many molecules of each set properties, strain, parts, descriptors and checks
            are taken.
        resamples: The number of bootstrap resamples.
        seed: Where the parting and the resampling start.
        progress: Whether to show bars.

    Raises:
        ValueError: If nothing was generated, there are fewer than 2 real molecules, or a number
            is not positive.

    Example:
        >>> from structdiff.domains.molecules.data import embedded
        >>> qm9 = embedded()
        >>> found = chemistry_report(qm9.select(range(20)), qm9.select(range(20, 80)))
        >>> found.reports["drawn"]["bond lengths"].value < 0.02
        True
    """
    if not len(generated):
        raise ValueError("generated must hold at least one molecule, it holds none")
    if len(reference) < 2:
        msg = f"reference must hold at least 2 molecules, to be parted, it holds {len(reference)}"
        raise ValueError(msg)
    for name, number in (("most", most), ("resamples", resamples)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    order = np.random.default_rng(seed).permutation(len(reference))
    cut = min(len(generated), len(reference) // 2)
    implicit = implied(reference)
    drawn, other, real = (
        Chemistry(Valid.of(part, implicit=implicit, most=most, progress=progress))
        for part in (generated, reference.select(order[:cut]), reference.select(order[cut:]))
    )
    reports = {
        name: _report(each, real, chemnet, resamples, seed)
        for name, each in ((MODEL, drawn), (REAL, other))
    }
    return ChemistryReport(reports, drawn, real)


def _report(
    drawn: Chemistry, real: Chemistry, chemnet: ChemNet | None, resamples: int, seed: int
) -> Report:
    """The rows of one source."""
    valid, total = len(drawn.valid), drawn.valid.drawn
    of = f"{valid:,} of {total:,} drawn: what all that follows is of"
    rows = [Row("valid", valid / total, *interval(valid, total), of)]
    measures = list(_measures(drawn, real))
    rows += rows_of(measures, valid, resamples=resamples, seed=seed)
    rows.append(descriptors.descriptor_distance(drawn.descriptors, real.descriptors, seed=seed))
    if chemnet is not None:
        both = (each.features(chemnet) for each in (drawn, real))
        rows.append(descriptors.frechet_chemnet(*both, seed=seed))
    return Report(tuple(rows), total)


def _measures(drawn: Chemistry, real: Chemistry) -> Iterator[Measure]:
    all_ = f"{len(drawn.valid):,} against {len(real.valid):,}"
    mine, theirs = len(drawn.valid.some()), len(real.valid.some())
    some = f"{mine:,} against {theirs:,}"
    few = f"of {mine:,}"
    yield from geometry.compared(drawn.geometry, real.geometry, all_)
    yield from rings.compared(drawn.rings, real.rings, all_)
    yield from properties.compared(drawn.properties, real.properties, some)
    yield from strain.compared(drawn.strain, few)
    yield from parts.compared(drawn.parts, real.parts, some)
    yield from busters.compared(drawn.checks)
