r"""The walk on a cycle, folded into a walk between two reflecting ends.

On a cycle of 2 K sites a walk jumps by m = 1 .. B up and down at the rate r_m each. Started at 0
its law g is even. Folded at half sites, where n and -1 - n are one, it is a walk on K classes;
folded at 0 and K, where n and -n are one, it is how far the walk is from its start. Both are
Markov chains, and the powers of both follow from g alone.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from structdiff.processes.transitions.semigroup import Semigroup, doublings

__all__ = ["Classes", "Folded", "Sites", "decays"]


class Folded(Semigroup):
    """The walk on a cycle of 2 K sites, folded.

    Arguments:
        law: Where it ends.
        jumps: Rate of a jump by 1 .. B up, and the same down, `(B,)`, float64.
    """

    jumps: Tensor
    walks: Tensor

    def __init__(self, law: Tensor, jumps: Tensor) -> None:
        super().__init__(2 * float(jumps.sum()), law, None)
        self.register_buffer("jumps", jumps, persistent=False)
        self.shares = (jumps / self.speed).tolist()

    @property
    def levels(self) -> int:
        """As many as the walk takes to forget."""
        return len(self.walks)

    @abstractmethod
    def spread(self, y: Tensor) -> Tensor:
        """The numbers on the cycle, `(..., 2 K)`."""

    @abstractmethod
    def gather(self, y: Tensor) -> Tensor:
        """Back from the cycle."""

    @abstractmethod
    def matrix(self, walk: Tensor) -> Tensor:
        """Of a walk `(2 K,)` started at 0."""

    def hop(self, y: Tensor, *, back: bool) -> Tensor:
        """By rolling; from the other side too, as the walk is reversible."""
        weight = self.stationary.to(y.device) if back else 1
        cycle = self.spread(y * weight)
        jumps = enumerate(self.shares, start=1)
        moved = (share * (cycle.roll(m, -1) + cycle.roll(-m, -1)) for m, share in jumps)
        return self.gather(sum(moved, torch.zeros_like(cycle))) / weight

    def power(self, level: int) -> Tensor:
        """Made when it is asked for."""
        return self.matrix(self.walks[level])


class Classes(Folded):
    """Folded at half sites: the K classes.

    Arguments:
        jumps: As in `Folded`.
        walks: At the levels, `(levels, 2 K)`.
    """

    def __init__(self, jumps: Tensor, walks: Tensor) -> None:
        classes = walks.shape[-1] // 2
        super().__init__(torch.full((classes,), 1 / classes, dtype=torch.float64), jumps)
        self.register_buffer("walks", walks, persistent=False)

    def spread(self, y: Tensor) -> Tensor:
        """And mirrored."""
        return torch.cat([y, y.flip(-1)], -1)

    def gather(self, y: Tensor) -> Tensor:
        """The first half."""
        return y[..., : y.shape[-1] // 2]

    def matrix(self, walk: Tensor) -> Tensor:
        """g(i - j) + g(i + j + 1)."""
        size = len(walk) // 2
        windows = torch.cat([walk, walk]).unfold(0, size, 1)
        return windows[size + 1 : 2 * size + 1].flip(0) + windows[1 : size + 1]


class Sites(Folded):
    """Folded at 0 and K: how far a walk on the cycle is from its start, 0 .. K.

    Arguments:
        size: K.
        jumps: As in `Folded`.
    """

    def __init__(self, size: int, jumps: Tensor) -> None:
        law = torch.full((size + 1,), 1 / size, dtype=torch.float64)
        law[[0, -1]] /= 2
        super().__init__(law, jumps)
        first = self._short(self.start(), torch.full((1,), 1 / 16, dtype=torch.float64), False)
        powers = doublings(first, lambda x: x @ self.matrix(self.spread(x)), law, self.speed)
        self.register_buffer("walks", self.spread(powers), persistent=False)

    def start(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """All at 0."""
        at = torch.zeros(*shape, len(self.stationary), dtype=torch.float64, device=device)
        at[..., 0] = 1
        return at

    def spread(self, y: Tensor) -> Tensor:
        """Half to either side."""
        half = torch.cat([y[..., :1], y[..., 1:-1] / 2, y[..., -1:]], -1)
        return torch.cat([half, half[..., 1:-1].flip(-1)], -1)

    def gather(self, y: Tensor) -> Tensor:
        """Both sides."""
        size = y.shape[-1] // 2
        return torch.cat([y[..., :1], 2 * y[..., 1:size], y[..., size : size + 1]], -1)

    def matrix(self, walk: Tensor) -> Tensor:
        """g(i - j) + g(i + j), half of it at the ends."""
        size = len(walk) // 2
        windows = torch.cat([walk, walk]).unfold(0, size + 1, 1)
        both = windows[size : 2 * size + 1].flip(0) + windows[: size + 1]
        both[:, [0, -1]] /= 2
        return both

    def walk(self, tau: Tensor) -> Tensor:
        """g, `(..., 2 K)`, each number right to its own rounding."""
        return self.spread(self.push(self.start(*tau.shape, device=tau.device), tau))

    def quick(self, tau: Tensor) -> Tensor:
        """g by Fourier transform; right to the rounding of its largest number."""
        size = len(self.stationary) - 1
        if not tau.numel():  # the transform refuses nothing
            return tau.new_zeros(*tau.shape, 2 * size, dtype=torch.float64)
        jumps = self.jumps.to(tau.device)
        modes = torch.arange(size + 1, device=tau.device).unsqueeze(-1)
        steps = torch.arange(1, len(jumps) + 1, device=tau.device)
        decay = decays(modes * steps, jumps, size)
        exponent = torch.where(decay == 0, 0.0, tau.double().unsqueeze(-1) * decay)
        walk: Tensor = torch.fft.irfft(torch.exp(-exponent), n=2 * size)
        return walk.clamp(min=0)


def decays(places: Tensor, jumps: Tensor, size: int) -> Tensor:
    """lambda_k, at places k m of the cycle `(k, m)`."""
    angle = places.double() * (math.pi / 2 / size)
    return 4 * (torch.sin(angle) ** 2) @ jumps
