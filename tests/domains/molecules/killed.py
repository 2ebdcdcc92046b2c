"""The command `structdiff`, killed before a file is moved into place: `killed.py NAME ...`."""

import os
import signal
import sys
from pathlib import Path

from structdiff.cli.main import main

if __name__ == "__main__":
    name, *words = sys.argv[1:]
    replace = Path.replace

    def patched(self, target):
        if Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = patched
    main(words)
