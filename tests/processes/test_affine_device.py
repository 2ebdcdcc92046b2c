"""Steps in other coordinates read nothing back from the device, and a compiler sees them whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Cosine,
    Counter,
    Gaussian,
    Generator,
    Layout,
    NetworkDenoiser,
    Product,
    UniformTime,
)
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import Composed, FromCondition, Scaling
from structdiff.processes.covariance_bases import CosineBasis, HaarBasis
from structdiff.processes.covariance_dense import Cholesky
from structdiff.processes.covariance_rows import Autoregressive, Frames, Shared
from structdiff.schedules.by_entry import Dropped
from tests.samplers.test_device_steps import NoReads

EVENT = (4,)
SPREAD = torch.eye(4) + 0.5
FACTORS = {
    "scaling": Scaling(FromCondition("scale")),
    "cholesky": Cholesky(SPREAD),
    "cholesky of each sample": Cholesky(
        FromCondition("scale", lambda c: torch.diag_embed(c**2) + 0.1)
    ),
    "shared": Composed(Shared(0.4), Cholesky(SPREAD)),
    "autoregressive": Autoregressive(0.5),
    "frames": Frames(Autoregressive(0.5)),
    "cosines": CosineBasis(),
    "wavelets": HaarBasis(2),
}
factors = pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS.keys())


class Half(torch.nn.Module):
    """Half of what it sees."""

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        return {"x": 0.5 * batch["x"]}


def world(factor: Any) -> tuple[NetworkDenoiser, Batch]:
    ends = torch.tensor([1.0, 0.8, 0.5, 0.3])
    process = Affine(
        Gaussian(Dropped(Cosine(), ends), event=EVENT), factor, FromCondition("scale")
    )
    layout = Layout.ragged([2, 1, 3])
    condition = {"scale": 1 + torch.arange(12.0).reshape(3, 4) / 12}
    batch = Batch({"x": torch.zeros(6, *EVENT)}, {"x": layout}, condition)
    return NetworkDenoiser(Half(), Product({"x": process})), batch


@factors
@pytest.mark.parametrize("held", [False, True])
def test_no_step_reads_the_device(factor: Any, held: bool) -> None:
    denoiser, batch = world(factor)
    if held:
        rows = torch.tensor([True, False, False, True, False, False])
        batch = batch.with_given({"x": rows})
    walk = DDPM(denoiser, UniformTime(4)).bind(batch, Generator(0))
    with torch.no_grad():
        carry = walk.start()
        for i in range(walk.steps):
            with NoReads():
                carry = walk.step(carry, i)
    assert carry.x["x"].isfinite().all()


@pytest.mark.filterwarnings("ignore")  # of the compiler's own modules
def test_a_step_compiles_without_a_graph_break() -> None:
    """In all these coordinates at once."""
    denoiser, batch = world(Composed(*FACTORS.values()))
    bound = DDPM(denoiser, UniformTime(4)).bind(batch, Counter(0))
    torch._dynamo.reset()
    with torch.no_grad():
        start = bound.start()
        plain = bound.step(start, 0)
        step = torch.compile(bound.step, fullgraph=True, dynamic=False, backend="eager")
        compiled = step(start, 0)
    torch.testing.assert_close(plain.x["x"], compiled.x["x"], rtol=1e-4, atol=1e-4)
