"""The doctor finds what was put wrong, and nothing else, and foretells what training does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from structdiff.domains.molecules import MoleculesConfig, Structures, embedded, write
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.recipe import build, objective_of
from structdiff.domains.molecules.reports.doctor import PAIR_BYTES, examine
from structdiff.domains.molecules.reports.inspection import UNITS, contacts, flat, twins, unit_of
from structdiff.domains.molecules.reports.reporting import doctor
from structdiff.random import Generator


def molecules(number=60):
    return embedded().select(range(number)).with_properties({})


def written(path, structures):
    """An npz, which keeps every property and charge."""
    write(path, structures, judge(structures))
    return path


def section(diagnosis, start):
    (found,) = [s for s in diagnosis.sections if s.title.startswith(start)]
    return "\n".join(found.lines)


def test_good_data_has_nothing_wrong(tmp_path):
    data = molecules()
    data = data.select([i for i, (z, _) in enumerate(data) if 9 not in z])
    diagnosis = examine(written(tmp_path / "good.npz", data), progress=False)
    assert diagnosis.warnings == ()
    assert diagnosis.text().splitlines()[0].endswith("good.npz: no warnings")
    assert f"{len(data)} molecules read, 0 skipped" in section(diagnosis, "what is read")
    elements = section(diagnosis, "atom types").splitlines()
    assert elements[0].split()[:2] == ["H", f"{int((data.number == 1).sum()):,}"]
    sizes = section(diagnosis, "atoms per molecule")
    assert f"{data.count.min()} to {data.count.max()} atoms" in sizes
    bins = [int(word) for word in sizes.splitlines()[1].split() if word.isdecimal()]
    assert sum(bins) == len(data)


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_length_shows(unit, tmp_path):
    data = molecules(20)
    scaled = Structures(data.position.astype(float) * UNITS[unit], data.number, data.count)
    assert unit_of(contacts(scaled).scale) == unit
    told = " ".join(examine(written(tmp_path / "data.npz", scaled), progress=False).warnings)
    assert (f"look like {unit}" in told) == (unit != "Angstrom")
    if unit == "Bohr":
        assert "multiply them by 0.5292" in told


def test_an_unknown_scale_is_told(tmp_path):
    data = molecules(20)
    scaled = Structures(data.position * 5, data.number, data.count)
    assert unit_of(5.0) is None
    told = " ".join(examine(written(tmp_path / "data.npz", scaled), progress=False).warnings)
    assert "hardly in Angstrom" in told


def test_contacts_are_measured_in_covalent_radii():
    """Two carbon atoms at 1.52 Angstrom touch: their radius is 0.76."""
    pair = Structures.from_list([([6, 6], [[0.0, 0, 0], [1.52, 0, 0]])] * 3)
    found = contacts(pair)
    assert found.nearest == pytest.approx(1.52)
    assert found.scale == pytest.approx(1.0)
    assert not found.close.any()
    clash = Structures.from_list(
        [([6, 6], [[0.0, 0, 0], [1.52, 0, 0]])] * 3 + [([6, 6], [[0.0, 0, 0], [0.5, 0, 0]])]
    )
    assert contacts(clash).close.tolist() == [False, False, False, True]
    lonely = contacts(Structures.from_list([([6], [[0.0, 0, 0]])]))
    assert np.isnan(lonely.scale)
    assert lonely.close.tolist() == [False]


def test_twins_are_found_however_they_are_turned():
    data = molecules(30)
    random = np.random.default_rng(0)
    copies = []
    for number, position in data.select([4, 9]):
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        order = random.permutation(len(number))
        copies.append((number[order], (position @ turn + 5.0)[order]))
    moved = [(z, x + 0.3 * (np.arange(len(z)) == 0)[:, None]) for z, x in data.select([5])]
    whole = Structures.concatenate([data, Structures.from_list([*copies, *moved])])
    assert np.flatnonzero(twins(whole)).tolist() == [30, 31]


def test_flat_molecules_are_found():
    random = np.random.default_rng(1)
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    sheet = np.pad(random.normal(size=(9, 2)), ((0, 0), (0, 1)))
    solid = random.normal(size=(9, 3))
    number = np.full(9, 6)
    found = flat(Structures.from_list([(number, sheet @ turn), (number, solid)]))
    assert found.tolist() == [True, False]


def test_faults_of_the_data_are_warned_of(tmp_path):
    data = molecules(40)
    flattened = data.position.copy()
    flattened[: data.offsets[20], 2] = 0.01 * (np.arange(data.offsets[20]) % 2)
    bare = data.select(range(20, 40)).without_hydrogens()
    parts = [
        Structures(flattened, data.number, data.count),
        bare,
        bare,
        Structures.from_list([([92, 9], [[0.0, 0, 0], [2.0, 0, 0]])]),
    ]
    whole = Structures.concatenate(parts)
    diagnosis = examine(written(tmp_path / "data.npz", whole), progress=False)
    told = "\n".join(diagnosis.warnings)
    for words in (
        "rare atom types, hard to learn: F in",
        "U in 1",
        "EDM's table has no valency of U",
        "are copies of earlier molecules",
        "have no hydrogen while others do",
        "valid under the judge",
        "in several pieces",
    ):
        assert words in told, words
    lines = diagnosis.text().splitlines()
    assert lines[0].endswith(f"{len(diagnosis.warnings)} warnings")
    assert lines[1].startswith("  ! ")


def test_flat_drawings_are_suspected(tmp_path):
    sheet = [(np.full(10, 6), np.pad(1.4 * np.mgrid[:5, :2].reshape(2, 10).T, ((0, 0), (0, 1))))]
    rest = [(np.full(10, 6), 1.4 * np.mgrid[:5, :2, :1].reshape(3, 10).T + [0, 0, 0])]
    path = written(tmp_path / "data.npz", Structures.from_list(sheet * 3 + rest))
    told = "\n".join(examine(path, progress=False).warnings)
    assert "are they 2-D drawings?" in told
    assert "train with --data.hydrogens implicit" in told


def test_properties_are_summed_up(tmp_path):
    data = molecules(40)
    number = np.arange(40.0)
    known = np.where(number < 30, number, np.nan)
    wild = np.zeros(40) + 0.1 * np.sin(number)
    data = data.with_properties(
        {
            "energy": known,
            "constant": np.full(40, 0.1),
            "kind": np.array(["acid", "base"] * 20),
            "label": np.array([f"m{i}" for i in range(40)]),
            "vector": np.stack([number, wild], 1),
        }
    )
    diagnosis = examine(written(tmp_path / "data.npz", data), progress=False)
    text, told = section(diagnosis, "properties"), "\n".join(diagnosis.warnings)
    sd = known[:30].std()
    assert f"energy: known of 30 of 40; mean 14.5, sd {sd:.4g}, 0 to 29" in text
    assert "kind: 2 classes, known of 40 of 40: acid x 20, base x 20" in text
    assert "'energy' is not known of 25.0%" in told
    assert "'constant' is constant" in told
    assert "'label' has 40 classes for 40 molecules: it is rather a name" in told
    assert "'kind'" not in told
    usable = section(diagnosis, "training").splitlines()[-1].split(": ")[1]
    assert sorted(usable.split(", ")) == ["energy", "kind", "vector"]
    outlier = molecules(40).with_properties({"dose": np.append(wild[:39], 1e3)})
    told = examine(written(tmp_path / "more.npz", outlier.select(range(40))), progress=False)
    assert not any("dose" in text for text in told.warnings)  # sd grows with the outlier
    many = embedded().select(range(300)).with_properties({"dose": np.append(np.zeros(299), 1.0)})
    told = examine(written(tmp_path / "many.npz", many), progress=False, sample=5)
    assert any("'dose' has 1 value(s) beyond 10" in text for text in told.warnings)
    assert "a sample of 5 molecules" in told.text()


def test_what_cannot_be_asked_for_is_told(tmp_path):
    blocks = [
        ["2", f'Properties=species:S:1:pos:R:3 y={y} x="a"', "C 0 0 0", "O 0 0 1.13"]
        for y in ("1", "2", "<5", "3", "n/a")
    ]
    path = tmp_path / "data.xyz"
    path.write_text("\n".join(line for block in blocks for line in block))
    read = section(examine(path, progress=False), "what is read")
    assert "'y' is numeric but for 1 cell, the first '<5' (line 9): taken as words" in read
    data = molecules(40)
    data = data.with_properties({"a=b": data.count.astype(float), "c": data.count.astype(float)})
    diagnosis = examine(written(tmp_path / "data.npz", data), progress=False)
    assert section(diagnosis, "training").splitlines()[-1].endswith(": c")


def test_training_does_what_was_foretold(tmp_path):
    path = written(tmp_path / "data.npz", molecules(55))
    text = section(examine(path, progress=False), "training")
    data = load_data(MoleculesConfig.model_validate({"data": {"path": str(path)}}))
    assert f"{len(data.train)} molecules for training, {len(data.validation)} for valid" in text
    codec = MoleculeCodec.fit(data.train)
    assert ", ".join(codec.symbols()) in text
    spread = float(text.split("spread by ")[1].split()[0])
    assert spread == pytest.approx(codec.position_std, rel=0.02)


def test_the_guess_of_memory_is_what_the_network_keeps():
    config, data = MoleculesConfig(), molecules(32)
    codec = MoleculeCodec.fit(data)
    denoiser, objective = build(config, codec), objective_of(config, codec)
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    batch, random = codec.encode(data), Generator(0).scoped(step=0)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", torch.bfloat16),
    ):
        total = objective(denoiser, batch, random).total
    pairs = (data.count * (data.count - 1) / 2).sum()
    assert total.requires_grad
    guess = PAIR_BYTES * pairs * config.network.layers
    assert sum(kept.values()) == pytest.approx(guess, rel=0.25)


def test_molecules_far_wider_than_the_noise_are_told(tmp_path):
    chain = [(np.full(60, 6), 1.5 * np.arange(60)[:, None] * [1.0, 0, 0])] * 4
    path = written(tmp_path / "data.npz", Structures.from_list(chain))
    told = "\n".join(examine(path, progress=False).warnings)
    assert "noise.sigma_max = 8 leaves" in told
    # The prior's divergence is half the sum of squares over sigma_max squared.
    squares = ((1.5 * (np.arange(60) - 29.5)) ** 2).sum()
    assert f"leaves {squares / 2 / 64:.0f} nats" in told


def test_skipped_records_are_told_and_nothing_to_train_on_is_an_error(tmp_path, capsys):
    water = ["3", "w", "O 0 0 0", "H 0.76 0.59 0", "H -0.76 0.59 0"]
    path = tmp_path / "data.xyz"
    path.write_text("\n".join([*water, *water, "1", "a", "C 0 0 0"]))
    doctor(path)
    text = capsys.readouterr().out
    assert "33.3% of the records are skipped, mostly: one atom: no geometry" in text
    assert "1 for training" not in text
    path.write_text("\n".join(water))
    with pytest.raises(ValueError, match="1 molecule that can be used, training needs at least 2"):
        examine(path)


def test_bonds_are_counted(tmp_path):
    """Of molecules without bonds, those that can be used; of others how good theirs are."""
    data = embedded().select(range(40)).with_properties({})
    path = written(tmp_path / "data.npz", data)
    text = section(examine(path, progress=False), "bonds")
    known, reasons = assigned(data)
    assert "none are known, distances give them" in text
    lost = Structures.from_list([([6, 1], [[0.0, 0, 0], [0, 0, 1.1]])] * 3)
    path = written(tmp_path / "lost.npz", Structures.concatenate([data, lost]))
    text = section(examine(path, progress=False), "bonds")
    assert not any(reasons)
    for kind in ("kekulized", "aromatic"):
        assert f"40 of 43 can be used with --data.bonds {kind}" in text
    assert "3 x an atom has no allowed valency by the distances" in text
    far = replace(known, position=known.position * 10)
    diagnosis = examine(written(tmp_path / "far.npz", far), progress=False)
    text = section(diagnosis, "bonds")
    assert "all 40 molecules have bonds of their own" in text
    assert "40 of 40 are valid by these" in text
    assert "40 of 40 can be used with --data.bonds aromatic" in text
    assert "0 stable" in section(diagnosis, "chemistry, bonds from distances")
