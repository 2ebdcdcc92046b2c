"""One batch that broke the training, kept so that the loss can be computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from structdiff.artifacts import load_tensors, save_tensors
from structdiff.batch import Batch
from structdiff.layout import Layout

__all__ = ["Failure"]

_PARTS = ("leaves", "condition", "present", "given")


@dataclass(frozen=True)
class Failure:
    """What a loss was computed from.

    Arguments:
        batch: The clean batch.
        weights: Weights and buffers of the denoiser.
        random: State of the source of noise, before the batch was noised.
        step: Updates done before.
    """

    batch: Batch
    weights: Mapping[str, Tensor]
    random: Tensor
    step: int

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file."""
        flat = {"ids": self.batch.ids, "random": self.random}
        for part in _PARTS:
            flat |= {f"{part}.{name}": x for name, x in getattr(self.batch, part).items()}
        for name, layout in self.batch.layouts.items():
            flat[f"counts.{name}"] = torch.tensor(layout.counts, dtype=torch.long)
            if layout.nodes is not None:
                flat[f"nodes.{name}"] = layout.nodes
        flat |= {f"model.{name}": x for name, x in self.weights.items()}
        save_tensors(path, flat, {"step": str(self.step)})

    @classmethod
    def load(cls, path: Path) -> Failure:
        """Read what `save` wrote, onto the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged.
        """
        flat, metadata = load_tensors(path)
        leaves, condition, present, given = (_under(part, flat) for part in _PARTS)
        nodes = _under("nodes", flat)
        layouts = {
            name: Layout(
                (ragged := Layout.ragged(x.tolist())).counts, ragged.sample, nodes.get(name)
            )
            for name, x in _under("counts", flat).items()
        }
        batch = Batch(leaves, layouts, condition, present, given, flat["ids"])
        return cls(batch, _under("model", flat), flat["random"], int(metadata["step"]))


def _under(part: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose name starts with `part.`, without it."""
    prefix = f"{part}."
    return {n.removeprefix(prefix): x for n, x in flat.items() if n.startswith(prefix)}
