"""Training, keeping and drawing: small, but the whole way."""

import numpy as np
import pytest
import torch

from structdiff.domains.molecules import (
    MoleculesConfig,
    Run,
    Structures,
    embedded,
    evaluate_run,
    train,
    write_card,
)
from structdiff.domains.molecules.loading import load_data

SMALL = {
    "network": {"layers": 2, "width": 16, "hidden": 16, "basis": 8},
    "training": {
        "steps": 120,
        "batch_size": 8,
        "warm_up": 10,
        "log_every": 30,
        "validate_every": 120,
    },
    "sampler": {"steps": 10, "batch_size": 6},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = MoleculesConfig.model_validate(SMALL)
    return train(config, tmp_path_factory.mktemp("runs") / "small", say=lambda _: None)


def test_the_loss_falls_and_the_bound_is_logged(run):
    lines = run.folder.read_metrics()
    losses = [line["element"] for line in lines if "element" in line]
    assert losses[-1] < 0.95 * losses[0]
    bounds = [line for line in lines if "bound" in line]
    assert bounds[-1]["bound"] == pytest.approx(
        bounds[-1]["bound_position"] + bounds[-1]["bound_element"]
    )


def test_a_loaded_run_draws_the_same_molecules(run):
    first = run.sample(4, seed=3, progress=False).structures
    again = Run.load(run.folder.path).sample(4, seed=3, progress=False).structures
    other = run.sample(4, seed=4, progress=False).structures
    assert np.array_equal(first.position, again.position)
    assert not np.array_equal(first.position[:5], other.position[:5])


def test_a_batch_depends_on_the_seed_and_its_number_alone(run):
    short = run.sample(6, sizes=[5], seed=1, progress=False).structures
    long = run.sample(10, sizes=[5], seed=1, progress=False).structures
    assert np.array_equal(short.position, long.position[:30])


def test_sizes_follow_the_histogram_or_the_list(run):
    drawn = run.request(20_000).counts
    histogram = np.asarray(run.codec.sizes.histogram)
    counts = np.bincount(drawn, minlength=len(histogram)) / 20_000
    expected = histogram / histogram.sum()
    assert abs(counts - expected).max() < 5 * np.sqrt(0.25 / 20_000)
    assert set(run.request(200, sizes=[9, 12]).counts) == {9, 12}
    with pytest.raises(ValueError, match="each at least 2"):
        run.request(3, sizes=[1])
    core = Structures.from_list([([6] * 6, np.arange(18.0).reshape(6, 3))])
    with pytest.raises(ValueError, match="the given part has 6 atoms, a molecule needs more"):
        run.request(3, sizes=[4, 6], given=core)
    assert set(run.request(50, sizes=[4, 6, 7], given=core).counts) == {7}
    with pytest.raises(ValueError, match="at least 1, got 0"):
        run.sample(0)


def test_a_longer_request_begins_with_the_shorter_one(run):
    long = run.request(10_000, seed=5).counts
    for molecules in (1, 100, 4096, 4097, 9_999):
        assert run.request(molecules, seed=5).counts == long[:molecules]
    assert run.request(10_000, seed=6).counts != long


def test_given_atoms_are_where_they_were_given(run):
    core = Structures.from_list([([6, 6, 8], [[5.0, 5, 5], [6.5, 5, 5], [7.2, 6.1, 5]])])
    drawn = run.sample(8, sizes=[6, 9], given=core, seed=2, progress=False).structures
    for number, position in drawn:
        assert number[:3].tolist() == [6, 6, 8]
        np.testing.assert_allclose(position[:3], core.position, atol=1e-5)
        assert len(number) > 3


def test_temperature_zero_takes_the_noise_out_of_the_steps(run):
    warm = run.sample(3, sizes=[8], seed=0, progress=False).structures.position
    cold = run.sample(3, sizes=[8], seed=0, temperature=0.0, progress=False).structures.position
    assert np.isfinite(cold).all()
    assert abs(warm - cold).max() > 1e-3


def test_evaluation_writes_a_table_beside_real_molecules_and_pictures(run):
    result = evaluate_run(run, 8, say=lambda _: None)
    table = result.table()
    assert len(result.samples) == 8
    assert result.reports["real"]["molecule stability"].value > 0.9
    assert result.reports["shuffled elements"]["molecule stability"].value < 0.05
    assert "molecule stability" in table
    kinds = {path.suffix for path in result.files}
    assert kinds >= {".sdf", ".xyz", ".smi", ".png", ".md", ".json"}
    assert all(path.stat().st_size > 0 for path in result.files if path.suffix != ".smi")
    write_card(run, table)
    assert "molecule stability" in (run.folder.path / "README.md").read_text()


def test_the_bound_is_reported_per_leaf_and_molecule(run):
    report = run.bound(embedded().select(range(6)), draws=2, steps=50)
    total = report.leaf("position") + report.leaf("element")
    assert torch.allclose(total, report.total)
    assert bool((report.leaf("element") > 0).all())


def test_implicit_hydrogens_leave_heavy_atoms():
    config = MoleculesConfig.model_validate({"data": {"hydrogens": "implicit"}})
    data = load_data(config)
    assert 1 not in data.train.elements
    assert len(data.validation) == 200


def test_a_split_is_followed_and_checked(tmp_path):
    np.savez(tmp_path / "split.npz", train=np.arange(100), test=np.arange(100, 110))

    def load(name):
        return load_data(MoleculesConfig.model_validate({"data": {"split": str(tmp_path / name)}}))

    data = load("split.npz")
    assert (len(data.train), len(data.validation), len(data.reference)) == (80, 20, 10)
    np.savez(tmp_path / "far.npz", train=np.arange(10), test=np.array([5000]))
    with pytest.raises(ValueError, match="names molecule 5000"):
        load("far.npz")
    np.savez(tmp_path / "bare.npz", train=np.arange(10))
    with pytest.raises(ValueError, match=r"\['test'\] are missing"):
        load("bare.npz")


@pytest.mark.parametrize("element", ["absorbing", "uniform", "marginal"])
def test_every_chain_of_elements_trains_and_draws(element, tmp_path):
    config = MoleculesConfig.model_validate(
        {**SMALL, "noise": {"element": element}, "training": {**SMALL["training"], "steps": 3}}
    )
    small = train(config, tmp_path / "run", say=lambda _: None)
    drawn = small.sample(3, progress=False).structures
    assert set(drawn.elements) <= {1, 6, 7, 8, 9}


def test_self_conditioning_trains_and_draws(tmp_path):
    network = {**SMALL["network"], "self_conditioning": True}
    training = {**SMALL["training"], "steps": 4}
    config = MoleculesConfig.model_validate({**SMALL, "network": network, "training": training})
    small = train(config, tmp_path / "run", say=lambda _: None)
    assert small.denoiser.self_conditioning
    assert len(small.sample(2, progress=False)) == 2


def test_noise_levels_out_of_order_are_refused():
    with pytest.raises(ValueError, match="element_from < element_to"):
        MoleculesConfig.model_validate({"noise": {"element_from": 3.0, "element_to": 1.0}})
