"""The audio domain at the command line: files, shards, pages, and what is refused."""

import io
import json
import zipfile

import numpy as np
import pytest
import soundfile

from structdiff.artifacts import RunFolder
from structdiff.cli.main import main
from tests.domains.audio.worlds import RATE, keep, sine

SMALL = [
    *("--network.width", "8", "--network.multipliers", "1", "2", "--network.attention"),
    *("--network.blocks", "1", "--network.features", "8", "--sound.bands", "12"),
    *("--training.steps", "2", "--training.batch-size", "4"),
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


@pytest.fixture
def path(mel):
    return mel.folder.path


def test_train_sample_and_card(say, source, tmp_path):
    out = tmp_path / "run"
    printed = said(say("train", "audio", "--data", source, "--out", out, *SMALL))
    assert "classes high, low" in printed
    assert f"the run is in {out}" in printed
    card = (out / "README.md").read_text()
    assert "log-mel spectrograms of 12 bands" in card
    assert "2: high, low" in card
    assert RunFolder(out).domain == "audio"
    listed = said(say("sample", out, "-n", 3, "--sampler.steps", 2)).splitlines()
    assert [line.split(":")[0] for line in listed] == ["clip 0", "clip 1", "clip 2"]
    assert listed[1].endswith("asked to be low")


def test_files(say, path, mel, tmp_path):
    out = tmp_path / "out.wav"
    said(say("sample", path, "-n", 4, "-o", out, "--condition", "label=low", "--seed", 5))
    wave, rate = soundfile.read(out, dtype="float32")
    gap = round(0.25 * RATE)
    assert rate == RATE
    assert len(wave) == 4 * mel.codec.length + 3 * gap
    expected = mel.sample(4, label="low", seed=5, progress=False)[0].wave
    np.testing.assert_allclose(wave[: len(expected)], expected, atol=1e-4)
    assert "exists; choose another name" in refusal(say("sample", path, "-o", out))


def test_a_folder_of_shards_goes_on(say, path, mel, tmp_path):
    out = tmp_path / "many"
    words = ("sample", path, "-n", 5, "-o", f"{out}/", "--seed", 2)
    assert "2 shards" in said(say(*words))
    names = sorted(p.name for p in out.iterdir())
    assert names == ["clips-00000.zip", "clips-00001.zip", "job.json"]
    whole = (out / "clips-00001.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.namelist() == ["00000_low.wav", "00001_high.wav"]
        wave, _ = soundfile.read(io.BytesIO(archive.read("00001_high.wav")), dtype="float32")
    expected = mel.sample(5, seed=2, progress=False)[4].wave
    np.testing.assert_allclose(wave, expected, atol=1e-4)
    (out / "clips-00001.zip").unlink()
    assert "drawn again" in said(say(*words))
    assert (out / "clips-00001.zip").read_bytes() == whole
    asked = json.loads((out / "job.json").read_text())["asked"]
    assert asked["clips"] == 5


def test_given_recordings(say, wave, tmp_path):
    own = keep(tmp_path, "own.wav", sine(0.12))
    out = tmp_path / "filled.npz"
    words = ("--given", own, "--condition", "gap=0.03:0.05", "label=low")
    said(say("sample", wave.folder.path, "-n", 2, "-o", out, *words))
    drawn = np.load(out)["wave"]
    np.testing.assert_allclose(drawn[:, :60], np.tile(sine(0.12)[:60], (2, 1)), atol=1e-4)
    clean = tmp_path / "clean.wav"
    words = ("--given", own, "--condition", "noise=0.1", "label=low")
    said(say("sample", wave.folder.path, "-n", 1, "-o", clean, *words))
    assert clean.exists()


def test_evaluate_and_doctor(say, path, source, monkeypatch):
    from structdiff.domains.audio.reports import reporting
    from tests.domains.audio.test_judging import QUICK

    inner = reporting.evaluate_run
    monkeypatch.setattr(
        reporting, "evaluate_run", lambda *a, **k: inner(*a, **k, judging=QUICK, progress=False)
    )
    printed = said(say("evaluate", path, "-n", 4))
    assert "judged to be of the class asked for" in printed
    assert "Frechet distance" in (path / "README.md").read_text()
    looked = said(say("doctor", source, "--domain", "audio"))
    assert "training clips by class: high 16, low 16" in looked
    assert "of the clips is silence after the end" in looked


def test_what_is_refused(say, path, tmp_path):
    for words, why in (
        (("--sizes", 3), "how long sounds are is asked for by --condition seconds"),
        (("--only-valid", 3), "every sound is valid"),
        (("--condition", "pitch=3"), "cannot ask for pitch"),
        (("--condition", "label=mid"), "there is no class 'mid'"),
        (("--guidance", "pitch=2"), "one scale of guidance"),
        (("--given", tmp_path / "no.wav"), "no such file or folder"),
        (("-o", tmp_path / "a.mp3"), "the suffix '.mp3' is not known"),
        (("--sampler.kind", "confidence"), "sampler.kind confidence is of codes"),
    ):
        assert why in refusal(say("sample", path, *words))
