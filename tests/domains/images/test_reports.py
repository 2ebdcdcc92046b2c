"""The page of an evaluation, the card, the doctor: what they say is what was measured."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from structdiff.domains.images import ImagesConfig, train
from structdiff.domains.images.images import Images
from structdiff.domains.images.output import write
from structdiff.domains.images.reports import reporting
from structdiff.domains.images.reports.card import write_card
from structdiff.domains.images.reports.doctor import examine
from structdiff.domains.images.reports.evaluation import evaluate_run
from structdiff.domains.images.reports.pictures import Film, by_class, pairs
from structdiff.domains.images.run import Run
from structdiff.metrics.judge import JUDGING
from structdiff.metrics.nearest import nearest
from tests.domains.images.folders import folder, pixels

JUDGED = JUDGING.model_copy(update={"steps": 20, "batch_size": 16, "warm_up": 5})


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRUCTDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of two updates on stripes: 60 lying, 60 standing."""
    path = tmp_path_factory.mktemp("reports")
    stripes = np.zeros((120, 8, 8), np.uint8)
    stripes[:60, ::2], stripes[60:, :, ::2] = 200, 200
    stripes += np.random.default_rng(0).integers(0, 50, stripes.shape, np.uint8)
    labels, names = np.arange(120) // 60, np.array(["lying", "standing"])
    np.savez(path / "stripes.npz", images=stripes, labels=labels, classes=names)
    settings = {
        "data": {"path": str(path / "stripes.npz")},
        "network": {"width": 8, "multipliers": (1,), "attention": (), "blocks": 1, "features": 16},
        "training": {**ImagesConfig().training.model_dump(), "steps": 2, "batch_size": 8},
        "sampler": {"steps": 4},
    }
    return train(ImagesConfig.model_validate(settings), path / "run", say=lambda _: None)


@pytest.fixture(scope="module")
def found(small):
    return evaluate_run(small, 24, judging=JUDGED, say=lambda _: None, progress=False)


def test_the_page_holds_the_table_the_protocol_and_every_picture(small, found):
    names = {path.name for path in found.files}
    assert {"images.npz", "images.png", "nearest.png", "walk.png", "training.png"} <= names
    folder_ = small.folder.samples
    page = (folder_ / "evaluation.html").read_text()
    for row in found.rows():
        for cell in row:
            assert cell in page
    for words in found.judgement.comparison.protocol.values():
        assert words in page
    assert page.count("data:image/png;base64") == 4
    assert "A row for each class: lying, standing." in page
    assert "24, none rejected or corrected" in page
    written = json.loads((folder_ / "evaluation.json").read_text())
    assert written["settings"]["seed"] == "0"
    rows = {row[0]: row[1:] for row in found.rows()}
    value = written["measures"]["Frechet distance"]["drawn"]["value"]
    assert rows["Frechet distance"][0].startswith(f"{value:.4g}")
    assert written["bits per dimension"]["images"] == len(found.bits.entries)


def test_as_many_of_each_class_are_drawn_unless_the_condition_says(small, found):
    assert np.bincount(found.drawn.labels).tolist() == [12, 12]
    out = small.folder.path / "others"
    asked = {"label": "standing"}
    other = evaluate_run(
        small, 5, condition=asked, out=out, judging=JUDGED, say=lambda _: None, progress=False
    )
    assert other.drawn.labels.tolist() == [1] * 5
    assert np.load(out / "images.npz")["labels"].tolist() == [1] * 5


def test_what_was_drawn_follows_from_the_seed(small, found):
    again = small.sample(24, label=found.drawn.labels.tolist(), progress=False)
    assert np.array_equal(again.pixels, found.drawn.pixels)


def test_the_command_writes_a_card_with_the_table(small, monkeypatch, capsys):
    monkeypatch.setattr(reporting, "evaluate_run", partial(evaluate_run, judging=JUDGED))
    reporting.evaluate(small.folder.path, 6, settings={"steps": 3}, seed=1, guidance=2.0)
    said, card = capsys.readouterr().out, (small.folder.path / "README.md").read_text()
    table = [line for line in said.splitlines() if line.startswith("|")]
    assert len(table) > 10
    assert all(line in card for line in table)
    for words in ("2: lying, standing", "2 of 8 images", "grey, 8 x 8", "right on"):
        assert words in card
    write_card(small)
    assert "Not measured yet" in (small.folder.path / "README.md").read_text()


def test_scores_are_written_for_each_image(small, tmp_path, capsys):
    random = np.random.default_rng(3)
    few = Images(random.integers(0, 256, (12, 1, 8, 8), np.uint8), np.arange(12) % 2)
    np.savez(
        tmp_path / "few.npz",
        images=few.pixels[:, 0],
        labels=few.labels,
        classes=np.array(["lying", "standing"]),
    )
    out = tmp_path / "scores.csv"
    reporting.score(small.folder.path, tmp_path / "few.npz", out, seed=0, overwrite=False)
    assert "bits per dimension" in capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image"]) for row in rows] == list(range(12))
    for row in rows:
        bits = -float(row["nats"]) / np.log(2) / 64
        assert float(row["bits_per_dimension"]) == pytest.approx(bits, rel=1e-5)
    assert json.loads(out.with_suffix(".json").read_text())["draws"] == 1
    with pytest.raises(ValueError, match="exists"):
        reporting.score(small.folder.path, tmp_path / "few.npz", out, seed=0, overwrite=False)
    write(tmp_path / "plain.npz", few)
    with pytest.raises(ValueError, match="the images have the classes .* an array `classes`"):
        reporting.score(small.folder.path, tmp_path / "plain.npz", None, seed=0, overwrite=False)


def test_too_few_images_are_refused(small):
    with pytest.raises(ValueError, match="at least 3 images"):
        evaluate_run(small, 2, judging=JUDGED)
    with pytest.raises(ValueError, match="guidance"):
        reporting.evaluate(small.folder.path, 5, settings={}, seed=0, guidance={"x": 1.0})


def test_a_damaged_run_is_named(small, tmp_path):
    with pytest.raises(FileNotFoundError):
        Run.load(tmp_path)


def _shown(path, row, column, side, scale):
    """A place of a grid, pixel by pixel."""
    sheet, step = np.asarray(Image.open(path)), side * scale + 1
    top, left = row * step + 1, column * step + 1
    return sheet[top : top + side * scale : scale, left : left + side * scale : scale]


def test_pairs_are_the_nearest_ones_with_their_neighbours(tmp_path):
    train_ = Images(np.stack([pixels(s) for s in range(30)])[:, None])
    drawn = Images(np.stack([pixels(s) for s in (100, 7, 101, 3)])[:, None])
    near = nearest(drawn.fields(), [train_.fields()])
    pairs(drawn, near, train_, tmp_path / "p.png")
    scale = 8
    shown = [_shown(tmp_path / "p.png", row, col, 6, scale) for row in (0, 1) for col in (0, 1)]
    assert np.array_equal(shown[0], shown[2])  # copies lie above themselves
    assert np.array_equal(shown[1], shown[3])
    assert {one.tobytes() for one in shown[:2]} == {pixels(7).tobytes(), pixels(3).tobytes()}


def test_a_grid_has_a_row_for_each_class(tmp_path):
    drawn = Images(np.stack([pixels(s) for s in range(9)])[:, None], np.arange(9) % 3)
    by_class(drawn, tmp_path / "g.png")
    for row in range(3):
        for column in range(3):
            place = _shown(tmp_path / "g.png", row, column, 6, 8)
            assert np.array_equal(place, pixels(3 * column + row))


def test_a_film_shows_the_first_images_from_noise_on(tmp_path):
    film = Film(images=2, frames=3)
    assert not film.write(tmp_path / "w.png")
    for step in range(9):
        film.watch(step, torch.full((4, 1, 4, 4), step / 4 - 1))
    frames = film.chosen()
    assert [int(frame.pixels[0, 0, 0, 0]) for frame in frames] == [0, 128, 255]
    assert film.write(tmp_path / "w.png")
    assert (_shown(tmp_path / "w.png", 1, 1, 4, 8) == 128).all()


def test_the_doctor_says_what_training_would_read(tmp_path):
    source = folder(tmp_path / "s", {"a": 60, "b": 4})
    flat = Image.fromarray(np.full((6, 6), 11, np.uint8))
    for number in range(3):
        flat.save(source / "a" / f"flat{number}.png")
    (source / "a" / "no.png").write_bytes(b"")
    said = examine(str(source))
    assert "a/no.png is empty, 0 bytes" in said
    assert "training images by class: a " in said
    assert "of very different sizes" in said
    assert "hold one brightness only" in said
    assert "2 training images are exact copies of others" in said
    assert "1,797" not in said
    assert "no classes" in examine(str(folder(tmp_path / "plain", {"": 30})))
