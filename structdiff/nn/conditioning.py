"""Conditions as features of a sample.

A network sees the value of each condition and whether it is known: what is absent is all zeros, so
one network stands for every conditional law and the unconditional one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.nn.embedding import ClockEmbedding

__all__ = ["ConditionFeatures"]


class ConditionFeatures(nn.Module):
    """Features of all conditions of a batch, side by side.

    A number gives itself, sines and cosines of it; a class its one-hot vector; each condition one
    more feature that says whether it is present. Numbers are expected at unit scale.

    Arguments:
        numbers: Name to the number of entries of a real condition, `(samples,)` or
            `(samples, entries)`.
        classes: Name to the number of classes of a class condition, int64 `(samples,)`.
        frequencies: Number of sines (and of cosines) of a number.

    Raises:
        ValueError: If a name stands for both kinds; on a call, if the batch has a condition that
            is not known here, or one of another shape.

    Example:
        >>> features = ConditionFeatures({"alpha": 1}, {"kind": 3}, frequencies=2)
        >>> batch = Batch.of(torch.zeros(2)).with_condition({"kind": torch.tensor([0, 2])})
        >>> features(batch)[:, -4:].tolist()
        [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        numbers: Mapping[str, int],
        classes: Mapping[str, int] | None = None,
        *,
        frequencies: int = 8,
    ) -> None:
        super().__init__()
        self.numbers, self.classes = dict(numbers), dict(classes or {})
        twice = self.numbers.keys() & self.classes.keys()
        if twice:
            msg = f"{sorted(twice)} stand for numbers and classes: a condition is one of them"
            raise ValueError(msg)
        self.waves = ClockEmbedding(2 * frequencies, lowest=0.5, highest=8.0)
        per_number = 2 * frequencies + 1
        self.width = sum(entries * per_number + 1 for entries in self.numbers.values())
        self.width += sum(count + 1 for count in self.classes.values())

    def forward(self, batch: Batch) -> Tensor:
        """Features of each sample, `(samples, width)`, in float32."""
        unknown = batch.condition.keys() - self.numbers.keys() - self.classes.keys()
        if unknown:
            known = sorted([*self.numbers, *self.classes])
            msg = f"the model knows the conditions {known}, not {sorted(unknown)}"
            raise ValueError(msg)
        blocks = [torch.zeros(batch.samples, 0, device=batch.device)]
        blocks += [self._number(batch, name, n) for name, n in self.numbers.items()]
        blocks += [self._class(batch, name, n) for name, n in self.classes.items()]
        return torch.cat(blocks, 1)

    def _present(self, batch: Batch, name: str) -> Tensor:
        """Whether a condition is known, `(samples, 1)`."""
        shape = (batch.samples, 1)
        if name not in batch.condition:
            return torch.zeros(shape, device=batch.device)
        known = batch.present.get(name)
        return (
            torch.ones(shape, device=batch.device) if known is None else known.view(shape).float()
        )

    def _number(self, batch: Batch, name: str, entries: int) -> Tensor:
        present = self._present(batch, name)
        value = batch.condition.get(name)
        if value is None:
            value = torch.zeros(batch.samples, entries, device=batch.device)
        if value[:1].numel() not in (0, entries):
            shape = tuple(value.shape)
            msg = f"condition {name!r} has shape {shape}, expected {entries} numbers a sample"
            raise ValueError(msg)
        value = value.reshape(batch.samples, entries).float()
        features = torch.cat([value.unsqueeze(-1), self.waves(value)], -1).flatten(1)
        # `where`, since an absent value may be NaN.
        return torch.cat([torch.where(present > 0, features, 0.0), present], 1)

    def _class(self, batch: Batch, name: str, count: int) -> Tensor:
        present = self._present(batch, name)
        value = batch.condition.get(name, torch.zeros(batch.samples, device=batch.device))
        one_hot = F.one_hot(torch.where(present[:, 0] > 0, value, 0).long(), count)
        return torch.cat([one_hot * present, present], 1)
