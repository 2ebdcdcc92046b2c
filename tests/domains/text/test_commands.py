"""The text domain at the command line: files, shards, tables, pages, and what is refused."""

import csv
import json
import shutil

import numpy as np
import pytest

from structdiff.artifacts import RunFolder
from structdiff.cli.main import main
from structdiff.domains.text import output, read
from structdiff.domains.text.reports.measuring import reference_bits

SMALL = [
    *("--network.width", "16", "--network.layers", "1", "--network.heads", "2"),
    *("--training.steps", "2", "--data.length", "16", "--data.tokenizer", "characters"),
]


@pytest.fixture
def say(capsys):
    """Run a command; its exit status, output and errors."""

    def say(*words):
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return say


def refusal(answer):
    """The one line of a refusal."""
    status, printed, errors = answer
    assert status == 2
    last = [line for line in errors.splitlines() if "%|" not in line]
    assert printed == ""
    assert len(last) == 1, errors
    return last[0]


def said(answer):
    """What a command that worked printed."""
    status, printed, errors = answer
    assert status == 0, errors
    return printed


def table_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def path(run):
    return run.folder.path


def test_training_reads_the_data_by_its_short_name(say, source, tmp_path):
    out = tmp_path / "run"
    printed = said(say("train", "text", "--data", source, "--out", out, *SMALL))
    assert "vocabulary of" in printed
    assert f"structdiff sample {out} -n 5" in printed
    assert RunFolder(out).read_config("text")["data"]["path"] == str(source)
    card = (out / "README.md").read_text()
    assert "# A model of text" in card
    data = read(source, length=16)
    overlap = f"of 16 tokens, overlapping, one every 2 of {len(data.train.tokens):,} tokens"
    assert f"training texts: {len(data.train):,} windows {overlap}" in card
    assert "a run of the domain 'text'" in said(say("inspect", out))


def test_both_formats_hold_the_same_texts(say, path, run, tmp_path):
    words = ("-n", "3", "--seed", "5")
    said(say("sample", path, *words, "-o", tmp_path / "out.txt"))
    said(say("sample", path, *words, "-o", tmp_path / "out.jsonl"))
    expected = run.sample(3, seed=5, progress=False)
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert [output.unescape(line) for line in lines] == expected
    objects = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert objects == [{"text": text} for text in expected]
    assert said(say("sample", path, *words)).splitlines() == lines


@pytest.mark.parametrize("text", ["a\nb", "a\\nb", "\\", "\r\n\\n\\\\", "", "\u2028"])
def test_a_line_is_read_back_as_it_was(text):
    written = output.encode(".txt", [text]).decode()
    assert written.endswith("\n")
    assert written.count("\n") == 1
    assert "\r" not in written
    assert output.unescape(written[:-1]) == text


def test_a_folder_of_shards_is_gone_on_with(say, path, tmp_path):
    words = ("sample", path, "-n", "9", "--seed", "1", "-o")
    whole = tmp_path / "whole"
    assert "9 texts written" in said(say(*words, whole))
    shards = sorted(p.name for p in whole.glob("*.txt"))
    assert shards == ["texts-00000.txt", "texts-00001.txt", "texts-00002.txt"]
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    (broken / shards[1]).unlink()
    printed = said(say(*words, broken))
    assert f"missing or changed, drawn again: {shards[1]}" in printed
    for name in shards:
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert "seed: 1 -> 2" in refusal(say("sample", path, "-n", "9", "--seed", "2", "-o", whole))


def test_a_pattern_is_given_as_a_string(say, path):
    printed = said(
        say("sample", path, "-n", "4", "--given", "the {3} sat", "--sampler.steps", "4")
    )
    assert len(printed.splitlines()) == 4
    for line in printed.splitlines():
        text = output.unescape(line)
        assert (len(text), text[:4], text[7:]) == (11, "the ", " sat")


def test_scores_are_a_table_and_its_totals(say, path, run, tmp_path):
    data, out = tmp_path / "data.txt", tmp_path / "scores.csv"
    text = "the cat sat on the mat. a dog ran to the park. we read a book"
    data.write_text(text)
    printed = said(say("score", path, "--data", data, "-o", out, "--draws", "4"))
    rows = table_of(out)
    assert [row["characters"] for row in rows] == ["32", str(len(text) - 32)]
    expected = run.score([text[:32], text[32:]], draws=4, progress=False)
    assert [float(row["nats"]) for row in rows] == pytest.approx(expected.nats.tolist())
    total = np.nansum(expected.nats) / np.log(2) / len(text)
    facts = json.loads(out.with_suffix(".json").read_text())
    assert facts["bits per character"] == pytest.approx(total)
    assert facts["draws"] == 4
    assert f"{total:.4f}" in printed
    assert "exists" in refusal(say("score", path, "--data", data, "-o", out))


def test_lines_that_cannot_be_scored_have_a_reason(say, source, tmp_path):
    out, data, table = tmp_path / "run", tmp_path / "data.txt", tmp_path / "scores.csv"
    lines = ("--data.documents", "lines", "--data.path", source.parent / "lines.txt")
    (source.parent / "lines.txt").write_text("".join(f"{'ab' * (i % 7 + 1)}\n" for i in range(90)))
    said(say("train", "text", *SMALL, *lines, "--out", out))
    data.write_text("abab\n\nabc\nab\n")
    said(say("score", out, "--data", data, "-o", table, "--draws", "2"))
    rows = table_of(table)
    assert [bool(row["nats"]) for row in rows] == [True, False, True]
    assert "has no 'c'" in rows[1]["reason"]
    assert [row["line"] for row in rows] == ["1", "3", "4"]
    data.write_text("\n\n")
    assert "data.txt has no text that could be scored" in refusal(
        say("score", out, "--data", data)
    )


def test_texts_that_were_drawn_are_scored_one_by_one(say, path, run, tmp_path):
    drawn, table = tmp_path / "drawn.jsonl", tmp_path / "scores.csv"
    said(say("sample", path, "-n", "3", "-o", drawn))
    said(say("score", path, "--data", drawn, "-o", table, "--draws", "2"))
    expected = run.score(run.sample(3, progress=False), draws=2, progress=False)
    rows = table_of(table)
    assert [float(row["nats"]) for row in rows] == pytest.approx(expected.nats.tolist())
    assert [row["line"] for row in rows] == ["1", "2", "3"]
    drawn.write_text('{"text": "the cat"}\n{"texts": 3}\n')
    assert "line 2 must be an object" in refusal(say("score", path, "--data", drawn))


def test_weights_that_do_not_fit_are_named_with_both_files(say, path, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(path, other)
    config = json.loads((other / "config.json").read_text())
    settings = config.get("config", config)
    settings["network"]["layers"] = 1
    (other / "config.json").write_text(json.dumps(config))
    line = refusal(say("sample", other, "-n", "1"))
    assert "does not fit" in line
    assert "codec.json: Unexpected key" in line
    assert "Restore the three from a copy" in line


def test_one_text_has_no_interval(say, path, run, tmp_path):
    one = run.score(["the cat sat"], draws=2, progress=False)
    assert "nan" not in one.summary()
    (tmp_path / "one.txt").write_text("the cat sat")
    table = tmp_path / "scores.csv"
    said(say("score", path, "--data", tmp_path / "one.txt", "-o", table, "--draws", "2"))
    facts = json.loads(table.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert facts["bits per character"] == pytest.approx(one.per_character()[0].value)


@pytest.mark.parametrize("command", ["score", "train", "doctor"])
def test_no_name_is_not_the_current_folder(say, path, tmp_path, command):
    words = {
        "score": ("score", path, "--data", ""),
        "train": ("train", "text", "--data", "", "--out", tmp_path / "run"),
        "doctor": ("doctor", "", "--domain", "text"),
    }[command]
    assert "is empty: give the name of a file or a folder" in refusal(say(*words))


def test_an_evaluation_measures_drawn_beside_real(say, path, run):
    printed = said(say("evaluate", path, "-n", "8"))
    folder = run.folder.samples
    numbers = json.loads((folder / "evaluation.json").read_text())
    bits = numbers["n-gram models, bits per character"]
    held = numbers["held-out text"]["bits per token"]
    assert numbers["held-out text"]["perplexity"] == pytest.approx(2**held)
    assert bits["1-gram"] > held > bits["5-gram"] * 0.5
    assert numbers["drawn and real"]["words that training text has"]["real"] == 1
    copied = numbers["drawn and real"]["characters in one piece as in training text, most"]
    assert copied["real"] == 32
    for name in ("evaluation.html", "evaluation.md", "texts.txt", "measures.png", "training.png"):
        assert (folder / name).stat().st_size > 0
    assert f"{held:.3f}" in printed
    assert f"{held:.3f}" in (path / "README.md").read_text()
    drawn = (folder / "texts.txt").read_text().splitlines()
    assert [output.unescape(x) for x in drawn] == run.sample(8, seed=0, progress=False)


def test_the_reference_counts_characters_whatever_the_tokens(tmp_path):
    """Two letters in turn: one bit apart from the letter before, none with it."""
    path = tmp_path / "turns.txt"
    path.write_text("ab" * 20_000)
    for tokens in ("characters", "bytes"):
        data = read(path, tokens=tokens, length=16)
        bits = reference_bits(data, data.test)
        assert bits["1-gram"] == pytest.approx(1, abs=1e-3)
        assert bits["2-gram"] < 0.001


def test_the_doctor_says_what_training_would_read(say, source, tmp_path):
    printed = said(say("doctor", source, "--domain", "text"))
    assert "the commonest characters: ' '" in printed
    assert "a 3-gram model takes" in printed
    defaults = read(source, tokens="bpe", vocabulary_size=1024, length=128)
    assert defaults.report in printed
    odd = tmp_path / "odd.txt"
    odd.write_text(source.read_text() + "\x07" + source.read_text())
    assert "control characters: '\\x07'" in said(say("doctor", odd, "--domain", "text"))


BAD = {
    "empty.txt": (b"", "empty.txt is empty"),
    "nul.txt": (b"\0" * 5000, "has a NUL byte, byte 0"),
    "latin.txt": (("café " * 2000).encode("latin-1"), "is not UTF-8: byte 3"),
    "one.txt": (b"a" * 5000, "only one distinct character"),
    "short.txt": (b"ab", "fewer than one window of 16"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_refused_and_nothing_is_written(say, tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    line = refusal(
        say("train", "text", "--data", tmp_path / name, "--out", tmp_path / "r", *SMALL)
    )
    assert message in line
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["empty.txt", "nul.txt", "latin.txt"])
def test_bad_text_cannot_be_scored(say, path, tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    line = refusal(say("score", path, "--data", tmp_path / name, "-o", tmp_path / "out.csv"))
    assert message in line
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--given", "the " * 9 + "{1}"],
            "given has 37 tokens, the model's texts have at most 32",
        ),
        (["--given", "Zebra {3}"], "given: the vocabulary has no 'Z', first at character 1"),
        (["--given", "the " * 8], "no unknown token, so there is nothing to draw"),
        (["--given", ""], "no known token"),
        (["--condition", "a=1"], "a model of text has no conditions"),
        (["--guidance", "2"], "a model of text has no conditions"),
        (["--only-valid", "2"], "every text is valid"),
        (["--sampler.repaint", "2"], "sampler.repaint = 2"),
        (["--sampler.kind", "beam"], "kind"),
        (["--sizes", "99"], "at most those of the model's texts, 32"),
        (["-n", "0"], "the number of texts must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(
    say, path, tmp_path, words, message
):
    line = refusal(say("sample", path, *words, "-o", tmp_path / "out.txt"))
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_unknown_characters_cannot_be_scored(say, path, tmp_path):
    (tmp_path / "data.txt").write_text("the ZEBRA")
    line = refusal(say("score", path, "--data", tmp_path / "data.txt", "-o", tmp_path / "out.csv"))
    assert "has no 'A', 'B', 'E', 'R', 'Z'" in line
    assert [p.name for p in tmp_path.iterdir()] == ["data.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.csv", "the suffix '.csv' is not known"), ("no/out.txt", "no such folder")],
)
def test_a_bad_name_is_refused_before_any_work(say, path, tmp_path, name, message):
    line = refusal(say("sample", path, "--given", "not {looked at}", "-o", tmp_path / name))
    assert message in line


def test_the_settings_of_molecules_are_not_those_of_text(say, source, tmp_path):
    words = ("--data", source, "--out", tmp_path / "r")
    assert "element" in refusal(say("train", "text", *words, "--noise.element", "uniform"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss.given", "0.5"], "loss.given is not needed with noise.process absorbing"),
        (["--network.width", "10"], "network.width must be a multiple of twice network.heads"),
        (["--noise.process", "gamma"], "gamma"),
        (
            ["--data.tokenizer", "words"],
            "data.tokenizer must be one of characters, bytes, bpe, wordpiece",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_short_line(say, tmp_path, words, message):
    line = refusal(say("train", "text", *words, "--out", tmp_path / "run"))
    assert message in line
    assert len(line) < 400
    assert list(tmp_path.iterdir()) == []
