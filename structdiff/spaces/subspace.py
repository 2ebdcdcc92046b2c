r"""Linear subspaces of R^n.

A Gaussian process lives in a linear subspace of the rows of a sample: all of it (`Whole`), the
records whose rows have zero mean (`ZeroCentre`), where translation is divided out, or those whose
rows lie in the span of some vectors (`Span`). A standard normal of a subspace is the projection of
one of the whole space; its density has the dimension of the subspace, e.g. 3 (N - 1) for N atoms.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 3.1.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from structdiff.layout import Layout

__all__ = ["Span", "Subspace", "Whole", "ZeroCentre"]


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


class Span(Subspace):
    """Records whose rows are in the span of some vectors; records of its complement are another's.

    A row with given entries is not projected: its other entries are free.

    Arguments:
        vectors: Vectors of a row, `(number, *event)`, linearly independent.

    Raises:
        ValueError: If they are not independent.

    Example:
        >>> from structdiff.layout import Layout
        >>> space = Span(torch.tensor([[3.0, 4.0]]))
        >>> space.project(torch.tensor([[5.0, 0.0]]), Layout.regular(1), None)
        tensor([[1.8000, 2.4000]])
    """

    basis: Tensor

    def __init__(self, vectors: Tensor) -> None:
        wide = vectors.double().flatten(1)
        basis, triangle = torch.linalg.qr(wide.mT)
        size = triangle.diagonal().abs()
        if len(wide) > wide.shape[1] or not bool((size > 1e-9 * wide.norm(dim=1)).all()):
            msg = f"vectors must be linearly independent, got {tuple(vectors.shape)} that are not"
            raise ValueError(msg)
        self.basis = basis

    def complement(self, event: Sequence[int]) -> Span:
        """The span of all rows orthogonal to this one, for rows of a shape."""
        whole = torch.linalg.qr(self.basis, mode="complete").Q
        return Span(whole[:, self.basis.shape[1] :].mT.reshape(-1, *event))

    def project(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """B B^T x in each row."""
        del layout
        basis = self.basis.to(x)
        projected: Tensor = ((x.reshape(len(x), len(basis)) @ basis) @ basis.mT).reshape(x.shape)
        if held is None:
            return projected
        return torch.where(held.reshape(-1, *(1,) * (x.ndim - 1)), x, projected)

    def dimensions(self, x: Tensor, layout: Layout, held: Tensor | None) -> Tensor:
        """The number of vectors; none for a held row."""
        del layout
        full = x.new_full(x.shape[:1], float(self.basis.shape[1]))
        return full if held is None else full * ~held

    def place(
        self, known: Tensor, x: Tensor, layout: Layout, held: Tensor, fixed: Tensor | None
    ) -> Tensor:
        """As they are.

        Raises:
            ValueError: If single entries of a row are held.
        """
        del x, layout, fixed
        if held.ndim > 1:
            shape = f"held must be (rows,) in the span of vectors, got {tuple(held.shape)}"
            msg = f"{shape}: hold whole rows"
            raise ValueError(msg)
        return known
