r"""Orthogonal bases in which noise levels differ: cosines, Haar wavelets, any orthogonal matrix.

In coordinates u = B^T x white noise is white noise, whatever the orthogonal B; a schedule with
levels by entry of u then fades x_0 in its own way along each column of B: blurring in the basis
of cosines (the eigenvectors of the heat equation with insulated ends), coarse to fine in that of
wavelets. Neither of the two is ever a matrix.

References:
    Blurring Diffusion Models (Hoogeboom and Salimans, 2023). https://arxiv.org/abs/2209.05557
    A Fast Cosine Transform in One and Two Dimensions (Makhoul, 1980).
    A Theory for Multiresolution Signal Decomposition (Mallat, 1989).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.processes.covariance import Factor, axis_of, axis_size

__all__ = ["Basis", "CosineBasis", "HaarBasis", "Rotated"]


class Basis(Factor):
    """An orthogonal map of the entries of a row."""

    mixes_entries = True

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """B^T x, the coordinates of x."""

    @abstractmethod
    def synthesise(self, u: Tensor) -> Tensor:
        """B u."""

    def bind(self, batch: Batch) -> Self:
        """Itself: it is the same for all rows."""
        self.refuse_entries(batch)
        return self

    @final
    def multiply(self, u: Tensor) -> Tensor:
        """B u."""
        return self.synthesise(u)

    @final
    def solve(self, x: Tensor) -> Tensor:
        """B^T x."""
        return self.analyse(x)

    @final
    def multiply_transpose(self, x: Tensor) -> Tensor:
        """B^T x."""
        return self.analyse(x)

    @final
    def solve_transpose(self, u: Tensor) -> Tensor:
        """B u."""
        return self.synthesise(u)

    @final
    def log_det(self, x: Tensor) -> Tensor:
        """Zero."""
        return x.new_zeros(())


class Rotated(Basis):
    """Any orthogonal matrix on the entries of a row: principal components, graph Fourier modes.

    Arguments:
        matrix: B, `(K, K)`; its columns are the basis.

    Raises:
        ValueError: If the matrix is not orthogonal.

    Example:
        >>> turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
        >>> Rotated(turn).analyse(torch.tensor([[0.6, 0.8]]))
        tensor([[1., 0.]])
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            msg = f"matrix must be (K, K), got {tuple(matrix.shape)}"
            raise ValueError(msg)
        wide = matrix.double()
        gap = float((wide.mT @ wide - torch.eye(len(wide), dtype=wide.dtype)).abs().max())
        if not gap < 1e-5:
            msg = f"matrix must be orthogonal, but B^T B differs from the identity by {gap:.3g}"
            raise ValueError(msg)
        self.register_buffer("matrix", matrix)

    def check(self, event: Sequence[int]) -> None:
        """Refuse rows of another number of entries.

        Raises:
            ValueError: If the numbers differ.
        """
        if torch.Size(event).numel() != len(self.matrix):
            size = len(self.matrix)
            msg = f"matrix has {size} rows, but a row {tuple(event)} has other many entries"
            raise ValueError(msg)

    def analyse(self, x: Tensor) -> Tensor:
        """B^T x."""
        return (x.reshape(len(x), len(self.matrix)) @ self.matrix.to(x)).reshape(x.shape)

    def synthesise(self, u: Tensor) -> Tensor:
        """B u."""
        return (u.reshape(len(u), len(self.matrix)) @ self.matrix.to(u).mT).reshape(u.shape)


class CosineBasis(Basis):
    """Cosines along some axes, by the fast Fourier transform: the orthonormal DCT-II.

    Arguments:
        axes: Axes of a row.

    Example:
        >>> CosineBasis().analyse(torch.ones(1, 4))
        tensor([[2., 0., 0., 0.]])
    """

    def __init__(self, axes: Sequence[int] = (-1,)) -> None:
        super().__init__()
        self.axes = tuple(axes)

    def check(self, event: Sequence[int]) -> None:
        """Refuse an event without these axes."""
        for axis in self.axes:
            axis_size(event, axis)

    def frequencies(self, event: Sequence[int]) -> Tensor:
        """Eigenvalues of minus the Laplacian, sum over axes of (pi k / K)^2, float64.

        Arguments:
            event: Shape of a row.
        """
        total = torch.zeros(tuple(event), dtype=torch.float64)
        for axis in self.axes:
            size = axis_size(event, axis)
            squares = (math.pi * torch.arange(size, dtype=torch.float64) / size) ** 2
            along = [1] * len(event)
            along[axis] = size
            total = total + squares.reshape(along)
        return total

    def analyse(self, x: Tensor) -> Tensor:
        """The coefficients of cosines."""
        for axis in self.axes:
            place = axis_of(x, axis)
            x = _cosine(x.movedim(place, -1)).movedim(-1, place)
        return x

    def synthesise(self, u: Tensor) -> Tensor:
        """The sum of cosines."""
        for axis in self.axes:
            place = axis_of(u, axis)
            u = _inverse_cosine(u.movedim(place, -1)).movedim(-1, place)
        return u


def _twist(size: int, x: Tensor) -> Tensor:
    """sqrt(2 / K) e^{-i pi k / 2K}, at k = 0 divided by sqrt(2), for k up to K / 2."""
    place = torch.arange(size // 2 + 1, device=x.device, dtype=x.dtype)
    length = torch.full_like(place, math.sqrt(2 / size))
    length[0] = math.sqrt(1 / size)
    return torch.polar(length, -math.pi / (2 * size) * place)


def _cosine(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of the last axis.

    With v the even places forwards and the odd ones backwards and w_k = twist_k FFT(v)_k, the
    coefficients are u_k = Re w_k and u_{K - k} = -Im w_k.
    """
    size = x.shape[-1]
    if not x.numel():  # the transform refuses batches without rows
        return x
    shuffled = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
    turned = torch.fft.rfft(shuffled) * _twist(size, x)
    return torch.cat([turned.real, -turned.imag[..., 1 : (size + 1) // 2].flip(-1)], -1)


def _inverse_cosine(u: Tensor) -> Tensor:
    """The orthonormal DCT-III of the last axis, the inverse of `_cosine`."""
    size = u.shape[-1]
    if not u.numel():
        return u
    ahead = u[..., : size // 2 + 1]
    back = torch.cat([torch.zeros_like(u[..., :1]), u.flip(-1)[..., : size // 2]], -1)
    shuffled = torch.fft.irfft(torch.complex(ahead, -back) / _twist(size, u), n=size)
    x = torch.empty_like(u)
    half = (size + 1) // 2
    x[..., ::2] = shuffled[..., :half]
    x[..., 1::2] = shuffled[..., half:].flip(-1)
    return x


class HaarBasis(Basis):
    """Haar wavelets along some axes: means of blocks first, then what each halving adds.

    After l levels the leading K / 2^l entries along each axis are the means over blocks of 2^l,
    times 2^{l/2} an axis.

    Arguments:
        levels: How often each axis is halved, at least 1.
        axes: Axes of a row.

    Raises:
        ValueError: If levels is below 1.

    Example:
        >>> HaarBasis(2).analyse(torch.tensor([[1.0, 1.0, 3.0, 3.0]]))
        tensor([[ 4.,  -2.,  0.,  0.]])
    """

    def __init__(self, levels: int, axes: Sequence[int] = (-1,)) -> None:
        super().__init__()
        if levels < 1:
            msg = f"levels must be at least 1, got {levels}"
            raise ValueError(msg)
        self.levels, self.axes = levels, tuple(axes)

    def check(self, event: Sequence[int]) -> None:
        """Refuse axes that cannot be halved so often.

        Raises:
            ValueError: If a length is no multiple of 2^levels.
        """
        for axis in self.axes:
            size = axis_size(event, axis)
            if size % 2**self.levels:
                has = f"axis {axis} of a row {tuple(event)} has {size} entries"
                msg = f"{has}, which must be a multiple of 2^levels = {2**self.levels}"
                raise ValueError(msg)

    def depth(self, event: Sequence[int]) -> Tensor:
        """The level of each entry: `levels` for the coarse block, 0 for the finest details.

        Entries of depth at least l span the means over blocks of 2^l.

        Arguments:
            event: Shape of a row.
        """
        depth = torch.zeros(tuple(event), dtype=torch.long)
        for level in range(self.levels):
            depth[self._leading(event, level + 1)] = level + 1
        return depth

    def _leading(self, event: Sequence[int], level: int) -> tuple[slice, ...]:
        """The block of means after so many levels, in a row."""
        block = [slice(None)] * len(event)
        for axis in self.axes:
            block[axis] = slice(tuple(event)[axis] >> level)
        return tuple(block)

    def analyse(self, x: Tensor) -> Tensor:
        """Halve each axis, then the block of means again."""
        u = x.clone()
        for level in range(self.levels):
            block = (slice(None), *self._leading(x.shape[1:], level))
            part = u[block]
            for axis in self.axes:
                part = _halve(part, axis_of(x, axis))
            u[block] = part
        return u

    def synthesise(self, u: Tensor) -> Tensor:
        """Join the halves, from the coarsest level on."""
        x = u.clone()
        for level in reversed(range(self.levels)):
            block = (slice(None), *self._leading(u.shape[1:], level))
            part = x[block]
            for axis in self.axes:
                part = _join(part, axis_of(u, axis))
            x[block] = part
        return x


def _halve(x: Tensor, place: int) -> Tensor:
    """Sums and differences of neighbours over sqrt(2), one after the other."""
    pairs = x.reshape(*x.shape[:place], x.shape[place] // 2, 2, *x.shape[place + 1 :])
    first, second = pairs.select(place + 1, 0), pairs.select(place + 1, 1)
    return torch.cat([first + second, first - second], place) / math.sqrt(2)


def _join(u: Tensor, place: int) -> Tensor:
    """Neighbours from their sums and differences."""
    sums, differences = u.chunk(2, place)
    pairs = torch.stack([sums + differences, sums - differences], place + 1) / math.sqrt(2)
    return pairs.flatten(place, place + 1)
