"""A network as a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from structdiff import Batch, Categorical, Cosine, Flow, Gaussian, NetworkDenoiser, Product
from structdiff import absorbing as masks
from structdiff.denoiser import LIMIT
from structdiff.parameterisations import Velocity
from structdiff.processes import Estimate


class Recorder(nn.Module):
    """Returns constants and remembers what it saw."""

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        self.batch, self.clock, self.previous = batch, clock, previous
        return {"x": torch.full_like(batch["x"], 0.5), "k": torch.zeros(*batch["k"].shape, 3)}


PROCESS = Product(
    {
        "x": Gaussian(Cosine(), Velocity(), event=(2,)),
        "k": Categorical(Flow(), masks(3)),
    }
)


def noisy() -> Batch:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    return Batch.of({"x": x, "k": torch.tensor([3, 1, 3])})


def test_it_encodes_calls_and_decodes() -> None:
    batch, network = noisy(), Recorder()
    t = PROCESS.bind(batch).times(torch.tensor(0.4))
    estimate = NetworkDenoiser(network, PROCESS)(batch, t, None)
    level = Cosine()(torch.tensor(0.4))
    expected = (level.alpha * batch["x"] - level.sigma * 0.5).float()
    torch.testing.assert_close(estimate["x"].value, expected)
    third = torch.full((3,), 1 / 3)
    certain = torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(estimate["k"].value.exp(), torch.stack([third, certain, third]))
    torch.testing.assert_close(network.batch["x"], batch["x"])
    assert torch.equal(network.batch["k"], batch["k"])
    torch.testing.assert_close(network.clock["x"], level.clock.float())


def test_networks_see_finite_clocks() -> None:
    """Pure noise at -LIMIT, given rows at LIMIT."""
    network = Recorder()
    batch = noisy().with_given({"k": torch.tensor([False, True, False])})
    t = PROCESS.bind(batch).times(torch.tensor(1.0))
    NetworkDenoiser(network, PROCESS)(batch, t, None)
    assert network.clock["x"] == -LIMIT
    assert network.clock["k"].tolist() == [-LIMIT, LIMIT, -LIMIT]
    assert network.batch.given["k"].tolist() == [False, True, False]


def test_self_conditioning_shows_values_without_gradient() -> None:
    batch = noisy()
    t = PROCESS.bind(batch).times(torch.tensor(0.4))
    shown = torch.ones(3, 2, requires_grad=True)
    previous: Any = {"x": Estimate(shown), "k": Estimate(torch.zeros(3, 3))}
    for wanted in (True, False):
        network = Recorder()
        denoiser = NetworkDenoiser(network, PROCESS, self_conditioning=wanted)
        denoiser(batch, t, None)
        assert network.previous is None
        denoiser(batch, t, previous)
        if wanted:
            assert torch.equal(network.previous["x"], shown)
            assert not network.previous["x"].requires_grad
        else:
            assert network.previous is None
