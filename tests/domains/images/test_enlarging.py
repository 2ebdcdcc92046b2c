"""Enlarging around the small image: prior and start are settings, and held-out images tell."""

import pytest
import torch
from torch.nn import functional as F

from structdiff.domains.images import ImagesConfig, train
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.recipe import fields_of
from structdiff.domains.images.reports.evaluation import evaluate_run
from structdiff.domains.images.reports.restoring import psnr, to_restore
from structdiff.domains.images.scoring import likely
from structdiff.metrics.judge import JUDGING
from structdiff.runs.fields.build import build, codec_of
from structdiff.runs.fields.record import Record
from structdiff.testing.noise import Impulses

JUDGED = JUDGING.model_copy(update={"steps": 20, "batch_size": 16, "warm_up": 5})
SETTINGS = {
    "task": {"kind": "super-resolution", "factor": 2},
    "noise": {"centre": True},
    "network": {"width": 24, "multipliers": (1,), "attention": (), "blocks": 1, "features": 16},
    "loss": {"dropout": 0.0},
    "data": {"labelled": False},
    "sampler": {"steps": 5, "start": 0.5},
}


def settings(**groups):
    return ImagesConfig.model_validate({**SETTINGS, **groups})


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRUCTDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(
    ("kind", "shape"), [("super-resolution", (3, 2, 3)), ("colourisation", (1, 4, 6))]
)
def test_noise_ends_around_the_image_that_is_shown_brought_to_size(kind, shape):
    config, codec = settings(task={"kind": kind, "factor": 2}), ImageCodec((3, 4, 6))
    fields = fields_of(config, codec)
    record = Record(fields, codec_of(config, fields))
    shown = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).expand(3, *shape)
    batch = record.batch(torch.zeros(3, 3, 4, 6), {"seen": shown})
    bound = build(config, fields, record).process.bind(batch)
    drawn = bound.prior(Impulses())["image"]
    whole = F.interpolate(shown, (4, 6), mode="bilinear").expand(3, 3, 4, 6)
    torch.testing.assert_close(drawn[0], whole[0])
    torch.testing.assert_close(drawn[1], whole[0] + 1)


@pytest.mark.parametrize("kind", ["none", "inpainting"])
def test_a_task_that_shows_nothing_near_the_image_has_no_centre(kind):
    config, codec = settings(task={"kind": kind}, sampler={}), ImageCodec((1, 8, 8))
    fields = fields_of(config, codec)
    with pytest.raises(ValueError, match="noise.centre = true needs a model that is shown"):
        build(config, fields, Record(fields, None))


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory):
    training = {"steps": 150, "batch_size": 32, "learning_rate": 4e-3, "warm_up": 5, "ema": 0.95}
    path = tmp_path_factory.mktemp("enlarging") / "run"
    return train(settings(training=training), path, say=lambda _: None)


def test_a_trained_model_enlarges_better_than_interpolation(enlarging, tmp_path):
    found = evaluate_run(
        enlarging, 24, out=tmp_path, judging=JUDGED, say=lambda _: None, progress=False
    )
    restored = found.gains["PSNR of held-out images restored (dB)"]
    assert restored > found.gains["PSNR of held-out images as shown, enlarged (dB)"] + 1
    assert [row for row in found.rows() if row[0].endswith("restored (dB)")]
    assert found.bits is None
    assert (
        likely(enlarging) == "noise around what the model is shown is no density of images alone"
    )


def test_held_out_images_are_shown_as_in_training(enlarging):
    from structdiff.domains.images.run import load_data

    held = load_data(enlarging.config).test.select(slice(0, 3))
    asked = to_restore(enlarging, held, 0)
    assert torch.equal(asked.condition["seen"], F.avg_pool2d(held.fields(), 2))
    assert "label" not in asked.condition
    x, y = (
        torch.zeros(2, 1, 2, 2),
        torch.tensor([0.02, 0.2]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2),
    )
    torch.testing.assert_close(psnr(x, y), torch.tensor([40.0, 20.0]))
