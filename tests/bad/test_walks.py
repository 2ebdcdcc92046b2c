"""What steps a sampler from outside refuses walks that are no samplers, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from structdiff import DDIM, DDPM, Batch, Cosine, Gaussian, Generator, UniformTime
from structdiff.guidance import RePaint
from structdiff.guidance.inverse import DDRM, Observation, Projection
from structdiff.guidance.twisted import TwistedSMC
from structdiff.operators import Downsample
from structdiff.samplers.adaptive import Adaptive
from structdiff.samplers.base import Walk
from structdiff.samplers.corrector import PredictorCorrector
from structdiff.samplers.coupled import Coupled
from structdiff.samplers.gotta_go_fast import GottaGoFast
from structdiff.samplers.langevin import LangevinCorrector
from structdiff.samplers.picard import Picard
from structdiff.samplers.remasking import Remasking
from structdiff.samplers.restart import Restart
from structdiff.samplers.truncated import Truncated
from structdiff.testing import NormalDenoiser

DENOISER = NormalDenoiser(Gaussian(Cosine(), event=(4,)), torch.zeros(1, 4), torch.ones(1))
GRID = UniformTime(4)
BLANK = Batch.of(torch.zeros(2, 4))
SEEN = Observation(Downsample((4,), 2), torch.tensor([3.0, 5.0]))

WRAPPERS: dict[str, Callable[..., Walk]] = {
    "RePaint": partial(RePaint, known=BLANK),
    "PredictorCorrector": PredictorCorrector,
    "LangevinCorrector": LangevinCorrector,
    "DDRM": partial(DDRM, seen=SEEN),
    "Projection": partial(Projection, seen=SEEN),
    "TwistedSMC": partial(
        TwistedSMC,
        denoiser=DENOISER,
        twist=lambda said, batch, t: said["x"].value[:, 0],
        particles=2,
    ),
    "Truncated": partial(Truncated, init={"x": torch.zeros(4)}),
    "Remasking": partial(Remasking, share=0.1),
}
WALKS: dict[str, Callable[[], Walk]] = {
    "PredictorCorrector": lambda: PredictorCorrector(DDPM(DENOISER, GRID)),
    "LangevinCorrector": lambda: LangevinCorrector(DDPM(DENOISER, GRID)),
    "Picard": lambda: Picard(DDIM(DENOISER, GRID)),
    "Coupled": lambda: Coupled(DENOISER, GRID),
    "Adaptive": lambda: Adaptive(DENOISER),
    "GottaGoFast": lambda: GottaGoFast(DENOISER),
    "Restart": lambda: Restart(DDIM, DENOISER, GRID, interval=(0.2, 0.8)),
}


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_walks_that_are_no_samplers_are_refused(wrapper: str, walk: str) -> None:
    """With the walk's name, when it is made."""
    with pytest.raises(ValueError, match=rf"must be a Sampler, .* got {walk}: give a sampler"):
        WRAPPERS[wrapper](WALKS[walk]())


@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "Remasking"])
def test_samplers_are_not_refused(wrapper: str) -> None:
    """The same arguments draw (remasking asks for classes): what was seen, or the law."""
    drawn = WRAPPERS[wrapper](DDPM(DENOISER, GRID)).sample(BLANK, Generator(0))["x"]
    if wrapper in ("DDRM", "Projection"):
        pairs = drawn.reshape(2, 2, 2).mean(2)
        torch.testing.assert_close(pairs, torch.tensor([[3.0, 5.0]] * 2), atol=1e-4, rtol=0)
    else:
        assert 0.1 < float(drawn.square().mean()) < 4
