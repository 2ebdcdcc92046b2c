"""The processes that the laws run over, one leaf each, with what the laws need to know of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from structdiff.parameterisations import CleanPoint, Preconditioned, Straight, Velocity
from structdiff.processes import (
    Grid,
    Rates,
    Tractable,
    Transition,
    discretised_gaussian,
    mask_and_replace,
    nearest_neighbour,
    ordinal,
    vq_diffusion,
)
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import Scaling
from structdiff.processes.covariance_bases import CosineBasis
from structdiff.processes.covariance_dense import Cholesky
from structdiff.processes.covariance_rows import Shared
from structdiff.processes.phase import PhaseSpace
from structdiff.processes.phase_motion import critically_damped, heavy_ball
from structdiff.schedules import SubVP, Survival
from structdiff.schedules.by_entry import Blurring, Dropped, Speeds
from structdiff.spaces import SO3, Sphere, Torus, ZeroCentre, power, product

COUNTS = [2, 1, 3]
"""Rows of each sample of a ragged leaf."""

LAW = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A process and how to make a clean leaf for it."""

    process: Tractable
    kind: str
    ragged: bool = False
    whole_rows: bool = False
    """Whether entries of a row cannot be given without the others."""
    etas: tuple[float, ...] = (0.0, 0.5, 1.0)
    generator: Tensor | None = None
    """Of a chain: R, made by other means than its transition."""

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
        x = random.normal((layout.rows, *process.empty(1).shape[1:]), torch.float64, "cpu")
        if isinstance(process, Gaussian):
            x = process.space.project(x, layout, None)
        return x.to(dtype)


def chain(transition: Transition, event: Sequence[int] = ()) -> Case:
    law = transition.stationary
    generator = law.expand(len(law), -1) - torch.eye(len(law)).double()
    return Case(Categorical(Flow(), transition, event=event), "classes", generator=generator)


def bayes(transition: Transition, generator: Tensor, event: Sequence[int] = ()) -> Case:
    """A chain that has the step of Bayes' rule alone."""
    process = Categorical(Flow(), transition, event=event)
    return Case(process, "classes", etas=(1.0,), generator=generator)


def filled(rates: Sequence[Sequence[float]]) -> Tensor:
    """A generator from its rates off the diagonal."""
    off = torch.tensor(rates, dtype=torch.float64)
    return off - torch.diag(off.sum(1))


def slowest(generator: Tensor) -> float:
    """How fast the slowest mode of a symmetric generator decays."""
    return float(-torch.linalg.eigvalsh(generator)[-2])


LOPSIDED = filled([[0.0, 2.0, 0.1], [0.3, 0.0, 1.0], [0.5, 0.0, 0.0]])
FALLING = filled([[0, 1.5, 0, 0.5], [0, 0, 1.0, 0.2], [0, 0, 0, 2.0], [0, 0, 0, 0]])
"""0 becomes 1, 1 becomes 2, and all of them the mask."""

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.2], [3.0, 1.0], [2.0, 2.5]]).double()


def neighbour_rates() -> Tensor:
    """By sorting all distances."""
    count, graph = len(POINTS), [[0.0] * len(POINTS) for _ in POINTS]
    for i in range(count):
        order = sorted(range(count), key=lambda j: float((POINTS[i] - POINTS[j]).norm()))
        for j in order[1:3]:
            graph[i][j] += 0.25
            graph[j][i] += 0.25
    generator = filled(graph)
    return generator / slowest(generator)


def ordinal_rates(classes: int, width: float, band: int) -> Tensor:
    """By walking one step and turning at the ends."""
    rates = [[0.0] * classes for _ in range(classes)]
    for start in range(classes):
        for jump in range(-band, band + 1):
            end = start + jump
            end = -1 - end if end < 0 else end
            end = 2 * classes - 1 - end if end >= classes else end
            if end != start:
                rates[start][end] += math.exp(-(jump**2) / (2 * width**2))
    generator = filled(rates)
    return generator / slowest(generator)


def replacing(classes: int, share: float) -> Tensor:
    rates = torch.full((classes + 1, classes + 1), share / classes, dtype=torch.float64)
    rates[:, classes], rates[classes] = 1 - share, 0
    return filled(rates.fill_diagonal_(0).tolist())


def on_a_grid(transition: Grid) -> Case:
    return Case(Categorical(Flow(), transition), "classes", etas=(1.0,))


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
UNEVEN = torch.tensor([[2.0, 0.3], [0.3, 0.5]])
BY_ENTRY = {
    "gaussian speeds": Case(
        Gaussian(Speeds(Linear(), torch.tensor([0.5, 2.0])), event=(2,)), "gaussian"
    ),
    "gaussian blurring": Case(
        Gaussian(Blurring(Cosine(), UNEVEN, width=1.5), Velocity(), event=(2, 2)), "gaussian"
    ),
    "gaussian dropped": Case(
        Gaussian(Dropped(Cosine(), torch.tensor([1.0, 0.5])), Velocity(), event=(2,)), "gaussian"
    ),
}
AFFINES = {
    "affine scaled": Case(
        Affine(Gaussian(Linear(), event=(2,)), Scaling(UNEVEN[0]), torch.tensor([1.0, -2.0])),
        "gaussian",
    ),
    "affine correlated": Case(
        Affine(Gaussian(Cosine(), Velocity(), event=(2,)), Cholesky(UNEVEN), torch.ones(())),
        "gaussian",
    ),
    "affine shared": Case(
        Affine(Gaussian(Linear(), event=(2,)), Shared(0.6)),
        "gaussian",
        ragged=True,
        whole_rows=True,
    ),
    "affine blurred": Case(
        Affine(
            Gaussian(
                Blurring(Cosine(), CosineBasis().frequencies((4,)), width=1.0, floor=0.1),
                Velocity(),
                event=(4,),
            ),
            CosineBasis(),
        ),
        "gaussian",
        whole_rows=True,
    ),
}
PHASES = {
    "critically damped": Case(
        PhaseSpace(critically_damped(Linear()), event=(2,)), "phase", whole_rows=True
    ),
    "heavy ball": Case(
        PhaseSpace(heavy_ball(Cosine(), friction=3.0), Velocity()), "phase", whole_rows=True
    ),
    "damped ragged": Case(
        PhaseSpace(critically_damped(Linear()), event=(3,)),
        "phase",
        ragged=True,
        whole_rows=True,
    ),
}
CHAINS = {
    "uniform": chain(uniform(3)),
    "absorbing": chain(absorbing(3)),
    "marginal": chain(marginal(LAW)),
    "marginal with an impossible class": chain(marginal(torch.tensor([0.4, 0.0, 0.6]))),
    "binomial": chain(uniform(2)),
    "survival": replace(
        chain(uniform(4)), process=Categorical(Survival(Discrete.cosine(50)), uniform(4))
    ),
    "absorbing event": chain(absorbing(3), (2,)),
    "rates": bayes(Rates(LOPSIDED), LOPSIDED),
    "rates with a mask": bayes(Rates(FALLING, 3), FALLING),
    "rates event": bayes(Rates(LOPSIDED), LOPSIDED, (2,)),
    "neighbours": bayes(nearest_neighbour(POINTS, 2), neighbour_rates()),
    "ordinal": bayes(ordinal(5, 1.0, 3), ordinal_rates(5, 1.0, 3)),
    "ordinal event": bayes(ordinal(4, 0.7, 2), ordinal_rates(4, 0.7, 2), (2,)),
    "mask and replace": bayes(mask_and_replace(3, 0.3), replacing(3, 0.3)),
    "discretised gaussian": on_a_grid(discretised_gaussian(4, torch.linspace(1, 3, 20))),
    "vq-diffusion": on_a_grid(vq_diffusion(3, 20)),
}
MANIFOLDS = {
    "torus": Case(Brownian(Geometric(0.05, 4.0), Torus(2)), "manifold"),
    "so3": Case(Brownian(Geometric(0.05, 3.0), SO3()), "manifold"),
    "sphere": Case(Brownian(Geometric(0.05, 4.0), Sphere(2)), "manifold"),
    "predicted points": Case(Brownian(Geometric(0.05, 4.0), Sphere(2), CleanPoint()), "manifold"),
    "product": Case(Brownian(Geometric(0.05, 4.0), product(Torus(1), SO3())), "manifold"),
    "power": Case(Brownian(Geometric(0.05, 4.0), power(Torus(1), 2)), "manifold"),
}
CASES = GAUSSIANS | BY_ENTRY | AFFINES | PHASES | CHAINS | MANIFOLDS


def said_by_a_network(process: Tractable, x_t: Tensor, seed: int = 2) -> Tensor:
    """What a network could have said."""
    shape: tuple[int, ...] = tuple(x_t.shape)
    if isinstance(process, Categorical):
        shape = (*shape, process.classes)
    if isinstance(process, PhaseSpace):
        shape = (len(x_t), *shape[2:])
    if isinstance(process, Brownian):
        shape = (len(x_t), *process.parameterisation.outputs(process.manifold))
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
