"""Settings that cannot be trained with: each is one line, and no folder is made."""

import re

import numpy as np
import pytest
import torch

from tests.bad.corpus import npz, refusal, sdf


def data(folder):
    """Ten molecules of water with properties of all kinds, and splits of them."""
    place = np.arange(90).reshape(30, 3) ** 2 * 100
    path = folder / "data.npz"
    path.write_bytes(
        npz(
            pos_1e4A=place,
            z=np.array([8, 1, 1] * 10),
            n_atoms=np.full(10, 3),
            alpha=np.arange(10.0),
            same=np.ones(10),
            nowhere=np.full(10, np.nan),
            word=np.array(["x"] * 10),
        )
    )
    return path


# What is wrongly taken for good ends soon.
QUICK = ["--training.steps", "1", "--network.layers", "1", "--network.width", "8"]
SETTINGS = [
    ("learning rate infinite", ["--training.learning-rate", "inf"], "learning_rate = inf: "),
    ("device without memory", ["--training.device", "meta"], "'meta' cannot be used"),
    ("unknown option", ["--network.withd", "3"], "--network.withd"),
    ("unknown group", ["--net.width", "3"], "--net.width"),
    ("a word too many", ["more"], "more"),
    ("an option without a value", ["--network.width"], "--network.width"),
    ("an integer that is a word", ["--network.width", "x"], "--network.width.*invalid literal"),
    ("an integer with a point", ["--network.width", "6.5"], "--network.width.*invalid literal"),
    ("a number that is a word", ["--noise.sigma-max", "much"], "--noise.sigma-max.*could not"),
    ("a choice that is none", ["--noise.element", "purple"], "'absorbing', 'uniform', 'marginal'"),
    ("a choice of hydrogens", ["--data.hydrogens", "some"], "'explicit', 'implicit'"),
    ("a truth that is none", ["--training.bf16", "maybe"], "--training.bf16|maybe"),
    ("steps negative", ["--training.steps", "-5"], "steps = -5: .*greater than or equal to 1"),
    ("steps 0", ["--training.steps", "0"], "steps = 0: .*greater than or equal to 1"),
    ("batch_size 0", ["--training.batch-size", "0"], "batch_size = 0: "),
    ("batch_cost 0", ["--training.batch-cost", "0"], "batch_cost = 0: "),
    ("learning rate 0", ["--training.learning-rate", "0"], "learning_rate = 0.0: "),
    ("learning rate NaN", ["--training.learning-rate", "nan"], "learning_rate = nan: "),
    ("ema 1", ["--training.ema", "1"], "ema = 1.0: .*less than 1"),
    ("seed negative", ["--training.seed", "-1"], "seed = -1: "),
    ("sigma_min above sigma_max", ["--noise.sigma-min", "9"], "sigma_min <= element_from <"),
    ("sigma_min 0", ["--noise.sigma-min", "0"], "sigma_min = 0.0: .*greater than 0"),
    ("sigma_max NaN", ["--noise.sigma-max", "nan"], "sigma_max = nan: "),
    ("sigma_max infinite", ["--noise.sigma-max", "inf"], "sigma_max = inf: "),
    ("window reversed", ["--noise.element-to", "0.05"], "element_from < element_to"),
    ("width 0", ["--network.width", "0"], "width = 0: "),
    ("width beyond all memory", ["--network.width", "9" * 9], "less than or equal to 10000"),
    ("layers beyond all time", ["--network.layers", "9" * 30], "less than or equal to 1000"),
    ("layers negative", ["--network.layers", "-1"], "layers = -1: "),
    ("dropout above 1", ["--loss.condition-dropout", "1.5"], "condition_dropout = 1.5: "),
    ("given above 1", ["--loss.given", "2"], "given = 2.0: "),
    ("noise_mean NaN", ["--loss.noise-mean", "nan"], "noise_mean = nan: "),
    ("temperature NaN", ["--sampler.temperature", "nan"], "temperature = nan: "),
    ("guidance infinite", ["--sampler.guidance", "inf"], "guidance = inf: "),
    ("max_atoms 1", ["--data.max-atoms", "1"], "max_atoms = 1: .*greater than or equal to 2"),
    ("max_atoms 2", ["--data.max-atoms", "2"], "raise max_atoms .2.*10 x more than 2 atoms"),
    ("validation negative", ["--data.validation", "-1"], "validation = -1: "),
    ("device nobody knows", ["--training.device", "tpu"], "'tpu' cannot be used .*auto, cpu or"),
    ("device 99", ["--training.device", "cuda:99"], "'cuda:99' cannot be used"),
    ("condition the data has not", ["--condition", "homo"],
        "has the properties .'alpha', 'same', 'word'., not .'homo'"),
    ("condition constant", ["--condition", "same"], "'same' is the same for all samples"),
    ("condition of one word", ["--condition", "word"], "'word' has the classes .'x'.: at least 2"),
    ("condition unknown everywhere", ["--condition", "nowhere"], "not .'nowhere'"),
    ("condition twice", ["--condition", "alpha", "alpha"],
        "conditions .*alpha.* twice|each .* once"),
    ("condition empty", ["--condition", ""], "not .''"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "why"), SETTINGS, ids=[name for name, *_ in SETTINGS])
def test_a_setting(name, words, why, tmp_path, capsys):
    path = data(tmp_path)
    out = tmp_path / "run"
    line = refusal(
        capsys, tmp_path, "train", "molecules", "--data", path, "--out", out, *QUICK, *words
    )
    assert re.search(why, line), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_where_there_is_none(tmp_path, capsys):
    words = ["--data", data(tmp_path), "--out", tmp_path / "run", "--training.device", "cuda"]
    line = refusal(capsys, tmp_path, "train", "molecules", *QUICK, *words)
    assert "device = 'cuda' cannot be used" in line


def arrays(**named):
    def make(path):
        np.savez(path, **named)

    return make


def content(data):
    return lambda path: path.write_bytes(data)


SPLITS = [
    ("not there", lambda _: None, "split.npz"),
    ("empty", content(b""), "split.npz"),
    ("no zip", content(b"no zip"), "split.npz"),
    ("zip cut", content(npz()[:-30]), "split.npz"),
    ("without arrays", arrays(),
        r"split.npz has the arrays \[\], \['test', 'train'\] are missing"),
    ("without test", arrays(train=np.arange(3)), r"\['train'\], \['test'\] are missing"),
    ("out of range", arrays(train=np.arange(11), test=np.arange(2)),
        "names molecule 10, but the data has 10"),
    ("below 0", arrays(train=np.array([-11, 1]), test=np.arange(2)), "split.npz.*-11"),
    ("pickled", arrays(train=np.array([object()]), test=np.arange(2)), "split.npz.*"),
    ("fractions", arrays(train=np.array([0.5, 1]), test=np.arange(2)), "split.npz.*float64"),
    ("words", arrays(train=np.array(["a"]), test=np.arange(2)), "split.npz.*<U1"),
    ("a table", arrays(train=np.zeros((2, 2), int), test=np.arange(2)), r"split.npz.*\(2, 2\)"),
    ("too few", arrays(train=np.arange(1), test=np.arange(2)), "1 molecules are left to train on"),
    ("none", arrays(train=np.arange(0), test=np.arange(2)), "0 molecules are left to train on"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "why"), SPLITS, ids=[name for name, *_ in SPLITS])
def test_a_split(name, make, why, tmp_path, capsys):
    path, split = data(tmp_path), tmp_path / "split.npz"
    make(split)
    words = ["--data", path, "--data.split", split, "--out", tmp_path / "run"]
    line = refusal(capsys, tmp_path, "train", "molecules", *QUICK, *words)
    assert re.search(why, line), line


def test_a_split_of_data_with_skips_is_refused(tmp_path, capsys):
    (tmp_path / "m.sdf").write_text(sdf() * 3 + "broken\n$$$$\n")
    np.savez(tmp_path / "split.npz", train=np.arange(3), test=np.arange(1))
    words = ["--data", tmp_path / "m.sdf", "--data.split", tmp_path / "split.npz"]
    line = refusal(
        capsys, tmp_path, "train", "molecules", *QUICK, *words, "--out", tmp_path / "run"
    )
    assert "numbers the molecules of the whole file, but 1 of it were skipped" in line


def a_file(path):
    path.write_text("not a folder")


def a_full_folder(path):
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


OUTS = [
    ("a file", a_file, "run", "run"),
    ("a folder of something else", a_full_folder, "run", "is not empty and has no config.json"),
    ("below a file", a_file, "run/deeper", "run"),
    ("where nothing may be written", lambda _: None, "/proc/run", "cannot create /proc/run"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "out", "why"), OUTS, ids=[name for name, *_ in OUTS])
def test_a_place_for_the_run(name, make, out, why, tmp_path, capsys):
    path = data(tmp_path)
    make(tmp_path / "run")
    words = [*QUICK, "--data", path, "--out", tmp_path / out]
    line = refusal(capsys, tmp_path, "train", "molecules", *words)
    assert why in line


def test_a_run_of_other_settings_is_left_alone(run, tmp_path, capsys):
    path = data(tmp_path)
    line = refusal(capsys, tmp_path, "train", "molecules", "--data", path, "--out", run)
    assert "was trained with another config" in line
    assert "network.width: 8 -> 64" in line


DOMAINLESS = [
    (["train", "moleculs"], "no domain 'moleculs'; there are: audio, images, manifolds"),
    (["demo", "moleculs"], "no domain 'moleculs'"),
    (["train", "images", "--codec.kind", "foo"], "structdiff: invalid choice 'foo' for argument"),
    (["train", "images", "--no-such", "3"], "structdiff: Unrecognized options: --no-such"),
    (["tarin"], "no command 'tarin'; there are: "),
    ([""], "no command ''"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "why"), DOMAINLESS)
def test_a_command_or_domain(words, why, tmp_path, capsys):
    assert why in refusal(capsys, tmp_path, *words)
