"""A run of images: trained, loaded, drawn from, at the command line too."""

import json

import numpy as np
import pytest
from PIL import Image

from structdiff.domains.images import ImagesConfig, Run, commands, read, train
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.generation import asked_of, sample, scale_of
from structdiff.domains.images.network import image_network

SETTINGS = {
    "network": {"width": 8, "multipliers": (1, 2), "attention": (1,), "blocks": 1, "heads": 2},
    "sampler": {"steps": 4, "batch_size": 4},
}


def config_of(steps, **groups):
    training = {"steps": steps, "batch_size": 16, "warm_up": 1, "learning_rate": 4e-3, "ema": 0.95}
    return ImagesConfig.model_validate({**SETTINGS, "training": training, **groups})


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The noughts and ones among scikit-learn's digits."""
    data, path = read(), tmp_path_factory.mktemp("digits") / "two.npz"
    few = data.train.select(np.flatnonzero(data.train.labels < 2))
    names = np.array(["nought", "one"])
    np.savez(path, images=few.pixels[:, 0], labels=few.labels, classes=names)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits):
    path = tmp_path_factory.mktemp("images") / "run"
    return train(config_of(60, data={"path": str(digits)}), path, say=lambda _: None)


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory):
    path = tmp_path_factory.mktemp("enlarging") / "run"
    task = {"kind": "super-resolution", "factor": 2}
    return train(config_of(2, task=task), path, say=lambda _: None)


def test_samples_are_digits_of_the_class_that_was_asked(run, digits):
    data = read(digits).train
    means = np.stack([data.pixels[data.labels == k].astype(float).mean(0) for k in range(2)])
    label = [0] * 20 + [1] * 20
    drawn = run.sample(40, label=label, guidance=2.0, steps=12, batch_size=40, progress=False)
    far = ((drawn.pixels[:, None] - means) ** 2).sum((2, 3, 4))
    assert (far.argmin(1) == np.array(label)).mean() >= 0.9  # by chance 0.5
    assert drawn.labels.tolist() == label


def test_a_loaded_run_draws_the_same_and_its_first_images_are_those_of_fewer(run):
    again = Run.load(run.folder.path)
    first = run.sample(6, label="one", seed=2, progress=False)
    assert (again.sample(6, label=1, seed=2, progress=False).pixels == first.pixels).all()
    assert (run.sample(4, label=[1], seed=2, progress=False).pixels == first.pixels[:4]).all()
    assert (run.sample(6, label=1, seed=3, progress=False).pixels != first.pixels).any()
    settings = {"randomness": "sample", "progress": False, "label": [1, 0]}
    whole = run.sample(5, batch_size=5, **settings).pixels.astype(int)
    parts = run.sample(5, batch_size=2, **settings).pixels.astype(int)
    assert abs(whole - parts).max() <= 1


def test_the_untrained_network_is_that_of_the_run(run):
    codec = ImageCodec((1, 8, 8), ("nought", "one"))
    fresh = image_network(run.config, codec)
    shapes = {name: x.shape for name, x in fresh.state_dict().items()}
    assert shapes == {name: x.shape for name, x in run.model.denoiser.state_dict().items()}


def test_pictures_are_enlarged_by_a_model_of_the_task(enlarging, run):
    small = np.full((4, 4), 128, np.uint8)
    found = enlarging.sample(2, measured=small, progress=False)
    assert found.shape == (1, 8, 8)
    other = enlarging.sample(2, measured=255 - 2 * (small // 2), progress=False)
    assert (found.pixels != other.pixels).any()
    with pytest.raises(ValueError, match=r"measured must have shape \(1, 2, 2\)"):
        run.sample(2, measured=small, task="super-resolution", progress=False)


def draw(run, images, out, **others):
    asked = {
        "folder": False,
        "condition": {},
        "guidance": None,
        "sizes": (),
        "given": None,
        "only_valid": None,
        "settings": {},
        "seed": 0,
        "overwrite": False,
    }
    sample(run.folder.path, images, out, **{**asked, **others})


def test_the_command_writes_files_shards_and_lists(run, tmp_path, capsys):
    draw(run, 5, tmp_path / "out.npz", condition={"label": "one,nought"}, guidance={"label": 2.0})
    with np.load(tmp_path / "out.npz") as file:
        drawn = file["images"]
        assert file["labels"].tolist() == [1, 0, 1, 0, 1]
    same = run.sample(5, label=["one", "nought"], guidance=2.0, progress=False)
    assert (drawn.transpose(0, 3, 1, 2) == same.pixels).all()
    draw(run, 5, tmp_path / "shards", condition={"label": "one,nought"}, guidance=2.0)
    parts = sorted((tmp_path / "shards").glob("*.npz"))
    found = [dict(np.load(path)) for path in parts]
    assert np.array_equal(np.concatenate([part["images"] for part in found]), drawn)
    assert found[1]["labels"].tolist() == [1]
    asked = json.loads((tmp_path / "shards" / "job.json").read_text())["asked"]
    assert (asked["condition"], asked["images"]) == ({"label": "one,nought"}, 5)
    draw(run, 2, None)
    assert "2 images of 8 x 8" in capsys.readouterr().out
    draw(run, 4, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (99, 99)  # 8 x 8 pixels, each of them 6 x 6, between lines


def test_the_command_fills_holes_and_refuses_what_has_no_meaning(run, enlarging, tmp_path):
    pixels = np.full((8, 8, 2), 255, np.uint8)
    pixels[4:] = 0
    Image.fromarray(pixels, "LA").save(tmp_path / "half.png")
    draw(run, 2, tmp_path / "filled.npz", given=str(tmp_path / "half.png"))
    filled = np.load(tmp_path / "filled.npz")["images"]
    assert (filled[:, :4] == 255).all()
    assert (filled[:, 4:] != 255).any()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "small.png")
    asked = asked_of(run, 3, {}, f"super-resolution={tmp_path / 'small.png'}", 0)
    assert asked.seen.operator.measured == (1, 2, 2)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "four.png")
    own = asked_of(enlarging, 3, {}, str(tmp_path / "four.png"), 0)
    assert own.condition["seen"].shape == (1, 1, 4, 4)
    half, four = tmp_path / "half.png", tmp_path / "four.png"
    for wrong, match in (
        ({"given": f"inpainting={half}"}, rf"got 'inpainting': .* --given {half}$"),
        ({"given": f"deblur={half}"}, "knows the tasks super-resolution and colourisation, got"),
        (
            {"given": f"super-resolution={four}"},
            r"four.png must have .*: bring it to 2 x 2 pixels",
        ),
        ({"sizes": (3,)}, "leave out --sizes"),
        ({"only_valid": 2}, "leave out --only-valid"),
        ({"condition": {"colour": "red"}}, r"condition label, not \['colour'\]"),
        ({"condition": {"label": "ten"}}, "no class 'ten'"),
        ({"guidance": {"size": 2.0}}, "one scale of guidance"),
        ({"settings": {"steps": 0}}, "sampler.steps = 0"),
    ):
        with pytest.raises(ValueError, match=match):
            draw(run, 2, tmp_path / "never.png", **wrong)
    assert not (tmp_path / "never.png").exists()
    assert scale_of(None) is None


def test_training_at_the_command_line_writes_a_card_and_goes_on(run, tmp_path, capsys):
    commands.train(run.config, run.folder.path)
    assert "structdiff sample" in capsys.readouterr().out
    assert (run.folder.path / "README.md").exists()
    with pytest.raises(ValueError, match="was trained with another config"):
        train(config_of(3), run.folder.path)
