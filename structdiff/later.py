"""Names of a package that are loaded when they are asked for, so that the core stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["later"]


def later(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Arguments:
        package: Its `__name__`.
        names: Name to the module below the package that has it.

    Example:
        >>> load = later("structdiff.spaces", {"SPD": "spd"})
        >>> load("SPD").__name__
        'SPD'
    """

    def load(name: str) -> Any:
        if name not in names:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(importlib.import_module(f"{package}.{names[name]}"), name)

    return load
