"""One batch that broke the training, kept so that the loss can be computed again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from structdiff.artifacts import load_tensors, save_tensors
from structdiff.batch import Batch, Part
from structdiff.layout import Layout
from structdiff.objectives import Terms

__all__ = ["Failure", "where_broken"]

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
        if self.batch.part is not None:
            flat["part"] = torch.tensor(self.batch.part)
        for part in _PARTS:
            flat |= {f"{part}.{name}": x for name, x in getattr(self.batch, part).items()}
        for name, layout in self.batch.layouts.items():
            flat[f"counts.{name}"] = torch.tensor(layout.counts, dtype=torch.long)
            if layout.nodes is not None:
                flat[f"nodes.{name}"] = layout.nodes
        flat |= {f"model.{name}": x for name, x in self.weights.items()}
        # The order of the leaves, which a file does not keep, decides who draws first.
        save_tensors(path, flat, {"step": str(self.step), "order": json.dumps(list(flat))})

    @classmethod
    def load(cls, path: Path) -> Failure:
        """Read what `save` wrote, onto the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged.
        """
        found, metadata = load_tensors(path)
        flat = {name: found[name] for name in json.loads(metadata["order"])}
        leaves, condition, present, given = (_under(part, flat) for part in _PARTS)
        nodes = _under("nodes", flat)
        layouts = {
            name: Layout(
                (ragged := Layout.ragged(x.tolist())).counts, ragged.sample, nodes.get(name)
            )
            for name, x in _under("counts", flat).items()
        }
        part = Part(*flat["part"].tolist()) if "part" in flat else None
        batch = Batch(leaves, layouts, condition, present, given, flat["ids"], part)
        return cls(batch, _under("model", flat), flat["random"], int(metadata["step"]))


def where_broken(batch: Batch, terms: Terms) -> str:
    """Terms that are not finite, of leaves at which clocks, in which samples; empty for none."""
    parts = []
    for name, term in terms.leaves.items():
        index = torch.nonzero(~torch.isfinite(term)).flatten()
        if len(index):
            where = f"term {name!r}"
            if name in batch.layouts and name in terms.clock:
                clock = terms.clock[name]
                rows = torch.isin(batch.layouts[name].sample, index)
                seen = clock[rows] if clock.ndim else clock
                where = f"leaf {name!r}, clock {float(seen.min()):.3g} to {float(seen.max()):.3g}"
            parts.append(f"{where}, sample ids {batch.ids[index].tolist()[:10]}")
    return "; ".join(parts)


def _under(part: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose name starts with `part.`, without it."""
    prefix = f"{part}."
    return {n.removeprefix(prefix): x for n, x in flat.items() if n.startswith(prefix)}
