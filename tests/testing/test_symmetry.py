"""`check_equivariance` passes models with a symmetry and names the move that others fail at."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

import pytest
import torch
from torch import nn

from structdiff import Batch, Categorical, Flow, Gaussian, Geometric, Layout, Product, absorbing
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules.network import MoleculeBackbone
from structdiff.nn.graph import GraphOutput
from structdiff.nn.graph_networks import GraphKind
from structdiff.nn.pairs import Pairs
from structdiff.parameterisations import Preconditioned
from structdiff.schedules import Window
from structdiff.spaces import ZeroCentre
from structdiff.testing import ExactDenoiser
from structdiff.testing.symmetry import check_equivariance
from structdiff.testing.toys import achiral, chiral, crystal, mirrored, orders, random_graphs

DTYPES = [torch.float32, torch.float64]
SMALL = {"layers": 2, "width": 8, "hidden": 16}
NETWORKS = {
    "PairNetwork": "pair_network",
    "EGNN": "egnn",
    "PaiNN": "painn",
    "GraphTransformer": "graph_transformer",
    "TensorProductNetwork": "tensor_product",
}


CHIRAL = [("PaiNN", {"chiral": True}), ("TensorProductNetwork", {"parity": False})]


def make(name, dtype, inputs=4, **settings):
    """A small network of graphs, freshly initialised."""
    if name == "TensorProductNetwork":
        pytest.importorskip("e3nn", reason="the extra e3 is not installed")
    torch.manual_seed(0)
    network = getattr(import_module(f"structdiff.nn.{NETWORKS[name]}"), name)
    return network(inputs, 3, **(SMALL | settings)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", ["E(3)", "S_n"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_graph_network_is_equivariant(name, group, dtype):
    network = make(name, dtype, pair_inputs=2, pair_outputs=3)
    for share in (1.0, 0.5):
        check_equivariance(
            network, group, random_graphs(4, pair_features=2, share=share, dtype=dtype)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "settings"), CHIRAL, ids=[name for name, _ in CHIRAL])
def test_chiral_networks_turn_but_know_left_from_right(name, settings, dtype):
    network = make(name, dtype, layers=3, **settings)
    batch = random_graphs(4, dtype=dtype)
    for group in ("SE(3)", "S_n"):
        check_equivariance(network, group, batch)
    with pytest.raises(AssertionError, match="reflection: the output .* is off by"):
        check_equivariance(network, "E(3)", batch)


@pytest.mark.parametrize(("name", "settings"), [*((n, {}) for n in NETWORKS), *CHIRAL])
def test_only_chiral_networks_tell_a_chiral_molecule_from_its_mirror_image(name, settings):
    network = make(name, torch.float64, inputs=5, layers=3, **settings)
    for molecule, differs in ((chiral(), bool(settings)), (achiral(), False)):
        layout = molecule.layouts["position"]
        left, right = (
            network(x["features"], x["position"], layout).features.sum(0)
            for x in (molecule, mirrored(molecule))
        )
        gap = (left - right).abs().max()
        assert gap > 1e-6 if differs else gap < 1e-10


def molecules_denoiser(dtype, self_conditioning=False):
    torch.manual_seed(0)
    backbone = MoleculeBackbone(
        6, 5, 1.4, layers=3, width=8, hidden=12, basis=10, self_conditioning=self_conditioning
    )
    position = Gaussian(Geometric(0.005, 8.0), Preconditioned(1.4), event=(3,), space=ZeroCentre())
    element = Categorical(Window(Flow(), 0.3, 0.8), absorbing(5))
    process = Product({"position": position, "element": element})
    denoiser = NetworkDenoiser(backbone, process, self_conditioning=self_conditioning)
    return denoiser.to(dtype)


def molecules(dtype):
    graphs = random_graphs(1, dtype=dtype)
    layout = graphs.layouts["position"]
    leaves = {"position": graphs["position"], "element": torch.arange(layout.rows) % 6}
    return Batch(leaves, dict.fromkeys(leaves, layout))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", ["E(3)", "SO(3)", "S_n"])
@pytest.mark.parametrize("self_conditioning", [False, True])
def test_the_molecules_denoiser_is_equivariant(group, dtype, self_conditioning):
    """Centred positions turn with the input and stay where it is moved; elements do not change."""
    denoiser = molecules_denoiser(dtype, self_conditioning)
    check_equivariance(denoiser, group, molecules(dtype), t=0.4)


@pytest.mark.parametrize("kind", get_args(GraphKind))
@pytest.mark.parametrize("group", ["E(3)", "S_n"])
def test_a_denoiser_of_atoms_and_bonds_is_equivariant(kind, group):
    """Bonds follow their atoms under permutations, and nothing else moves them."""
    torch.manual_seed(0)
    sizes = {"layers": 2, "width": 8, "hidden": 8, "basis": 6}
    bonds = {"bond_symbols": 5, "bond_classes": 4, "self_conditioning": True}
    backbone = MoleculeBackbone(6, 5, 1.4, kind=kind, **sizes, **bonds)
    space = {"event": (3,), "space": ZeroCentre()}
    leaves = {
        "position": Gaussian(Geometric(0.005, 8.0), Preconditioned(1.4), **space),
        "element": Categorical(Window(Flow(), 0.3, 0.8), absorbing(5)),
        "bond": Categorical(Window(Flow(), 0.2, 0.7), absorbing(4)),
    }
    denoiser = NetworkDenoiser(backbone, Product(leaves), self_conditioning=True).double()
    atoms = molecules(torch.float64)
    edges = Layout.pairs(atoms.layouts["position"])
    bond = {"bond": torch.arange(edges.rows) % 5}
    batch = Batch({**atoms.leaves, **bond}, {**atoms.layouts, "bond": edges})
    wanted = "SE(3)" if kind == "chiral_painn" and group == "E(3)" else group
    check_equivariance(denoiser, wanted, batch, t=0.4)
    if kind == "chiral_painn" and group == "E(3)":
        with pytest.raises(AssertionError, match="reflection"):
            check_equivariance(denoiser, group, batch, t=0.4)


class Plain(nn.Module):
    """h_i = sum_j s_ij and v_i = sum_j s_ij (x_i - x_j) with s_ij = g_i g_j exp(-r^2 / 8)."""

    def gaps(self, x, pairs):
        return x[pairs.target] - x[pairs.source]

    def edge(self, f, gap, pairs):
        strength = torch.tanh(f).sum(1) + 0.3
        return strength[pairs.target] * strength[pairs.source] * (-gap.square().sum(1) / 8).exp()

    def features(self, h, x, f, layout):
        return h

    def forward(self, features, position, layout, *, pairs=None, pair_features=None):
        pairs = pairs or Pairs.complete(layout)
        gap = self.gaps(position, pairs)
        s = self.edge(features, gap, pairs)
        v = torch.zeros_like(position).index_add(0, pairs.target, s[:, None] * gap)
        h = position.new_zeros(layout.rows).index_add(0, pairs.target, s)
        told = pairs.joined(s[:, None])
        if pair_features is not None:
            told = told * pair_features[:, :1]
        return GraphOutput(self.features(h, position, features, layout)[:, None], v, told)


class SeesPlaces(Plain):
    def features(self, h, x, f, layout):
        return h + x.norm(dim=1)


class SeesDirections(Plain):
    def edge(self, f, gap, pairs):
        return super().edge(f, gap * gap.new_tensor([1.0, 1.0, 1.05]), pairs)


class SeesHands(Plain):
    """A product of three vectors that changes its sign in a mirror."""

    def features(self, h, x, f, layout):
        moments = [layout.spread(layout.sum(x * f[:, :1] ** k)) for k in (1, 2)]
        sizes = [layout.spread(layout.sum(f[:, :1] ** k)) for k in (1, 2)]
        centre = layout.spread(layout.mean(x))
        a, b = (m - n * centre for m, n in zip(moments, sizes, strict=True))
        return h + 0.1 * torch.linalg.cross(a, b).mul(x - centre).sum(1)


class SeesOrder(Plain):
    def features(self, h, x, f, layout):
        return h + 0.01 * layout.row.to(h)


class SeesFirstEnd(Plain):
    """What it says of a pair is what it says of its end of the lower row."""

    def forward(self, features, position, layout, *, pairs=None, pair_features=None):
        h, v, _ = super().forward(features, position, layout, pairs=pairs)
        return GraphOutput(h, v, h[(pairs or Pairs.complete(layout)).first])


class SeesPairsInAnotherOrder(Plain):
    """Reads the features of the pairs backwards."""

    def forward(self, features, position, layout, *, pairs=None, pair_features=None):
        return super().forward(
            features, position, layout, pairs=pairs, pair_features=pair_features.flip(0)
        )


GROUPS = ["E(3)", "SE(3)", "O(3)", "SO(3)", "T(3)", "S_n"]


@pytest.mark.parametrize(
    ("network", "failing"),
    [
        (Plain(), {}),
        (SeesPlaces(), dict.fromkeys(["E(3)", "SE(3)", "T(3)"], "translation")),
        (SeesDirections(), dict.fromkeys(["E(3)", "SE(3)", "O(3)", "SO(3)"], "rotation")),
        (SeesHands(), dict.fromkeys(["E(3)", "O(3)"], "reflection")),
        (SeesOrder(), {"S_n": "permutation"}),
        (SeesFirstEnd(), {"S_n": "permutation"}),
        (SeesPairsInAnotherOrder(), {"S_n": "permutation"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_each_broken_symmetry_is_found_in_its_groups(network, failing, group, dtype):
    batch = random_graphs(3, pair_features=1, share=0.6, dtype=dtype)
    if group not in failing:
        check_equivariance(network, group, batch)
        return
    with pytest.raises(AssertionError, match=rf"^{failing[group]}: the output .* is off by"):
        check_equivariance(network, group, batch)


class Periodic(Plain):
    """Gaps of a lattice, by sines of their coordinates in its vectors."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def gaps(self, x, pairs):
        place = torch.linalg.solve(self.cell.T, super().gaps(x, pairs).T).T
        return torch.sin(2 * torch.pi * place) @ self.cell


def test_moves_by_whole_cells_are_seen_by_what_is_not_periodic():
    batch, cell = crystal()
    for group in ("Z", "T(3)", "S_n"):
        check_equivariance(Periodic(cell), group, batch, cell=cell)
    with pytest.raises(AssertionError, match="lattice: the output 'features' is off by"):
        check_equivariance(Plain(), "Z", batch, cell=cell)
    with pytest.raises(AssertionError, match="lattice"):
        check_equivariance(Periodic(cell), "Z", batch, cell=0.5 * cell)


class Skewed(nn.Module):
    """A molecules' backbone with one coordinate of its vectors turned over or scaled."""

    def __init__(self, backbone, scale):
        super().__init__()
        self.backbone, self.scale = backbone, torch.tensor(scale)

    def forward(self, batch, clock, previous):
        out = dict(self.backbone(batch, clock, previous))
        out["position"] = out["position"] * self.scale.to(out["position"])
        return out


def test_a_denoiser_that_prefers_an_axis_is_found():
    denoiser = molecules_denoiser(torch.float64)
    denoiser.backbone = Skewed(denoiser.backbone, [1.0, 1.0, 1.1])
    check_equivariance(denoiser, "S_n", molecules(torch.float64))
    with pytest.raises(AssertionError, match="rotation: the output 'position' is off by"):
        check_equivariance(denoiser, "SO(3)", molecules(torch.float64))


def exploding(data):
    schedule = Geometric(0.3, 6.0)
    position = Gaussian(schedule, event=(3,))
    features = Gaussian(schedule, event=(5,))
    return ExactDenoiser(Product({"position": position, "features": features}), data)


def test_the_exact_denoiser_of_all_orders_is_equivariant_and_that_of_one_is_not():
    batch = chiral().select([0, 0])
    noise = random_graphs(5, counts=[5, 5])
    leaves = {name: x + noise[name] for name, x in batch.leaves.items()}
    noisy = batch.with_leaves(leaves)
    check_equivariance(exploding(orders(chiral())), "S_n", noisy, t=0.4)
    with pytest.raises(AssertionError, match="permutation: the output"):
        check_equivariance(exploding(chiral()), "S_n", noisy, t=0.4)


def test_points_follow_a_translation_and_velocities_do_not():
    class Same(nn.Module):
        def forward(self, features, position, layout, *, pairs=None, pair_features=None):
            return GraphOutput(features, position, None)

    batch = random_graphs(2)
    check_equivariance(Same(), "E(3)", batch, follow=1.0)
    with pytest.raises(AssertionError, match="translation: the output 'position'"):
        check_equivariance(Same(), "E(3)", batch)


def test_vectors_that_are_zero_are_no_evidence():
    class Zero(nn.Module):
        def forward(self, features, position, layout, *, pairs=None, pair_features=None):
            return GraphOutput(features, torch.zeros_like(position), None)

    with pytest.raises(AssertionError, match="rotation: the output 'position' is zero everywhere"):
        check_equivariance(Zero(), "SO(3)", random_graphs(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": "SO(4)"}, "group must be one of E\\(3\\), .*, got 'SO\\(4\\)'"),
        ({"group": "Z"}, r"cell must be \(3, 3\) for the group Z, got None"),
        ({"group": "Z", "cell": torch.eye(2)}, r"cell must be \(3, 3\) .*, got \(2, 2\)"),
        ({"vectors": ["velocity"]}, "vectors must name leaves .* got \\['velocity'\\]"),
        ({"vectors": []}, "vectors must name leaves"),
        ({"vectors": ["position", "features"]}, "of one space, got leaves of \\[2, 3\\]"),
        ({"batch": Batch.of(torch.zeros(2, 3))}, "needs the leaves \\['features', 'position'\\]"),
    ],
)
def test_what_tests_nothing_is_refused(change, message):
    settings = {"model": Plain(), "group": "E(3)", "batch": random_graphs(2)} | change
    with pytest.raises(ValueError, match=message):
        check_equivariance(**settings)


def test_edges_over_unknown_rows_are_refused():
    batch = random_graphs(2)
    edges = batch.layouts["pairs"]
    lost = Layout(edges.counts, edges.sample, edges.nodes)
    batch = Batch(batch.leaves, {**batch.layouts, "pairs": lost})
    with pytest.raises(ValueError, match="edge leaf 'pairs' must say which rows its edges join"):
        check_equivariance(Plain(), "S_n", batch)


def signed_volumes(batch, kinds):
    """Of the corners of three kinds around the centre, for each choice of such rows."""
    x, kind = batch["position"], batch["features"].argmax(1)
    rows = [torch.nonzero(kind == k).flatten() for k in kinds]
    return torch.stack([torch.det(x[corners]) for corners in torch.cartesian_prod(*rows)])


def test_the_chiral_toy_is_no_rotation_of_its_mirror_image_and_the_achiral_one_is():
    """Signed volumes of differing corners know the hand; for equal corners both signs occur."""
    left, right = (signed_volumes(x, (2, 3, 4)) for x in (chiral(), mirrored(chiral())))
    assert left.abs() > 0.1
    assert left == -right
    x, exchanged = achiral(), torch.tensor([0, 2, 1, 3, 4])
    image = mirrored(x)["position"][exchanged]
    torch.testing.assert_close(x["features"][exchanged], x["features"])
    # The rotation that is best (Kabsch, with determinant 1) brings one to the other exactly.
    u, _, v = torch.linalg.svd(x["position"].T @ image)
    turn = u @ torch.diag(torch.tensor([1.0, 1.0, torch.det(u @ v)]).double()) @ v
    assert torch.det(turn) > 0.999
    torch.testing.assert_close(x["position"] @ turn, image, rtol=1e-12, atol=1e-12)


def test_orders_takes_one_sample():
    with pytest.raises(ValueError, match="batch must have 1 sample, got 2: select one"):
        orders(chiral().select([0, 0]))
