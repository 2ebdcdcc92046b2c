"""The record of many samples."""

import pytest
import torch

from structdiff import Batch, Layout


def ragged() -> Batch:
    layout = Layout.ragged([2, 1, 3])
    return Batch(
        {"x": torch.arange(12.0).reshape(6, 2), "k": torch.tensor([5, 6, 7])},
        {"x": layout, "k": Layout.regular(3)},
        condition={"mass": torch.tensor([1.0, 2.0, 3.0])},
        present={"mass": torch.tensor([True, False, True])},
        given={"x": torch.tensor([True, False, False, True, False, True])},
        ids=torch.tensor([10, 11, 12]),
    )


def test_of_a_tensor_is_one_regular_leaf() -> None:
    batch = Batch.of(torch.arange(4.0))
    assert batch["x"].tolist() == [0, 1, 2, 3]
    assert batch.layouts["x"].counts == (1, 1, 1, 1)
    assert batch.ids.tolist() == [0, 1, 2, 3]
    assert (batch.samples, batch.device.type) == (4, "cpu")


def test_select_takes_everything_along() -> None:
    chosen = ragged().select([2, 0, 2])
    rows = [3, 4, 5, 0, 1, 3, 4, 5]
    assert chosen["x"].tolist() == [[2.0 * i, 2.0 * i + 1] for i in rows]
    assert chosen["k"].tolist() == [7, 5, 7]
    assert chosen.condition["mass"].tolist() == [3, 1, 3]
    assert chosen.present["mass"].tolist() == [True, True, True]
    assert chosen.given["x"].tolist() == [True, False, True, True, False, True, False, True]
    assert chosen.ids.tolist() == [12, 10, 12]
    assert chosen.layouts["x"].counts == (3, 2, 3)


def test_select_renumbers_the_ends_of_edges() -> None:
    atoms = Layout.ragged([3, 2, 4])
    bonds = Layout.pairs(atoms)
    name = torch.arange(9)
    ends = torch.stack([name[bonds.nodes[0]], name[bonds.nodes[1]]], 1)
    batch = Batch({"atom": name, "bond": ends}, {"atom": atoms, "bond": bonds})
    chosen = batch.select([2, 0, 2])
    nodes = chosen.layouts["bond"].nodes
    assert nodes is not None
    assert chosen["atom"][nodes].T.tolist() == chosen["bond"].tolist()
    assert chosen.layouts["bond"].counts == (6, 3, 6)
    again = chosen.select([1])
    assert again["atom"][again.layouts["bond"].nodes].T.tolist() == [[0, 1], [0, 2], [1, 2]]


def test_select_refuses_edges_over_unknown_nodes() -> None:
    edges = Layout((1,), torch.zeros(1, dtype=torch.long), torch.tensor([[0], [1]]))
    batch = Batch({"bond": torch.zeros(1)}, {"bond": edges})
    with pytest.raises(ValueError, match="edge rows can be selected only if"):
        batch.select([0])


def test_parts_and_changes() -> None:
    batch = ragged()
    one = batch.only("x")
    assert list(one.leaves) == ["x"]
    assert one.given["x"] is batch.given["x"]
    assert one.ids.tolist() == [10, 11, 12]
    assert batch.only("k").given == {}
    other = batch.with_leaves({"x": batch["x"] + 1, "k": batch["k"]})
    assert (other["x"] - batch["x"]).unique().tolist() == [1]
    assert other.given["x"] is batch.given["x"]
    assert batch.with_given({}).given == {}
    same = batch.to("cpu")
    assert torch.equal(same["x"], batch["x"])
    assert torch.equal(same.given["x"], batch.given["x"])


X = torch.zeros(3, 2)
ROWS = {"x": Layout.regular(3)}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Batch({}, {}), "at least one"),
        (lambda: Batch({"x": X}, {"y": Layout.regular(3)}), r"\['x'\] and layouts \['y'\]"),
        (lambda: Batch({"x": X}, {"x": Layout.regular(2)}), "its layout has 2 rows"),
        (lambda: Batch({"x": torch.zeros(())}, {"x": Layout.regular(1)}), "its layout has 1 rows"),
        (
            lambda: Batch({"x": X, "y": X[:2]}, {**ROWS, "y": Layout.regular(2)}),
            r"same number of samples, got \{'x': 3, 'y': 2\}",
        ),
        (
            lambda: Batch({"x": X}, ROWS, condition={"c": X[:2]}),
            r"condition 'c' has shape \(2, 2\)",
        ),
        (
            lambda: Batch({"x": X}, ROWS, present={"c": torch.ones(3).bool()}),
            r"present names \['c'\]",
        ),
        (
            lambda: Batch({"x": X}, ROWS, given={"y": torch.ones(3).bool()}),
            "given names the leaf 'y'",
        ),
        (lambda: Batch({"x": X}, ROWS, given={"x": torch.ones(3)}), "must be bool of shape"),
        (
            lambda: Batch({"x": X}, ROWS, given={"x": torch.ones(2).bool()}),
            r"must be bool of shape \(3,\) or \(3, 2\)",
        ),
        (lambda: Batch({"x": X}, ROWS, ids=torch.arange(2)), r"ids has shape \(2,\)"),
        (lambda: Batch.of(X).only("y"), r"the process has a leaf 'y', but the batch has \['x'\]"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
