"""`given=` on packed token rows: prefix, suffix and any mask, by exact propagation of laws.

The law is any law of three tokens of three classes (FX3), which excludes nothing. A walk of N
steps is a product of kernels on the states of the rows that are not given.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Flow,
    Generator,
    Product,
    UniformTime,
    absorbing,
    marginal,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.guidance import Replacement
from structdiff.testing import ExactDenoiser
from tests.guidance.labelled import every, tokens

LENGTH, CLASSES = 3, 3
SENTENCES = every(CLASSES, LENGTH)
LAW = torch.softmax(
    2 * torch.randn(27, generator=torch.Generator().manual_seed(4), dtype=torch.float64), 0
)
MASKS = {
    "prefix": (True, False, False),
    "longer prefix": (True, True, False),
    "suffix": (False, False, True),
    "both ends": (True, False, True),
    "middle": (False, True, False),
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
KNOWN = (2, 0, 1)
TRANSITIONS = {
    "absorbing": absorbing(3),
    "uniform": uniform(3),
    "marginal": marginal(torch.tensor([0.5, 0.2, 0.3])),
}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def exact(transition: object) -> ExactDenoiser:
    process = Product({"token": Categorical(Flow(), transition)})
    return ExactDenoiser(process, tokens(SENTENCES), LAW)


def conditional(mask: tuple[bool, ...]) -> Tensor:
    """Bayes' law of the sentences that agree with the known tokens, `(27,)`."""
    pairs = [all(a == b for a, b, m in zip(s, KNOWN, mask, strict=True) if m) for s in SENTENCES]
    kept = torch.where(torch.tensor(pairs), LAW, 0.0)
    return kept / kept.sum()


def walked(denoiser: Denoiser, mask: tuple[bool, ...], steps: int) -> Tensor:
    """The law of the sentences that a DDPM walk ends in, `(27,)`, without drawing any."""
    symbols = denoiser.process["token"].symbols
    free = [place for place, m in enumerate(mask) if not m]
    values = list(product(range(symbols), repeat=len(free)))
    rows = torch.tensor(KNOWN).repeat(len(values), 1)
    rows[:, free] = torch.tensor(values)
    held = torch.tensor(mask).repeat(len(values))
    batch = tokens(rows.tolist()).with_given({"token": held})
    leaf = denoiser.process.bind(batch)["token"]
    grid = UniformTime(steps).times()
    law = leaf.stationary[rows[:, free]].prod(1)
    for t, step in zip(grid, leaf.plan(grid, 1.0), strict=False):
        reached = law.nonzero().squeeze(1)
        here = batch.select(reached)
        estimate = denoiser(here, denoiser.process.bind(here).times(t))["token"]
        kernel = leaf.log_kernel(estimate, here["token"], step).exp()
        kernel = kernel.reshape(len(reached), LENGTH, symbols)
        onto = torch.ones(len(reached), len(values))
        for place in free:
            onto = onto * kernel[:, place, rows[:, place]]
        law = law[reached] @ onto
    ends = torch.zeros(27)
    for chance, row in zip(law.tolist(), rows.tolist(), strict=True):
        if max(row) < CLASSES:
            ends[SENTENCES.index(row)] += chance
    return ends


def distance(one: Tensor, other: Tensor) -> float:
    return 0.5 * float((one - other).abs().sum())


@masks
@pytest.mark.parametrize("name", TRANSITIONS)
def test_any_mask_draws_its_conditional(name, mask):
    """Total variation below 0.03 with 24 steps; in proportion to their length."""
    errors = [
        distance(walked(exact(TRANSITIONS[name]), mask, n), conditional(mask)) for n in (8, 24)
    ]
    assert errors[1] < 0.03
    if sum(mask) == 2:
        assert errors[1] < 1e-9  # one row: every step is exact
    else:
        assert errors[1] < 0.45 * errors[0]


def seen(name: str) -> tuple[Tensor, Tensor]:
    """Estimates of free rows: with given rows at no time, and with the same rows at time t."""
    denoiser, mask = exact(TRANSITIONS[name]), torch.tensor([True, False, True])
    symbols = denoiser.process["token"].symbols
    batch = tokens([[a, symbols - 1, b] for a in range(3) for b in range(3)])
    told = batch.with_given({"token": mask.repeat(9)})
    t = torch.tensor(0.6)
    free = ~mask.repeat(9)
    return tuple(
        denoiser(b, denoiser.process.bind(b).times(t))["token"].value.exp()[free]
        for b in (told, batch)
    )


def test_for_the_absorbing_chain_given_rows_are_rows_that_were_unmasked():
    """No time, no mask condition: any model of the absorbing chain infills as it is."""
    told, plain = seen("absorbing")
    torch.testing.assert_close(told, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["uniform", "marginal"])
def test_for_other_chains_a_model_has_to_be_told_which_rows_are_clean(name):
    """The same symbols may be noise, so the estimate differs unless rows have their own times."""
    told, plain = seen(name)
    assert (told - plain).abs().max() > 0.05


class Untold(Denoiser):
    """A model that takes all rows for as noisy as the noisiest one."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process

    def forward(self, batch, t, previous=None):
        bare = batch.with_given({})
        return self.denoiser(bare, {n: time.max().clamp(max=1 - 1e-9) for n, time in t.items()})


@pytest.mark.parametrize("name", TRANSITIONS)
def test_what_a_model_draws_that_was_not_told(name):
    """On the absorbing chain the conditional law, on others another one."""
    mask = MASKS["prefix"]
    found = distance(walked(Untold(exact(TRANSITIONS[name])), mask, 16), conditional(mask))
    assert found < 0.03 if name == "absorbing" else found > 0.3


def test_texts_of_several_lengths_are_infilled_in_one_batch():
    """Packed rows: 1500 walks, a third of them of length 3, 2 and 3 with another mask.

    Total variation of 9 sentences with 500 samples: 0.03 is its mean; 0.08 beyond five SD.
    """
    process = Product({"token": Categorical(Flow(), absorbing(3))})
    pairs = every(3, 2)
    short = torch.softmax(torch.arange(9.0) % 4, 0)
    data = tokens(SENTENCES + pairs)
    denoiser = ExactDenoiser(process, data, torch.cat([LAW, short]))
    texts, kinds = (
        [[2, 0, 1], [2, 0], [0, 0, 1]],
        [(True, False, False), (False, True), (False, False, True)],
    )
    batch = tokens(texts * 500)
    given = torch.tensor(sum([list(kind) for kind in kinds], []) * 500)
    drawn = DDPM(denoiser, UniformTime(24)).sample(
        batch.with_given({"token": given}), Generator(1)
    )
    assert torch.equal(drawn["token"][given], batch["token"][given])
    ends = drawn["token"].reshape(500, 8)
    for rows, law, sentences in (
        (ends[:, :3], conditional((True, False, False)), SENTENCES),
        (ends[:, 3:5], torch.where(torch.tensor([b == 0 for _, b in pairs]), short, 0.0), pairs),
        (ends[:, 5:], conditional((False, False, True)), SENTENCES),
    ):
        places = [sentences.index(row) for row in rows.tolist()]
        share = torch.bincount(torch.tensor(places), minlength=len(sentences)) / 500
        assert distance(share, law / law.sum()) < 0.08


def test_replacement_of_the_absorbing_chain_is_biased():
    """Known rows in the noisy state alone: masked ones are not looked at until they are shown."""
    mask = MASKS["prefix"]
    many = tokens([list(KNOWN)] * 800)
    known = many.with_given({"token": torch.tensor(mask).repeat(800)})
    drawn = DDPM(Replacement(exact(absorbing(3)), known), UniformTime(16)).sample(
        many, Generator(2)
    )
    places = [SENTENCES.index(row) for row in drawn["token"].reshape(-1, 3).tolist()]
    share = torch.bincount(torch.tensor(places), minlength=27) / 800
    assert distance(share, conditional(mask)) > 0.1


def test_the_batch_of_one_mask_is_that_of_whole_sequences():
    """`given` of everything returns it: nothing is drawn."""
    batch = tokens(SENTENCES)
    given = batch.with_given({"token": torch.ones(81, dtype=torch.bool)})
    drawn: Batch = DDPM(exact(absorbing(3)), UniformTime(3)).sample(given, Generator(0))
    assert torch.equal(drawn["token"], batch["token"])
