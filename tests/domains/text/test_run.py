"""Training, keeping and scoring: small, but the whole way."""

import json
import math

import numpy as np
import pytest

from structdiff.domains.text import Run, TextConfig, train
from structdiff.domains.text.run import load_data
from tests.domains.text.worlds import settings


def test_the_bound_falls_below_that_of_single_characters(run):
    """The shares of characters alone take their entropy."""
    p = run.codec.vocabulary.frequencies
    unigram = float(-(p * np.log2(p)).sum())
    last = [line for line in run.folder.read_metrics() if "bits_per_character" in line][-1]
    assert last["bits_per_character"] < 0.75 * unigram
    assert last["bits_per_character"] == pytest.approx(last["bound"] / math.log(2))


def test_text_like_the_data_is_likelier_than_shuffled_text(run):
    plain = "the cat sat on the mat. we read "
    shuffled = "".join(sorted(plain))
    scores = run.score([plain, shuffled], draws=8, progress=False)
    gap = scores.nats[1] - scores.nats[0]
    assert gap > 4 * math.hypot(*scores.errors)


def test_a_score_does_not_depend_on_the_other_texts(run):
    texts = ["the cat sat", "a dog ran to the park. it was la", "we read"]
    whole = run.score(texts, draws=4, steps=50, progress=False)
    alone = run.score(texts[1:2], draws=4, steps=50, progress=False)
    assert alone.nats[0] == pytest.approx(whole.nats[1], rel=1e-5)


def test_the_bound_of_steps_and_that_of_all_times_agree(run):
    """A chain of 400 steps is all but the limit; the same windows, two ways."""
    data = load_data(run.config, None, run.codec.vocabulary)
    texts = data.test.texts(range(len(data.test)))
    limit = run.score(texts, draws=16, progress=False)
    chain = run.score(texts, draws=4, steps=400, progress=False)
    (one, error), (other, wide) = limit.per_character(), chain.per_character()
    assert abs(one.value - other.value) < 4 * math.hypot(error, wide) + 0.01


def test_what_cannot_be_scored_says_why(run):
    scores = run.score(["the cat", "", "CAT", "the cat " * 10], draws=2, progress=False)
    assert scores.reasons[:2] == ("", "it is empty")
    assert "has no 'A', 'C', 'T'" in scores.reasons[2]
    assert "it has 80 tokens, the model's texts have at most 32" in scores.reasons[3]
    assert np.isnan(scores.nats[1:]).all()
    with pytest.raises(ValueError, match="no text can be scored, the first: it is empty"):
        run.score([""], progress=False)
    with pytest.raises(ValueError, match="draws must be at least 2"):
        run.score(["cat"], draws=1, progress=False)


def test_a_loaded_run_draws_the_same_texts(run):
    first = run.sample(3, seed=3, progress=False)
    assert Run.load(run.folder.path).sample(3, seed=3, progress=False) == first
    assert run.sample(3, seed=4, progress=False) != first


def test_a_run_is_refused_with_other_text_or_settings(run, source, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(source.read_text()[::-1])
    with pytest.raises(ValueError, match="another config"):
        train(settings(other), run.folder.path, say=lambda _: None)
    kept = source.read_text()
    try:
        source.write_text(kept[:-30] + kept[:30])
        with pytest.raises(ValueError, match="the data have changed"):
            train(run.config, run.folder.path, say=lambda _: None)
    finally:
        source.write_text(kept)


def test_a_damaged_codec_is_named(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "ema.safetensors"):
        (folder / name).write_bytes((run.folder.path / name).read_bytes())
    state = json.loads((run.folder.path / "codec.json").read_text())
    state["sizes"]["histogram"] = []
    (folder / "codec.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="codec.json is damaged: .*sizes.histogram"):
        Run.load(folder)


@pytest.mark.parametrize("documents", ["running", "lines"])
def test_other_noise_and_documents_train_and_draw(tmp_path, documents):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{'ab' * (1 + i % 5)}\n" for i in range(200)))
    config = settings(
        path,
        data={"documents": documents, "length": 8},
        noise={"process": "marginal", "schedule": "mutual-information"},
        loss={"given": 0.5},
        training={"steps": 3, "validate_every": 3},
    )
    made = train(config, tmp_path / "run", say=lambda _: None)
    texts = made.sample(20, given=None, progress=False)
    sizes = {len(text) for text in texts}
    assert sizes == {8} if documents == "running" else sizes <= {2, 4, 6, 8}
    assert isinstance(made.config, TextConfig)
