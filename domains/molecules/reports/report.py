"""Reports: named values with intervals and protocols, as Markdown tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from structdiff.reports.tables import markdown_table

__all__ = ["Report", "Row", "comparison", "comparison_rows"]

_DIGITS = {"%": 1, "degrees": 2, "kcal/mol": 1}  # behind the point, else 3


@dataclass(frozen=True)
class Row:
    """One metric.

    Arguments:
        name: What is measured.
        value: Its value; a rate is a fraction of 1, undefined is NaN.
        low: The lower end of the 95 % interval.
        high: The upper end.
        protocol: How it was measured.
        unit: "%" for a rate, "TV" for a total variation in [0, 1], "A" for Angstrom, "degrees",
            "kcal/mol", "cosine" for a similarity, "" for a pure number.
    """

    name: str
    value: float
    low: float
    high: float
    protocol: str
    unit: str = "%"

    def text(self) -> str:
        """The value with its interval, rates in percent."""
        if np.isnan(self.value):
            return "-"
        scale, digits = 100 if self.unit == "%" else 1, _DIGITS.get(self.unit, 3)
        value, low, high = (f"{scale * v:.{digits}f}" for v in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Report:
    """The metrics of one source of molecules."""

    rows: tuple[Row, ...]
    drawn: int

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no metric {name!r}; there are {', '.join(r.name for r in self.rows)}")

    def table(self) -> str:
        """Returns an aligned Markdown table."""
        cells = [(_title(row), row.text(), row.protocol) for row in self.rows]
        head = (f"metric ({self.drawn:,} drawn)", "value [95 % interval]", "protocol")
        return markdown_table([head, *cells])

    def to_dict(self) -> dict[str, object]:
        """Returns numbers and strings for JSON; what is undefined or infinite is None."""

        def plain(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        metrics = {
            row.name: {
                "value": plain(row.value),
                "low": plain(row.low),
                "high": plain(row.high),
                "unit": row.unit,
                "protocol": row.protocol,
            }
            for row in self.rows
        }
        return {"drawn": self.drawn, "metrics": metrics}


def comparison(reports: Mapping[str, Report]) -> str:
    """Returns one Markdown table with a column per source of molecules."""
    return markdown_table(comparison_rows(reports))


def comparison_rows(reports: Mapping[str, Report]) -> list[list[str]]:
    """Returns the cells of a table with a column per source of molecules, the head first."""
    names = {row.name: _title(row) for report in reports.values() for row in report.rows}
    head = ["metric", *(f"{source} ({report.drawn:,})" for source, report in reports.items())]
    lines = [head]
    for name, title in names.items():
        found = [{row.name: row.text() for row in r.rows}.get(name, "-") for r in reports.values()]
        lines.append([title, *found])
    return lines


def _title(row: Row) -> str:
    return f"{row.name} ({row.unit})" if row.unit else row.name
