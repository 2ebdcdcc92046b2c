"""Analog bits."""

from __future__ import annotations

import pytest
import torch

from structdiff import DDPM, Batch, Cosine, Gaussian, Generator, Layout, Product
from structdiff.codecs import Bits
from structdiff.parameterisations import embed, unembed
from structdiff.schedules import UniformTime
from structdiff.testing import ExactDenoiser


def test_codewords_are_the_bits_of_the_index() -> None:
    code = Bits(200, scale=0.5)
    for k in (0, 1, 77, 128, 199):
        text = "".join("1" if bit > 0 else "0" for bit in code.encode(torch.tensor([k]))[0])
        assert text == f"{k:08b}"
    assert set(code.encode(torch.arange(200)).flatten().tolist()) == {-0.5, 0.5}


def test_decoding_undoes_encoding_for_every_number_of_classes() -> None:
    """D06: for each K up to 2^16.

    The codes of one width have the same codewords, and read them alike where their index is below
    K: so the whole code is tried once a width, and K itself where it is small or near a power of
    two. That the width is right is tried for every K.
    """
    for k in range(1, 2**16 + 1):
        assert 2 ** (Bits(k).width - 1) < max(k, 2) <= 2 ** Bits(k).width
    for width in range(1, 17):
        index = torch.arange(2**width)
        words = Bits(2**width).encode(index)
        assert torch.equal(Bits(2**width).decode(words), index)
        for k in {2 ** (width - 1) + 1, 3 * 2 ** (width - 1) // 2, 2**width - 1}:
            assert torch.equal(Bits(k).encode(index[:k]), words[:k, -Bits(k).width :])
            assert torch.equal(Bits(k).decode(words[:k, -Bits(k).width :]), index[:k])
    for k in range(1, 300):
        assert torch.equal(Bits(k).decode(Bits(k).encode(torch.arange(k))), torch.arange(k))


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 6, 7, 8, 21, 100, 1000, 40_000, 2**16])
def test_the_whole_code_is_the_identity(classes: int) -> None:
    code, index = Bits(classes, scale=3.0), torch.arange(classes)
    words = code.encode(index)
    assert words.shape == (classes, code.width)
    assert torch.equal(code.decode(words), index)
    assert torch.equal(code.decode(0.01 * words), index)


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 21, 48, 53, 64])
def test_reals_are_read_as_the_nearest_codeword(classes: int) -> None:
    """Against a search over all codewords; signs alone decide where they are a class."""
    code = Bits(classes)
    x = Generator(classes).normal((4000, code.width), torch.float64, "cpu")
    words = code.encode(torch.arange(classes)).double()
    nearest = (x @ words.T).argmax(1)
    assert torch.equal(code.decode(x), nearest)
    signs = ((x > 0).long() << torch.arange(code.width - 1, -1, -1)).sum(1)
    valid = signs < classes
    assert torch.equal(code.decode(x)[valid], signs[valid])
    assert bool(valid.all()) == (classes == 2**code.width)


def test_tiny_signs_count_where_they_say_a_class() -> None:
    """Rounding of scores must not outvote a sign."""
    x = torch.tensor([[1e-30, 1.0], [-1e-30, 1.0], [1.0, -1e-30]])
    assert Bits(4).decode(x).tolist() == [3, 1, 2]


def test_given_entries_are_given_in_all_their_bits() -> None:
    batch = Batch.of({"a": torch.tensor([[0, 4], [2, 3]]), "b": torch.tensor([1, 0])})
    entries = torch.tensor([[True, False], [False, False]])
    batch = batch.with_given({"a": entries, "b": torch.tensor([False, True])})
    codes = {"a": Bits(5), "b": Bits(2)}
    words = embed(batch, codes)
    assert words.given["a"][0, 0].all()
    assert not words.given["a"].flatten(0, 1)[1:].any()
    assert words.given["b"].tolist() == [False, True]
    back = unembed(words, codes)
    for name in codes:
        assert torch.equal(back[name], batch[name])
        assert torch.equal(back.given[name], batch.given[name])


def test_the_gaussian_core_draws_the_records_of_the_data() -> None:
    """Ragged records of K = 5 with the exact denoiser: proportions within 4 standard errors."""
    torch.set_default_dtype(torch.float64)
    try:
        data = Batch(
            {"token": torch.tensor([0, 3, 4, 4, 1, 2, 2])}, {"token": Layout.ragged([2, 2, 3])}
        )
        codes = {"token": Bits(5)}
        process = Product({"token": Gaussian(Cosine(), event=(3,))})
        weights = torch.tensor([0.25, 0.75, 1.0])
        denoiser = ExactDenoiser(process, embed(data, codes), weights)
        n = 600
        layout = Layout.ragged([2] * n + [3] * 20)
        blank = Batch(process.empty(layout.rows), {"token": layout})
        drawn = unembed(DDPM(denoiser, UniformTime(25)).sample(blank, Generator(0)), codes)
    finally:
        torch.set_default_dtype(torch.float32)
    pairs = drawn["token"][: 2 * n].reshape(n, 2).tolist()
    first, second = pairs.count([0, 3]), pairs.count([4, 4])
    assert first + second == n
    assert abs(first - n / 4) < 4 * (n * 3 / 16) ** 0.5
    assert drawn["token"][2 * n :].reshape(20, 3).tolist() == [[1, 2, 2]] * 20


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Bits(0), "classes must be at least 1, got 0"),
        (lambda: Bits(4, scale=0.0), "scale must be positive, got 0.0"),
        (
            lambda: Bits(5).encode(torch.tensor([2, 5])),
            r"classes must be in \[0, 5\), got numbers from 2 to 5",
        ),
        (lambda: Bits(5).encode(torch.tensor([-1])), "got numbers from -1 to -1"),
        (
            lambda: embed(Batch.of(torch.tensor([1.0])), {"x": Bits(2)}),
            "leaf 'x' has dtype torch.float32: a code needs classes, int64",
        ),
        (
            lambda: embed(Batch.of(torch.tensor([1])), {"y": Bits(2)}),
            r"codes names \['y'\], but the batch has the leaves \['x'\]",
        ),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
