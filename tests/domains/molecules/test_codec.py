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
    assert sum(codec.sizes) == 2000
    assert codec.sizes[18] == int((qm9.count == 18).sum())


def test_state_is_json_and_restores_the_same_codec(qm9):
    import json

    codec = MoleculeCodec.fit(qm9)
    again = MoleculeCodec.from_state(json.loads(json.dumps(codec.state())))
    batch, other = codec.encode(qm9.select(range(5))), again.encode(qm9.select(range(5)))
    assert torch.equal(batch["element"], other["element"])
    assert again.sizes == codec.sizes
    with pytest.raises(ValueError, match="sizes"):
        MoleculeCodec.from_state({"elements": [1, 6]})


def test_an_element_outside_the_training_data_is_named(qm9):
    codec = MoleculeCodec.fit(qm9)
    silane = Structures.from_list([([14, 1], [[0.0, 0, 0], [0, 0, 1.5]])])
    with pytest.raises(ValueError, match=r"\['Si'\].*train on data that has them"):
        codec.encode(silane)


def test_fitting_to_nothing_is_refused():
    with pytest.raises(ValueError, match="no molecules"):
        MoleculeCodec.fit(Structures.from_list([]))
