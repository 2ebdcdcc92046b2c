"""Bytes, files, settings and words at random: clear errors and counted skips, never a crash."""

import copy
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structdiff.artifacts import RunFolder
from structdiff.cli.main import main
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.run import Run
from tests.bad.corpus import npz, sdf, snapshot, xyz

FEW = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FIELDS = "> <alpha>\n1.5\n\n> <kind>\neven\n\n"
VALID = {
    ".sdf": (sdf(fields=FIELDS) * 3).encode(),
    ".xyz": (xyz("a=1 b=x") * 3).encode(),
    ".npz": npz(),
    ".smi": b"C methane\nO water\n",
    ".csv": b"smiles,a,b\nC,1,x\nO,2,y\n",
}
LEAST = {".sdf": 1, ".xyz": 1, ".npz": 0, ".smi": 0, ".csv": 0}


def tried(suffix, content):
    """Read the bytes: molecules that can be used and reasons, or an error that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"generated{suffix}"
        path.write_bytes(content)
        try:
            loaded = read(path)
        except ValueError as error:
            assert path.name in str(error)
            assert len(str(error)) > len(str(path)) + 20
            loaded = None
        assert os.listdir(folder) == [path.name]
    if loaded is not None:
        assert len(loaded.structures) >= 1
        assert loaded.structures.finite.all()
        assert (loaded.structures.count >= 2).all()
        assert ((loaded.structures.number > 0) & (loaded.structures.number <= 118)).all()
        assert all(skip.where and skip.reason for skip in loaded.skipped)
    return loaded


@pytest.mark.parametrize("suffix", [*VALID, ".mol", ".tsv", ".sdf.gz", ".xyz.xz"])
def test_random_bytes(suffix):
    @FEW
    @given(st.binary(max_size=300))
    def check(content):
        assert tried(suffix, content) is None or suffix not in (".npz", ".sdf", ".mol")

    check()


@pytest.mark.parametrize("suffix", VALID)
def test_a_changed_byte(suffix):
    """Where one byte of many records is changed, the others are still read."""
    whole = VALID[suffix]

    @FEW
    @given(st.integers(0, len(whole) - 1), st.integers(0, 255))
    def check(place, value):
        loaded = tried(suffix, whole[:place] + bytes([value]) + whole[place + 1 :])
        assert (0 if loaded is None else len(loaded.structures)) >= LEAST[suffix]

    check()


@pytest.mark.parametrize("suffix", VALID)
def test_a_cut(suffix):
    whole = VALID[suffix]

    @FEW
    @given(st.integers(0, len(whole) - 1))
    def check(place):
        tried(suffix, whole[:place])

    check()


@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".csv"])
def test_shuffled_and_repeated_lines(suffix):
    lines = VALID[suffix].splitlines(keepends=True)

    @FEW
    @given(st.lists(st.sampled_from(lines), max_size=30))
    def check(chosen):
        tried(suffix, b"".join(chosen))

    check()


NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([0.5, -1.0, 1e300, float("nan"), float("inf"), -float("inf"), 2**70]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=3))
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=3),
    st.dictionaries(st.text(max_size=3), LEAVES, max_size=2),
)


def spots(value, path=()):
    """Where a JSON value can be changed."""
    yield path
    inside = value if isinstance(value, dict | list) else {}
    for key, inner in inside.items() if isinstance(inside, dict) else enumerate(inside):
        yield from spots(inner, (*path, key))


def changed(content, path, value):
    """The content with another value at a place; ... leaves it out."""
    if not path:
        return None if value is ... else value
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


@pytest.mark.parametrize("name", ["config.json", "codec.json"])
def test_a_changed_value_of_a_run(name, whole_run, tmp_path):
    """The run loads and says what it would draw, or is refused with the name of the file."""
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    content = json.loads((run / name).read_text())
    places = sorted(spots(content), key=str)

    @settings(FEW, max_examples=150)
    @given(st.sampled_from(places), st.one_of(st.just(...), VALUES))
    def check(place, value):
        (run / name).write_text(json.dumps(changed(content, place, value)))
        try:
            loaded = Run.load(run)
        except (ValueError, FileNotFoundError) as error:
            assert str(run) in str(error) or "cannot be used" in str(error)
            return
        try:
            asked = loaded.request(3, condition={"alpha": 80.0, "kind": "odd"})
        except ValueError as error:
            assert "condition" in str(error) or "alpha" in str(error)
        else:
            assert min(asked.counts) >= 1
            assert max(asked.counts) < len(loaded.codec.sizes.histogram)

    check()


@pytest.mark.parametrize("name", ["config.json", "codec.json", "ema.safetensors"])
def test_a_changed_byte_of_a_run(name, whole_run, tmp_path):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    whole = (run / name).read_bytes()

    @FEW
    @given(st.integers(0, min(len(whole), 600) - 1), st.integers(0, 255), st.booleans())
    def check(place, value, cut):
        rest = b"" if cut else bytes([value]) + whole[place + 1 :]
        (run / name).write_bytes(whole[:place] + rest)
        try:
            Run.load(run)
        except (ValueError, FileNotFoundError) as error:
            assert str(run) in str(error) or "cannot be used" in str(error)

    check()


def test_a_changed_value_of_what_is_inspected(whole_run, tmp_path, capsys):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    content = json.loads((run / "config.json").read_text())
    places = sorted(spots(content), key=str)

    @FEW
    @given(st.sampled_from(places), st.one_of(st.just(...), VALUES))
    def check(place, value):
        (run / "config.json").write_text(json.dumps(changed(content, place, value)))
        ended(["inspect", str(run)], capsys)

    check()


def ended(words, capsys):
    """Run a command that can do nothing, or be refused in one line."""
    capsys.readouterr()
    try:
        main(words)
        status = 0
    except SystemExit as end:
        status = end.code
    errors = capsys.readouterr().err
    assert status in (0, 2)
    if status == 2 and errors:
        assert errors.startswith("structdiff: ")
        assert errors.count("\n") == 1
        assert len(errors) > 15
    return status


COMMANDS = [
    "sample",
    "score",
    "evaluate",
    "doctor",
    "inspect",
    "domains",
    "train",
    "tune",
    "tarin",
]
WORDS = st.one_of(
    st.sampled_from(
        ["-n", "-o", "--data", "--data.path", "nowhere.sdf", "molecules", "--seed", "3", "--sizes"]
        + ["--condition", "alpha=3", "--guidance", "--sampler.steps", "--given", "--", "-", "="]
        + ["--training.steps", "nan", "-1", "1e9", "--overwrite", "--help", "--only-valid"]
    ),
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8),
)


def test_random_words(tmp_path, monkeypatch, capsys):
    """No run and no data is there: every command is refused, or says how it is used."""
    monkeypatch.chdir(tmp_path)

    @settings(FEW, max_examples=120)
    @given(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=5))
    def check(command, words):
        if command == "train":
            words = [*words, "--data", "nowhere.sdf"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tyro, on words that look like options
            ended([command, *words], capsys)
        assert snapshot(tmp_path) == {}

    check()


def test_random_conditions(run, tmp_path, monkeypatch, capsys):
    """Values of conditions, guidance and sizes: drawn from, or refused; never half-written."""
    monkeypatch.chdir(tmp_path)
    model = Run.load(run)
    value = st.one_of(st.text(max_size=6), st.floats().map(repr))

    @FEW
    @given(value, NUMBERS, st.lists(st.integers(-2, 9), max_size=2))
    def check(text, guidance, sizes):
        try:
            asked = model.request(
                2, condition=model.parse({"alpha": text}), guidance=guidance, sizes=sizes or None
            )
        except ValueError as error:
            assert any(word in str(error) for word in ("alpha", "guidance", "sizes"))
        else:
            assert all(x.isfinite().all() for x in asked.condition.values())
            assert set(asked.counts) <= (set(sizes) or set(asked.counts))

    check()


def test_what_the_changes_start_from_is_read_without_a_word(whole_run):
    assert RunFolder(whole_run).domain == "molecules"
    assert len(Run.load(whole_run).codec.types) == 4
    for suffix, content in VALID.items():
        loaded = tried(suffix, content)
        assert loaded is not None
        assert not loaded.skipped
