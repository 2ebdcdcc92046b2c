"""Images as files: grids, strips, single pictures, .npz; whole or not at all."""

import io

import numpy as np
import pytest
from PIL import Image

from structdiff.artifacts import store
from structdiff.domains.images.data import read
from structdiff.domains.images.images import Images
from structdiff.domains.images.output import encode, grid, strip, write, write_each
from structdiff.domains.images.readers.arrays import npz
from tests.domains.images.folders import pixels


def _images(count, channels=1, labels=None):
    arrays = [pixels(s, 4, 3, channels).reshape(4, 3, channels) for s in range(count)]
    return Images(np.stack(arrays).transpose(0, 3, 1, 2).copy(), labels)


def _opened(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 3])
def test_a_grid_holds_every_image_row_by_row(channels, scale):
    images = _images(5, channels)
    sheet = np.asarray(grid(images, 2, scale=scale, gap=2)).reshape(
        -1, 2 * (3 * scale + 2) + 2, channels
    )
    assert sheet.shape[0] == 3 * (4 * scale + 2) + 2
    for number, one in enumerate(images.pixels):
        top, left = (number // 2) * (4 * scale + 2) + 2, (number % 2) * (3 * scale + 2) + 2
        shown = sheet[top : top + 4 * scale : scale, left : left + 3 * scale : scale]
        assert np.array_equal(shown, one.transpose(1, 2, 0))
    assert (sheet[:2] == 255).all()
    assert (sheet[-(4 * scale) :, -(3 * scale) :] == 255).all()  # the sixth place is empty


def test_a_strip_shows_an_image_in_a_row():
    frames = [_images(2), _images(3).select([2, 1]), _images(2)]
    sheet = np.asarray(strip(frames))
    assert sheet.shape == (2 * 5 + 1, 3 * 4 + 1)
    for row in range(2):
        for column, frame in enumerate(frames):
            shown = sheet[row * 5 + 1 : row * 5 + 5, column * 4 + 1 : column * 4 + 4]
            assert np.array_equal(shown, frame.pixels[row, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_is_written_as_it_is(tmp_path, channels):
    images = _images(1, channels)
    said = write(tmp_path / "one.png", images)
    assert said == f"1 image written to {tmp_path / 'one.png'}"
    shown = np.asarray(Image.open(tmp_path / "one.png")).reshape(4, 3, channels)
    assert np.array_equal(shown, images.pixels[0].transpose(1, 2, 0))


def test_an_npz_is_read_as_data_again(tmp_path):
    images = _images(40, 3, np.arange(40) % 2)
    write(tmp_path / "all.npz", images)
    data = read(tmp_path / "all.npz")
    parts = (data.train, data.validation, data.test)
    found = sorted(
        (one.tobytes(), k) for p in parts for one, k in zip(p.pixels, p.labels, strict=True)
    )
    assert found == sorted((one.tobytes(), i % 2) for i, one in enumerate(images.pixels))


def test_single_files_lie_in_folders_of_their_classes(tmp_path):
    images = _images(4, 1, np.array([0, 1, 1, 2]))
    paths = write_each(tmp_path / "out", images, ("cat", "dog", "../up"), first=7)
    names = [path.relative_to(tmp_path / "out").as_posix() for path in paths]
    assert names == ["cat/00007.png", "dog/00008.png", "dog/00009.png", "_up/00010.png"]
    for path, one in zip(paths, images.pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), one[0])


def test_a_file_is_whole_or_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write(path, _images(4))
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, _images(9), overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_paths_that_cannot_or_must_not_be_written_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="--overwrite"):
        write(tmp_path / "a.png", _images(1))
    with pytest.raises(ValueError, match="suffix '.gif' is not known"):
        write(tmp_path / "a.gif", _images(1))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write(tmp_path / "no" / "a.png", _images(1))
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_grids_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="a grid needs images"):
        grid(_images(2).select(slice(0, 0)))
    with pytest.raises(ValueError, match="columns 0"):
        grid(_images(2), 0)
    with pytest.raises(ValueError, match="at least one frame"):
        strip([])
    with pytest.raises(ValueError, match="1 or 3 channels"):
        encode(".png", Images(np.zeros((1, 2, 4, 4), np.uint8)))


def test_an_npz_keeps_the_names_of_classes_that_were_not_drawn(tmp_path):
    images = Images(np.zeros((3, 1, 8, 8), np.uint8), np.array([1, 1, 0]))
    write(tmp_path / "a.npz", images, classes=("cat", "dog", "owl"))
    assert npz(tmp_path / "a.npz").classes == ("cat", "dog", "owl")


def test_a_grid_in_a_file_enlarges_small_images_by_whole_pixels(tmp_path):
    images = _images(4)
    write(tmp_path / "grid.png", images)
    height, width = images.shape[1:]
    scale = 48 // max(height, width)
    assert scale > 1
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape[:2] == (2 * scale * height + 3, 2 * scale * width + 3)
    first = sheet[1 : 1 + scale * height : scale, 1 : 1 + scale * width : scale]
    own = images.pixels[0]
    assert np.array_equal(first, own[0] if len(own) == 1 else own.transpose(1, 2, 0))
    write(tmp_path / "one.png", images.select(slice(0, 1)))
    assert np.asarray(Image.open(tmp_path / "one.png")).shape[:2] == (height, width)
