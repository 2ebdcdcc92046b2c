"""What `import structdiff` costs on top of `import torch`, in processes of their own.

Median CPU time of a few processes each: python tests/benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

CODE = """
import sys, time
import torch
loaded = set(sys.modules)
start = time.process_time()
import {module}
print(time.process_time() - start, len(set(sys.modules) - loaded))
"""
TORCH = "import time; t = time.process_time(); import torch; print(time.process_time() - t, 0)"
MODULES = (
    "structdiff",
    "structdiff.domains.molecules",
    "diffusers",
    "flow_matching.solver",
    "azula.sample",
)


def cost(code: str, rounds: int = 3) -> tuple[float, int] | None:
    """Median CPU seconds and number of modules, or None where it does not import."""
    found = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            return None
        seconds, modules = done.stdout.split()
        found.append((float(seconds), int(modules)))
    return float(np.median([s for s, _ in found])), found[0][1]


def main() -> None:
    """Print a table."""
    floor = cost(TORCH)
    if floor is None:
        raise SystemExit("torch does not import")
    print("| import | times `import torch` | modules |\n|---|---|---|")
    for module in MODULES:
        found = cost(CODE.format(module=module))
        if found is not None:
            print(f"| after torch, {module} | {found[0] / floor[0]:.2f} | {found[1]} |")


if __name__ == "__main__":
    main()
