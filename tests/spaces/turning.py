"""Rotations, and the heat kernel of their angle to many digits."""

from __future__ import annotations

import math

import mpmath
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import SO3, turns

SPACE = SO3()
HALF_TURNS = [
    [1.0, 0, 0],
    [0, 1.0, 0],
    [0, 0, 1.0],
    [-0.6, 0.8, 0],
    [0.6, 0, -0.8],
    [0.48, 0.6, 0.64],
]


def time(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def rotations(rows: int, seed: int = 0) -> Tensor:
    return SPACE.uniform(rows, Generator(seed), torch.float64, "cpu")


def about(axis: list[float], angle: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """The rotation matrix about a unit axis, by Rodrigues' formula."""
    n = torch.tensor(axis, dtype=torch.float64)
    n = n / n.norm()
    eye = torch.eye(3, dtype=torch.float64)
    cross = torch.linalg.cross(eye, n.expand(3, 3)).mT.mT
    outer = torch.outer(n, n)
    matrix = outer + math.cos(angle) * (eye - outer) + math.sin(angle) * cross
    return matrix.to(dtype)[None]


def turn(angles: Tensor) -> turns.Turn:
    sine = torch.sin(angles / 2)
    return turns.turn_of(torch.cos(angles / 2), (sine, 0 * sine, 0 * sine))


def reference(angle: float, tau: float) -> tuple[float, float]:
    """Log f and its derivative by the Poisson dual with many images, to 50 digits."""
    with mpmath.workdps(50):
        w, t = mpmath.mpf(angle), mpmath.mpf(tau)
        f = slope = mpmath.mpf(0)
        for k in range(-20, 21):
            d = w - 2 * mpmath.pi * k
            weight = (-1) ** k * mpmath.exp((w * w - d * d) / (2 * t))
            f += d * weight
            slope += (1 - d * d / t) * weight
        constant = t / 8 + mpmath.log(2 * mpmath.pi / t**3) / 2 - w * w / (2 * t)
        value = constant + mpmath.log(f / mpmath.sin(w / 2))
        return float(value), float(slope / f - mpmath.cot(w / 2) / 2)
