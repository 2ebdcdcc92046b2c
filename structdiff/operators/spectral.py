r"""Operators that are diagonal in the Fourier basis: blurs, and some of the frequencies.

For real rows the basis is that of Hartley's transform,

    (T x)_k = N^{-1/2} sum_n x_n (cos + sin)(2 pi k.n / N) = N^{-1/2} (Re - Im) (F x)_k,

real, orthonormal and its own inverse. The frequencies k and -k together say what Fourier's
coefficient of k does. A circulant matrix H has H^T H diagonal in it, with |F h|^2, which is all
that a singular basis needs. Complex rows are two channels, real and imaginary part first.

References:
    Discrete Hartley Transform (Bracewell, 1983). https://doi.org/10.1364/JOSA.73.001832
    Solving Inverse Problems in Medical Imaging with Score-Based Generative Models (Song, Shen,
    Xing and Ermon, 2022), section 3.1 (masks in a transformed space).
    https://arxiv.org/abs/2111.08005
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.operators.base import Factored, rounded

__all__ = ["Blur", "FourierMask", "FrequencyMask", "hartley", "low_pass"]


def hartley(x: Tensor, axes: int) -> Tensor:
    """Hartley's transform along the last axes; it is its own inverse.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 4.0]])
        >>> torch.allclose(hartley(hartley(x, 1), 1), x)
        True
    """
    coefficients: Tensor = torch.fft.fftn(x, dim=tuple(range(-axes, 0)), norm="ortho")
    return coefficients.real - coefficients.imag


class Blur(Factored):
    """Periodic convolution with a kernel along the last axes: a circulant matrix.

    Arguments:
        kernel: The kernel, with its centre in the middle (of an even side, behind it).
        event: Shape of a row; its last axes are those of the kernel.

    Raises:
        ValueError: If the kernel has more axes than the event or is longer than it.

    Example:
        >>> blur = Blur(torch.tensor([0.25, 0.5, 0.25]), (4,))
        >>> blur(torch.tensor([[0.0, 4.0, 0.0, 0.0]])).round(decimals=6)
        tensor([[1., 2., 1., 0.]])
    """

    transfer: Tensor

    def __init__(self, kernel: Tensor, event: Sequence[int]) -> None:
        axes = kernel.ndim
        sides = tuple(event[len(event) - axes :])
        fits = 1 <= axes <= len(event)
        if not fits or any(a > b for a, b in zip(kernel.shape, sides, strict=True)):
            msg = f"kernel of shape {tuple(kernel.shape)} must fit the last axes of {tuple(event)}"
            raise ValueError(msg)
        super().__init__(event, event)
        self.axes = axes
        padded = torch.zeros(sides, dtype=torch.float64)
        padded[tuple(slice(side) for side in kernel.shape)] = kernel.to("cpu", torch.float64)
        centred = padded.roll([-(side // 2) for side in kernel.shape], tuple(range(axes)))
        self.register_buffer("transfer", torch.fft.fftn(centred))

    @property
    def singular(self) -> Tensor:
        """Absolute values of the kernel's Fourier transform."""
        return rounded(self.transfer.abs()).expand(self.event)

    def filtered(self, x: Tensor, transfer: Tensor) -> Tensor:
        """Multiplied in the Fourier basis."""
        dim = tuple(range(-self.axes, 0))
        factor = transfer.to(x.device, x.dtype.to_complex())
        found: Tensor = torch.fft.ifftn(torch.fft.fftn(x, dim=dim) * factor, dim=dim)
        return found.real

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        return self.filtered(x, self.transfer)

    def adjoint(self, y: Tensor) -> Tensor:
        """With the mirrored kernel."""
        return self.filtered(y, self.transfer.conj())

    def analysis(self, x: Tensor) -> Tensor:
        """Hartley's transform."""
        return hartley(x, self.axes)

    def synthesis(self, c: Tensor) -> Tensor:
        """Its inverse."""
        return hartley(c, self.axes)


def check_frequencies(keep: Tensor) -> None:
    """Refuse what is no mask."""
    if keep.dtype != torch.bool or not bool(keep.any()):
        msg = f"keep must be a bool mask of at least one frequency, got {keep.dtype}"
        raise ValueError(msg)


class FrequencyMask(Factored):
    """Some frequencies of real rows: Hartley's coefficients there, in a line.

    Arguments:
        keep: Which frequencies, in the order of `torch.fft.fftn`, bool, `(*grid)`; with k also
            -k is seen.
        lead: Axes of a row before those of the grid, measured one by one.

    Raises:
        ValueError: If the mask is not bool or keeps nothing.

    Example:
        >>> mean = FrequencyMask(torch.tensor([True, False, False, False]))
        >>> mean.pinv(mean(torch.tensor([[1.0, 2.0, 3.0, 6.0]])))
        tensor([[3., 3., 3., 3.]])
    """

    keep: Tensor
    places: Tensor

    def __init__(self, keep: Tensor, lead: Sequence[int] = ()) -> None:
        check_frequencies(keep)
        axes = tuple(range(keep.ndim))
        both = keep | keep.flip(axes).roll((1,) * keep.ndim, axes)
        super().__init__((*lead, *keep.shape), (*lead, int(both.sum())))
        self.axes = keep.ndim
        self.register_buffer("keep", both)
        self.register_buffer("places", both.flatten().nonzero().squeeze(1))

    @property
    def singular(self) -> Tensor:
        """1 where it is seen."""
        return self.keep.to(torch.float64).expand(self.event)

    def forward(self, x: Tensor) -> Tensor:
        """The kept coefficients."""
        return hartley(x, self.axes).flatten(-self.axes).index_select(-1, self.places)

    def adjoint(self, y: Tensor) -> Tensor:
        """The row that has these coefficients and no others."""
        flat = y.new_zeros(*y.shape[:-1], self.keep.numel()).index_copy(-1, self.places, y)
        return hartley(flat.reshape(len(y), *self.event), self.axes)

    def analysis(self, x: Tensor) -> Tensor:
        """Hartley's transform."""
        return hartley(x, self.axes)

    def synthesis(self, c: Tensor) -> Tensor:
        """Its inverse."""
        return hartley(c, self.axes)


def low_pass(grid: Sequence[int], cutoff: float, lead: Sequence[int] = ()) -> FrequencyMask:
    """The frequencies of at most `cutoff` cycles along the grid (Euclidean norm).

    Arguments:
        grid: Sides of the grid.
        cutoff: Largest number of cycles that is seen, at least 0.
        lead: Axes of a row before those of the grid.

    Raises:
        ValueError: If the cutoff is negative.

    Example:
        >>> low_pass((8,), 1).measured
        (3,)
    """
    if not cutoff >= 0:
        msg = f"cutoff must be at least 0 cycles, got {cutoff}"
        raise ValueError(msg)
    cycles = [torch.fft.fftfreq(side, dtype=torch.float64) * side for side in grid]
    squares = torch.stack([c.square() for c in torch.meshgrid(*cycles, indexing="ij")]).sum(0)
    return FrequencyMask(squares <= cutoff**2 * (1 + 1e-12), lead)


class FourierMask(Factored):
    """Some Fourier coefficients of complex rows, held as two channels, real part first.

    Arguments:
        keep: Which frequencies, in the order of `torch.fft.fftn`, bool, `(*grid)`.

    Raises:
        ValueError: If the mask is not bool or keeps nothing.

    Example:
        >>> mask = FourierMask(torch.tensor([True, False, False]))
        >>> mask(torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]]])).shape  # (rows, 2, kept)
        torch.Size([1, 2, 1])
    """

    keep: Tensor
    places: Tensor

    def __init__(self, keep: Tensor) -> None:
        check_frequencies(keep)
        super().__init__((2, *keep.shape), (2, int(keep.sum())))
        self.register_buffer("keep", keep)
        self.register_buffer("places", keep.flatten().nonzero().squeeze(1))

    @property
    def singular(self) -> Tensor:
        """1 where it is seen, for both channels."""
        return self.keep.to(torch.float64).expand(self.event)

    def forward(self, x: Tensor) -> Tensor:
        """The kept coefficients."""
        return self.analysis(x).flatten(2).index_select(2, self.places)

    def adjoint(self, y: Tensor) -> Tensor:
        """The row that has these coefficients and no others."""
        flat = y.new_zeros(len(y), 2, math.prod(self.event[1:])).index_copy(2, self.places, y)
        return self.synthesis(flat.reshape(len(y), *self.event))

    def analysis(self, x: Tensor) -> Tensor:
        """The orthonormal Fourier transform."""
        dim = tuple(range(1, len(self.event)))
        found = torch.fft.fftn(torch.complex(x[:, 0], x[:, 1]), dim=dim, norm="ortho")
        return torch.stack([found.real, found.imag], 1)

    def synthesis(self, c: Tensor) -> Tensor:
        """Its inverse."""
        dim = tuple(range(1, len(self.event)))
        found = torch.fft.ifftn(torch.complex(c[:, 0], c[:, 1]), dim=dim, norm="ortho")
        return torch.stack([found.real, found.imag], 1)
