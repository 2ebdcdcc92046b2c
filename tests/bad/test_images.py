"""Images that are cut, foreign or odd: skipped, counted and listed; or read as they are meant."""

import gzip
import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from structdiff.domains.images.data import read
from structdiff.domains.images.readers.arrays import read_idx
from structdiff.domains.images.readers.decode import Fitting, Source, decode, probe
from tests.domains.images.folders import folder, idx, mnist, packed, pixels, png

GENERATED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(name, content):
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def _claiming(width, height):
    """A PNG whose head says so, and that has nothing else."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")
    )


FRAMES = [Image.fromarray(pixels(seed, 6, 6)) for seed in (0, 1, 2)]
SPOILED = {
    "empty.png": (b"", "is empty, 0 bytes"),
    "cut.png": (png(pixels(0, 40, 40))[:900], "cannot be read"),
    "cut.jpg": (_saved(Image.fromarray(pixels(0, 60, 60)), "JPEG")[:700], "cannot be read"),
    "words.jpg": (b"this is no picture", "is no image that pillow knows"),
    "page.png": (b"<html></html>", "is no image that pillow knows"),
    "film.gif": (_saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "3 frames"),
    "film.png": (_saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "3 frames"),
    "pages.tif": (_saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "3 frames"),
    "dot.png": (png(pixels(0, 1, 1)), "has 1 x 1 pixels, too few"),
    "line.png": (png(pixels(0, 1, 6)), "has 6 x 1 pixels, too few"),
    "float.tif": (_saved(Image.fromarray(pixels(0).astype(np.float32)), "TIFF"), "32 bits"),
    "long.tif": (_saved(Image.fromarray(pixels(0).astype(np.int32)), "TIFF"), "32 bits"),
    "bomb.png": (_claiming(12_000, 12_000), "has 12000 x 12000 pixels"),
    "larger.png": (_claiming(40_000, 40_000), "cannot be read"),
}


@pytest.mark.parametrize("inside", [False, True])
def test_spoiled_files_are_left_out_counted_and_listed(tmp_path, inside):
    source = folder(tmp_path / "s", {"a": 20, "b": 15})
    for name, (content, _) in SPOILED.items():
        (source / "a" / name).write_bytes(content)
    whole = read(folder(tmp_path / "whole", {"a": 20, "b": 15}), cache=tmp_path / "kept")
    path = packed(tmp_path / "s.tar.xz", source) if inside else source
    for _ in range(2):  # read, and read from the cache
        data = read(path, size=6, cache=tmp_path / "kept")
        reasons = dict(data.skipped)
        assert reasons.keys() == {f"a/{name}" for name in SPOILED}
        for name, (_, reason) in SPOILED.items():
            assert reason in reasons[f"a/{name}"], name
        assert np.array_equal(data.train.pixels, whole.train.pixels)
        assert f"{len(SPOILED)} files are left out:" in data.report
        assert "a/bomb.png has 12000" in data.report
        assert f"and {len(SPOILED) - 8} more" in data.report


def _brought(content, channels):
    found = decode(Source("x", content), Fitting(None, channels))
    assert not isinstance(found, str), found
    return found


def test_sixteen_bits_become_the_upper_eight():
    wide = np.random.default_rng(0).integers(0, 1 << 16, (5, 6)).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        content = _saved(Image.fromarray(wide), kind)
        assert np.array_equal(_brought(content, 1)[0], (wide >> 8).astype(np.uint8))
        assert (_brought(content, 3) == (wide >> 8).astype(np.uint8)).all()


def test_cmyk_becomes_colour():
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[..., 0] = 255  # all of cyan, none of the others
    content = _saved(Image.fromarray(inks, "CMYK"), "TIFF")
    assert probe(Source("x", content)).colour
    found = _brought(content, 3)
    assert found[:, 0, 0].tolist() == [0, 255, 255]


def test_a_palette_becomes_its_colours():
    array = pixels(0, 5, 5, 3) // 128 * 255  # eight colours
    paletted = Image.fromarray(array).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    for kind in ("PNG", "GIF"):
        found = _brought(_saved(paletted, kind), 3)
        assert np.abs(found.astype(int) - array.transpose(2, 0, 1)).max() <= 8


def test_what_is_transparent_lies_over_white():
    array = np.zeros((3, 3, 4), np.uint8)
    array[0], array[1], array[2] = (200, 0, 0, 255), (0, 100, 0, 0), (0, 0, 0, 128)
    found = _brought(png(array), 3)
    assert found[:, 0, 0].tolist() == [200, 0, 0]
    assert found[:, 1, 0].tolist() == [255, 255, 255]
    assert np.abs(found[:, 2, 0].astype(int) - 127).max() <= 1
    grey = np.zeros((3, 3, 2), np.uint8)
    grey[0] = (50, 255)
    assert _brought(_saved(Image.fromarray(grey, "LA"), "PNG"), 1)[0, :, 0].tolist() == [
        50,
        255,
        255,
    ]


def test_black_and_white_is_grey():
    found = _brought(_saved(Image.fromarray(pixels(0) > 128), "PNG"), 1)
    assert np.array_equal(found[0], np.where(pixels(0) > 128, 255, 0))


@GENERATED
@given(content=st.binary(max_size=300))
def test_any_bytes_are_left_out(tmp_path, content):
    found = probe(Source("x.png", content))
    if isinstance(found, str):
        assert found
        assert isinstance(decode(Source("x.png", content), Fitting(4, 1)), str)


@GENERATED
@given(
    place=st.integers(0, 400),
    value=st.integers(0, 255),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM"]),
)
def test_one_wrong_byte_gives_an_image_or_a_reason(place, value, kind):
    content = bytearray(_saved(Image.fromarray(pixels(3, 9, 9)), kind))
    content[place % len(content)] = value
    found = decode(Source("x", bytes(content)), Fitting(4, 1))
    if isinstance(found, str):
        assert found.startswith(("has ", "cannot be read (", "is no image"))
    else:
        assert found.shape == (1, 4, 4)
        assert found.dtype == np.uint8


def test_images_of_several_sizes_need_a_size(tmp_path):
    source = folder(tmp_path / "s", {"a": 5}, height=6, width=6)
    folder(source, {"b": 3}, height=8, width=6)
    with pytest.raises(ValueError, match=r"2 sizes \(5 of 6 x 6, 3 of 6 x 8\): give data.size"):
        read(source, cache=tmp_path / "kept")
    assert read(source, size=4, cache=tmp_path / "kept").train.shape == (1, 4, 4)


def test_a_size_beyond_the_machine_is_refused_before_anything_is_scaled(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"data.size 100000: 1,797 images .* GiB of memory, this"):
        read(size=100_000)
    np.savez(tmp_path / "a.npz", images=np.stack([pixels(seed) for seed in range(30)]))
    with pytest.raises(ValueError, match=r"30 images of 3 .*: take a smaller data.size, or give"):
        read(tmp_path / "a.npz", size=100_000, channels=3)
    source = folder(tmp_path / "s", {"a": 9, "b": 9})
    with pytest.raises(ValueError, match="data.size 1000000: 1 images .* of memory"):
        read(source, size=1_000_000, cache=tmp_path / "kept")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=18 * 64 - 1))
    with pytest.raises(ValueError, match=r"18 images .* set STRUCTDIFF_CACHE"):
        read(source, size=8, cache=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=18 * 64))
    assert read(source, size=8, cache=tmp_path / "kept").train.shape == (1, 8, 8)


def test_folders_without_an_image_are_no_classes(tmp_path):
    source = folder(tmp_path / "s", {"a": 15, "b": 15})
    (source / "nothing").mkdir()
    (source / "words").mkdir()
    (source / "words" / "notes.txt").write_text("no image")
    data = read(source, cache=tmp_path / "kept")
    assert data.classes == ("a", "b")
    assert "folders without an image are no classes: nothing, words" in data.report


def test_no_image_at_all_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(ValueError, match="has no image to train on; give a folder"):
        read(tmp_path / "s", cache=tmp_path / "kept")
    (tmp_path / "s" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="all 1 are left out, a.png is empty, 0 bytes"):
        read(tmp_path / "s", cache=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_images_with_and_without_a_class_are_refused(tmp_path):
    source = folder(tmp_path / "s", {"": 2, "a": 3, "b": 3})
    with pytest.raises(
        ValueError, match=r"2 in none \(000.png\): move them, .* --data.no-labelled$"
    ):
        read(source, cache=tmp_path / "kept")
    data = read(source, labelled=False, cache=tmp_path / "kept")
    assert sum(map(len, (data.train, data.validation, data.test))) == 8


@pytest.mark.parametrize("keep", [0, 30, 300, -40, -1])
@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2"])
def test_an_archive_that_is_cut_is_refused(tmp_path, keep, mode):
    source = folder(tmp_path / "s", {"a": 9, "b": 9})
    path = packed(tmp_path / f"all.tar.{mode[2:]}", source, mode=mode)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="all.tar"):
        read(path, cache=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(ValueError, match="no folder, no tar archive, no .npz and no idx file"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is no idx file: it begins with nothing"),
        (b"\x89PNG\r\n", "is no idx file: it begins with 89 50 4e 47"),
        (b"\0\0\x0d\x03" + bytes(40), "numbers of type 0x0d, not bytes"),
        (b"\0\0\x08\0", "is no idx file"),
        (b"\0\0\x08\x03\0\0\0\2", "is damaged"),
        (
            idx(np.zeros((4, 8, 8), np.uint8))[:-1],
            "is damaged: it has 271 bytes, its head says 272",
        ),
        (idx(np.zeros((4, 8, 8), np.uint8)) + b"\0", "is damaged"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "is damaged"),
        (gzip.compress(idx(np.zeros((4, 8, 8), np.uint8)), mtime=0)[:-9], "cannot read"),
        (b"\x1f\x8bjunk", "cannot read"),
    ],
)
def test_wrong_idx_files_are_refused(tmp_path, content, match):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        read_idx(path)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        read(tmp_path)


def test_idx_files_that_do_not_fit_each_other_are_refused(tmp_path):
    source = mnist(tmp_path / "m")
    images, labels = source / "train-images-idx3-ubyte.gz", source / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(idx(np.zeros(59, np.uint8)))
    with pytest.raises(ValueError, match=r"has shape \(59,\), but .* has 60 images"):
        read(source)
    labels.unlink()
    with pytest.raises(ValueError, match="labels of one part only"):
        read(source)
    images.with_suffix("").write_bytes(images.read_bytes())
    with pytest.raises(ValueError, match="two files of images for train"):
        read(source)
    for file in source.glob("*images*"):
        file.unlink()
    with pytest.raises(ValueError, match="no idx file of images"):
        read(source)
    (source / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 1, 1), np.uint8)))
    with pytest.raises(ValueError, match="5 images of 1 x 1: there is nothing to learn"):
        read(source / "train-images-idx3-ubyte")
    (source / "train-images-idx3-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match="has 1 axes"):
        read(source / "train-images-idx3-ubyte")


GOOD = np.stack([pixels(seed) for seed in range(12)])


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"images": GOOD / 255}, r"must be bytes \(uint8\), got float64: multiply"),
        ({"images": GOOD.astype(np.int64)}, "must be bytes"),
        ({"images": GOOD[0]}, r"must have shape .* got \(6, 6\)"),
        ({"images": np.zeros((4, 5, 6, 7), np.uint8)}, "must have shape"),
        ({"images": GOOD[:0]}, "has 0 images"),
        ({"images": np.array([None, "x"], object)}, "Python objects, which are not unpickled"),
        ({"pictures": GOOD}, "no array `images`, it has pictures"),
        ({"images": GOOD, "labels": np.zeros(11, int)}, r"whole numbers of shape \(12,\)"),
        ({"images": GOOD, "labels": np.zeros(12)}, "whole numbers"),
        ({"images": GOOD, "labels": np.arange(12) - 1}, "classes from 0, got -1 to 10"),
        ({"images": GOOD, "labels": np.arange(12) % 2, "classes": np.array(["a"])}, "2 different"),
        ({"images": GOOD, "labels": np.arange(12) % 2, "classes": np.zeros(2)}, "2 different"),
        ({"images": GOOD, "labels": np.arange(12) % 2, "test_images": GOOD}, "one part only"),
        ({"images": GOOD, "test_images": GOOD[:, :4]}, "parts of different shapes"),
    ],
)
def test_wrong_npz_files_are_refused(tmp_path, arrays, match):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=match):
        read(path)


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_an_npz_that_is_cut_is_refused(tmp_path, keep):
    path = tmp_path / "a.npz"
    np.savez(path, images=GOOD)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cannot read .*a\.npz"):
        read(path)


def test_an_npy_under_the_name_of_an_npz_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", GOOD)
    path = (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"cannot read .*a\.npz: it is no .npz, or was cut off"):
        read(path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"shape": 3, "classes": [], "counts": {}}']
)
def test_a_spoiled_entry_of_the_cache_is_written_anew(tmp_path, content):
    source = folder(tmp_path / "s", {"a": 9, "b": 9})
    expected = read(source, cache=tmp_path / "kept").train.identity()
    folder_ = next((tmp_path / "kept").iterdir())
    (folder_ / "entry.json").write_text(content)
    assert read(source, cache=tmp_path / "kept").train.identity() == expected
    (folder_ / "train").write_bytes(b"short")
    assert read(source, cache=tmp_path / "kept").train.identity() == expected


def test_a_cache_that_cannot_be_written_is_told_of(tmp_path):
    source = folder(tmp_path / "s", {"a": 9, "b": 9})
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(ValueError, match="STRUCTDIFF_CACHE"):
        read(source, cache=tmp_path / "kept")
