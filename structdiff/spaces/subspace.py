r"""Linear subspaces of R^n.

A Gaussian process lives in a linear subspace of the rows of a sample: all of it (`Whole`), or
the records whose rows have zero mean (`ZeroCentre`), where translation is divided out. A standard
normal of a subspace is the projection of one of the whole space; its density has the dimension of
the subspace, e.g. 3 (N - 1) for N atoms.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 3.1.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from structdiff.layout import Layout

__all__ = ["Subspace", "Whole", "ZeroCentre"]


class Subspace(ABC):
    """A linear subspace of the rows of each sample."""

    @abstractmethod
    def project(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """Orthogonal projection of `x`, `(rows, *event)`.

        Arguments:
            x: Any vector.
            layout: Which sample each row belongs to.
            held: Rows that are held at known values, `(rows,)`, or None. They fix the frame.
        """

    @abstractmethod
    def dimensions(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """Each row's share of the dimension of its sample's subspace, `(rows,)`."""

    @abstractmethod
    def place(
        self, known: Tensor, x: Tensor, layout: Layout, held: Tensor, fixed: Tensor | None
    ) -> Tensor:
        """Known rows in the frame of x, `(rows, *event)`; only held rows of the result matter.

        `held` is `(rows,)`, or `(rows, *event)` where the space has no frame; `fixed` are rows,
        `(rows,)`, that fix the frame already, or None.
        """


class Whole(Subspace):
    """All of R^n."""

    def project(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """The identity."""
        del layout, held
        return x

    def dimensions(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """The number of entries of a row; none for a held row."""
        del layout
        full = x.new_full(x.shape[:1], float(x[0].numel() if len(x) else 0))
        return full if held is None else full * ~held

    def place(
        self, known: Tensor, x: Tensor, layout: Layout, held: Tensor, fixed: Tensor | None
    ) -> Tensor:
        """As they are: there is one frame."""
        del x, layout, held, fixed
        return known


class ZeroCentre(Subspace):
    """Records whose rows have zero mean in each sample.

    Where rows of a sample are held they fix the frame: then its other rows are free, and
    positions are relative to the held ones.
    """

    def project(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """Subtract each sample's mean."""
        centre = layout.mean(x)
        if held is not None:
            anchored = layout.sum(held.to(x.dtype)) > 0
            centre = centre * ~anchored.reshape(-1, *(1,) * (x.ndim - 1))
        return x - layout.spread(centre)

    def dimensions(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """`(N - 1) / N` of the entries of a row; all of them for a free row beside held ones."""
        full = Whole().dimensions(x, layout, held)
        size = layout.spread(layout.size.to(x.dtype))
        share = (size - 1) / size
        if held is not None:
            anchored = layout.spread(layout.sum(held.to(x.dtype))) > 0
            share = torch.where(anchored, torch.ones_like(share), share)
        return full * share

    def place(
        self, known: Tensor, x: Tensor, layout: Layout, held: Tensor, fixed: Tensor | None
    ) -> Tensor:
        """Move each sample's known rows so that their mean is that of the same rows of x.

        Where other rows fix the frame, known ones are in it and stay.

        Raises:
            ValueError: If single entries of a row are held.
        """
        if held.ndim > 1:
            shape = f"held must be (rows,) in the zero-centre subspace, got {tuple(held.shape)}"
            msg = f"{shape}: hold whole rows"
            raise ValueError(msg)
        mask = held.reshape(-1, *(1,) * (x.ndim - 1))
        count = layout.sum(mask.to(x.dtype)).clamp(min=1)
        # `where`, since what is not known may be anything.
        shift = layout.sum(torch.where(mask, x - known, 0.0)) / count
        if fixed is not None:
            anchored = layout.sum(fixed.to(x.dtype)) > 0
            shift = shift * ~anchored.reshape(-1, *(1,) * (x.ndim - 1))
        return known + layout.spread(shift)
