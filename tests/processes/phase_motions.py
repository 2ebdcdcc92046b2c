"""Motions of pairs, and a phase space that knows one record."""

from __future__ import annotations

import pytest
import torch

from structdiff import Batch, Cosine, Linear
from structdiff.processes.phase import PhaseSpace
from structdiff.processes.phase_motion import PhaseMotion, critically_damped, heavy_ball

MOTIONS = {
    "critical": critically_damped(Linear()),
    "critical cosine": critically_damped(Cosine(), mass=2.0),
    "critical without spread": critically_damped(Linear(), spread=0.0),
    "underdamped": heavy_ball(Linear(), stiffness=1.0, friction=1.2),
    "overdamped": heavy_ball(Linear(), stiffness=2.0, friction=9.0),
    "noise on both": PhaseMotion(
        Linear(), [[-0.4, 0.8], [-0.5, -1.5]], [[0.3, 0.1], [0.1, 1.0]], [[0.0, 0.0], [0.0, 0.2]]
    ),
}
motions = pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS.keys())


def one(process: PhaseSpace, rows: int = 1, x: float = 1.5) -> PhaseSpace:
    data = torch.full((rows, *process.event), x, dtype=torch.float64)
    data[:, 1] = 0
    return process.bind(Batch.of(data))
