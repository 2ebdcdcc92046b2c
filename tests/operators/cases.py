"""All operators, for their laws and for the methods that use them."""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff import Generator
from structdiff.operators import (
    Blur,
    Downsample,
    FourierMask,
    FrequencyMask,
    LinearOperator,
    Mask,
    Matrix,
    Measurement,
    PhaseMagnitude,
    Quadratic,
    Quantised,
    low_pass,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Generator(seed).normal(shape, torch.float64, "cpu")


CHOSEN = torch.tensor([[True, False, True], [False, False, True]])
LOPSIDED = torch.tensor([0.6, 0.3, 0.1]).double()
SQUARE = torch.tensor([[0.0, 0.2], [0.5, 0.1], [0.2, 0.0]]).double()
EVERY_OTHER = torch.arange(5) % 2 == 0
FACTORED = {
    "mask": Mask(CHOSEN),
    "means of pairs": Downsample((6,), 2),
    "means of squares": Downsample((2, 4, 6), 2, axes=2),
    "no down-sampling": Downsample((3,), 1),
    "blur": Blur(LOPSIDED, (7,)),
    "blur that loses a frequency": Blur(torch.tensor([0.5, 0.5]).double(), (6,)),
    "blur of planes": Blur(SQUARE, (2, 4, 3)),
    "frequencies": FrequencyMask(EVERY_OTHER),
    "low frequencies of planes": low_pass((4, 5), 1.5, lead=(2,)),
    "complex frequencies": FourierMask(CHOSEN),
    "wide matrix": Matrix(normal(3, 6), (2, 3)),
    "tall matrix": Matrix(normal(6, 4)),
    "matrix of rank 2": Matrix(normal(4, 2) @ normal(2, 5, seed=1)),
}
LINEAR: dict[str, LinearOperator] = FACTORED | {
    "some of a blur": Mask(EVERY_OTHER[:4]) @ Blur(LOPSIDED, (4,)),
    "three in a row": Matrix(normal(2, 3)) @ Downsample((6,), 2) @ Blur(LOPSIDED, (6,)),
}
OTHERS = {
    "phase": PhaseMagnitude((5,), padding=3),
    "forms": Quadratic(normal(3, 4, 4)),
    "quantised": Quantised(0.3, Blur(LOPSIDED, (7,))),
    "quantised by table": Quantised(0.1 + torch.arange(6.0).reshape(2, 3), Mask(CHOSEN)),
}
ALL: dict[str, Measurement] = LINEAR | OTHERS
