"""How much each job of `molecules_results.py` may do, and what all of them are told.

The table is of updates and of molecules, so a result follows from it and not from the speed of a
machine; EDM alone has CPU minutes, which are what it is compared at.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

__all__ = ["CHOOSING", "REPORTING", "Budget", "Plan"]

CHOOSING, REPORTING = 1, 2
"""Seeds: ways of drawing are chosen by molecules of the first, what is told is of the second."""


@dataclass(frozen=True)
class Budget:
    """Updates of training, unless it says otherwise, and molecules."""

    edm_minutes: float = 30.0
    """CPU minutes of EDM's updates."""
    beside: int = 6_000
    """Ours at EDM's size where there is no EDM; else as many updates as EDM has made."""
    looks: int = 8
    """How often that run is judged on its way."""
    judged: int = 500
    """Molecules whose bound is compared."""
    recipe1: int = 18_000
    """Positions and elements."""
    recipe2: int = 15_500
    """Positions, elements and bonds."""
    tried: int = 100
    """Molecules drawn in each way with each number of calls."""
    drawn: int = 800
    """Molecules drawn for the report, and real ones beside them."""
    known: int = 100_000
    """Training molecules that novelty and nearest distances look at."""
    chemistry: int = 500
    """Molecules whose properties, strain and parts are looked at."""
    regressor: int = 2_500
    """The judge of properties."""
    generator: int = 10_000
    """The model that is asked for a property."""
    asked: int = 400
    """Molecules drawn with each scale of guidance."""

    def scaled(self, factor: float) -> Budget:
        """So much of it, at least what a job needs to end."""
        if factor == 1:
            return self
        parts = {one.name: factor * getattr(self, one.name) for one in fields(self)}
        whole = {name: max(_LEAST, round(part)) for name, part in parts.items()}
        return replace(self, **whole | {"edm_minutes": parts["edm_minutes"], "looks": self.looks})


_LEAST = 16


@dataclass(frozen=True)
class Plan:
    """What every job is told.

    Arguments:
        out: Folder of all jobs.
        budget: How much each may do.
        scale: The part of the whole budget that this is.
        edm: A checkout of the EDM molecules code.
        edm_run: A JSON of EDM's training that is taken as it is.
    """

    out: Path
    budget: Budget
    scale: float = 1.0
    edm: Path | None = None
    edm_run: Path | None = None

    @property
    def with_edm(self) -> bool:
        """Whether EDM is there."""
        return self.edm is not None or self.edm_run is not None
