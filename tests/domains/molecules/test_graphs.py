"""Molecules as torch-geometric graphs."""

import numpy as np
import pytest

from structdiff.domains.molecules import embedded
from structdiff.domains.molecules.chemistry import bonds
from structdiff.domains.molecules.graphs import from_graphs, to_graphs
from structdiff.domains.molecules.structures import Structures


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
