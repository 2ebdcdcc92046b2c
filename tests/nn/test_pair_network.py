"""Symmetries and independence of the equivariant network and of the molecules' denoiser."""

import pytest
import torch
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules.network import MoleculeBackbone
from structdiff.layout import Layout
from structdiff.nn import PairNetwork
from structdiff.nn.pairs import Pairs
from structdiff.parameterisations import Preconditioned
from structdiff.processes import Categorical, Gaussian, Product, absorbing
from structdiff.schedules import Flow, Geometric, Window
from structdiff.spaces import ZeroCentre

COUNTS = [5, 2, 1, 8]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def random(*shape, seed=0, dtype=torch.float64):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.to(dtype)


def orthogonal(seed, determinant):
    turn, _ = torch.linalg.qr(random(3, 3, seed=seed))
    turn[:, 0] *= torch.sign(torch.linalg.det(turn)) * determinant
    assert abs(float(torch.linalg.det(turn)) - determinant) < 1e-12
    return turn


def permutation(counts, seed):
    """A permutation of rows inside each sample."""
    generator = torch.Generator().manual_seed(seed)
    starts = [sum(counts[:k]) for k in range(len(counts))]
    parts = [
        s + torch.randperm(n, generator=generator) for s, n in zip(starts, counts, strict=True)
    ]
    return torch.cat(parts)


def assert_equivariant(function, features, position, counts, *, shift_of_vector):
    """Check a map (features, positions) -> (invariants, vectors) under E(3) and permutations.

    Vectors follow a translation by `shift_of_vector` times it: 0 for velocities, 1 for points.
    """
    tolerance = TOLERANCE[position.dtype]
    scalars, vectors = function(features, position)
    spread = vectors.std()
    assert spread > 1e-3, "the vectors are zero: nothing would be tested"
    for name, turn, shift in (
        ("rotation", orthogonal(1, 1), torch.zeros(3)),
        ("reflection", orthogonal(2, -1), torch.zeros(3)),
        ("translation", torch.eye(3), torch.tensor([1.5, -2.0, 0.5])),
    ):
        turn, shift = turn.to(position), shift.to(position)
        moved = function(features, position @ turn.T + shift)
        want = vectors @ turn.T + shift_of_vector * shift
        assert (moved[0] - scalars).abs().max() <= tolerance * (1 + scalars.abs().max()), name
        assert (moved[1] - want).abs().max() <= tolerance * (1 + want.abs().max()), name
    order = permutation(counts, 3)
    moved = function(features[order], position[order])
    assert (moved[0] - scalars[order]).abs().max() <= tolerance * (1 + scalars.abs().max())
    assert (moved[1] - vectors[order]).abs().max() <= tolerance * (1 + vectors.abs().max())


def make(dtype=torch.float64, **settings):
    torch.manual_seed(0)
    chosen = {"layers": 3, "width": 8, "hidden": 12, "basis": 10} | settings
    return PairNetwork(4, 3, **chosen).to(dtype)


@pytest.fixture
def layout():
    return Layout.ragged(COUNTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("every", [1, 2])
def test_egnn_is_equivariant(dtype, every, layout):
    network = make(dtype, every=every)
    features, position = random(16, 4, dtype=dtype), random(16, 3, seed=1, dtype=dtype) * 2
    assert_equivariant(
        lambda f, x: network(f, x, layout)[:2], features, position, COUNTS, shift_of_vector=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_molecules_denoiser_is_equivariant(dtype):
    """Centred positions turn with the input; element probabilities do not change."""
    denoiser, layout = molecules_denoiser(dtype), Layout.ragged(COUNTS)
    element = torch.arange(16) % 6

    def denoise(symbol, position):
        centred = ZeroCentre().project(position, layout, None)
        leaves = {"position": centred, "element": symbol}
        batch = Batch(leaves, {"position": layout, "element": layout})
        t = denoiser.process.bind(batch).times(torch.tensor(0.4, dtype=dtype))
        found = denoiser(batch, t)
        return found["element"].value.exp(), found["position"].value

    with torch.no_grad():
        position = random(16, 3, seed=1, dtype=dtype)
        assert_equivariant(denoise, element, position, COUNTS, shift_of_vector=0)


def molecules_denoiser(dtype):
    torch.manual_seed(0)
    backbone = MoleculeBackbone(6, 5, 1.4, layers=3, width=8, hidden=12, basis=10)
    schedule = Geometric(0.005, 8.0)
    process = Product(
        {
            "position": Gaussian(schedule, Preconditioned(1.4), event=(3,), space=ZeroCentre()),
            "element": Categorical(Window(Flow(), 0.3, 0.8), absorbing(5)),
        }
    )
    return NetworkDenoiser(backbone, process).to(dtype)


def test_moves_sum_to_zero_in_each_sample(layout):
    _, vector, _ = make()(random(16, 4), random(16, 3, seed=1), layout)
    assert layout.sum(vector).abs().max() < 1e-12


def test_a_sample_alone_is_what_it_is_in_a_batch(layout):
    network = make()
    features, position = random(16, 4), random(16, 3, seed=1)
    together = network(features, position, layout)[:2]
    start = 0
    for count in COUNTS:
        rows = slice(start, start + count)
        alone = network(features[rows], position[rows], Layout.ragged([count]))[:2]
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_[rows], rtol=1e-12, atol=1e-12)
        start += count


def test_features_and_far_atoms_matter(layout):
    """What equivariance alone would not notice: a network that ignores its input."""
    network = make()
    features, position = random(16, 4), random(16, 3, seed=1)
    scalars, vectors, _ = network(features, position, layout)
    changed = features.clone()
    changed[0] += 1
    other = network(changed, position, layout)[:2]
    moved = [(a - b).abs().amax(1) > 1e-4 for a, b in zip((scalars, vectors), other, strict=True)]
    assert moved[0].tolist() == [True] * 5 + [False] * 11
    assert moved[1].tolist() == [True] * 5 + [False] * 11


def test_spare_rows_change_nothing(layout, monkeypatch):
    network = make()
    features, position = random(16, 4), random(16, 3, seed=1)
    plain = network(features, position, layout)[:2]
    complete = Pairs.complete
    monkeypatch.setattr(Pairs, "complete", lambda x, bucket=None: complete(x, bucket=(32, 64)))
    for a, b in zip(plain, network(features, position, layout)[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_bfloat16_is_close_to_float32(layout):
    network = make(torch.float32)
    features = random(16, 4, dtype=torch.float32)
    position = random(16, 3, seed=1, dtype=torch.float32)
    plain = network(features, position, layout)[:2]
    with torch.autocast("cpu", torch.bfloat16):
        low = network(features, position, layout)[:2]
    for a, b in zip(plain, low, strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.03 * a.norm()


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("counts", [[1], [], [0, 1], [1, 0, 1]])
def test_samples_without_pairs_do_not_move(counts, low):
    network, layout = make(torch.float32), Layout.ragged(counts)
    position = torch.zeros(layout.rows, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        features, vector, _ = network(torch.ones(layout.rows, 4), position, layout)
    assert features.shape == (layout.rows, 3)
    assert vector.tolist() == [[0.0] * 3] * layout.rows
    (features.sum() + vector.sum()).backward()
    assert position.grad.tolist() == [[0.0] * 3] * layout.rows


def test_second_derivatives_are_refused(layout):
    """The written-out derivatives are of first order: another would be wrong without a word."""
    position = random(16, 3, seed=1).requires_grad_()
    vector = make()(random(16, 4), position, layout).vector
    (slope,) = torch.autograd.grad(vector.square().sum(), position, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


def test_coincident_atoms_have_finite_values_and_gradients():
    position = torch.zeros(3, 3, requires_grad=True)
    features, vector, _ = make(torch.float32)(torch.ones(3, 4), position, Layout.ragged([3]))
    (features.sum() + vector.square().sum()).backward()
    assert vector.abs().max() == 0
    assert position.grad.isfinite().all()


def test_the_split_first_linear_is_the_unsplit_one():
    """silu(r + A h_i + A h_j) is silu([I A A] [r, h_i, h_j]), for both orders of the ends."""
    network = make()
    layer = network.layers[0]
    pairs = Pairs.complete(Layout.ragged([4]))
    h, r = random(4, 12), random(6, 8, seed=1)
    a, b, _ = layer.rows(h).split([8, 8, 12], 1)
    from structdiff.nn.pair_messages import edge_messages

    *_, u = edge_messages(r, a.contiguous(), b.contiguous(), layer.edge.weight, pairs)
    weight, bias = layer.rows.weight[:8], layer.rows.bias[:8]
    joined = torch.cat([torch.eye(8, dtype=torch.float64), weight, weight], 1)
    for one, two in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        unsplit = F.silu(F.linear(torch.cat([r, h[one], h[two]], 1), joined, 2 * bias))
        torch.testing.assert_close(u, unsplit, rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_weight(layout):
    network = make(torch.float32)
    features, vector, _ = network(
        random(16, 4, dtype=torch.float32), random(16, 3, seed=1, dtype=torch.float32), layout
    )
    (features.square().sum() + vector.square().sum()).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == ["layers.2.edge.weight"]  # the last layer's next edge features go nowhere
