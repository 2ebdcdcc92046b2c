"""The tensor-product network: its products against e3nn's and by hand, symmetries, odd graphs."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from structdiff.layout import Layout
from structdiff.nn.pairs import Pairs
from structdiff.nn.tensor_messages import Edges
from structdiff.nn.tensor_paths import HarmonicProduct
from structdiff.nn.tensor_product import TensorProductNetwork
from structdiff.testing.symmetry import check_equivariance
from structdiff.testing.toys import achiral, chiral, mirrored, random_graphs

try:
    from e3nn import o3
except ImportError:
    o3 = None
needs_e3nn = pytest.mark.skipif(o3 is None, reason="e3nn is not installed (the extra e3)")

DTYPES = [torch.float32, torch.float64]
LAYOUT = Layout.ragged([4, 3])


def normal(*shape, seed=0, dtype=torch.float64):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.to(dtype)


def make(inputs=4, dtype=torch.float64, seed=0, **settings):
    torch.manual_seed(seed)
    chosen = {"layers": 3, "width": 6, "hidden": 8, "basis": 10, "degree": 2} | settings
    return TensorProductNetwork(inputs, 3, **chosen).to(dtype)


def call(network, batch, **changes):
    return network(batch["features"], batch["position"], batch.layouts["position"], **changes)


@pytest.fixture
def double():
    """e3nn rounds its coefficients to the dtype that is the default while a product is made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def summed(product, x, u, directions, pairs, harmonics):
    """What the product says, of harmonics by e3nn."""
    y = o3.spherical_harmonics(list(range(harmonics + 1)), directions, False, "component")
    return product(x, u, y, Edges.of(pairs))


@needs_e3nn
@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_products_are_those_of_e3nn(degree, parity, double):
    """Its uvu products with the same weights, summed over the edges of each row."""
    pairs, channels = Pairs.complete(LAYOUT), 5
    product = HarmonicProduct(degree, channels, 3, 2, 2, parity=parity).double()
    x, u = normal(7, 2 * degree + 1, channels), normal(len(pairs.first), 3, seed=1)
    d = normal(len(pairs.target), 3, seed=2)
    found = summed(product, x, u, d, pairs, 2)

    sign = -1 if parity else 1
    harmonics = o3.Irreps([(1, (k, sign**k)) for k in range(3)])
    before = o3.Irreps([(channels, (degree, sign**degree))])
    paths = [
        (b, y, ir)
        for b, (_, y) in enumerate(harmonics)
        for ir in before[0].ir * y
        if ir.l <= 2 and (not parity or ir.p == (-1) ** ir.l)
    ]
    paths.sort(key=lambda path: (path[2].l, path[0]))
    assert [ir.l for *_, ir in paths] == product.degrees
    after = o3.Irreps([(channels, ir) for *_, ir in paths])
    steps = [(0, b, k, "uvu", True) for k, (b, _, _) in enumerate(paths)]
    whole = o3.TensorProduct(before, harmonics, after, steps, shared_weights=False)
    source = pairs.ends.reshape(-1, 2).flip(1).flatten()
    sent = (x @ product.enter.weight.T)[source].transpose(1, 2).flatten(1)
    y = o3.spherical_harmonics(harmonics, d, False, "component")
    messages = whole(sent, y, product.weights(u).repeat_interleave(2, 0))
    want = messages.new_zeros(7, after.dim).index_add(0, pairs.ends, messages)
    for part, block in zip(found, after.slices(), strict=True):
        expected = want[:, block].unflatten(1, (channels, -1)).transpose(1, 2)
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


@needs_e3nn
@pytest.mark.parametrize("mode", ["eager", "script"])
def test_compiled_code_of_e3nn_changes_nothing(mode):
    """The network takes coefficients and harmonics, which no mode of e3nn's compiler changes."""
    import e3nn

    before = e3nn.get_optimization_defaults()["jit_mode"]
    batch = random_graphs(4)
    expected = call(make(), batch)
    e3nn.set_optimization_defaults(jit_mode=mode)
    try:
        found = call(make(), batch)
    finally:
        e3nn.set_optimization_defaults(jit_mode=before)
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(a, b)


@needs_e3nn
def test_products_of_vectors_are_dot_and_cross_products_and_multiples():
    """With Y^0 = 1 and Y^1 = sqrt(3) d: w (v . d), w v and sqrt(3/2) w (v x d), w sqrt(3) a d."""
    pairs = Pairs.complete(Layout.ragged([2]))
    d, u = normal(2, 3), normal(1, 3, seed=1)
    w = torch.ones(1, dtype=torch.float64)
    for degree, count in ((0, 2), (1, 3)):
        product = HarmonicProduct(degree, 1, 3, 1, 1, parity=False).double()
        x = normal(2, 2 * degree + 1, 1, seed=2)
        found = summed(product, x, u, d, pairs, 1)
        sent = product.enter.weight[0, 0] * x.flip(0)[:, :, 0]
        w = (u @ product.weights.weight.T)[0]
        assert len(w) == count
        if degree == 0:
            want = [w[0] * sent, w[1] * 3**0.5 * sent * d]
        else:
            cross = 1.5**0.5 * torch.linalg.cross(sent, d)
            want = [w[0] * (sent * d).sum(1, keepdim=True), w[1] * sent, w[2] * cross]
        for part, expected in zip(found, want, strict=True):
            torch.testing.assert_close(part.squeeze(2), expected, rtol=1e-12, atol=1e-12)


@needs_e3nn
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("parity", [True, False])
def test_symmetries(degree, parity, dtype):
    network = make(dtype=dtype, degree=degree, parity=parity, pair_inputs=2, pair_outputs=3)
    for share in (1.0, 0.5):
        batch = random_graphs(4, pair_features=2, share=share, dtype=dtype)
        for group in ("SE(3)", "S_n"):
            check_equivariance(network, group, batch)
        if parity:
            check_equivariance(network, "O(3)", batch)
        else:
            with pytest.raises(AssertionError, match="reflection: the output"):
                check_equivariance(network, "O(3)", batch)


@needs_e3nn
@pytest.mark.parametrize("degree", [1, 2])
def test_vectors_of_two_points_lie_along_their_axis(degree):
    """And are opposite where both have the same features: a half turn exchanges them."""
    position = normal(2, 3)
    axis = torch.nn.functional.normalize(position[0] - position[1], dim=0)
    for features in (normal(2, 4, seed=1), normal(1, 4, seed=1).expand(2, 4)):
        vector = make(degree=degree)(features, position, Layout.ragged([2])).vector
        along = vector @ axis
        assert along.abs().min() > 1e-3
        torch.testing.assert_close(vector, along[:, None] * axis, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(vector[0], -vector[1], rtol=1e-10, atol=1e-12)


@needs_e3nn
def test_vectors_of_a_plane_stay_in_it_unless_left_and_right_are_known():
    position = normal(5, 3)
    position[:, 2] = 0
    out = [
        make(parity=parity)(normal(5, 4, seed=1), position, Layout.ragged([5])).vector
        for parity in (True, False)
    ]
    assert out[0][:, :2].abs().min() > 1e-4
    assert out[0][:, 2].abs().max() == 0
    assert out[1][:, 2].abs().min() > 1e-4


@needs_e3nn
def test_only_without_parity_a_chiral_molecule_differs_from_its_mirror_image():
    for parity in (True, False):
        network = make(5, parity=parity)
        for molecule, differs in ((chiral(), not parity), (achiral(), False)):
            found = [call(network, x).features.sum(0) for x in (molecule, mirrored(molecule))]
            gap = (found[0] - found[1]).abs().max()
            assert gap > 1e-4 if differs else gap < 1e-10


@needs_e3nn
def test_degree_two_sees_angles_that_degree_one_does_not():
    """Corners around a centre they are joined to: a square, and one pressed to a rectangle.

    In both the vectors of the corners sum to zero, so the centre has none to hand on.
    """
    pairs = Pairs.from_edge_index(torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]]), 5)
    features = torch.ones(5, 4, dtype=torch.float64)

    def answer(network, angle):
        turn = torch.tensor([0.0, angle, torch.pi, torch.pi + angle], dtype=torch.float64)
        corners = torch.stack([turn.cos(), turn.sin(), 0 * turn], 1)
        position = torch.cat([torch.zeros(1, 3), corners])
        return network(features, position, Layout.ragged([5]), pairs=pairs).features

    for degree in (1, 2):
        network = make(degree=degree, layers=2)
        gap = (answer(network, torch.pi / 2) - answer(network, torch.pi / 3)).abs().max()
        assert gap < 1e-12 if degree == 1 else gap > 1e-3


@needs_e3nn
def test_a_sample_alone_is_what_it_is_in_a_batch():
    network = make(pair_inputs=2, pair_outputs=2)
    batch = random_graphs(4, pair_features=2)
    together = call(network, batch, pair_features=batch["pairs"])
    for k in range(batch.samples):
        one = batch.select([k])
        alone = call(network, one, pair_features=one["pairs"])
        layouts = [batch.layouts[name] for name in ("features", "position", "pairs")]
        for a, b, layout in zip(alone, together, layouts, strict=True):
            torch.testing.assert_close(
                a, b[layout.rows_of(torch.tensor([k]))], rtol=1e-12, atol=1e-12
            )


@needs_e3nn
def test_parts_that_are_not_joined_do_not_see_each_other():
    """Two triangles and a lone point in one sample are what they are as samples."""
    network, features, position = make(), normal(7, 4), normal(7, 3, seed=1)
    parts = Pairs.complete(Layout.ragged([3, 3, 1]))
    joined = network(features, position, Layout.ragged([7]), pairs=parts)
    apart = network(features, position, Layout.ragged([3, 3, 1]))
    for a, b in zip(joined[:2], apart[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert joined.vector[6].tolist() == [0.0] * 3


@needs_e3nn
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("counts", [[1], [], [0, 1], [1, 0, 1]])
def test_samples_without_pairs_do_not_move(counts, low):
    network, layout = make(dtype=torch.float32, pair_outputs=2), Layout.ragged(counts)
    position = torch.zeros(layout.rows, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        features, vector, told = network(torch.ones(layout.rows, 4), position, layout)
    assert features.shape == (layout.rows, 3)
    assert told.shape == (0, 2)
    assert vector.tolist() == [[0.0] * 3] * layout.rows
    (features.sum() + vector.sum()).backward()
    assert position.grad.tolist() == [[0.0] * 3] * layout.rows


@needs_e3nn
def test_coincident_points_have_no_vector_and_finite_gradients():
    position = torch.zeros(3, 3, requires_grad=True)
    features, vector, _ = make(dtype=torch.float32)(torch.ones(3, 4), position, Layout.ragged([3]))
    (features.sum() + vector.sum()).backward()
    assert vector.abs().max() == 0
    assert position.grad.isfinite().all()


@needs_e3nn
@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_gradients_with_respect_to_positions_are_those_of_differences(apart):
    network = make(layers=2)
    features, start = normal(4, 4), normal(4, 3, seed=1)
    # One point beside another, where directions shrink.
    start[1] = start[0] + 0.05 * normal(3, seed=2) + apart

    def function(position):
        out = network(features, position, Layout.ragged([4]))
        return out.features, out.vector

    assert torch.autograd.gradcheck(function, start.requires_grad_())


@needs_e3nn
def test_bfloat16_is_close_to_float32():
    network, batch = make(dtype=torch.float32), random_graphs(4, dtype=torch.float32)
    plain = call(network, batch)
    with torch.autocast("cpu", torch.bfloat16):
        low = call(network, batch)
    for a, b in zip(plain[:2], low[:2], strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.03 * a.norm()


@needs_e3nn
def test_gradients_reach_every_weight():
    network = make(pair_inputs=2, pair_outputs=2)
    batch = random_graphs(4, pair_features=2)
    out = call(network, batch, pair_features=batch["pairs"])
    sum(x.square().sum() for x in out).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@needs_e3nn
def test_only_weights_are_saved_and_a_copy_says_the_same():
    network, batch = make(), random_graphs(4)
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
    other = make(seed=1)
    assert not torch.equal(call(other, batch).vector, call(network, batch).vector)
    other.load_state_dict(network.state_dict())
    for one in (other, copy.deepcopy(network)):
        assert torch.equal(call(one, batch).vector, call(network, batch).vector)


@needs_e3nn
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degree": 0}, r"degree must be 1 \(vectors\) or 2, got 0"),
        ({"degree": 3}, "degree must be 1"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"basis": 1}, "basis must be at least 2, got 1"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@needs_e3nn
def test_other_inputs_than_it_was_made_for_are_refused():
    network, position = make(pair_inputs=2), torch.zeros(7, 3).double()
    with pytest.raises(ValueError, match=r"pair_features must be .* = \(9, 2\), got None"):
        network(torch.zeros(7, 4).double(), position, LAYOUT)


def test_without_e3nn_the_network_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(ImportError, match=r"pip install 'structdiff\[e3\]'"):
        TensorProductNetwork(4, 3)
