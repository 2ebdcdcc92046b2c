r"""A residual network over points, for functions that vary fast in space and smoothly in context.

A point p in R^n is seen through itself and through waves of random directions and of frequencies
evenly spread over some octaves,

    g_k(c) d_k cos(w_k . p),    g_k(c) d_k sin(w_k . p),    d_k = exp(-a^2 |w_k b|^2 / 2),

without which such a network learns slow variation long before fast one. Of a point that is known
up to a blur b, d_k is what is left of a wave on average: what is too fast to be seen is not there
to be learned by heart. The factor a is learned, and so are the gates g, functions of the context
c. Blocks are

    h <- h + B silu(A (1 + s(c)) norm(h) + u(c)),

scale s and shift u linear in the context. The output is zero before training.

References:
    Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007).
    Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains (Tancik
    et al., 2020). https://arxiv.org/abs/2006.10739
    Mip-NeRF: A Multiscale Representation for Anti-Aliasing Neural Radiance Fields (Barron et al.,
    2021), eqs. 9 to 14: waves of a blurred point. https://arxiv.org/abs/2103.13415
    FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018).
    https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ResidualNetwork", "Waves"]

_FAR = 10.0


class Waves(nn.Module):
    """Cosines and sines of a point along random directions.

    The directions follow from torch's generator and are saved with the weights.

    Arguments:
        inputs: Entries of a point.
        waves: How many; each gives a cosine and a sine.
        octaves: Frequencies range from 1 to 2^octaves per unit of the point.

    Raises:
        ValueError: If a number is not positive.
    """

    direction: Tensor

    def __init__(self, inputs: int, waves: int = 256, octaves: float = 8.0) -> None:
        super().__init__()
        if inputs < 1 or waves < 1 or not octaves > 0:
            given = f"inputs = {inputs}, waves = {waves}, octaves = {octaves}"
            msg = f"inputs, waves and octaves must be positive, got {given}"
            raise ValueError(msg)
        frequency = 2 ** torch.linspace(0, octaves, waves)
        self.register_buffer("direction", torch.randn(inputs, waves) * frequency)
        self.log_factor = nn.Parameter(torch.tensor(math.log(0.5)))

    def forward(self, point: Tensor, blur: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines, sines, and what is left of them, `(rows, waves)`, under autocast too.

        Arguments:
            point: The points, `(rows, inputs)`.
            blur: How far each entry may be off, of the same shape.
        """
        with torch.autocast(point.device.type, enabled=False):
            direction = self.direction.to(point.dtype)
            phase = point @ direction
            spread = blur.clamp(max=_FAR).square() @ direction.square()
            left = torch.exp(-0.5 * (2 * self.log_factor).exp() * spread)
        return phase.cos(), phase.sin(), left


class ResidualNetwork(nn.Module):
    """A residual multilayer perceptron of a point in a context.

    Arguments:
        inputs: Entries of a point.
        context: Entries of its context.
        outputs: Entries of the output.
        width: Features of a layer.
        blocks: Number of residual blocks.
        waves: Random waves of the point.
        octaves: Their range of frequencies.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> network = ResidualNetwork(3, 8, 2, width=16, waves=4)
        >>> network(torch.randn(5, 3), torch.randn(5, 8), torch.zeros(5, 3)).abs().sum().item()
        0.0
    """

    def __init__(
        self,
        inputs: int,
        context: int,
        outputs: int,
        *,
        width: int = 384,
        blocks: int = 2,
        waves: int = 256,
        octaves: float = 8.0,
    ) -> None:
        super().__init__()
        sizes = {"context": context, "outputs": outputs, "width": width, "blocks": blocks}
        for name, size in sizes.items():
            if size < 1:
                msg = f"{name} must be positive, got {size}"
                raise ValueError(msg)
        self.waves = Waves(inputs, waves, octaves)
        inner = max(16, width // 6)
        self.context = nn.Sequential(nn.Linear(context, inner), nn.SiLU())
        self.gate = nn.Linear(inner, waves)
        self.enter = nn.Linear(inputs + 2 * waves, width)
        self.blocks = nn.ModuleList(_Block(width, inner) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, point: Tensor, context: Tensor, blur: Tensor) -> Tensor:
        """What the network says, `(rows, outputs)`.

        Arguments:
            point: The points, `(rows, inputs)`.
            context: Their contexts, `(rows, context)`.
            blur: How far each entry of a point may be off, `(rows, inputs)`.
        """
        c = self.context(context)
        cosine, sine, left = self.waves(point, blur)
        gate = left * torch.sigmoid(self.gate(c)) * 2
        h = self.enter(torch.cat([point, gate * cosine, gate * sine], 1))
        for block in self.blocks:
            h = block(h, c)
        output: Tensor = self.leave(F.silu(self.norm(h)))
        return output


class _Block(nn.Module):
    """One residual step."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(context, 2 * width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.film(context).chunk(2, 1)
        inner = self.first(self.norm(h) * (1 + scale) + shift)
        moved: Tensor = h + self.second(F.silu(inner))
        return moved
