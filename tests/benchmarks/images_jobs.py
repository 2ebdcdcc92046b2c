"""The jobs of `latent_results.py` that are of images, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from images import MODELS, ONLY_DIGITS, work_digits, work_judge, work_theirs, work_theirs_judged
from images_restored import work_restored, work_restoring


def work(name: str, out: Path, data: Path, peers: Path) -> dict[str, Any]:
    """A job by name."""
    if name in ONLY_DIGITS:
        return work_digits(name, out, data)
    if name in MODELS:
        return work_restoring(name, out, data)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "judge": lambda: work_judge(out, data),
        "theirs": lambda: work_theirs(out, peers),
        "theirs-judged": lambda: work_theirs_judged(out, data),
        "restored": lambda: work_restored(out, data),
    }
    return jobs[name]()


NEEDS: dict[str, Sequence[str]] = {
    "judge": (),
    "theirs": ("judge",),
    "kl": ("judge",),
    "pixel": ("judge",),
    "vq": ("judge",),
    "inpainting": (),
    "super-resolution": (),
    "restored": ("judge", "pixel", "inpainting", "super-resolution"),
    "theirs-judged": ("judge", "theirs"),
}
"""Jobs and which others they need."""
