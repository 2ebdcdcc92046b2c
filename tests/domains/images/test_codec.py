"""Images as records and back, bits of their densities, and the state of the codec."""

import json
import math

import numpy as np
import pytest
import torch

from structdiff.batch import Batch
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.images import Images
from tests.domains.images.folders import pixels


def _images(labels=None):
    return Images(np.stack([pixels(s, 4, 5, 3).transpose(2, 0, 1) for s in range(6)]), labels)


def test_every_byte_comes_back():
    levels = Images(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16))
    codec = ImageCodec.fit(levels)
    x = codec.encode(levels)["image"]
    assert float(x.min()) == -1
    assert float(x.max()) == 1
    assert torch.allclose(x.flatten().diff(), torch.tensor(1 / 127.5), atol=1e-6)
    assert np.array_equal(codec.decode(Batch.of({"image": x})).pixels, levels.pixels)
    half = 0.49 / 127.5
    for shift in (-half, half):
        moved = codec.decode(Batch.of({"image": x + shift}))
        assert np.array_equal(moved.pixels, levels.pixels)


def test_classes_are_a_condition_and_come_back():
    labels = np.array([2, 0, 1, 1, 0, 2])
    images = _images(labels)
    codec = ImageCodec.fit(images, ("a", "b", "c"))
    batch = codec.encode(images)
    assert batch.condition["label"].tolist() == labels.tolist()
    assert codec.decode(batch).labels.tolist() == labels.tolist()
    assert codec.label("b") == 1
    assert ImageCodec.fit(images).classes == ("0", "1", "2")
    assert ImageCodec((3, 4, 5)).encode(images).condition == {}


def test_bits_of_a_density_are_those_of_counted_bins():
    # A normal law of each number: the probability of a byte is its mass, summed over all bytes.
    codec = ImageCodec((1, 2, 2))
    x = torch.tensor([0.1, -0.4, 0.0, 0.7], dtype=torch.float64)
    law = torch.distributions.Normal(torch.tensor(0.2, dtype=torch.float64), 0.5)
    mass = law.cdf(x + 1 / 255) - law.cdf(x - 1 / 255)
    bits = codec.bits_per_dimension(law.log_prob(x).sum()[None])
    assert float(bits) == pytest.approx(float(-mass.log2().mean()), abs=1e-5)
    uniform = torch.full((1,), 4 * math.log(0.5))  # on [-1, 1]: 255 bins of 256 levels
    assert float(codec.bits_per_dimension(uniform)) == pytest.approx(math.log2(255), abs=1e-6)


def test_numbers_beyond_the_ends_are_cut_and_nan_is_refused():
    x = torch.tensor([[[[-3.0, 5.0]]]])
    assert Images.of_fields(x).pixels.flatten().tolist() == [0, 255]
    with pytest.raises(ValueError, match="must be finite"):
        Images.of_fields(torch.full((1, 1, 2, 2), math.nan))


def test_the_state_is_json_and_comes_back():
    codec = ImageCodec((3, 4, 5), ("a", "b"))
    again = ImageCodec.from_state(json.loads(json.dumps(codec.state())))
    assert (again.event, again.classes) == ((3, 4, 5), ("a", "b"))


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        {"event": [1, 8, 8]},
        {"event": [1, 8], "classes": []},
        {"event": [1, 0, 8], "classes": []},
        {"event": [1, 8, True], "classes": []},
        {"event": [1, 8, "8"], "classes": []},
        {"event": [1, 8, 8], "classes": ["a", "a"]},
        {"event": [1, 8, 8], "classes": [1]},
        {"event": [1, 8, 8], "classes": "ab"},
    ],
)
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="not the state of a codec of images"):
        ImageCodec.from_state(state)


def test_what_does_not_fit_is_refused():
    labels = np.array([2, 0, 1, 1, 0, 2])
    with pytest.raises(ValueError, match="no images to fit"):
        ImageCodec.fit(Images(np.zeros((0, 1, 4, 4), np.uint8)))
    with pytest.raises(ValueError, match="3 classes, but there are 2 names"):
        ImageCodec.fit(_images(labels), ("a", "b"))
    with pytest.raises(ValueError, match="images must have shape"):
        ImageCodec((3, 5, 4)).encode(_images())
    with pytest.raises(ValueError, match="labels must be from 0 to 1"):
        ImageCodec((3, 4, 5), ("a", "b")).encode(_images(labels))
    with pytest.raises(ValueError, match="there is no class 'x'; there are a, b"):
        ImageCodec((3, 4, 5), ("a", "b")).label("x")
    with pytest.raises(ValueError, match="without classes"):
        ImageCodec((3, 4, 5)).label("x")
    with pytest.raises(ValueError, match="pixels must be uint8"):
        Images(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="pixels must be uint8"):
        Images(np.zeros((2, 1, 4, 4)))
    with pytest.raises(ValueError, match=r"labels must be \(2,\)"):
        Images(np.zeros((2, 1, 4, 4), np.uint8), np.zeros(3, np.int64))
