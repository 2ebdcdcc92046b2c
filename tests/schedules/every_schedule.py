"""Every schedule by name, and times to try them at."""

import pytest
import torch

from structdiff.schedules import (
    Cosine,
    Discrete,
    Exploding,
    Flow,
    Geometric,
    Karras,
    Linear,
    Shifted,
    Sigmoid,
    SimpleLinear,
    Standard,
    SubVP,
    Survival,
    Window,
    ZeroTerminal,
    translate,
)


def float64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# The betas of an absorbing chain whose mask probability is t / T; the last is one.
FALLING = 1 / torch.arange(10, 0, -1, dtype=torch.float64)

SCHEDULES = {
    "linear": Linear(),
    "sub-vp": SubVP(),
    "cosine": Cosine(),
    "cosine without offset": Cosine(0.0),
    "geometric": Geometric(),
    "karras": Karras(),
    "karras rho 1": Karras(0.01, 10.0, rho=1.0),
    "flow": Flow(),
    "survival": Survival(Cosine()),
    "discrete ddpm": Discrete.ddpm(),
    "discrete cosine": Discrete.cosine(),
    "discrete to the end": Discrete(FALLING),
    "discrete of one step": Discrete(torch.tensor([0.5])),
    "window": Window(Cosine(), 0.25, 0.75),
    "simple linear": SimpleLinear(),
    "sigmoid": Sigmoid(),
    "sigmoid 0 to 3": Sigmoid(0.0, 3.0, tau=0.3),
    "sigmoid flat": Sigmoid(tau=1.1),
    "shifted cosine": Shifted(Cosine(), -1.4),
    "shifted flow": Shifted(Flow(), 0.7),
    "shifted karras": Shifted(Karras(), 0.7),
    "standard geometric": Standard(Geometric()),
    "standard flow": Standard(Flow()),
    "exploding linear": Exploding(Linear()),
    "zero terminal linear": ZeroTerminal(Linear()),
    "zero terminal ddpm": ZeroTerminal(Discrete.ddpm(), first=1e-3),
    "listed": translate(float64(80, 10, 3, 0.01, 0)),
    "called": translate(lambda t: (1 - t, t)),
}
PRESERVING = [
    "linear",
    "cosine",
    "cosine without offset",
    "discrete ddpm",
    "discrete cosine",
    "simple linear",
    "sigmoid",
    "sigmoid 0 to 3",
    "sigmoid flat",
    "shifted cosine",
    "standard geometric",
    "standard flow",
    "zero terminal linear",
    "zero terminal ddpm",
]
FLAT = ["window"]  # the clock stands still outside

schedules = pytest.mark.parametrize("name", SCHEDULES)


def interior(points: int = 97) -> torch.Tensor:
    return torch.linspace(0.003, 0.997, points, dtype=torch.float64)
