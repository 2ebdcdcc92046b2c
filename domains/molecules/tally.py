"""Counts of verdicts that add up over parts: rates of all drawn, and why molecules fail."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, Self

import numpy as np

from structdiff.domains.molecules.chemistry import Verdict
from structdiff.domains.molecules.reports.report import Report, Row

__all__ = ["Tally", "interval", "unique"]

_Z = 1.959963984540054  # the normal quantile of a 95 % interval


@dataclass(frozen=True)
class Tally:
    """How many molecules of which kind.

    Arguments:
        drawn: All.
        valid: Those that RDKit sanitises.
        whole: Those that are valid and in one piece.
        kept: Those that were asked for, all drawn or the valid ones in one piece.
        reasons: Why the others are not valid or not in one piece, the first reason of each.
    """

    drawn: int = 0
    valid: int = 0
    whole: int = 0
    kept: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], kept: int) -> Self:
        """Count verdicts."""
        return cls(
            len(verdicts),
            sum(v.valid for v in verdicts),
            sum(v.valid and v.connected for v in verdicts),
            kept,
            Counter(_why(v) for v in verdicts if not (v.valid and v.connected)),
        )

    @classmethod
    def total(cls, parts: Iterable[Mapping[str, Any]]) -> Self:
        """The sum of what `counts` gave."""
        names = [one.name for one in fields(cls)]
        return sum((cls(**{n: part[n] for n in names}) for part in parts), cls())

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            drawn=self.drawn + other.drawn,
            valid=self.valid + other.valid,
            whole=self.whole + other.whole,
            kept=self.kept + other.kept,
            reasons=Counter(self.reasons) + Counter(other.reasons),
        )

    def counts(self) -> dict[str, Any]:
        """The numbers, for JSON; the commonest reason first."""
        return {**asdict(self), "reasons": dict(Counter(self.reasons).most_common())}

    def lines(self) -> Iterator[str]:
        """Rates of all drawn with 95 % intervals, and the commonest reasons."""
        valid, whole = _percent(self.valid, self.drawn), _percent(self.whole, self.drawn)
        yield (
            f"{self.drawn:,} drawn: {self.valid:,} valid ({valid}), "
            f"{self.whole:,} valid and in one piece ({whole})"
        )
        for reason, count in Counter(self.reasons).most_common(3):
            yield f"  {count:,} x {reason}"

    def report(self, smiles: Iterable[str] = (), *, source: str = "EDM bond table") -> Report:
        """The rates as a report; with SMILES of the valid, also how many of them are distinct.

        Arguments:
            smiles: Of the valid molecules.
            source: Where bonds are from.
        """
        rows = [
            Row(name, count / self.drawn, *interval(count, self.drawn), protocol)
            for name, count, protocol in (
                ("validity", self.valid, f"RDKit sanitises, {source}, all drawn"),
                ("valid and connected", self.whole, "one fragment, all drawn"),
            )
        ]
        share = unique(smiles)
        rows.append(Row("unique", *share, "distinct SMILES of valid; interval at fixed repeats"))
        return Report(tuple(rows), self.drawn)


def interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate: p with |count / total - p| <= z sqrt(p (1 - p) / total).

    References:
        Probable Inference, the Law of Succession, and Statistical Inference (Wilson, 1927).
        https://doi.org/10.1080/01621459.1927.10502953

    Example:
        >>> [round(end, 3) for end in interval(9, 10)]
        [0.596, 0.982]
    """
    rate, square = count / total, _Z**2 / total
    centre = (rate + square / 2) / (1 + square)
    half = math.sqrt(square * (rate * (1 - rate) + square / 4)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def unique(smiles: Iterable[str]) -> tuple[float, float, float]:
    """Distinct SMILES per SMILES, with a normal 95 % interval at fixed repeats; NaN for none.

    A SMILES that occurs k times counts 1/k each time, and the rate is the mean of these shares.
    Eight bytes a molecule are held.

    Example:
        >>> unique(["C", "C", "O", "N"])[0]
        0.75
    """
    marks = (int.from_bytes(blake2b(x.encode(), digest_size=8).digest()) for x in smiles)
    _, times = np.unique(np.fromiter(marks, np.uint64), return_counts=True)
    total = int(times.sum())
    if not total:
        return math.nan, math.nan, math.nan
    rate = len(times) / total
    spread = math.sqrt(max(0.0, float((1 / times).sum()) / total - rate**2) / total)
    return rate, max(0.0, rate - _Z * spread), min(1.0, rate + _Z * spread)


def _percent(count: int, total: int) -> str:
    low, high = interval(count, total)
    return f"{count / total:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _why(verdict: Verdict) -> str:
    """What is wrong, without numbers of atoms: "C has valence 5, allowed 4"."""
    if verdict.valid:
        return "several fragments"
    reason = re.sub(r"^atom \d+ \(([^)]+)\) ", r"\1 ", verdict.reasons[0])
    reason = re.sub(r"^\d+ fragments", "several fragments", reason)
    return re.sub(r"(atoms?):? #? ?\d[\d ]*", r"\1 ", reason).strip()
