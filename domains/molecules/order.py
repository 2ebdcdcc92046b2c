"""What is drawn at the command line, batch by batch, and which of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from structdiff.artifacts import Part, partition
from structdiff.domains.molecules.request import Request
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.sampling import Samples
from structdiff.domains.molecules.tally import Tally
from structdiff.runs import model_checksum

__all__ = ["Order", "TooFewValid"]

PATIENCE = 1_000  # molecules drawn without a valid one
FACTOR = 100  # molecules drawn for a valid one that is wanted
LEAST = 16  # molecules drawn together where fewer valid ones are wanted


class TooFewValid(ValueError):
    """Valid molecules do not come."""


@dataclass
class Order:
    """Molecules to draw, or to draw until so many are valid and in one piece.

    Arguments:
        run: The model, with its settings of the sampler.
        wanted: How many molecules are to be kept.
        only_valid: Whether only those that are valid and in one piece are kept.
        asked: Arguments of `Run.request`: sizes, condition, guidance, given, regressor, seed.

    Raises:
        ValueError: If what is asked cannot be drawn.
    """

    run: Run
    wanted: int
    only_valid: bool
    asked: Mapping[str, Any]
    known: Request = field(init=False)

    def __post_init__(self) -> None:
        if self.only_valid and self.wanted < 1:
            msg = f"only_valid must be at least 1, got {self.wanted}"
            raise ValueError(msg)
        self.known = self.run.request(self.wanted, **self.asked)

    @property
    def size(self) -> int:
        """Number of molecules drawn together."""
        together = self.run.config.sampler.batch_size
        return min(together, max(self.wanted, LEAST)) if self.only_valid else together

    def parts(self, tally: Callable[[], Tally]) -> Iterator[Part]:
        """The batches, as long as more are needed.

        Arguments:
            tally: What was drawn so far, asked before each batch.

        Raises:
            TooFewValid: If valid molecules do not come.
        """
        if not self.only_valid:
            yield from partition(self.wanted, self.size)
            return
        for i in count():
            so_far = tally()
            if so_far.kept >= self.wanted:
                return
            self._check_patience(so_far)
            yield Part(i * self.size, (i + 1) * self.size, (i,))

    def _check_patience(self, tally: Tally) -> None:
        patience = max(PATIENCE, FACTOR * self.wanted) if tally.kept else PATIENCE
        if tally.drawn < patience:
            return
        common = max(tally.reasons, key=lambda reason: tally.reasons[reason])
        msg = (
            f"{tally.drawn:,} molecules were drawn, {tally.kept:,} of them are valid and in one "
            f"piece, {self.wanted:,} were asked for (most often: {common}). Train longer; a draw "
            "without --only-valid shows what the model makes"
        )
        raise TooFewValid(msg)

    def draw(
        self, part: Part, kept: int, done: Callable[[float], None] | None = None
    ) -> tuple[Samples, Tally]:
        """Draw a part.

        Arguments:
            part: Which molecules; they are named by their number.
            kept: How many of the other parts are kept.
            done: Called with the share of the steps that are done.

        Returns:
            The molecules that are kept, and the counts of all that were drawn.
        """
        if part.high > len(self.known.counts):
            more = max(part.high, 2 * len(self.known.counts))
            self.known = self.run.request(more, **self.asked)
        drawn = self.run.judge(self.run.draw(self.known, part, done=done))
        good = np.array([v.valid and v.connected for v in drawn.verdicts]) | (not self.only_valid)
        index = np.flatnonzero(good)[: self.wanted - kept if self.only_valid else None]
        chosen = drawn.structures.select(index)
        names = tuple(f"molecule {part.low + i + 1}" for i in index.tolist())
        named = replace(chosen, name=names)
        verdicts = [drawn.verdicts[i] for i in index.tolist()]
        return Samples(named, verdicts), Tally.of(drawn.verdicts, len(index))

    def describe(self) -> dict[str, Any]:
        """All that the molecules follow from, for JSON; model and given part as checksums."""
        run, given, guide = self.run, self.asked["given"], self.asked.get("regressor")
        model = run.config.model_dump(mode="json", exclude={"sampler", "training"})
        guided = {} if guide is None else {"regressor": guide.checksum()}
        return {
            "domain": "molecules",
            "model": model_checksum(run.folder, model, run.codec.state()),
            "molecules": self.wanted,
            "only_valid": self.only_valid,
            **{name: value for name, value in self.asked.items() if name != "regressor"},
            **guided,
            "given": None if given is None else given.identity()["digest"],
            "sampler": run.config.sampler.model_dump(mode="json"),
        }
