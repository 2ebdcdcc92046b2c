"""What resuming needs, as one flat mapping of whole tensors.

Names and shapes do not depend on the number of processes nor on where the weights are, so a run
may go on with another number of processes, sharded or not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from structdiff.training.average import MovingAverage
from structdiff.training.sharding import Sharding

__all__ = ["collect", "restore"]


def collect(
    sharding: Sharding, average: MovingAverage, optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Weights, averages and moments, gathered from all processes."""
    flat = {f"model.{name}": x for name, x in sharding.model().items()}
    for i, x in enumerate(average.average):
        flat[f"ema.{i}"] = sharding.whole(i, x)
    for i, weight in enumerate(sharding.weights):
        for key, x in optimiser.state.get(weight, {}).items():
            flat[f"optimiser.{i}.{key}"] = sharding.whole(i, x) if x.ndim else x
    return flat


def restore(
    flat: Mapping[str, Tensor],
    sharding: Sharding,
    average: MovingAverage,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Go on from what `collect` gave; each process takes its part."""
    sharding.load(_under("model.", flat))
    for i, kept in enumerate(average.average):
        kept.copy_(sharding.part(i, flat[f"ema.{i}"]))
    for i, weight in enumerate(sharding.weights):
        moments = _under(f"optimiser.{i}.", flat)
        if moments:
            optimiser.state[weight] = {
                key: (sharding.part(i, x) if x.ndim else x).to(weight.device)
                for key, x in moments.items()
            }


def _under(prefix: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose name starts with the prefix, without it."""
    return {n.removeprefix(prefix): x for n, x in flat.items() if n.startswith(prefix)}
