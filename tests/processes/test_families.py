"""Kernel families behind one interface: none is a branch of another, and all share a record."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    Product,
    UniformTime,
    absorbing,
)
from structdiff.denoiser import Denoiser
from structdiff.objectives import Uniform
from structdiff.processes import Conditional, Estimate, Markov, Process
from structdiff.processes.blackout import Blackout
from structdiff.processes.degradation import Degradation, covering
from structdiff.processes.gamma import GammaNoise
from structdiff.processes.jacobi import Jacobi
from structdiff.processes.leaf import Leaf
from structdiff.processes.mixture import MixtureNoise
from structdiff.processes.phase import PhaseSpace, with_velocities
from structdiff.processes.phase_motion import critically_damped
from structdiff.samplers.corrector import PredictorCorrector
from structdiff.spaces import Sphere

FAMILIES: dict[str, tuple[Leaf, Tensor]] = {
    "linear gaussian": (Gaussian(Linear(), event=(2,)), torch.tensor([[0.5, -1.0]])),
    "phase space": (
        PhaseSpace(critically_damped(Linear()), event=(2,)),
        with_velocities(torch.tensor([[0.5, -1.0]])),
    ),
    "categorical": (Categorical(Flow(), absorbing(4)), torch.tensor([2])),
    "manifold": (Brownian(Geometric(0.02, 4.0), Sphere(2)), torch.tensor([[0.0, 0.6, 0.8]])),
    "degradation": (
        Degradation(
            covering(torch.tensor([0.4, 0.9])), lambda x, _: torch.zeros_like(x), event=(2,)
        ),
        torch.tensor([[0.5, -1.0]]),
    ),
    "gamma": (GammaNoise(Linear(), 0.2), torch.tensor([0.7])),
    "mixture": (
        MixtureNoise(Linear(), torch.tensor([-1.0, 1.0]), torch.tensor([0.3, 0.5])),
        torch.tensor([0.7]),
    ),
    "death": (Blackout(Flow(), 9), torch.tensor([6])),
    "simplex": (Jacobi(Geometric(0.1, 3.0), 3), torch.tensor([[0.2, 0.5, 0.3]])),
}


class Oracle(Denoiser):
    """Knows the record."""

    def __init__(self, process: Product, record: dict[str, Tensor]) -> None:
        super().__init__()
        self.process, self.record = process, record

    def forward(self, batch: Batch, t: dict, previous: object = None) -> dict[str, Estimate]:
        bound = self.process.bind(batch)
        found = {}
        for name, x in self.record.items():
            many = x.expand(batch.samples, *x.shape[1:])
            leaf = bound[name]
            known = (
                leaf.oracle(many, batch[name], t[name]) if conditional(leaf) else Estimate(many)
            )
            found[name] = known
        return found


def conditional(leaf: Process) -> bool:
    return leaf.offers(Conditional)


def world(names: list[str]) -> tuple[Oracle, Batch]:
    process = Product({name: FAMILIES[name][0] for name in names})
    record = {name: FAMILIES[name][1] for name in names}
    many = {name: x.expand(16, *x.shape[1:]).clone() for name, x in record.items()}
    return Oracle(process, record), Batch.of(many)


def check_returns(drawn: Batch, data: Batch) -> None:
    for name, x in data.leaves.items():
        gap = (drawn[name].double() - x.double()).abs().flatten(1 if x.ndim > 1 else 0)
        # Curved spaces: within the noise of the first time.
        assert float(gap.max()) < (0.25 if name in ("manifold", "simplex") else 1e-3), name


def test_there_are_five_families_and_more() -> None:
    kinds = {type(process) for process, _ in FAMILIES.values()}
    assert len(kinds) == len(FAMILIES) >= 5
    assert all(issubclass(kind, Process) for kind in kinds)
    assert not any(a is not b and issubclass(a, b) for a in kinds for b in kinds)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_sampler_and_one_objective_serve_each(name: str) -> None:
    denoiser, data = world([name])
    check_returns(DDPM(denoiser, UniformTime(12)).sample(data, Generator(0)), data)
    terms = Denoising(Uniform())(denoiser, data, Generator(0))
    assert float(terms.total.abs()) < 1e-6


def test_one_sampler_and_one_objective_serve_all_at_once() -> None:
    denoiser, data = world(list(FAMILIES))
    held = {"gamma": torch.arange(16) % 2 == 0}
    check_returns(
        DDPM(denoiser, UniformTime(12)).sample(data.with_given(held), Generator(0)), data
    )
    terms = Denoising(Uniform(), independent=True)(denoiser, data, Generator(0))
    assert terms.leaves.keys() == FAMILIES.keys()
    assert float(terms.total.abs()) < 1e-6


def test_markov_families_are_corrected_together() -> None:
    names = [name for name, (process, _) in FAMILIES.items() if process.offers(Markov)]
    assert len(names) >= 5
    denoiser, data = world(names)
    sampler = PredictorCorrector(DDPM(denoiser, UniformTime(12)))
    check_returns(sampler.sample(data, Generator(0)), data)


READS = ("item", "tolist", "nonzero", "cpu", "numpy", "__bool__", "__float__", "__int__")


def refuse(*_: object, **__: object) -> None:
    msg = "a value was read inside a map"
    raise AssertionError(msg)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_value_is_read_inside_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing waits for a device: in noise, estimates, losses and steps."""
    denoiser, data = world([name])
    process: Any = denoiser.process.bind(data)[name]
    x, t = data[name], torch.linspace(0.3, 0.8, 16, dtype=torch.float64)
    (step,) = process.plan(torch.tensor([0.8, 0.4], dtype=torch.float64), 1.0)
    x_t = process.diffuse(x, t, Generator(0))
    for read in READS:
        monkeypatch.setattr(Tensor, read, refuse)
    if name != "death":  # which looks for counts out of range, on a CPU alone
        x_t = process.diffuse(x, t, Generator(0))
    estimate = process.oracle(x, x_t, t) if conditional(process) else Estimate(x)
    moved = process.step(x_t, estimate, step, Generator(0))
    seen = process.encode(x_t, t), process.clock(t), process.loss(estimate, x, x_t, t)
    monkeypatch.undo()
    assert moved.shape == x.shape
    assert all(len(one) == 16 for one in seen)
