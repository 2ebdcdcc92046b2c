r"""The contract of a measurement: what is seen of a row of a leaf on R^n.

A `Measurement` maps rows `(rows, *event)` to `(rows, *measured)`, each row by itself. An
`Invertible` one also has a map A^+ back with

    A(A^+(A(x))) = A(x),

and a `LinearOperator` H its adjoint, <H x, y> = <x, H^T y>. A `Factored` operator knows its
singular values and the basis of its right singular vectors, H = U S V^T; V^T is `analysis`, V is
`synthesis`, and both act without a matrix where the basis is that of a fast transform. From them

    U^T y = S^-1 V^T H^T y,    H^+ y = V S^-1 U^T y    (1 / 0 counts as 0),

so that nobody has to write U.

References:
    Denoising Diffusion Restoration Models (Kawar et al., 2022), section 3.1.
    https://arxiv.org/abs/2201.11793
    JPEG Artifact Correction using Denoising Diffusion Restoration Models (Kawar et al., 2022),
    section 3 (the property of A^+). https://arxiv.org/abs/2209.11888
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["Composition", "Factored", "Invertible", "LinearOperator", "Measurement", "rounded"]


def rounded(singular: Tensor) -> Tensor:
    """Singular values with those that are rounding errors at zero."""
    least = torch.finfo(singular.dtype).eps * singular.max() * singular.numel()
    return torch.where(singular > least, singular, 0.0)


class Measurement(nn.Module, ABC):
    """What is seen of a row.

    Arguments:
        event: Shape of a row.
        measured: Shape of what is seen of it.
    """

    def __init__(self, event: Sequence[int], measured: Sequence[int]) -> None:
        super().__init__()
        self.event, self.measured = tuple(event), tuple(measured)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x), `(rows, *event)` to `(rows, *measured)`."""


class Invertible(Measurement, ABC):
    """A measurement with a map back to some row that is measured alike."""

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, `(rows, *measured)` to `(rows, *event)`."""


class LinearOperator(Measurement, ABC):
    """A linear measurement H; `outer @ inner` is a composition.

    `check_operator` tells whether the adjoint of an operator is right.
    """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """H^T y, `(rows, *measured)` to `(rows, *event)`."""

    @final
    def __matmul__(self, inner: LinearOperator) -> Composition:
        """First the inner operator, then this one."""
        return Composition(self, inner)


class Composition(LinearOperator):
    """One operator after another; `Matrix.of` finds its singular values.

    Arguments:
        outer: The second one.
        inner: The first one.

    Raises:
        ValueError: If the second does not take what the first gives.

    Example:
        >>> from structdiff.operators import Downsample, Mask
        >>> seen = Mask(torch.tensor([True, False])) @ Downsample((4,), 2)
        >>> seen(torch.tensor([[1.0, 3.0, 5.0, 9.0]]))
        tensor([[2.]])
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if outer.event != inner.measured:
            takes = f"outer takes rows of shape {outer.event}"
            msg = f"{takes}, but inner gives {inner.measured}: they must agree"
            raise ValueError(msg)
        super().__init__(inner.event, outer.measured)
        self.outer, self.inner = outer, inner

    def forward(self, x: Tensor) -> Tensor:
        """Outer of inner."""
        seen: Tensor = self.outer(self.inner(x))
        return seen

    def adjoint(self, y: Tensor) -> Tensor:
        """Inner's of outer's."""
        return self.inner.adjoint(self.outer.adjoint(y))


class Factored(LinearOperator, Invertible, ABC):
    """A linear operator with known singular values.

    The event has as many entries as there are coefficients, so that V is a square orthonormal
    matrix; coefficients that are not seen have the singular value 0.
    """

    @property
    @abstractmethod
    def singular(self) -> Tensor:
        """S, not negative and exactly 0 where nothing is seen, `(*spectrum)`."""

    @abstractmethod
    def analysis(self, x: Tensor) -> Tensor:
        """V^T x, `(rows, *event)` to `(rows, *spectrum)`."""

    @abstractmethod
    def synthesis(self, c: Tensor) -> Tensor:
        """V c, `(rows, *spectrum)` to `(rows, *event)`."""

    @final
    def values(self, like: Tensor) -> Tensor:
        """S in the dtype and on the device of `like`; 0 where its rounding hides what is seen."""
        return rounded(self.singular.to(like))

    @final
    def inverse(self, like: Tensor) -> Tensor:
        """1 / S, and 0 where S is, in the dtype and on the device of `like`."""
        values = self.values(like)
        return torch.where(values > 0, 1 / torch.where(values > 0, values, 1.0), 0.0)

    @final
    def seen(self, y: Tensor) -> Tensor:
        """S^+ U^T y, the coefficients of H^+ y, `(rows, *measured)` to `(rows, *spectrum)`.

        In float64: to divide by S twice squares what small ones cost.
        """
        found = self.analysis(self.adjoint(y.double()))
        return (self.inverse(y).double() ** 2 * found).to(y.dtype)

    @final
    def pinv(self, y: Tensor) -> Tensor:
        """V S^+ U^T y."""
        return self.synthesis(self.seen(y))
