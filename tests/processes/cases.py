"""The processes that the laws run over, one leaf each, with what the laws need to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Discrete,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Randomness,
    absorbing,
    marginal,
    uniform,
)
from structdiff.parameterisations import Preconditioned, Straight, Velocity
from structdiff.processes import RankOne, Tractable
from structdiff.schedules import SubVP, Survival
from structdiff.spaces import SO3, Torus, ZeroCentre

COUNTS = [2, 1, 3]
"""Rows of each sample of a ragged leaf."""

LAW = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A process and how to make a clean leaf for it."""

    process: Tractable
    kind: str
    ragged: bool = False

    def batch(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Batch:
        """Three samples; six rows where ragged."""
        layout = Layout.ragged(COUNTS) if self.ragged else Layout.regular(3)
        return Batch({"x": self.clean(layout, dtype, seed)}, {"x": layout})

    def clean(self, layout: Layout, dtype: torch.dtype, seed: int) -> Tensor:
        random, process = Generator(seed + 100), self.process
        if isinstance(process, Categorical):
            shape = (layout.rows, *process.event)
            u = random.uniform(shape, torch.float64, "cpu")
            return (u * process.classes).long()
        if isinstance(process, Brownian):
            return process.manifold.uniform(layout.rows, random, torch.float64, "cpu").to(dtype)
        assert isinstance(process, Gaussian)
        x = random.normal((layout.rows, *process.event), torch.float64, "cpu")
        return process.space.project(x, layout, None).to(dtype)


def chain(transition: RankOne, event: Sequence[int] = ()) -> Case:
    return Case(Categorical(Flow(), transition, event=event), "classes")


GAUSSIANS = {
    "gaussian linear": Case(Gaussian(Linear(), event=(2,)), "gaussian"),
    "gaussian cosine scalar": Case(Gaussian(Cosine(), Velocity()), "gaussian"),
    "gaussian sub-vp": Case(Gaussian(SubVP(), event=(2, 2)), "gaussian"),
    "gaussian exploding": Case(Gaussian(Geometric(), Preconditioned(), event=(2,)), "gaussian"),
    "gaussian flow": Case(Gaussian(Flow(), Straight(), event=(2,)), "gaussian"),
    "gaussian discrete": Case(Gaussian(Discrete.ddpm(), event=(2,)), "gaussian"),
    "gaussian centred": Case(
        Gaussian(Cosine(), Velocity(), event=(3,), space=ZeroCentre()), "gaussian", ragged=True
    ),
    "gaussian ragged": Case(Gaussian(Linear(), event=(3,)), "gaussian", ragged=True),
}
CHAINS = {
    "uniform": chain(uniform(3)),
    "absorbing": chain(absorbing(3)),
    "marginal": chain(marginal(LAW)),
    "marginal with an impossible class": chain(marginal(torch.tensor([0.4, 0.0, 0.6]))),
    "binomial": chain(uniform(2)),
    "survival": Case(Categorical(Survival(Discrete.cosine(50)), uniform(4)), "classes"),
    "absorbing event": chain(absorbing(3), (2,)),
}
MANIFOLDS = {
    "torus": Case(Brownian(Geometric(0.05, 4.0), Torus(2)), "manifold"),
    "so3": Case(Brownian(Geometric(0.05, 3.0), SO3()), "manifold"),
}
CASES = GAUSSIANS | CHAINS | MANIFOLDS


def said_by_a_network(process: Tractable, x_t: Tensor, seed: int = 2) -> Tensor:
    """What a network could have said."""
    shape: tuple[int, ...] = tuple(x_t.shape)
    if isinstance(process, Categorical):
        shape = (*shape, process.classes)
    if isinstance(process, Brownian):
        shape = (len(x_t), *process.manifold.tangent)
    dtype = x_t.dtype if x_t.is_floating_point() else torch.float64
    return Generator(seed).normal(shape, dtype, "cpu")


def time(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def grid(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Fixed(Randomness):
    """Gives out a tensor that was chosen, whole or by the rows of one sample."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        return self.values.reshape(tuple(shape)).to(device, dtype)

    uniform = normal

    def scoped(self, **_: object) -> Fixed:
        return self

    def state(self) -> Tensor:
        raise NotImplementedError

    def restore(self, state: Tensor) -> None:
        raise NotImplementedError
