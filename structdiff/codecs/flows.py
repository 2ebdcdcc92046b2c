r"""An invertible network of coupling layers: a codec that loses nothing and has a density.

The entries of x are cut in two halves, a and b. A layer keeps a and moves b by what a says,

    b' = b e^{s(a)} + t(a),    log |det| = sum s(a),

and the next layer exchanges their roles; the inverse is b = (b' - t(a)) e^{-s(a)}. At first all s
and t are zero, so that z = x exactly. A diffusion of z, linear in z, is a nonlinear one of x, and
log p(x) = log p(z) + log |det dz/dx| (`structdiff.codecs.density`).

References:
    Density Estimation Using Real NVP (Dinh, Sohl-Dickstein and Bengio, 2017), eqs. 7 and 8.
    https://arxiv.org/abs/1605.08803
    Maximum Likelihood Training of Implicit Nonlinear Diffusion Models (Kim et al., 2022).
    https://arxiv.org/abs/2205.13699
    Maximum Likelihood Training of Parametrized Diffusion Model (Kim et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.codecs.checks import check_finite, check_shape, shape_of
from structdiff.codecs.latent import LearnedCodec
from structdiff.random import Randomness

__all__ = ["Couplings"]


class Couplings(LearnedCodec):
    """Coupling layers on the entries of an x, all joined by dense networks.

    Training alone makes z standard normal; trained with a denoiser (`DataBound`), z becomes what
    the denoiser finds easy.

    Arguments:
        event: Shape of one x, of two entries at least.
        layers: Number of layers, at least 0; without any z = x.
        width: Width of the networks.
        bound: Largest |s| of an entry and layer, positive.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> codec = Couplings((2,)).requires_grad_(False)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> codec.encode(x), codec.log_det(x)
        (tensor([[1., 2.]]), tensor([0.]))
    """

    def __init__(
        self, event: Sequence[int], *, layers: int = 6, width: int = 64, bound: float = 2.0
    ) -> None:
        super().__init__()
        self.event = self.latent = shape_of("event", event)
        self.classes, self.width, self.bound = 0, width, bound
        entries = torch.Size(self.event).numel()
        if entries < 2 or layers < 0 or width < 1 or not 0 < bound < math.inf:
            msg = (
                "an event has two entries at least, layers is at least 0, width and bound are "
                f"positive, got {self.event}, {layers}, {width} and {bound}"
            )
            raise ValueError(msg)
        self.layers = nn.ModuleList(
            _Coupling(entries, width, bound, first=layer % 2) for layer in range(layers)
        )

    def fit(self, x: Tensor) -> None:
        """Nothing is measured: put `Standardise` before it.

        Raises:
            ValueError: If there are no samples, or they have another shape or are not finite.
        """
        check_finite("x", x, self.event)

    def encode(self, x: Tensor) -> Tensor:
        """All layers.

        Raises:
            ValueError: If x has another shape.
        """
        return self._walked(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """All layers, back.

        Raises:
            ValueError: If z has another shape.
        """
        check_shape("z", z, self.latent)
        flat = z.flatten(1)
        for layer in reversed(self.couplings):
            flat = layer.inverse(flat)
        return flat.reshape(z.shape)

    def log_det(self, x: Tensor) -> Tensor:
        """The sum of all s."""
        return self._walked(x)[1]

    @property
    def couplings(self) -> tuple[_Coupling, ...]:
        """The layers."""
        return tuple(self.layers)  # type: ignore[arg-type]

    def _walked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z, and the logarithm of the determinant."""
        check_shape("x", x, self.event)
        flat, total = x.flatten(1), x.new_zeros(len(x))
        for layer in self.couplings:
            flat, change = layer(flat)
            total = total + change
        return flat.reshape(x.shape), total

    def terms(self, x: Tensor, random: Randomness) -> Mapping[str, Tensor]:
        """The `surprise` -log p(x) where z is standard normal, in nats per entry."""
        del random
        z, log_det = self._walked(x)
        square = 0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return {"surprise": (square - log_det) / x[0].numel()}

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "event": list(self.event),
            "layers": len(self.layers),
            "width": self.width,
            "bound": self.bound,
        }


class _Coupling(nn.Module):
    """Every second entry moves, by what the others say.

    Arguments:
        entries: Number of entries.
        width: Width of the network.
        bound: Largest |s|.
        first: The first entry that moves, 0 or 1.
    """

    def __init__(self, entries: int, width: int, bound: float, *, first: int) -> None:
        super().__init__()
        self.first, self.bound = first, bound
        moving = len(range(first, entries, 2))
        self.says = nn.Sequential(
            nn.Linear(entries - moving, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2 * moving),
        )
        nn.init.zeros_(self.says[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.says[-1].bias)  # type: ignore[arg-type]

    def _cut(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What moves, s and t."""
        said = self.says(x[:, 1 - self.first :: 2]).to(x.dtype)  # before exp, under autocast
        log_scale, shift = said.chunk(2, 1)
        log_scale = self.bound * torch.tanh(log_scale / self.bound)
        return x[:, self.first :: 2], log_scale, shift

    def _join(self, x: Tensor, moved: Tensor) -> Tensor:
        """x with what moved in its place."""
        joined = x.new_empty(x.shape, dtype=moved.dtype)
        joined[:, self.first :: 2] = moved
        joined[:, 1 - self.first :: 2] = x[:, 1 - self.first :: 2]
        return joined

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The layer, and its log-determinant."""
        part, log_scale, shift = self._cut(x)
        return self._join(x, part * log_scale.exp() + shift), log_scale.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Back."""
        part, log_scale, shift = self._cut(z)
        return self._join(z, (part - shift) * (-log_scale).exp())
