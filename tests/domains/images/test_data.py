"""Reading images: folders, archives, idx, .npz; what is in which part, and what is kept."""

import gzip
import lzma
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from structdiff.domains.images import decoding as module
from structdiff.domains.images.data import read
from structdiff.domains.images.readers import files
from structdiff.domains.images.readers.decode import Fitting, decode
from structdiff.domains.images.readers.files import mapped, sources
from tests.domains.images.folders import folder, idx, mnist, packed, pixels, png


def _parts(data):
    return {"train": data.train, "validation": data.validation, "test": data.test}


def _bag(*parts):
    """All images with their classes, as a sorted list."""
    return sorted(
        (one.tobytes(), -1 if part.labels is None else int(part.labels[i]))
        for part in parts
        for i, one in enumerate(part.pixels)
    )


def test_the_embedded_digits_are_those_of_scikit_learn():
    data, bunch = read(), load_digits()
    assert data.train.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    bytes_ = np.round(bunch.images * 255 / 16).astype(np.uint8)
    expected = sorted(zip(map(np.ndarray.tobytes, bytes_), bunch.target.tolist(), strict=True))
    assert _bag(*_parts(data).values()) == expected
    assert data.report.startswith(
        "handwritten digits of scikit-learn: grey images of 8 x 8, 1,536"
    )


def test_a_tenth_is_for_the_test_and_a_twentieth_for_validation():
    data = read()
    for part, share in ((data.validation, 0.05), (data.test, 0.1)):
        error = (1797 * share * (1 - share)) ** 0.5
        assert abs(len(part) - 1797 * share) < 4 * error


def test_equal_images_are_in_one_part_in_whatever_order(tmp_path):
    images = np.stack([pixels(seed) for seed in range(150)])
    twice, shuffled = (
        np.concatenate([images, images]),
        images[np.random.default_rng(0).permutation(150)],
    )
    np.savez(tmp_path / "twice.npz", images=twice)
    np.savez(tmp_path / "once.npz", images=shuffled)
    both, once = read(tmp_path / "twice.npz"), read(tmp_path / "once.npz")
    for name, part in _parts(both).items():
        single = [one for one, _ in _bag(_parts(once)[name])]
        assert [one for one, _ in _bag(part)] == sorted(single * 2)
    assert min(len(part) for part in _parts(once).values()) > 0


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path):
    source = folder(tmp_path / "pets", {"dog": 20, "cat": 15, "emu": 12})
    data = read(source, cache=tmp_path / "kept")
    assert data.classes == ("cat", "dog", "emu")
    expected = []
    for label, name in enumerate(data.classes):
        for file in (source / name).iterdir():
            expected.append((np.asarray(Image.open(file)).tobytes(), label))
    assert _bag(*_parts(data).values()) == sorted(expected)
    plain = read(source, labelled=False, cache=tmp_path / "kept")
    assert plain.classes == ()
    assert plain.train.labels is None
    assert [one for one, _ in _bag(plain.train)] == [one for one, _ in _bag(data.train)]


def test_folders_train_and_test_are_parts(tmp_path):
    source = folder(tmp_path / "own" / "train", {"a": 40, "b": 40}).parent
    folder(source / "test", {"a": 5, "b": 4}, start=100)
    data = read(source, cache=tmp_path / "kept")
    assert data.classes == ("a", "b")
    expected = sorted((pixels(100 + i).tobytes(), 0 if i < 5 else 1) for i in range(9))
    assert _bag(data.test) == expected
    assert len(data.train) + len(data.validation) == 80
    assert 0 < len(data.validation) < 12


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_an_archive_is_read_like_its_folder(tmp_path, mode):
    source = folder(tmp_path / "s", {"a": 22, "b": 11})
    suffix = {"w:xz": ".tar.xz", "w:gz": ".tgz", "w": ".tar"}[mode]
    archive = packed(tmp_path / f"all{suffix}", source, mode=mode)
    kept = tmp_path / "kept"
    plain, read_packed = read(source, cache=kept), read(archive, cache=kept)
    for name, part in _parts(plain).items():
        assert _bag(part) == _bag(_parts(read_packed)[name])
    assert plain.classes == read_packed.classes == ("a", "b")


def test_archives_in_a_folder_are_parts_by_their_names(tmp_path):
    train, test = (
        folder(tmp_path / name, {"a": n, "b": n}, start=n) for name, n in (("x", 30), ("y", 4))
    )
    both = tmp_path / "both"
    both.mkdir()
    packed(both / "train.tar.xz", train)
    packed(both / "test.tar.xz", test)
    data = read(both, cache=tmp_path / "kept")
    assert data.classes == ("a", "b")
    assert _bag(data.test) == sorted((pixels(4 + i).tobytes(), i // 4) for i in range(8))


def test_what_was_decoded_is_read_from_the_cache_until_a_file_changes(tmp_path, monkeypatch):
    source = folder(tmp_path / "s", {"a": 12, "b": 12})
    first = read(source, cache=tmp_path / "kept")
    assert isinstance(first.train.pixels, np.memmap)
    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", lambda *_, **__: pytest.fail("it was decoded again"))
        again = read(source, cache=tmp_path / "kept")
    assert _bag(again.train) == _bag(first.train)
    assert again.train.identity() == first.train.identity()
    (source / "a" / "000.png").write_bytes(png(pixels(999)))
    third = read(source, cache=tmp_path / "kept")
    changed = _bag(*_parts(third).values())
    assert (pixels(999).tobytes(), 0) in changed
    assert (pixels(0).tobytes(), 0) not in changed
    before, after = (
        [part.identity() for part in _parts(data).values()] for data in (first, third)
    )
    assert before != after


def test_a_reading_that_is_broken_off_leaves_nothing(tmp_path, monkeypatch):
    source, kept = folder(tmp_path / "s", {"a": 6, "b": 6}), tmp_path / "kept"
    calls = []

    def breaking(*arguments, **named):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return decode(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", breaking)
        with pytest.raises(KeyboardInterrupt):
            read(source, cache=kept)
    assert list(kept.iterdir()) == []
    assert len(read(source, cache=kept).train) > 0


def test_images_are_cut_from_the_middle(tmp_path):
    middle = pixels(0, 6, 6)
    wide = np.concatenate([np.zeros((6, 3), np.uint8), middle, np.zeros((6, 4), np.uint8)], 1)
    tall = np.concatenate([np.zeros((2, 6), np.uint8), middle, np.zeros((2, 6), np.uint8)], 0)
    source = tmp_path / "s"
    source.mkdir()
    for number, array in enumerate([wide, tall, middle] + [pixels(s) for s in range(9, 30)]):
        (source / f"{number:02}.png").write_bytes(png(array))
    data = read(source, size=6, cache=tmp_path / "kept")
    found = [one for one, _ in _bag(*_parts(data).values())]
    assert found.count(middle.tobytes()) == 3


def test_images_are_scaled_as_pillow_scales_them(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.stack([pixels(s, 12, 12, 3) for s in range(30)]))
    source = folder(tmp_path / "s", {"": 30}, height=12, width=12, channels=3)
    for data in (read(tmp_path / "a.npz", size=5), read(source, size=5, cache=tmp_path / "kept")):
        scaled = [
            Image.fromarray(pixels(s, 12, 12, 3)).resize((5, 5), Image.Resampling.LANCZOS)
            for s in range(30)
        ]
        expected = sorted(np.asarray(one).transpose(2, 0, 1).tobytes() for one in scaled)
        assert [one for one, _ in _bag(*_parts(data).values())] == expected


def test_colours_become_brightness_and_grey_becomes_three_channels(tmp_path):
    colour = np.stack([pixels(s, 4, 4, 3) for s in range(25)])
    np.savez(tmp_path / "a.npz", images=colour)
    grey = read(tmp_path / "a.npz", channels=1)
    luma = np.round(colour @ np.array([0.299, 0.587, 0.114]))  # ITU-R 601
    found = np.concatenate([part.pixels for part in _parts(grey).values()]).reshape(25, 4, 4)
    order = [int(np.abs(luma - one).sum((1, 2)).argmin()) for one in found]
    assert sorted(order) == list(range(25))
    assert np.abs(luma[order] - found).max() <= 1
    np.savez(tmp_path / "b.npz", images=np.stack([pixels(s, 4, 4) for s in range(25)]))
    wide = read(tmp_path / "b.npz", channels=3).train.pixels
    assert wide.shape[1] == 3
    assert (wide == wide[:, :1]).all()


def test_idx_files_have_a_test_set_of_their_own(tmp_path):
    data = read(mnist(tmp_path / "m"))
    assert data.classes == ("0", "1", "2")
    random = np.random.default_rng(0)
    train, test = (random.integers(0, 256, (n, 8, 8), np.uint8) for n in (60, 20))
    assert np.array_equal(data.test.pixels[:, 0], test)
    assert np.array_equal(data.test.labels, np.arange(20) % 3)
    known = sorted((one.tobytes(), i % 3) for i, one in enumerate(train))
    assert _bag(data.train, data.validation) == known


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_one_idx_file_without_labels_is_all_there_is(tmp_path, pack):
    images = np.stack([pixels(s) for s in range(40)])
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(pack(idx(images)))
    data = read(path)
    assert data.classes == ()
    assert _bag(*_parts(data).values()) == sorted((one.tobytes(), -1) for one in images)


@pytest.mark.parametrize("shape", ["plain", "last", "second"])
def test_npz_arrays_may_have_their_channels_last_or_second(tmp_path, shape):
    colour = np.stack([pixels(s, 5, 4, 3) for s in range(30)])
    images = {"plain": colour[..., 0], "last": colour, "second": colour.transpose(0, 3, 1, 2)}
    labels = np.arange(30) % 2
    names = np.array(["left", "right"])
    np.savez(tmp_path / "a.npz", x=images[shape], y=labels, classes=names)
    data = read(tmp_path / "a.npz")
    assert data.classes == ("left", "right")
    right = colour[..., :1] if shape == "plain" else colour
    expected = sorted((one.transpose(2, 0, 1).tobytes(), i % 2) for i, one in enumerate(right))
    assert _bag(*_parts(data).values()) == expected


def test_npz_may_have_a_test_set_of_its_own(tmp_path):
    train, test = np.stack([pixels(s) for s in range(40)]), np.stack([pixels(s) for s in (90, 91)])
    labels = {"train_labels": np.arange(40) % 2, "test_labels": np.array([1, 0])}
    np.savez(tmp_path / "a.npz", train_images=train, test_images=test, **labels)
    data = read(tmp_path / "a.npz")
    assert np.array_equal(data.test.pixels[:, 0], test)
    assert data.test.labels.tolist() == [1, 0]


def test_processes_that_decode_give_the_same(tmp_path):
    source = folder(tmp_path / "s", {"a": 70, "b": 3})
    use = partial(decode, fitting=Fitting(4, 1))
    alone, several = (list(mapped(use, sources(source), workers)) for workers in (0, 1))
    assert [name for name, _ in several] == [name for name, _ in alone]
    assert len(several) == 73
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(alone, several, strict=True))


def test_processes_that_end_are_told_of(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, *_):
            raise BrokenProcessPool

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(files, "ProcessPoolExecutor", Broken)
    with pytest.raises(ValueError, match="if __name__ == "):
        read(folder(tmp_path / "s", {"a": 2}), workers=2, cache=tmp_path / "kept")


def test_one_class_is_none(tmp_path):
    data = read(folder(tmp_path / "s", {"only": 30}), cache=tmp_path / "kept")
    assert data.classes == ()
    assert data.train.labels is None
    assert "one class, only" in data.report


def test_a_class_that_is_not_trained_on_is_told_of(tmp_path):
    source = folder(tmp_path / "s" / "train", {"a": 20, "b": 20}).parent
    folder(source / "test", {"c": 3}, start=70)
    data = read(source, cache=tmp_path / "kept")
    assert "classes without a training image: c" in data.report


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 1}, "data.size must be at least 2"),
        ({"channels": 2}, "data.channels must be 1"),
        ({"workers": -1}, "data.workers must be 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        read(**arguments)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(tmp_path / "no")
    with pytest.raises(ValueError, match="path of the images is empty"):
        read("")
