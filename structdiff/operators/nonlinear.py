r"""Measurements that are not linear.

References:
    Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023),
    section 4.1 (phase retrieval). https://arxiv.org/abs/2209.14687
    JPEG Artifact Correction using Denoising Diffusion Restoration Models (Kawar et al., 2022),
    section 3 (quantised coefficients). https://arxiv.org/abs/2209.11888
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.operators.base import Factored, Invertible, Measurement

__all__ = ["PhaseMagnitude", "Quadratic", "Quantised"]


class PhaseMagnitude(Measurement):
    """Absolute values of the orthonormal Fourier transform of real rows, padded with zeros.

    Rows that are shifted, mirrored (both only as far as the padding lets them) or have the other
    sign are measured alike. The gradient at a coefficient that is 0 is 0.

    Arguments:
        event: Shape of a row.
        padding: Zeros behind the end of each axis, at least 0.

    Raises:
        ValueError: If the padding is negative.

    Example:
        >>> PhaseMagnitude((4,))(torch.tensor([[0.0, -2.0, 0.0, 0.0]]))
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, event: Sequence[int], padding: int = 0) -> None:
        if padding < 0:
            msg = f"padding must be at least 0 entries, got {padding}"
            raise ValueError(msg)
        super().__init__(event, [side + padding for side in event])

    def forward(self, x: Tensor) -> Tensor:
        """|F x|."""
        dim = tuple(range(1, x.ndim))
        found: Tensor = torch.fft.fftn(x, s=self.measured, dim=dim, norm="ortho")
        return found.abs()


class Quadratic(Measurement):
    """Quadratic forms of a row, y_i = x^T Q_i x.

    Arguments:
        forms: `(measured, entries, entries)`.

    Raises:
        ValueError: If the forms are not square.

    Example:
        >>> Quadratic(torch.eye(2)[None])(torch.tensor([[3.0, 4.0]]))
        tensor([[25.]])
    """

    forms: Tensor

    def __init__(self, forms: Tensor) -> None:
        if forms.ndim != 3 or forms.shape[1] != forms.shape[2]:
            msg = f"forms must be (measured, entries, entries), got {tuple(forms.shape)}"
            raise ValueError(msg)
        super().__init__(forms.shape[2:], forms.shape[:1])
        self.register_buffer("forms", forms)

    def forward(self, x: Tensor) -> Tensor:
        """The values of the forms."""
        return torch.einsum("ri,mij,rj->rm", x, self.forms.to(x), x)


class Quantised(Invertible):
    """Coefficients in an orthonormal basis, rounded to multiples of a width: lossy compression.

    y counts the widths, y = round(V^T x / width), and A^+ y = V (width y).

    Arguments:
        width: Of the rounding, positive, one or one for each coefficient.
        basis: Operator whose singular basis V is used.

    Raises:
        ValueError: If a width is not positive.

    Example:
        >>> from structdiff.operators import Mask
        >>> Quantised(0.5, Mask(torch.ones(3, dtype=torch.bool)))(torch.tensor([[0.1, 0.4, 1.6]]))
        tensor([[0., 1., 3.]])
    """

    width: Tensor

    def __init__(self, width: float | Tensor, basis: Factored) -> None:
        widths = torch.as_tensor(width, dtype=torch.float64)
        if not bool((widths > 0).all()):
            msg = f"width must be positive, got {width}"
            raise ValueError(msg)
        super().__init__(basis.event, basis.singular.shape)
        self.basis = basis
        self.register_buffer("width", widths)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of widths."""
        return torch.round(self.basis.analysis(x) / self.width.to(x))

    def pinv(self, y: Tensor) -> Tensor:
        """The middle of the interval."""
        return self.basis.synthesis(y * self.width.to(y))
