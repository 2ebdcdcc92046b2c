"""Prefixes as what is given: from a source to a target."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    GivenRows,
    Layout,
    Product,
    absorbing,
)
from structdiff.codecs import Bits, ClassDenoiser
from structdiff.counter import Counter
from structdiff.objectives.embedded import ScoreInterpolation
from structdiff.objectives.prefix import hold_prefix, prefix_rows
from structdiff.parameterisations import Embedding, embed, unembed
from structdiff.schedules import UniformTime

COUNTS, SOURCE = [4, 2, 5], [2, 1, 0]
HELD = torch.tensor([1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]).bool()


def text() -> Batch:
    token = torch.tensor([0, 4, 2, 3, 1, 1, 0, 2, 4, 3, 3])
    return Batch({"token": token}, {"token": Layout.ragged(COUNTS)})


def test_the_first_rows_are_held_beside_what_was() -> None:
    known = torch.zeros(11, dtype=torch.bool)
    known[10] = True
    assert torch.equal(hold_prefix(text(), "token", SOURCE).given["token"], HELD)
    both = hold_prefix(text().with_given({"token": known}), "token", torch.tensor(SOURCE))
    assert torch.equal(both.given["token"], HELD | known)


REALS, TABLE = Gaussian(Cosine(), event=(3,)), {"token": Embedding(5, 3)}
WAYS = {
    "embedding": (TABLE, TABLE, REALS, 5),
    "bits": ({"token": Bits(5)}, {}, REALS, 3),
    "chain": ({}, {}, Categorical(Flow(), absorbing(5)), 5),
}
ways = pytest.mark.parametrize(
    ("codes", "embeddings", "leaf", "said"), WAYS.values(), ids=WAYS.keys()
)


@ways
def test_the_source_is_unchanged_at_every_time(codes, embeddings, leaf, said) -> None:
    """D10: in diffusing and in each step of a walk; the target is not."""
    clean = embed(hold_prefix(text(), "token", SOURCE), codes)
    process = Product({"token": leaf}).bind(clean)
    for t in (0.0, 0.2, 0.7, 1.0):
        times = process.times(torch.tensor(t))
        x_t = process.diffuse(clean.leaves, times, Generator(0))["token"]
        assert torch.equal(x_t[HELD], clean["token"][HELD])
        assert bool((x_t[~HELD] != clean["token"][~HELD]).any()) == (t > 0)

    class Flat(nn.Module):
        def forward(self, batch, clock, previous):
            return {"token": torch.zeros(11, said)}

    denoiser = ClassDenoiser(Flat(), Product({"token": leaf}), embeddings)
    seen = []
    drawn = DDPM(denoiser, UniformTime(6)).sample(
        clean, Generator(1), watch=lambda i, carry: seen.append(carry.x["token"])
    )
    assert len(seen) == 6
    assert all(torch.equal(x[HELD], clean["token"][HELD]) for x in seen)
    assert torch.equal(unembed(drawn, codes)["token"][HELD], text()["token"][HELD])


def test_the_loss_is_that_of_the_target() -> None:
    """What the network says at source rows changes no term and gets no gradient."""
    code = Embedding(5, 3)
    process = Product({"token": Gaussian(Cosine(), event=(3,))})

    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.said = nn.Parameter(torch.randn(11, 5))

        def forward(self, batch, clock, previous):
            return {"token": self.said}

    torch.manual_seed(0)
    network = Free()
    denoiser = ClassDenoiser(network, process, {"token": code})
    objective = ScoreInterpolation({"token": code}, {"token": code})
    batch = hold_prefix(text(), "token", SOURCE)
    terms = objective(denoiser, batch, Generator(0))
    terms.total.backward()
    assert network.said.grad is not None
    assert not network.said.grad[HELD].any()
    assert bool((network.said.grad[~HELD].abs().sum(1) > 0).all())
    error = nn.functional.cross_entropy(network.said, text()["token"], reduction="none") * ~HELD
    by_hand = torch.stack([part.mean() for part in error.split(COUNTS)])
    torch.testing.assert_close(terms.leaves["token"], by_hand)


def test_random_prefixes_are_prefixes_of_uniform_length() -> None:
    samples, rows = 3000, 4
    token = torch.zeros(samples * rows, dtype=torch.int64)
    batch = Batch({"token": token}, {"token": Layout.ragged([rows] * samples)})
    chosen = torch.arange(samples) < samples - 100
    held = prefix_rows(batch, Counter(0), chosen).given["token"].reshape(samples, rows)
    assert not held[-100:].any()
    assert bool((held[:, 1:] <= held[:, :-1]).all())
    share = torch.bincount(held[:-100].sum(1), minlength=rows + 1) / (samples - 100)
    assert share[rows] == 0
    assert float((share[:rows] - 0.25).abs().max()) < 4.5 * (0.25 * 0.75 / 2900) ** 0.5


def test_a_choice_does_not_depend_on_batch_mates() -> None:
    token = torch.zeros(30, dtype=torch.int64)
    batch = Batch({"token": token}, {"token": Layout.ragged([10, 8, 12])})
    whole = prefix_rows(batch, Counter(3), torch.ones(3).bool()).given["token"]
    alone = prefix_rows(batch.select([2]), Counter(3), torch.ones(1).bool()).given["token"]
    assert torch.equal(alone, whole[18:])
    assert 0 < int(whole.sum()) < 30


def test_it_is_a_choice_of_given_rows() -> None:
    """The objective inside sees the prefixes that the chooser makes."""
    seen = []

    def inside(denoiser, batch, random):
        seen.append(batch.given["token"])

    GivenRows(inside, prefix_rows, rate=1.0)(None, text(), Counter(1))  # type: ignore[arg-type]
    assert torch.equal(
        seen[0], prefix_rows(text(), Counter(1), torch.ones(3).bool()).given["token"]
    )


@pytest.mark.parametrize("counts", [[1, 2], [1, 3, 0], [-1, 0, 0]])
def test_refusals(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"counts must have a number of rows for each of 3"):
        hold_prefix(text(), "token", counts)
