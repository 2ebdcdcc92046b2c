"""The record of many samples.

A *record* is a set of named leaves; a `Batch` holds the records of many samples: a tensor and a
layout per leaf, the condition with its presence mask, the entries that are given (held at known
values) and the sample ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.layout import Layout

__all__ = ["Batch", "Part"]


class Part(NamedTuple):
    """Which samples of a larger batch a batch holds: sample j is number `first + j stride`.

    Several processes that share a batch each hold a part of it, and what is drawn for the batch
    as a whole (stratified times) is the same for any number of them.

    Arguments:
        first: Number of the first sample in the larger batch.
        stride: Distance between neighbours.
        total: Samples of the larger batch.

    Example:
        >>> Part(1, 2, 5).places(2)
        tensor([1, 3])
    """

    first: int
    stride: int
    total: int

    def places(self, samples: int) -> Tensor:
        """Numbers in the larger batch of this many samples, `(samples,)`, on the CPU."""
        return self.first + self.stride * torch.arange(samples)


@dataclass(frozen=True, eq=False)
class Batch:
    """Records of many samples.

    Arguments:
        leaves: Name to tensor `(rows, *event)`.
        layouts: Name to the layout of that leaf's rows; the same names.
        condition: Name to a tensor `(samples, *event)` of what is known of each sample.
        present: Name to a mask `(samples,)`: where the condition is known. A name that is
            missing here is present for all samples.
        given: Name to a mask, `(rows,)` or `(rows, *event)`: entries held at the value that
            the leaf has.
        ids: A number for each sample, `(samples,)`, that errors and randomness refer to;
            by default 0, 1, 2, ...
        part: Which samples of a larger batch these are; None where they are the whole.

    Raises:
        ValueError: If names, rows or samples do not agree.

    Example:
        >>> batch = Batch.of(torch.randn(4, 2))
        >>> batch.samples, list(batch.leaves)
        (4, ['x'])
    """

    leaves: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    part: Part | None = None

    def __post_init__(self) -> None:
        if self.leaves.keys() != self.layouts.keys() or not self.leaves:
            names = f"leaves {sorted(self.leaves)} and layouts {sorted(self.layouts)}"
            msg = f"{names} must have the same names, at least one"
            raise ValueError(msg)
        for name, x in self.leaves.items():
            rows = self.layouts[name].rows
            if x.ndim == 0 or x.shape[0] != rows:
                shape = f"leaf {name!r} has shape {tuple(x.shape)}"
                msg = f"{shape}, but its layout has {rows} rows: the first axis must be rows"
                raise ValueError(msg)
        counts = {name: layout.samples for name, layout in self.layouts.items()}
        if len(set(counts.values())) > 1:
            msg = f"all leaves must have the same number of samples, got {counts}"
            raise ValueError(msg)
        self._check_sides()
        if not len(self.ids):
            object.__setattr__(self, "ids", torch.arange(self.samples, device=self.device))
        if self.ids.shape != (self.samples,):
            msg = f"ids has shape {tuple(self.ids.shape)}, but there are {self.samples} samples"
            raise ValueError(msg)

    def _check_sides(self) -> None:
        for name, value in (*self.condition.items(), *self.present.items()):
            if value.shape[:1] != (self.samples,):
                has = f"condition {name!r} has shape {tuple(value.shape)}"
                msg = f"{has}, but there are {self.samples} samples: give one row per sample"
                raise ValueError(msg)
        unknown = self.present.keys() - self.condition.keys()
        if unknown:
            msg = f"present names {sorted(unknown)}, but conditions {sorted(self.condition)}"
            raise ValueError(msg)
        for name, mask in self.given.items():
            if name not in self.leaves:
                msg = f"given names the leaf {name!r}, but the leaves are {sorted(self.leaves)}"
                raise ValueError(msg)
            shape = self.leaves[name].shape
            if mask.dtype != torch.bool or mask.shape not in (shape[:1], shape):
                must = f"must be bool of shape {tuple(shape[:1])} or {tuple(shape)}"
                msg = f"given mask of {name!r} {must}, got {mask.dtype} {tuple(mask.shape)}"
                raise ValueError(msg)

    @classmethod
    def of(cls, leaves: Tensor | Mapping[str, Tensor]) -> Batch:
        """A batch of regular leaves (one row per sample); a bare tensor becomes the leaf `x`."""
        named = {"x": leaves} if isinstance(leaves, Tensor) else dict(leaves)
        layouts = {name: Layout.regular(x.shape[0], x.device) for name, x in named.items()}
        return cls(named, layouts)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return next(iter(self.layouts.values())).samples

    @property
    def device(self) -> torch.device:
        """The device of the leaves."""
        return next(iter(self.leaves.values())).device

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of one leaf."""
        return self.leaves[name]

    def only(self, name: str) -> Batch:
        """The one-leaf batch of that name, which the process of the leaf is bound to.

        Raises:
            ValueError: If there is no such leaf.
        """
        if name not in self.leaves:
            msg = f"the process has a leaf {name!r}, but the batch has {sorted(self.leaves)}"
            raise ValueError(msg)
        given = {name: self.given[name]} if name in self.given else {}
        leaves, layouts = {name: self.leaves[name]}, {name: self.layouts[name]}
        said = {"condition": self.condition, "present": self.present}
        return Batch(leaves, layouts, **said, given=given, ids=self.ids, part=self.part)

    def with_leaves(self, leaves: Mapping[str, Tensor]) -> Batch:
        """The same samples with other leaf tensors of the same names and rows.

        Samplers call this at every step, so only names and rows are looked at.

        Raises:
            ValueError: If they differ.
        """
        rows = {name: x.shape[0] for name, x in leaves.items()}
        known = {name: x.shape[0] for name, x in self.leaves.items()}
        if rows != known:
            msg = f"the leaves have rows {rows}, the batch has {known}: names and rows must agree"
            raise ValueError(msg)
        other = object.__new__(Batch)
        other.__dict__.update(self.__dict__, leaves=dict(leaves))
        return other

    def with_present(self, present: Mapping[str, Tensor]) -> Batch:
        """The same batch with these presence masks of its conditions."""
        return replace(self, present=dict(present))

    def with_condition(self, condition: Mapping[str, Tensor]) -> Batch:
        """The same batch with these conditions, present for all samples."""
        return replace(self, condition=dict(condition), present={})

    def with_given(self, given: Mapping[str, Tensor]) -> Batch:
        """The same batch with these entries held."""
        return replace(self, given=dict(given))

    def select(self, samples: Sequence[int] | Tensor) -> Batch:
        """The batch of these samples, in this order; it is a whole of its own.

        Raises:
            ValueError: If a leaf has edge rows over node rows that are not known.
        """
        if any(x.nodes is not None and x.over is None for x in self.layouts.values()):
            msg = "edge rows can be selected only if the layout says which node rows they join"
            raise ValueError(f"{msg}: make it with `over`")
        index = torch.as_tensor(samples, device=self.device)
        rows = {name: layout.rows_of(index) for name, layout in self.layouts.items()}
        return Batch(
            {name: x[rows[name]] for name, x in self.leaves.items()},
            {name: layout.select(index) for name, layout in self.layouts.items()},
            {name: value[index] for name, value in self.condition.items()},
            {name: value[index] for name, value in self.present.items()},
            {name: mask[rows[name]] for name, mask in self.given.items()},
            self.ids[index],
        )

    def alike(self, other: Batch) -> tuple[Tensor, Tensor]:
        """All pairs of a sample of this batch and one of another with equal numbers of rows.

        Arguments:
            other: A batch of the same leaves.

        Returns:
            Their numbers in this batch and in the other one, two `(pairs,)`, sorted by the other.
        """
        names = sorted(other.layouts)
        ours = torch.tensor([self.layouts[name].counts for name in names])
        theirs = torch.tensor([other.layouts[name].counts for name in names])
        match = (ours[:, None, :] == theirs[:, :, None]).all(0)
        sample, record = torch.nonzero(match).unbind(1)
        return record, sample

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            {name: x.to(device) for name, x in self.leaves.items()},
            {name: layout.to(device) for name, layout in self.layouts.items()},
            {name: value.to(device) for name, value in self.condition.items()},
            {name: value.to(device) for name, value in self.present.items()},
            {name: mask.to(device) for name, mask in self.given.items()},
            self.ids.to(device),
            self.part,
        )
