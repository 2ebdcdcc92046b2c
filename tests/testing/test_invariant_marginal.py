"""An invariant prior and equivariant kernels make an invariant law of the samples.

Molecules are drawn with an untrained denoiser, from two seeds. Both draws have one law, which a
rotation, a reflection or another order of the atoms must not change: the Kolmogorov distance of
one draw to the other one, moved, is then that of two samples of one law.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from structdiff import Batch, Categorical, Flow, Gaussian, Geometric, Layout, Product, absorbing
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules.network import MoleculeBackbone
from structdiff.parameterisations import Preconditioned
from structdiff.random import Generator
from structdiff.samplers import Ancestral
from structdiff.schedules import UniformLogSNR, Window
from structdiff.spaces import ZeroCentre

SAMPLES, ATOMS = 3000, 4
# Of two samples of one law it is exceeded with probability 0.001.
LIMIT = 1.95 * (2 / SAMPLES) ** 0.5


class Distorted(nn.Module):
    """A backbone whose vectors are distorted, or pushed by the order of the atoms."""

    def __init__(self, backbone, scale, push):
        super().__init__()
        self.backbone, self.scale, self.push = backbone, torch.tensor(scale), push

    def forward(self, batch, clock, previous):
        out = dict(self.backbone(batch, clock, previous))
        row = batch.layouts["position"].row.to(batch["position"])
        pushed = self.push * (row[:, None] - 1.5) * batch["position"]
        out["position"] = out["position"] * self.scale + pushed
        return out


def draws(scale=(1.0, 1.0, 1.0), push=0.0):
    """Two draws, `(samples, atoms, 3)` each."""
    torch.manual_seed(0)
    backbone = MoleculeBackbone(4, 3, 1.4, layers=2, width=8, hidden=8, basis=10)
    schedule = Geometric(0.05, 8.0)
    position = Gaussian(schedule, Preconditioned(1.4), event=(3,), space=ZeroCentre())
    element = Categorical(Window(Flow(), 0.3, 0.8), absorbing(3))
    process = Product({"position": position, "element": element})
    denoiser = NetworkDenoiser(Distorted(backbone, scale, push), process)
    layout = Layout.ragged([ATOMS] * SAMPLES)
    leaves = process.empty({"position": layout.rows, "element": layout.rows})
    batch = Batch(leaves, dict.fromkeys(leaves, layout))
    sampler = Ancestral(denoiser, UniformLogSNR(schedule, 6), eta=1.0)
    return [
        sampler.sample(batch, Generator(seed))["position"].reshape(SAMPLES, ATOMS, 3)
        for seed in (0, 1)
    ]


def kolmogorov(a, b):
    """Largest distance of the empirical distribution functions of two samples."""
    places = torch.cat([a, b]).sort().values
    share = [torch.searchsorted(x.sort().values, places, right=True) / len(x) for x in (a, b)]
    return float((share[0] - share[1]).abs().max())


def first_coordinate(x):
    """Of the first atom: it sees how a molecule lies."""
    return x[:, 0, 0]


def first_distance(x):
    """Of the first two atoms: no rotation changes it."""
    return (x[:, 0] - x[:, 1]).norm(dim=1)


TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
MOVES = {
    "rotation": lambda x: x @ (TURN * torch.det(TURN)).T,
    "rotation of axes": lambda x: x.roll(1, 2),
    "reflection": lambda x: -x,
    "permutation": lambda x: x.roll(1, 1),
}


@pytest.fixture(scope="module")
def fair():
    return draws()


@pytest.mark.parametrize("move", MOVES)
def test_the_law_of_the_samples_is_invariant(fair, move):
    a, b = fair[0], MOVES[move](fair[1])
    assert kolmogorov(first_coordinate(a), first_coordinate(b)) < LIMIT
    assert kolmogorov(first_distance(a), first_distance(b)) < LIMIT


def test_the_walk_has_left_the_invariant_prior(fair):
    """Whose coordinates have the deviation 8; those that are drawn come from the kernels."""
    assert all(0.3 < x.std() < 1.5 for x in fair)


def test_a_kernel_that_prefers_an_axis_is_seen_by_coordinates_alone():
    a, b = draws(scale=(8.0, 1.0, 1.0))
    turned = MOVES["rotation of axes"](b)
    assert kolmogorov(first_coordinate(a), first_coordinate(b)) < LIMIT
    assert kolmogorov(first_coordinate(a), first_coordinate(turned)) > 2 * LIMIT
    assert kolmogorov(first_distance(a), first_distance(turned)) < LIMIT


def test_a_kernel_that_prefers_an_atom_is_seen_by_distances_too():
    a, b = draws(push=0.3)
    assert kolmogorov(first_distance(a), first_distance(b)) < LIMIT
    assert kolmogorov(first_distance(a), first_distance(MOVES["permutation"](b))) > 2 * LIMIT
