"""Scores agree with the bound, are the same in any file, and say how far they can be trusted."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from structdiff.artifacts import RunFolder
from structdiff.domains.molecules import MoleculesConfig, Run, Structures, embedded
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.recipe import build
from structdiff.domains.molecules.reports.reporting import score as score_file
from structdiff.domains.molecules.reports.scoring import score

STEPS = 12


@pytest.fixture(scope="module")
def run():
    """A small model whose weights are noise: it is wrong, but no two molecules look alike."""
    denoiser, codec, config, _ = small(embedded().select(range(80)))
    return Run(RunFolder("nowhere"), config, codec, denoiser)


def small(molecules, conditions=(), hydrogens="explicit"):
    settings = {
        "network": {"layers": 1, "width": 8, "hidden": 8, "basis": 4},
        "data": {"hydrogens": hydrogens},
    }
    config = MoleculesConfig.model_validate(settings)
    codec = MoleculeCodec.fit(molecules, conditions)
    denoiser, source = build(config, codec), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=source))
    return denoiser.eval(), codec, config, molecules


def scored(run, structures, **settings):
    settings = {"draws": 2, "steps": STEPS, "progress": False} | settings
    return score(run.denoiser, run.codec, run.config, structures, **settings)


def test_scores_are_the_bound_within_their_errors(run):
    molecules = embedded().select(range(12))
    mine = scored(run, molecules, draws=8)
    other = run.bound(molecules, draws=8, steps=STEPS)
    for name in ("position", "element"):
        ours, theirs = mine.bound.leaf(name), other.leaf(name).double()
        spread = (mine.bound.leaf_error(name) ** 2 + other.leaf_error(name) ** 2).sqrt()
        # Errors of 8 draws: Student's law with about 14 degrees of freedom, 12 molecules.
        assert ((ours - theirs).abs() < 4.5 * spread + 1e-3).all(), name
    assert mine.bound.prior["position"].tolist() == pytest.approx(
        other.prior["position"].tolist(), rel=1e-4
    )


def test_a_molecule_has_its_score_in_any_file(run):
    molecules = embedded().select([3, 40, 7, 1500])
    together = scored(run, molecules)
    for place in range(4):
        alone = scored(run, molecules.select([place]))
        assert float(alone.bound.total) == pytest.approx(
            float(together.bound.total[place]), abs=0.02
        )
        assert float(alone.bound.error) == pytest.approx(
            float(together.bound.error[place]), abs=0.02
        )
    shuffled = scored(run, molecules.select([2, 0]))
    assert shuffled.bound.total.tolist() == pytest.approx(
        together.bound.total[[2, 0]].tolist(), abs=0.02
    )
    other = scored(run, molecules, seed=1)
    assert (other.bound.total - together.bound.total).abs().max() > 0.5


def test_errors_are_the_spread_over_seeds_and_fall_with_the_draws(run):
    molecules = embedded().select(range(6))
    few = [scored(run, molecules, draws=3, seed=seed).bound for seed in range(16)]
    many = [scored(run, molecules, draws=12, seed=seed).bound for seed in range(3)]
    spread = torch.stack([b.total for b in few]).std(0).square().mean().sqrt()
    stated = torch.stack([b.error for b in few]).square().mean().sqrt()
    # 16 seeds of 6 molecules that share their steps: the spread is known to some 20 %.
    assert abs(spread / stated - 1) < 0.5
    less = torch.stack([b.error for b in many]).square().mean().sqrt()
    assert less / stated == pytest.approx(0.5, rel=0.35)


def test_columns_add_up(run):
    molecules = embedded().select(range(5))
    scores = scored(run, molecules)
    columns = scores.columns()
    for row in range(5):
        for leaf in ("position", "element"):
            parts = [columns[f"{leaf}_{part}"][row] for part in ("prior", "steps", "last")]
            assert math.fsum(parts) == pytest.approx(columns[leaf][row], abs=1e-9)
        leaves = columns["position"][row] + columns["element"][row]
        assert leaves == pytest.approx(columns["nats"][row], abs=1e-9)
    assert columns["atoms"] == molecules.count.tolist()
    means = scores.means()
    assert means["total"][0].value == pytest.approx(np.mean(columns["nats"]))
    per_atom = np.sum(columns["nats"]) / molecules.count.sum()
    assert means["total per atom"][0].value == pytest.approx(per_atom)


def test_the_size_has_the_probability_of_the_data(run):
    histogram = np.asarray(run.codec.sizes.histogram)
    large = Structures.from_list([(np.full(40, 6), 3.0 * np.arange(120).reshape(40, 3) % 17.3)])
    molecules = Structures.concatenate([embedded().select([0]), large])
    scores = scored(run, molecules)
    expected = -math.log(histogram[molecules.count[0]] / histogram.sum())
    assert scores.size[0] == pytest.approx(expected)
    assert scores.size[1] == math.inf
    assert "1 of a size that training never saw" in scores.summary()


def test_what_cannot_be_scored_is_listed(run):
    carbon = embedded().molecule(0)
    bromide = ([6, 1, 35], [[0.0, 0, 0], [1.1, 0, 0], [0, 1.9, 0]])
    broken = ([6, 1], [[0.0, 0, 0], [math.inf, 0, 0]])
    scores = scored(run, Structures.from_list([bromide, carbon, broken]))
    assert scores.reasons == ("training had no Br", "", "coordinates are not finite")
    assert scores.rows.tolist() == [1]
    columns = scores.columns()
    assert [math.isnan(x) for x in columns["nats"]] == [True, False, True]
    assert "1 of 3 molecules scored" in scores.summary()
    with pytest.raises(
        ValueError, match="no molecule can be scored, the first: training had no Br"
    ):
        scored(run, Structures.from_list([bromide]))
    with pytest.raises(ValueError, match="draws must be at least 2"):
        scored(run, Structures.from_list([carbon]), draws=1)


def conditional(hydrogens="explicit"):
    """An untrained model that knows a number and a class."""
    molecules = embedded().select(range(80))
    molecules = molecules.without_hydrogens() if hydrogens == "implicit" else molecules
    size = molecules.count.astype(float)
    words = np.where(size > size.mean(), "large", "small")
    molecules = molecules.with_properties({"weight": size, "kind": words})
    return small(molecules, ("weight", "kind"), hydrogens)


def test_conditions_of_the_data_are_used_and_told():
    denoiser, codec, config, molecules = conditional()
    few = molecules.select(range(6))
    settings = {"draws": 2, "steps": 10, "progress": False}
    told = score(denoiser, codec, config, few, **settings)
    bare = score(denoiser, codec, config, few.with_properties({}), **settings)
    assert told.known == (("weight", "kind"),) * 6
    assert bare.known == ((),) * 6
    assert (told.bound.total - bare.bound.total).abs().max() > 1e-3
    assert told.size.mean() < bare.size.mean()  # the weight says the size
    assert "kind, weight" in told.summary()
    partly = few.with_properties({"weight": np.array([np.nan, 9, 9, 9, 9, 9.0])})
    assert score(denoiser, codec, config, partly, **settings).known[:2] == ((), ("weight",))
    strange = few.with_properties(
        {"kind": np.array(["huge", "small", "", "small", "large", "small"])}
    )
    scores = score(denoiser, codec, config, strange, **settings)
    assert scores.reasons[0] == "condition 'kind' has no class 'huge'"
    assert scores.known[1] == ()


def test_one_odd_value_does_not_stop_a_file():
    denoiser, codec, config, molecules = conditional()
    few = molecules.select(range(4)).with_properties({})
    settings = {"draws": 2, "steps": 10, "progress": False}
    words = np.array([str(molecules.count[0]), "n/a", "", "1 2"])
    told = score(denoiser, codec, config, few.with_properties({"weight": words}), **settings)
    assert told.reasons == (
        "", "weight is 'n/a', not a number", "", "weight has 2 numbers, expected 1",
    )  # fmt: skip
    assert told.known == (("weight",), ())
    number = few.with_properties({"weight": molecules.count[:4].astype(float)})
    plain = score(denoiser, codec, config, number, **settings)
    assert float(told.bound.total[0]) == pytest.approx(float(plain.bound.total[0]), abs=0.02)
    pairs = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0], [5.0, 6.0]])
    wide = score(denoiser, codec, config, few.with_properties({"weight": pairs}), **settings)
    assert wide.rows.tolist() == [1]
    assert wide.reasons[3] == "weight has 2 numbers, expected 1"


def test_classes_that_look_like_numbers_are_found_in_a_numeric_column():
    molecules = embedded().select(range(80))
    words = np.array(["1", "2", "A", "05"] * 20)
    denoiser, codec, config, molecules = small(
        molecules.with_properties({"code": words}), ["code"]
    )
    few, settings = molecules.select([0, 1, 3, 3]), {"draws": 2, "steps": 10, "progress": False}
    number = few.with_properties({"code": np.array([1.0, 2.0, 5.0, 7.0])})
    found = score(denoiser, codec, config, number, **settings)
    assert found.reasons == ("", "", "", "condition 'code' has no class '7'")
    exact = score(denoiser, codec, config, few, **settings)
    assert found.bound.total.tolist() == pytest.approx(exact.bound.total[:3].tolist(), abs=0.02)


def test_implicit_hydrogens_are_left_out():
    denoiser, codec, config, _ = conditional("implicit")
    hydrogen = Structures.from_list([([1, 1], [[0.0, 0, 0], [0.74, 0, 0]])])
    molecules = Structures.concatenate([hydrogen, embedded().select([5, 6])])
    settings = {"draws": 2, "steps": 10, "progress": False}
    whole = score(denoiser, codec, config, molecules, **settings)
    bare = score(denoiser, codec, config, molecules.without_hydrogens(), **settings)
    assert whole.reasons == ("hydrogen only", "", "")
    assert whole.bound.total.tolist() == pytest.approx(bare.bound.total.tolist(), rel=1e-4)
    assert whole.atoms[1] == (molecules.molecule(1)[0] != 1).sum()


def test_a_file_becomes_a_table(tmp_path, capsys):
    lines = ["1", "lonely", "C 0 0 0"]
    for name, symbol in (("water", "O"), ("plumbane", "Pb")):
        lines += ["3", name, f"{symbol} 0 0 0", "H 0.76 0.59 0", "H -0.76 0.59 0"]
    data, out = tmp_path / "data.xyz", tmp_path / "scores.csv"
    data.write_text("\n".join(lines))
    folder = Run.pretrained().folder.path
    settings = {"draws": 2, "steps": 20, "seed": 0}
    score_file(folder, data, out, **settings, overwrite=False)
    with out.open(newline="") as file:
        rows = {row["name"] or row["where"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["line 1", "water", "plumbane"]
    assert rows["water"]["where"] == "line 4"
    assert rows["plumbane"]["reason"] == "training had no Pb"
    assert rows["plumbane"]["nats"] == ""
    assert float(rows["water"]["error"]) > 0
    assert [row["reason"] for row in rows.values() if row["reason"].startswith("not read")] == [
        "not read: one atom: no geometry"
    ]
    facts = json.loads((tmp_path / "scores.json").read_text())
    assert facts["units"] == "nats per molecule"
    assert facts["scored"] == 1
    assert facts["not read"] == 1
    assert facts["data"] == str(data)
    text = capsys.readouterr().out
    assert "1 of 2 molecules scored" in text
    assert "ELBO" in text
    with pytest.raises(ValueError, match="exists; choose another name"):
        score_file(folder, data, out, **settings, overwrite=False)
    with pytest.raises(ValueError, match=r"scores are a \.csv"):
        score_file(folder, data, tmp_path / "scores.txt", **settings, overwrite=False)
    with pytest.raises(FileNotFoundError, match="create it first"):
        score_file(folder, data, tmp_path / "no" / "scores.csv", **settings, overwrite=False)
