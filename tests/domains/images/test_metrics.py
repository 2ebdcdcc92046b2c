"""Drawn images beside real ones: real ones pass, noise and copies do not; bits are right."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from structdiff.codecs.standardise import Standardise
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.data import Data, read
from structdiff.domains.images.images import Images
from structdiff.domains.images.metrics import judge_images, judge_of
from structdiff.domains.images.recipe import ImagesConfig
from structdiff.domains.images.scoring import likely, score
from structdiff.metrics import Extracted
from structdiff.metrics.judge import JUDGING
from structdiff.processes import Gaussian
from structdiff.runs.fields.model import FieldModel
from structdiff.runs.fields.record import Fields
from structdiff.schedules import Cosine
from structdiff.testing import NormalDenoiser

SHORT = JUDGING.model_copy(update={"steps": 80, "batch_size": 32, "warm_up": 10})


@pytest.fixture(scope="module")
def digits():
    return read()


@pytest.fixture(scope="module")
def judge(digits, tmp_path_factory):
    return judge_of(digits, folder=tmp_path_factory.mktemp("judge") / "digits", config=SHORT)


def _noise(images, labels):
    pixels = np.random.default_rng(0).integers(0, 256, (images, 1, 8, 8), np.uint8)
    return Images(pixels, labels)


def test_the_judge_tells_digits(judge):
    assert judge.facts["accuracy"] > 0.9
    assert judge.facts["trained on"] == 1536


def test_real_images_are_of_their_class_as_near_as_others_and_no_copies(digits, judge):
    held = digits.validation  # neither trained on nor the reference
    found = judge_images(held, digits, judge)
    assert found.right.low < judge.facts["accuracy"] + 0.03
    assert found.right.value > 0.9
    for line in found.comparison.lines:
        error = 4 * (line.drawn.error**2 + line.real.error**2) ** 0.5
        assert line.drawn.value == pytest.approx(line.real.value, abs=error + 0.1)
    assert found.copying.nearer.value < 0.1


def test_noise_is_far_and_training_images_are_copies(digits, judge):
    labels = np.arange(60) % 10
    noise, copies = _noise(60, labels), digits.train.select(slice(0, 60))
    far, near = (judge_images(images, digits, judge) for images in (noise, copies))
    lines = {line.name: line for line in far.comparison.lines}
    assert lines["Frechet distance"].drawn.value > 3 * lines["Frechet distance"].real.value
    assert lines["precision"].drawn.value < 0.7 * lines["precision"].real.value
    assert far.right.value < 0.35
    assert far.copying.nearer.value == 0
    assert near.copying.nearer.value == 1
    assert float(near.copying.drawn.distance.max()) == 0
    assert near.copying.drawn.place.tolist() == list(range(60))


def test_without_labels_the_law_of_the_classes_is_compared(digits, judge):
    fair = Images(digits.validation.pixels)
    only = Images(digits.train.pixels[digits.train.labels == 3][:80])
    assert judge_images(fair, digits, judge).right is None
    assert judge_images(fair, digits, judge).classes < 0.25
    others = float((digits.test.labels != 3).mean())
    assert judge_images(only, digits, judge).classes == pytest.approx(others, abs=0.05)


def test_the_protocol_names_the_judge_or_what_is_in_its_place(digits, judge):
    drawn = _noise(20, np.arange(20) % 10)
    found = judge_images(drawn, digits, judge)
    assert judge.about() in found.comparison.protocol["features"]
    assert found.comparison.protocol["judge"] == judge.about()
    own = Extracted(lambda x: x.mean((2, 3)), "mean brightness")
    other = judge_images(drawn, digits, judge, extractor=own)
    assert other.comparison.protocol["features"] == "1 numbers of mean brightness"
    plain = Data(
        *(Images(part.pixels) for part in (digits.train, digits.validation, digits.test)), (), "x"
    )
    assert "no classifier" in judge_images(drawn, plain, None).comparison.protocol["features"]
    with pytest.raises(ValueError, match="no classes"):
        judge_of(plain)


def test_rows_and_numbers_say_the_same(digits, judge):
    found = judge_images(digits.validation, digits, judge)
    rows = {row[0]: row[1:] for row in found.rows()}
    numbers = found.numbers()
    value = numbers["measures"]["precision"]["drawn"]["value"]
    assert rows["precision"][0].startswith(f"{value:.4g}")
    median = numbers["nearest training image"]["median of held-out"]
    assert rows["distance to the nearest training image, median"][1] == f"{median:.4g}"
    assert rows["judged to be of the class asked for"][1] == f"{judge.facts['accuracy']:.4g}"


MEAN, STD = 0.1, 0.3


def _exact(codec=None):
    """A run whose model is a normal law of each number, exactly."""
    ends = torch.tensor([MEAN, MEAN + STD])[:, None, None, None].expand(2, 1, 2, 2)
    ends = ends if codec is None else codec.encode(ends)
    std = (ends[1] - ends[0]).flatten()[:1]
    denoiser = NormalDenoiser(Gaussian(Cosine(), event=(1, 2, 2)), ends[:1], std)
    denoiser.register_parameter("there", torch.nn.Parameter(torch.zeros(())))
    config = ImagesConfig.model_validate({})
    model = FieldModel(config, Fields("x", (1, 2, 2)), codec, denoiser)
    boundary = ImageCodec((1, 2, 2))
    return SimpleNamespace(model=model, codec=boundary, config=config, device=torch.device("cpu"))


def _bytes(samples):
    x = MEAN + STD * torch.randn(samples, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return Images.of_fields(x)


def _standardised():
    codec = Standardise((1, 2, 2))
    codec.fit(3 * torch.randn(500, 1, 2, 2, generator=torch.Generator().manual_seed(1)) + 1)
    return codec


@pytest.mark.parametrize("codec", [None, "standardise"])
def test_bits_of_an_exact_model_are_those_of_its_law(codec):
    images = _bytes(48)
    law = torch.distributions.Normal(torch.tensor(MEAN, dtype=torch.float64), STD)
    x = images.fields().double()
    bits = -(law.cdf(x + 1 / 255) - law.cdf(x - 1 / 255)).log2().flatten(1).mean(1)
    run = _exact(None if codec is None else _standardised())
    found = score(run, images, tolerance=1e-4)
    assert found.bits_per_dimension.numpy() == pytest.approx(bits.numpy(), abs=0.03)
    assert float(found.bits_per_dimension.mean()) == pytest.approx(float(bits.mean()), abs=5e-3)
    assert float(found.bits_per_dimension.mean()) == pytest.approx(
        math.log2(127.5 * STD * math.sqrt(2 * math.pi * math.e)), abs=0.15
    )


def test_what_loses_something_has_no_bits():
    run = _exact()
    assert likely(run) == ""
    losing = Standardise((1, 2, 2))
    losing.fit(torch.randn(50, 1, 2, 2))
    losing.log_det = lambda _: None
    object.__setattr__(run.model, "codec", losing)
    assert "no density of images" in likely(run)
    with pytest.raises(ValueError, match="train with codec.kind none"):
        score(run, _bytes(3))
    with pytest.raises(ValueError, match="no images to score"):
        score(_exact(), _bytes(3).select(slice(0, 0)))
