"""One word for how classes are noised."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import Batch
from structdiff.codecs import Categories
from structdiff.testing import ExactDenoiser
from tests.benchmarks.categories import (
    WAYS,
    draw,
    law_of,
    names,
    places_of,
    rows_of,
    sampling_error,
    total_variation,
    train,
)

CLASSES = (3, 3, 2)
LAW = law_of(CLASSES, seed=6)
ways = pytest.mark.parametrize("how", WAYS)


def independent() -> float:
    """Total variation of the law from the product of its columns."""
    product = LAW.sum((1, 2))[:, None, None] * LAW.sum((0, 2))[:, None] * LAW.sum((0, 1))
    return float(0.5 * (product - LAW).abs().sum())


def noise(samples: int) -> float:
    """What exact draws do not exceed but once in 10^5 (McDiarmid's inequality)."""
    return sampling_error(LAW, samples) + math.sqrt(math.log(1e5) / (2 * samples))


@ways
def test_with_the_exact_denoiser_all_ways_draw_the_law(how) -> None:
    """D22. In a chain two columns that change in one step are torn: at most the share of pairs of
    columns that do, 3 / steps, and the law is not missed by more than independence misses it.
    """
    samples, steps = 1500, 16
    columns = Categories.of(how, names(CLASSES), width=6)
    rows = rows_of(torch.arange(LAW.numel()), CLASSES)
    clean = columns.encode(rows)
    for name, x in columns.decode(clean).leaves.items():
        assert torch.equal(x, rows[name])
    clean = clean.with_leaves({n: x.detach() for n, x in clean.leaves.items()})
    exact = ExactDenoiser(columns.process, clean, LAW.flatten())
    drawn = draw(columns, exact, samples, steps, seed=0)
    limit = noise(samples) + 3 / steps * independent()
    assert total_variation(places_of(drawn, CLASSES), LAW) < limit
    assert limit < independent() / 2


@pytest.mark.parametrize("how", ["bits", "embedding"])
def test_a_short_training_learns_how_columns_go_together(how) -> None:
    """Less than half of what independent columns would miss."""
    columns, denoiser = train(how, LAW, steps=400, batch_size=256)
    drawn = draw(columns, denoiser, 4000, 32, seed=0)
    assert total_variation(places_of(drawn, CLASSES), LAW) < independent() / 2


def test_an_unknown_word_is_refused() -> None:
    match = "how must be absorbing, uniform, bits or embedding, got 'one hot'"
    with pytest.raises(ValueError, match=match):
        Categories.of("one hot", {"x": 2})  # type: ignore[arg-type]


def test_chains_are_left_as_they_are() -> None:
    columns, batch = Categories.of("uniform", {"x": 3}), Batch.of(torch.tensor([2, 0]))
    assert columns.encode(batch)["x"] is batch["x"]
    assert columns.decode(batch)["x"] is batch["x"]
