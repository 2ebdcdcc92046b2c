r"""Symmetric positive definite matrices, with the affine-invariant and the log-Euclidean metric.

A point X is an n x n matrix with Cholesky factor L. Symmetric matrices W have the coordinates w:
the diagonal, then sqrt(2) times the entries above it, row by row; so |w| is the Frobenius norm.

*Affine-invariant.* The metric at X is tr(X^{-1} U X^{-1} V). The columns of L are an orthonormal
frame: w stands for the tangent vector L W L^T, and

    exp(X, w) = L expm(W) L^T,
    log(X, Y) = the coordinates of logm(K K^T),    K = L_X^{-1} L_Y,
    transport of W from X to Y = O^T W O,    O = (K K^T)^{-1/2} K,
    log |det d exp_X(w)| = sum_{i<j} log(sinh(d_ij / 2) / (d_ij / 2)),

where d_ij is the difference of the eigenvalues i and j of W: O is the orthogonal factor of K, and
the curvature is that of GL(n) / O(n), not positive. X -> A X A^T is an isometry for invertible A.

*Log-Euclidean.* The distance is that of the matrix logarithms; w stands for a difference of them,
the space is flat, and conjugation by orthogonal matrices is an isometry.

A matrix of dtype rounding eps tells an eigenvalue from zero down to about n eps times the largest,
so distances are right to eps times the condition numbers of the two points.

References:
    A Riemannian Framework for Tensor Computing (Pennec, Fillard and Ayache, 2006).
    https://doi.org/10.1007/s11263-005-3222-z
    Geometric Means in a Novel Vector Space Structure on Symmetric Positive-Definite Matrices
    (Arsigny et al., 2007). https://doi.org/10.1137/050637996
    Symmetric positive-definite matrices: from geometry to applications and visualization
    (Moakher and Batchelor, 2006), for the Jacobian. https://doi.org/10.1007/3-540-31272-2_17
"""

from __future__ import annotations

import math
from abc import ABC
from itertools import combinations
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from structdiff.spaces.base import Belonging, Framed, Isometry, check_points
from structdiff.spaces.decompositions import (
    cholesky,
    inward,
    outward,
    product,
    rebuild,
    solve,
    spectrum,
    symmetric,
    turned,
)
from structdiff.spaces.stretch import stretch
from structdiff.spaces.symmetric import exp_of, inverse_root_of, log_of

if TYPE_CHECKING:
    from structdiff.random import Randomness

__all__ = ["SPD", "LogEuclidean"]

_HALF = math.sqrt(0.5)


class _Covariances(Framed, ABC):
    """What does not depend on the metric."""

    injectivity = math.inf

    def __init__(self, n: int) -> None:
        if n < 1:
            msg = f"n is {n}, must be at least 1: give the number of rows of the matrices"
            raise ValueError(msg)
        self.point = (n, n)
        self.dimension = n * (n + 1) // 2
        self.tangent = (self.dimension,)

    @final
    def project(self, x: Tensor) -> Tensor:
        """The symmetric part, with eigenvalues of at least 8 n eps times the largest.

        The derivative is that of the symmetric part.
        """
        a = symmetric(inward(x))
        values, vectors = spectrum(a.detach())
        least = (8 * _rounding(x) * values.amax(0)).clamp(min=torch.finfo(x.dtype).tiny)
        return outward(a + rebuild((least - values).clamp(min=0), vectors))

    @final
    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The identity."""
        return torch.eye(self.point[0], dtype=dtype, device=device)

    @final
    def features(self, x: Tensor) -> Tensor:
        """The coordinates of the matrix logarithm."""
        return _coordinates(log_of(_root(x)))

    @final
    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Symmetric up to the tolerance times the largest entry, and positive definite.

        The smallest eigenvalue must be at least n eps times the largest: below, rounding decides.
        """
        check_points(self, x)
        wide = x.double()
        finite = wide.isfinite().all(1).all(1)
        wide = torch.where(finite[:, None, None], wide, self.origin(wide.dtype, wide.device))
        values = torch.linalg.eigvalsh((wide + wide.mT) / 2)
        least, bound = values[:, 0], _rounding(x) * values[:, -1].clamp(min=0)
        size = wide.abs().amax((1, 2)).clamp(min=torch.finfo(wide.dtype).tiny)
        skew = (wide - wide.mT).abs().amax((1, 2)) / size
        inside = finite & (skew <= tolerance) & (least > 0) & (least >= bound)
        if bool(inside.all()):
            return Belonging(inside, None)
        row = int((~inside).nonzero()[0, 0])
        if not finite[row]:
            reason = "entries that are not finite: leave the row out"
        elif skew[row] > tolerance:
            reason = (
                f"it differs from its transpose by {float(skew[row]):.3g} of its largest entry, "
                f"at most {tolerance:g} is allowed: take (x + x.mT) / 2"
            )
        else:
            reason = (
                f"its smallest eigenvalue is {float(least[row]):.3g}, must be positive and at "
                f"least {float(bound[row]):.3g} (n eps times the largest): add a multiple of the "
                "identity or use `project`"
            )
        return Belonging(inside, f"row {row}: {reason}")

    @final
    def _matrix(self, v: Tensor) -> Tensor:
        """The symmetric matrix with coordinates `v`, rows last."""
        n = self.point[0]
        parts = v.t().contiguous()
        diagonal, above = parts[:n].unbind(0), (_HALF * parts[n:]).unbind(0)
        place = {pair: k for k, pair in enumerate(combinations(range(n), 2))}
        return torch.stack(
            [
                diagonal[i] if i == j else above[place[min(i, j), max(i, j)]]
                for i in range(n)
                for j in range(n)
            ]
        ).reshape(n, n, -1)


class SPD(_Covariances):
    """n x n covariance matrices with the affine-invariant metric.

    Arguments:
        n: Size of the matrices, at least 1.

    Raises:
        ValueError: If the size is not positive.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space = SPD(2)
        >>> x = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
        >>> space.log(torch.eye(2)[None], x)
        tensor([[0.5493, 0.5493, 0.7768]])
        >>> space.distance(x, 4 * x)
        tensor([1.9605])
    """

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """L expm(W) L^T."""
        half = product(_root(x), exp_of(self._matrix(v / 2)))
        return outward(symmetric(product(half, half.transpose(0, 1))))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The coordinates of logm(K K^T)."""
        return _coordinates(log_of(solve(_root(x), _root(y))))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """O^T W O."""
        ratio = solve(_root(x), _root(y))
        turn = product(inverse_root_of(ratio), ratio)
        # One step of Newton's on the orthogonal group mends the rounding of the inverse root.
        gram = product(turn.transpose(0, 1), turn)
        turn = 1.5 * turn - 0.5 * product(turn, gram)
        return _coordinates(turned(turn.transpose(0, 1), self._matrix(v)))

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """Sum over pairs of eigenvalues of W of log(sinh(d / 2) / (d / 2))."""
        return stretch(self._matrix(v))

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """X -> A X A^T with a random invertible A."""
        turn = _orthogonal(self.point[0], random, dtype, device)
        strain = random.normal((1, self.dimension), dtype, device) / 2
        a = product(turn, exp_of(self._matrix(strain)))
        return lambda x: outward(symmetric(turned(a, inward(x))))


class LogEuclidean(_Covariances):
    """n x n covariance matrices with the log-Euclidean metric.

    Arguments:
        n: Size of the matrices, at least 1.

    Raises:
        ValueError: If the size is not positive.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space = LogEuclidean(2)
        >>> x, y = torch.eye(2)[None], torch.diag(torch.tensor([1.0, 4.0]))[None]
        >>> space.exp(x, space.log(x, y) / 2)
        tensor([[[1., 0.],
                 [0., 2.]]])
    """

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """expm(logm(X) + W)."""
        return outward(exp_of(log_of(_root(x)) + self._matrix(v)))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The coordinates of logm(Y) - logm(X)."""
        return _coordinates(log_of(_root(y)) - log_of(_root(x)))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """`v` itself: the space is flat."""
        del x, y
        return v

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """Zero."""
        del x
        return v.new_zeros(len(v))

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """X -> Q X Q^T with a random orthogonal Q."""
        turn = _orthogonal(self.point[0], random, dtype, device)
        return lambda x: outward(symmetric(turned(turn, inward(x))))


def _rounding(x: Tensor) -> float:
    """n eps: how far from zero, relative to the largest, an eigenvalue must be to be told."""
    return x.shape[1] * torch.finfo(x.dtype).eps


def _root(x: Tensor) -> Tensor:
    """The Cholesky factor, rows last."""
    return cholesky(symmetric(inward(x)))


def _coordinates(w: Tensor) -> Tensor:
    """The coordinates of symmetric matrices with the rows last."""
    n = len(w)
    diagonal = [w[i, i] for i in range(n)]
    above = [w[i, j] / _HALF for i, j in combinations(range(n), 2)]
    return torch.stack(diagonal + above).t().contiguous()


def _orthogonal(
    n: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """A random orthogonal matrix, `(n, n, 1)`."""
    turn: Tensor = torch.linalg.qr(random.normal((n, n), dtype, device))[0]
    return turn[..., None]
