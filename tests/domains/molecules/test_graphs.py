"""Molecules as torch-geometric graphs."""

import numpy as np
import pytest

from structdiff.domains.molecules import embedded
from structdiff.domains.molecules.aromaticity import aromatised
from structdiff.domains.molecules.chemistry import bonds, judge
from structdiff.domains.molecules.graphs import from_graphs, to_graphs
from structdiff.domains.molecules.structures import AROMATIC, Structures
from tests.domains.molecules.smiles import plain, scattered


def test_graphs_hold_atoms_positions_and_each_bond_in_both_directions():
    some = embedded().select(range(20))
    graphs = to_graphs(some)
    back = from_graphs(graphs)
    assert np.array_equal(back.number, some.number)
    np.testing.assert_allclose(back.position, some.position, atol=1e-6)
    assert sum(g.edge_index.shape[1] for g in graphs) == 2 * len(bonds(some))
    for graph in graphs:
        both = zip(graph.edge_index.T.tolist(), graph.edge_attr.tolist(), strict=True)
        pairs = {tuple(pair): order for pair, order in both}
        assert all(pairs[j, i] == order for (i, j), order in pairs.items())


def test_a_batch_of_graphs_is_read_like_a_list():
    from torch_geometric.data import Batch

    some = embedded().select(range(3))
    back = from_graphs(Batch.from_data_list(to_graphs(some)))
    assert np.array_equal(back.count, some.count)


def test_charges_and_properties_are_kept():
    from torch_geometric.data import Batch

    some = embedded().select(range(3))
    charge = np.arange(len(some.number)) % 2
    known = {
        "mu": np.array([1.0, np.nan, 3.0]),
        "kind": np.array(["a", "", "b"]),
        "pair": np.arange(6.0).reshape(3, 2),
    }
    some = Structures(some.position, some.number, some.count, (), charge, known)
    graphs = to_graphs(some)
    assert graphs[2].properties["mu"] == 3 and graphs[2].properties["kind"] == "b"
    for back in (from_graphs(graphs), from_graphs(Batch.from_data_list(graphs))):
        np.testing.assert_array_equal(back.charge, charge)
        for name, column in known.items():
            np.testing.assert_array_equal(back.properties[name], column)


def test_a_graph_without_positions_is_named():
    from torch_geometric.data import Data

    with pytest.raises(ValueError, match="graph 0 must have z .* and pos"):
        from_graphs([Data(z=[6])])


SMILES = ["C=O", "c1cc[nH]c1", "CC#N"]


def known():
    """Molecules with bonds that distances do not tell."""
    return aromatised(Structures.concatenate([scattered(one) for one in SMILES]))[0]


def test_edges_are_the_bonds_that_molecules_came_with():
    from torch_geometric.data import Batch

    want = known()
    graphs = to_graphs(want)
    assert (graphs[1].edge_attr == AROMATIC).sum() == 10
    for back in (from_graphs(graphs), from_graphs(Batch.from_data_list(graphs))):
        np.testing.assert_array_equal(back.bond.pair, want.bond.pair)
        np.testing.assert_array_equal(back.bond.order, want.bond.order)
        assert [v.smiles for v in judge(back)] == [plain(one) for one in SMILES]


def test_orders_may_be_one_hot_and_edges_in_one_direction():
    """As torch-geometric's own QM9: single, double, triple, aromatic."""
    import torch

    want, graphs = known(), to_graphs(known())
    for graph in graphs:
        half = graph.edge_index.shape[1] // 2
        graph.edge_index = graph.edge_index[:, half:]  # j > i
        graph.edge_attr = torch.nn.functional.one_hot(graph.edge_attr[half:] - 1, 4).float()
    back = from_graphs(graphs)
    np.testing.assert_array_equal(back.bond.pair, want.bond.pair)
    np.testing.assert_array_equal(back.bond.order, want.bond.order)


def test_edges_of_neighbours_are_not_bonds():
    """No attribute, distances, or a graph without edges: nothing is known of bonds."""
    import torch

    for change in (
        lambda graph: graph.update({"edge_attr": None}),
        lambda graph: graph.update({"edge_attr": torch.rand(graph.edge_index.shape[1], 1)}),
        lambda graph: graph.update({"edge_index": None}),
        lambda graph: graph.update({"edge_attr": graph.edge_attr + 1}),
    ):
        graphs = to_graphs(known())
        change(graphs[1])
        assert from_graphs(graphs).bond is None


def test_bonds_that_contradict_each_other_are_named():
    graphs = to_graphs(known())
    graphs[2].edge_attr[0] += 1
    with pytest.raises(ValueError, match="edges of graph 2 .* each pair once"):
        from_graphs(graphs)
