r"""Diagonal linear state spaces: a convolution over the whole length, or a recurrence.

Each channel drives states h, complex numbers that decay and turn at their own rates a,

    dh/dt = a h + u,    y = 2 Re(c . h) + d u,

with u held for a time `step` between places. From h_0 = 0 this is the recurrence
h_n = exp(a step) h_{n-1} + (exp(a step) - 1) / a u_n, or the convolution with the kernel

    k_n = 2 Re sum c (exp(a step) - 1) / a exp(a step n),    n = 0, 1, ...,

done by Fourier transforms in O(length log length). At first a = -1/2 + i pi (0, 1, 2, ...) and
the steps are between 1/1000 and 1/10, so that channels remember from tens to thousands of places.

References:
    On the Parameterization and Initialization of Diagonal State Space Models (Gu et al., 2022),
    sections 3 and 4: S4D-Lin. https://arxiv.org/abs/2206.11893
    Diffusion-based Time Series Imputation and Forecasting with Structured State Space Models
    (Alcaraz and Strodthoff, 2022): in denoisers, both ways. https://arxiv.org/abs/2208.09399
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from structdiff.nn.inputs import check_sizes

__all__ = ["StateSpace"]


class StateSpace(nn.Module):
    """A layer over sequences, channel by channel: long memory, linear in its input.

    Arguments:
        width: Channels.
        states: Complex states of each channel.
        both: Whether an output also sees what comes after it, by states of their own that run
            backwards.

    Raises:
        ValueError: If a number is not positive; on a call of `step`, if the layer runs both ways.

    Example:
        >>> layer = StateSpace(4)
        >>> layer(torch.randn(2, 4, 100)).shape
        torch.Size([2, 4, 100])
    """

    def __init__(self, width: int, *, states: int = 32, both: bool = False) -> None:
        super().__init__()
        check_sizes(width=width, states=states)
        ways = 2 if both else 1
        slow, fast = math.log(1e-3), math.log(1e-1)
        self.log_step = nn.Parameter(torch.empty(ways, width, 1).uniform_(slow, fast))
        self.log_decay = nn.Parameter(torch.full((ways, width, states), math.log(0.5)))
        turn = math.pi * torch.arange(states, dtype=self.log_step.dtype)
        self.turn = nn.Parameter(turn.expand(ways, width, states).clone())
        self.read = nn.Parameter(torch.randn(ways, width, states, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, width, length)` to the same, by the convolution."""
        length = x.shape[-1]
        u = x.to(self.skip.dtype)
        kernel = self.kernel(length)
        y = _convolve(u, kernel[0])
        if len(kernel) == 2:
            y = y + _convolve(u.flip(-1), kernel[1]).flip(-1)
        return (y + u * self.skip.unsqueeze(1)).to(x.dtype)

    def kernel(self, length: int) -> Tensor:
        """What an impulse gives after 0, 1, ... places, `(ways, width, length)`."""
        rate, enter = self._discrete()
        place = torch.arange(length, device=rate.device)
        power = torch.exp(rate.unsqueeze(-1) * place)
        read = torch.view_as_complex(self.read) * enter
        return 2 * torch.einsum("wcs,wcsl->wcl", read, power).real

    def step(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One place of the recurrence.

        Arguments:
            u: The input at this place, `(samples, width)`.
            state: What the place before gave, `(samples, width, states)`, complex; None at first.

        Returns:
            The output at this place, `(samples, width)`, and the state.
        """
        if len(self.read) == 2:
            msg = "step must have a layer that sees one way alone: make it with both=False"
            raise ValueError(msg)
        rate, enter = (part[0] for part in self._discrete())
        moved = 0 if state is None else rate.exp() * state
        state = moved + enter * u.unsqueeze(-1)
        y = 2 * (torch.view_as_complex(self.read)[0] * state).sum(-1).real
        return y + self.skip * u, state

    def _discrete(self) -> tuple[Tensor, Tensor]:
        """a step, and (exp(a step) - 1) / a, `(ways, width, states)` each."""
        rate = torch.complex(-self.log_decay.exp(), self.turn)
        moved = rate * self.log_step.exp()
        return moved, torch.expm1(moved) / rate


def _convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """Sum over n of kernel_n u_{l - n}, `(samples, width, length)`."""
    size = 2 * u.shape[-1]
    spectrum = torch.fft.rfft(u, size) * torch.fft.rfft(kernel, size)
    found: Tensor = torch.fft.irfft(spectrum, size)[..., : u.shape[-1]]
    return found
