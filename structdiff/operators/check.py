r"""Whether an operator keeps what it promises: adjoint, singular basis, pseudo-inverse.

The adjoint by the dot product test, <H x, y> = <x, H^T y> for random x and y, which a wrong one
fails with probability 1.

References:
    Earth Soundings Analysis: Processing versus Inversion (Claerbout, 1992), chapter 5 (the dot
    product test). http://sepwww.stanford.edu/sep/prof/pvi.pdf
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.operators.base import Factored, Invertible, LinearOperator, Measurement
from structdiff.random import Generator

__all__ = ["check_operator"]


class _Probe:
    """Random rows to try an operator on."""

    def __init__(self, operator: Measurement, rows: int, seed: int, like: Tensor) -> None:
        self.rows, self.random, self.like = rows, Generator(seed), like
        self.title, self.tolerance = type(operator).__name__, torch.finfo(like.dtype).eps ** 0.5

    def draw(self, shape: Sequence[int]) -> Tensor:
        return self.random.normal((self.rows, *shape), self.like.dtype, self.like.device)

    def shaped(self, found: Tensor, shape: Sequence[int], what: str) -> None:
        """Refuse another shape."""
        must = (self.rows, *shape)
        if found.shape != must:
            msg = f"{what} of {self.title} must have shape {must}, got {tuple(found.shape)}"
            raise ValueError(msg)

    def same(
        self, found: Tensor, expected: Tensor, what: str, mend: str, size: Tensor | None = None
    ) -> None:
        """Refuse what differs by more than the root of the precision, of a size."""
        size = expected.abs().max() if size is None else size
        gap = (found - expected).abs().max()
        if not bool(gap <= self.tolerance * size):
            differs = f"is off by {float(gap):.2g} where values are as large as {float(size):.2g}"
            msg = f"{what} of {self.title} {differs}: {mend}"
            raise ValueError(msg)


def check_operator(
    operator: Measurement, *, rows: int = 4, seed: int = 0, like: Tensor | None = None
) -> None:
    """Refuse a measurement that does not keep its contract.

    Arguments:
        operator: Any measurement; more is looked at the more it promises.
        rows: Number of random rows.
        seed: Of the random rows.
        like: Gives dtype and device of the rows; float64 on the CPU by default.

    Raises:
        ValueError: If a shape is wrong, it is not linear, the adjoint fails the dot product test,
            the singular basis is not one, or A(A^+(A(x))) is not A(x).

    Example:
        >>> from structdiff.operators import Blur
        >>> class Wrong(LinearOperator):
        ...     def forward(self, x):
        ...         return torch.cumsum(x, 1)
        ...     def adjoint(self, y):
        ...         return torch.cumsum(y, 1)
        >>> check_operator(Wrong((3,), (3,)))
        Traceback (most recent call last):
        ValueError: the adjoint of Wrong is off by ...: <H x, y> must be <x, H^T y>
    """
    start = torch.zeros((), dtype=torch.float64) if like is None else like
    probe = _Probe(operator, rows, seed, start)
    x = probe.draw(operator.event)
    y = operator(x)
    probe.shaped(y, operator.measured, "the output")
    if isinstance(operator, LinearOperator):
        check_adjoint(operator, probe)
    if isinstance(operator, Factored):
        check_basis(operator, probe)
    if isinstance(operator, Invertible):
        x = operator.pinv(y)
        probe.shaped(x, operator.event, "the pseudo-inverse")
        again = operator(x)
        probe.same(again, y, "A(A^+(A(x)))", "it must be A(x)")


def check_adjoint(operator: LinearOperator, probe: _Probe) -> None:
    """Linearity and the dot product test."""
    x, other = probe.draw(operator.event), probe.draw(operator.event)
    both, apart = operator(2 * x + other), 2 * operator(x) + operator(other)
    probe.same(both, apart, "the value at 2 x + x'", "a linear operator has 2 H x + H x' there")
    y = probe.draw(operator.measured)
    back = operator.adjoint(y)
    probe.shaped(back, operator.event, "the adjoint")
    terms = (operator(x) * y).flatten(1)
    forth, size = terms.sum(1), terms.abs().sum(1).max()
    found = (x * back).flatten(1).sum(1)
    probe.same(found, forth, "the adjoint", "<H x, y> must be <x, H^T y>", size)


def check_basis(operator: Factored, probe: _Probe) -> None:
    """V orthonormal, and V^T H^T H = S^2 V^T."""
    x = probe.draw(operator.event)
    c = operator.analysis(x)
    probe.same(operator.synthesis(c), x, "V V^T x", "synthesis must undo analysis")
    length, other = c.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1)
    probe.same(length, other, "|V^T x|", "the basis must be orthonormal")
    found = operator.analysis(operator.adjoint(operator(x)))
    what, mend = "V^T H^T H x", "singular must have the roots of its factors on V^T x"
    probe.same(found, operator.singular.to(x) ** 2 * c, what, mend)
