"""The command `structdiff`, ended at one moment: `killed.py MOMENT NUMBER ARGUMENTS...`."""

import os
import signal
import sys
import time
from pathlib import Path

from structdiff.artifacts import RunFolder
from structdiff.cli.main import main
from structdiff.training import Trainer


def at_update(number, act):
    update = Trainer.update

    def patched(self):
        step, means = self.step, update(self)
        if step == number:
            act(self)
        return means

    Trainer.update = patched


def die(trainer=None):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_signal(trainer):
    print("waiting", flush=True)
    while not trainer._stop:
        time.sleep(0.01)


def inside_save(number):
    """Sleep when the temporary file is written and not yet renamed."""
    sync, seen = os.fsync, []

    def patched(descriptor):
        sync(descriptor)
        seen.append("state" in os.readlink(f"/proc/self/fd/{descriptor}"))
        if sum(seen) == number:
            print("waiting", flush=True)
            time.sleep(600)

    os.fsync = patched


def inside_log(number):
    """Write half a line and die."""
    log = RunFolder.log

    def patched(self, **values):
        if values["step"] == number:
            with self.metrics.open("a") as file:
                file.write('{"step": 1')
            die()
        log(self, **values)

    RunFolder.log = patched


def before_rename(name):
    replace = Path.replace

    def patched(self, target):
        if Path(target).name == name:
            die()
        return replace(self, target)

    Path.replace = patched


if __name__ == "__main__":
    moment, number, *words = sys.argv[1:]
    {
        "never": lambda: None,
        "update": lambda: at_update(int(number), die),
        "signal": lambda: at_update(int(number), wait_for_signal),
        "save": lambda: inside_save(int(number)),
        "log": lambda: inside_log(int(number)),
        "rename": lambda: before_rename(number),
    }[moment]()
    main(words)
