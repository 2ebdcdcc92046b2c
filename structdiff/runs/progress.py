"""Bars and signals of drawing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Self

from tqdm import tqdm

from structdiff.artifacts import Part
from structdiff.training import Stopped

__all__ = ["Progress", "stoppable"]


class Progress:
    """A bar of samples, with rate and time left; a walk under way counts by its share.

    Arguments:
        samples: How many there will be.
        settled: How many there are.
        unit: What is counted.
        show: Whether to show it.
    """

    def __init__(self, samples: int, *, unit: str, settled: int = 0, show: bool = True) -> None:
        self.settled = settled
        self._bar = tqdm(total=samples, initial=settled, unit=f" {unit}", disable=not show)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def walk(self, part: Part) -> Callable[[float], None]:
        """What to call with the share of a part's walk that is done."""
        return lambda share: self._move(self.settled + int(share * (part.high - part.low)))

    def settle(self, samples: int) -> None:
        """Count samples that are finished."""
        self.settled += samples
        self._move(self.settled)

    def _move(self, place: int) -> None:
        self._bar.update(place - self._bar.n)


@contextmanager
def stoppable(word: Callable[[], str]) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the work at once, with a word on what is left of it.

    Raises:
        Stopped: If one came.
    """
    main = current_thread() is main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(word()) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
