"""How manifolds of geomstats are asked: in float64 on the CPU, also for what some of them lack.

Under `double` torch's default dtype is the one that geomstats works in; `wide` tensors are what it
is given. `check` refuses what cannot be asked at all, `logarithm` says what to do where there is
none, and `projection` leaves points as they are where there is none.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["check", "double", "drawn", "iterates", "logarithm", "projection", "wide"]


@contextmanager
def double() -> Iterator[None]:
    """Within it torch's default dtype is float64, without which geomstats fails."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def wide(x: Tensor) -> Tensor:
    """In float64 on the CPU."""
    return x.to("cpu", torch.float64)


def projection(manifold: Any, x: Tensor) -> Tensor:
    """geomstats' `projection`; the points themselves where it has none."""
    try:
        nearest: Tensor = manifold.projection(x)
    except (AttributeError, NotImplementedError):
        return x
    return nearest


def drawn(manifold: Any) -> Tensor:
    """A point that geomstats draws from torch's generator, whose state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        point = manifold.random_point()
    return wide(point.detach()).reshape(manifold.shape)


def iterates(metric: Any) -> bool:
    """Whether geomstats finds `log` by iterations."""
    return hasattr(metric, "log_solver")


def logarithm(metric: Any, x: Tensor, y: Tensor) -> Tensor:
    """geomstats' `metric.log`, from `x` to `y`.

    Raises:
        ValueError: If the metric has none.
    """
    try:
        way: Tensor = metric.log(y, x)
    except (NotImplementedError, ValueError) as error:
        if isinstance(error, ValueError) and "log_solver" not in str(error):
            raise
        msg = (
            f"geomstats has no log for {type(metric).__name__}: flow matching and the "
            f"likelihood by its ODE need it, random walks do not; give the metric a "
            f"log_solver (see geomstats.numerics.geodesic) or take another metric"
        )
        raise ValueError(msg) from error
    return way


def check(manifold: Any) -> None:
    """Refuse what is no manifold of geomstats' PyTorch backend, or has no metric."""
    loaded = sys.modules.get("geomstats.geometry.manifold")
    if loaded is None or not isinstance(manifold, loaded.Manifold):
        how = "see geomstats.geometry, for example Stiefel(5, 2)"
        if importlib.util.find_spec("geomstats") is None:
            how = "geomstats is not installed: pip install 'structdiff[manifolds]' (numpy<2.4)"
        msg = f"manifold must be a manifold of geomstats, got {type(manifold).__name__}: {how}"
        raise ValueError(msg)
    backend = sys.modules["geomstats._backend"].BACKEND_NAME
    if backend != "pytorch":
        msg = (
            f"geomstats runs on its {backend} backend, which torch cannot differentiate: set the "
            f"environment variable GEOMSTATS_BACKEND=pytorch before geomstats is first imported"
        )
        raise ValueError(msg)
    if not hasattr(manifold, "metric"):
        name = type(manifold).__name__
        msg = f"manifold must have a metric, got {name} without: call its equip_with_metric"
        raise ValueError(msg)
