"""`python -m structdiff`: the command line, alone or as one of several processes of torchrun.

    torchrun --nproc-per-node 2 -m structdiff train molecules --out runs/two

The first process speaks for all. Where a process fails, the first to fail says why, in one line,
and the others, which lose it sooner or later, end in silence; the status is not zero.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TextIO

from structdiff.cli.main import main as command

__all__ = ["main"]


class _Errors(io.TextIOBase):
    """An error stream that is cut off at the reason of a failure, unless it is the first."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.silent = stream, False

    def write(self, text: str) -> int:
        """Pass the text on."""
        from structdiff.training.distributed import first_to_fail

        if text.startswith("structdiff: ") and not first_to_fail():
            self.silent = True
        return len(text) if self.silent else self.stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


def main() -> None:
    """Run a command."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _work(int(os.environ.get("RANK", "0")))
    else:
        command()


def _work(rank: int) -> None:
    """Run a command as one of several processes."""
    from structdiff.training.distributed import first_to_fail, leave

    output = io.StringIO() if rank > 0 else sys.stdout
    try:
        with redirect_stdout(output), redirect_stderr(_Errors(sys.stderr)):
            command()
    except Exception:
        if first_to_fail():
            raise
        sys.exit(1)
    leave()


if __name__ == "__main__":
    main()
