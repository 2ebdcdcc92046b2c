"""What a model is shown of an image: operators that keep their contract, holes, pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from structdiff.counter import Counter
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.images import Images
from structdiff.domains.images.recipe import ImagesConfig, TaskConfig, fields_of
from structdiff.domains.images.request import asked_of, fields_of_picture, given_of, mask_of
from structdiff.domains.images.tasks import Grey, Holed, holed, making_of, operator_of
from structdiff.operators import Matrix
from structdiff.operators.check import check_operator

EVENT = (3, 4, 6)
CODEC = ImageCodec(EVENT, ("cat", "dog"))


def test_grey_is_the_mean_of_the_channels_with_its_singular_values():
    check_operator(Grey(EVENT))
    x = torch.randn(2, *EVENT, dtype=torch.float64)
    assert torch.allclose(Grey(EVENT)(x), x.mean(1, keepdim=True))
    assert torch.allclose(Grey(EVENT).pinv(Grey(EVENT)(x)), x.mean(1, keepdim=True).expand_as(x))
    known = Matrix.of(Grey(EVENT)).singular.sort().values
    assert torch.allclose(Grey(EVENT).singular.flatten().sort().values, known, atol=1e-12)


def test_super_resolution_is_shown_the_means_of_blocks():
    making = making_of("super-resolution", EVENT, 2)
    x = torch.randn(2, *EVENT)
    assert torch.allclose(making(x, Counter(0)), torch.nn.functional.avg_pool2d(x, 2))
    assert making_of("none", EVENT, 2) is None


def test_holes_are_boxes_beside_their_mask_alike_alone_and_in_any_batch():
    x = torch.rand(32, 2, 12, 8) + 0.1
    layout = torch.arange(32)
    random = Counter(5).scoped(ids=layout)
    shown = Holed()(x, random.scoped(leaf="a"))
    known = shown[:, 2:] == 1
    assert shown.shape == (32, 3, 12, 8)
    assert torch.equal(shown[:, :2], torch.where(known, x, 0.0))
    for hole in ~known[:, 0]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        assert 2 <= int(rows.sum()) <= 10
        assert 1 <= int(columns.sum()) <= 7
    assert len(torch.unique(known.flatten(1), dim=0)) > 24


def test_what_the_fields_are_follows_from_the_settings():
    plain = fields_of(ImagesConfig(), CODEC)
    assert (plain.leaf, plain.event, plain.classes) == ("image", EVENT, ("cat", "dog"))
    assert plain.named == ("label",)
    task = ImagesConfig(task=TaskConfig(kind="colourisation"))
    assert fields_of(task, CODEC).named == ("label", "seen")
    assert not fields_of(ImagesConfig(), ImageCodec(EVENT, ("cat",))).classes
    with pytest.raises(ValueError, match="task.factor must divide the sides.*4 x 6, got 4"):
        fields_of(ImagesConfig(task=TaskConfig(kind="super-resolution")), CODEC)
    with pytest.raises(ValueError, match="colourisation needs images of 3 channels"):
        fields_of(task, ImageCodec((1, 4, 6)))
    with pytest.raises(ValueError, match="has no operator"):
        operator_of("inpainting", EVENT, 2)


def test_pictures_of_all_kinds_are_the_same_fields(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    want = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    Image.fromarray(pixels).save(tmp_path / "x.png")
    images = Images(pixels.transpose(2, 0, 1)[None])
    for picture in (tmp_path / "x.png", str(tmp_path / "x.png"), pixels, images, want, want[0]):
        assert torch.allclose(fields_of_picture("x", picture, EVENT), want, atol=1e-6)
    grey = fields_of_picture("x", tmp_path / "x.png", (1, 4, 6))
    assert grey.shape == (1, 1, 4, 6)


def test_transparent_pixels_are_not_known(tmp_path):
    pixels = np.full((4, 6, 4), 200, np.uint8)
    pixels[1:3, 2:5, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "hole.png")
    given = given_of(CODEC, tmp_path / "hole.png", None, held=True)
    assert torch.equal(given.known[0, 0], torch.from_numpy(pixels[..., 3] > 0))
    asked = asked_of(
        CODEC,
        TaskConfig(kind="inpainting"),
        label="dog",
        given=tmp_path / "hole.png",
        known=None,
        measured=None,
        task=None,
        noise=0.0,
    )
    assert asked["label"] == [1]
    assert not asked["given"].held
    assert torch.equal(asked["fields"]["seen"], holed(given.source, given.known))
    mask = np.arange(24).reshape(4, 6) < 12
    assert torch.equal(mask_of(mask, (4, 6))[0, 0], torch.from_numpy(mask))
    drawn = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    drawn.save(tmp_path / "mask.png")
    assert torch.equal(mask_of(tmp_path / "mask.png", (4, 6)), mask_of(mask, (4, 6)))


def test_a_measurement_is_a_condition_of_its_task_and_an_observation_elsewhere():
    small = np.full((2, 3, 3), 100, np.uint8)

    def asked(kind, task=None):
        config = TaskConfig(kind=kind, factor=2)
        none = {"label": None, "given": None, "known": None, "noise": 0.1}
        return asked_of(CODEC, config, measured=small, task=task, **none)

    own = asked("super-resolution")
    assert own["fields"]["seen"].shape == (1, 3, 2, 3)
    other = asked("none", "super-resolution")["seen"]
    assert (other.noise, other.operator.measured) == (0.1, (3, 2, 3))
    with pytest.raises(ValueError, match="measured needs a task"):
        asked("none")
    with pytest.raises(ValueError, match=r"measured must have shape \(1, 4, 6\)"):
        asked("colourisation")


def test_a_model_of_grey_images_does_not_colour():
    nothing = dict.fromkeys(("label", "given", "known"))
    with pytest.raises(ValueError, match="the model's images are grey"):
        asked_of(
            ImageCodec((1, 4, 6), ()),
            TaskConfig(),
            **nothing,
            measured=np.zeros((4, 6), np.uint8),
            task="colourisation",
            noise=0.0,
        )


FINE = torch.zeros(1, *EVENT)
MASK = np.zeros((4, 6), bool)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"label": "cow"}, "no class 'cow'; there are cat, dog"),
        ({"label": [0.5]}, "label must be a whole number, got 0.5"),
        ({"known": MASK}, "known says what is known of given: give both"),
        ({"given": FINE}, "all of given is known"),
        ({"given": FINE, "known": MASK}, "nothing is known"),
        ({"given": FINE, "known": ~MASK}, "everything is known"),
        ({"given": FINE, "known": MASK.astype(float)}, "known must be bool"),
        ({"given": FINE, "known": MASK[:3]}, r"known must have the places \(4, 6\)"),
        ({"given": FINE[:, :, :3], "known": MASK}, r"given must have shape \(3, 4, 6\)"),
        ({"given": FINE + 2, "known": MASK}, r"numbers in \[-1, 1\], got 2 to 2"),
        ({"given": FINE * torch.nan, "known": MASK}, r"numbers in \[-1, 1\]"),
        ({"given": FINE.long(), "known": MASK}, "bytes of numpy or numbers"),
    ],
)
def test_requests_that_make_no_sense_are_refused(asked, match):
    nothing = dict.fromkeys(("label", "given", "known", "measured", "task"))
    with pytest.raises(ValueError, match=match):
        asked_of(CODEC, TaskConfig(), **{**nothing, **asked}, noise=0.0)


def test_files_that_are_no_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.png; check its name"):
        given_of(CODEC, tmp_path / "none.png", None, held=True)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(
        ValueError, match=r"text.png is not an image that can be read .*: save it as"
    ):
        given_of(CODEC, tmp_path / "text.png", None, held=True)
