"""Molecules to records and back."""

import numpy as np
import pytest
import torch

from structdiff.domains.molecules import MoleculeCodec, Structures, embedded


@pytest.fixture(scope="module")
def qm9():
    return embedded()


def test_round_trip_moves_each_molecule_to_its_centre_and_nothing_else(qm9):
    codec = MoleculeCodec.fit(qm9)
    back = codec.decode(codec.encode(qm9))
    assert np.array_equal(back.number, qm9.number)
    for i in (0, 7, 1999):
        _, was = qm9.molecule(i)
        _, now = back.molecule(i)
        np.testing.assert_allclose(now, was - was.mean(0), atol=1e-5)
        assert abs(now.mean(0)).max() < 1e-5


def test_scale_is_the_root_mean_square_of_centred_coordinates(qm9):
    codec = MoleculeCodec.fit(qm9)
    squares = [((x - x.mean(0)) ** 2).sum() for _, x in qm9]
    expected = np.sqrt(sum(squares) / (3 * len(qm9.number)))
    assert codec.position_std == pytest.approx(expected, rel=1e-6)
    assert sum(codec.sizes.histogram) == 2000
    assert codec.sizes.histogram[18] == int((qm9.count == 18).sum())


def test_state_is_json_and_restores_the_same_codec(qm9):
    import json

    codec = MoleculeCodec.fit(qm9, ["alpha", "gap"])
    again = MoleculeCodec.from_state(json.loads(json.dumps(codec.state())))
    batch, other = codec.encode(qm9.select(range(5))), again.encode(qm9.select(range(5)))
    assert torch.equal(batch["element"], other["element"])
    assert torch.equal(batch.condition["gap"], other.condition["gap"])
    assert again.sizes == codec.sizes
    assert again.conditions == codec.conditions
    with pytest.raises(ValueError, match="types"):
        MoleculeCodec.from_state({"sizes": [1, 6]})


def test_an_element_with_a_charge_is_a_type_of_its_own():
    """Glycine's zwitterion beside ammonia: N and N+ are two classes and come back as such."""
    charged = Structures(
        np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 3, 1], [4, 0, 0]]),
        np.array([7, 1, 7, 8, 6]),
        np.array([2, 3]),
        charge=np.array([1, 0, 0, -1, 0]),
    )
    codec = MoleculeCodec.fit(charged)
    assert codec.types == ((1, 0), (6, 0), (7, 0), (7, 1), (8, -1))
    assert codec.symbols() == ["H", "C", "N", "N+", "O-"]
    assert codec.elements == (1, 6, 7, 8)
    back = codec.decode(codec.encode(charged))
    assert np.array_equal(back.number, charged.number)
    assert np.array_equal(back.charge, charged.charge)
    neutral = Structures(charged.position, charged.number, charged.count)
    with pytest.raises(ValueError, match=r"\['H', 'C', 'N', 'N\+', 'O-'\].*\['O'\]"):
        codec.encode(neutral)


def test_properties_become_conditions_with_their_presence(qm9):
    alpha = qm9.properties["alpha"].copy()
    alpha[3] = np.nan
    some = qm9.with_properties({"alpha": alpha, "kind": np.where(alpha > 75, "large", "small")})
    codec = MoleculeCodec.fit(some, ["alpha", "kind"])
    batch = codec.encode(some)
    assert batch.present["alpha"].tolist() == (~np.isnan(alpha)).tolist()
    seen = batch.condition["alpha"][batch.present["alpha"], 0].double().numpy()
    known = alpha[~np.isnan(alpha)]
    np.testing.assert_allclose(seen, (known - known.mean()) / known.std(), atol=1e-5)
    assert batch.condition["kind"].tolist() == [
        int(kind == "small") for kind in some.properties["kind"]
    ]
    assert not codec.encode(some.with_properties({})).condition
    with pytest.raises(ValueError, match=r"properties \['alpha', 'kind'\], not \['beta'\]"):
        MoleculeCodec.fit(some, ["beta"])


def test_sizes_go_with_what_is_asked(qm9):
    """Polarisability grows with the number of atoms; so must the sizes that are drawn for it."""
    codec = MoleculeCodec.fit(qm9, ["alpha"])
    means = []
    for value in (66.0, 75.0, 86.0):
        near = np.abs(qm9.properties["alpha"] - value) < 3
        condition = codec.encode(qm9.select(np.flatnonzero(near))).condition
        present = {"alpha": torch.ones(int(near.sum()), dtype=torch.bool)}
        weights = codec.sizes.weights(int(near.sum()), condition, present)
        law = (weights / weights.sum(1, keepdims=True)).mean(0)
        means.append(law @ np.arange(len(law)))
        assert means[-1] == pytest.approx(qm9.count[near].mean(), abs=0.5)
    assert means[0] + 1 < means[1] < means[2] - 1


def test_an_element_outside_the_training_data_is_named(qm9):
    codec = MoleculeCodec.fit(qm9)
    silane = Structures.from_list([([14, 1], [[0.0, 0, 0], [0, 0, 1.5]])])
    with pytest.raises(ValueError, match=r"\['Si'\].*train on data that has them"):
        codec.encode(silane)


def test_fitting_to_nothing_is_refused():
    with pytest.raises(ValueError, match="no molecules"):
        MoleculeCodec.fit(Structures.from_list([]))
