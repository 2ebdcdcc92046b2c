"""Which domains there are."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

__all__ = ["DOMAINS", "Domain", "load"]


@dataclass(frozen=True)
class Domain:
    """A domain and what it needs."""

    module: str
    extra: str
    about: str


DOMAINS = {
    "audio": Domain(
        "structdiff.domains.audio", "audio", "sounds: waveforms, mel spectrograms, vocoders"
    ),
    "images": Domain(
        "structdiff.domains.images", "images", "images: pixels, latents or codes of them"
    ),
    "manifolds": Domain(
        "structdiff.domains.manifolds",
        "manifolds",
        "points of spheres, tori, rotations, matrices: columns of numbers",
    ),
    "molecules": Domain(
        "structdiff.domains.molecules", "molecules", "molecules in 3-D: positions x elements"
    ),
    "text": Domain("structdiff.domains.text", "text", "text: characters, bytes or sub-words"),
}


def load(name: str) -> ModuleType:
    """The module of a domain.

    Raises:
        ValueError: If there is no such domain, or its libraries are not installed.
    """
    if name not in DOMAINS:
        msg = f"there is no domain {name!r}; there are: {', '.join(DOMAINS)}"
        raise ValueError(msg)
    domain = DOMAINS[name]
    try:
        return importlib.import_module(domain.module)
    except ModuleNotFoundError as error:
        msg = f"the domain {name!r} needs {error.name}: pip install 'structdiff[{domain.extra}]'"
        raise ValueError(msg) from None
