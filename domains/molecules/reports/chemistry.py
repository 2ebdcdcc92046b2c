"""The part of an evaluation's page that is about chemistry."""

from __future__ import annotations

from pathlib import Path

from structdiff.domains.molecules.measures.chemistry import ChemistryReport
from structdiff.domains.molecules.reports.charts import PICTURES, chemistry_charts
from structdiff.domains.molecules.reports.report import comparison_rows
from structdiff.reports.page import Block, Heading, Picture, Table, Words

__all__ = ["CHEMISTRY", "pictures", "section"]

CHEMISTRY = (
    "The chemistry of the valid molecules, and of as many real ones, both against other real ones"
)


def pictures(folder: Path, chemical: ChemistryReport | None) -> list[Path]:
    """Pictures of chemistry; those of an earlier evaluation are not there afterwards."""
    if chemical is not None:
        return chemistry_charts(chemical, folder)
    for name in PICTURES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    return []


def section(chemical: ChemistryReport | None, folder: Path) -> list[Block]:
    """The section about chemistry, if it was measured."""
    if chemical is None:
        return []
    head, *rows = comparison_rows(chemical.reports)
    paths = {folder / f"{name}.png": caption for name, caption in PICTURES.items()}
    return [
        Heading("Chemistry"),
        Words(f"{CHEMISTRY}."),
        Table(head, rows),
        Table(("metric", "protocol"), chemical.protocols()),
        *(Picture(path, caption) for path, caption in paths.items() if path.exists()),
    ]
