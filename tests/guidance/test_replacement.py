"""Held rows by replacement."""

import pytest
import torch

from structdiff.batch import Batch
from structdiff.guidance import Replacement
from structdiff.layout import Layout
from structdiff.processes import Brownian, Categorical, Gaussian, Product, absorbing, uniform
from structdiff.random import Generator
from structdiff.samplers import DDIM, DDPM
from structdiff.schedules import Flow, Geometric, UniformTime
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import ExactDenoiser
from tests.guidance.worlds import SIZES, blank, clean, everything, opinionated

SAMPLES = 400


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def world(noise=1.0):
    """Three records of three centred points each with a class, a torus point and a rotation."""
    process = Product(
        {
            "position": Gaussian(Geometric(0.001, noise), event=(2,), space=ZeroCentre()),
            "kind": Categorical(Flow(), absorbing(3)),
            "shade": Categorical(Flow(), uniform(3)),
            "angle": Brownian(Geometric(0.02, 4.0), Torus(1)),
            "frame": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )
    ragged, regular = Layout.ragged([3] * 3), Layout.regular(3)
    generator = torch.Generator().manual_seed(0)
    position = 3 * torch.randn(9, 2, generator=generator)
    frames = SO3().uniform(3, Generator(5), torch.float64, "cpu")
    data = Batch(
        {
            "position": position - ragged.spread(ragged.mean(position)),
            "kind": torch.arange(9) % 3,
            "shade": torch.tensor([0, 1, 2]),
            "angle": torch.tensor([[-2.0], [0.0], [2.0]]),
            "frame": frames,
        },
        {"position": ragged, "kind": ragged, "shade": regular, "angle": regular, "frame": regular},
    )
    return process, data


def blank_like(process, samples):
    ragged, regular = Layout.ragged([3] * samples), Layout.regular(samples)
    rows = {"position": 3 * samples, "kind": 3 * samples}
    rows |= dict.fromkeys(("shade", "angle", "frame"), samples)
    layouts = {name: ragged if count > samples else regular for name, count in rows.items()}
    return Batch(process.empty(rows), layouts)


@pytest.mark.parametrize("make", [DDPM, DDIM], ids=["DDPM", "DDIM"])
def test_known_rows_return_and_pull_the_rest_to_their_record(make):
    process, data = world()
    blank = blank_like(process, SAMPLES)
    row = blank.layouts["position"].row
    record = torch.arange(SAMPLES) % 3
    of_row = record.repeat_interleave(3) * 3 + row
    leaves = {**blank.leaves, "position": data["position"][of_row], "shade": record.clone()}
    known = Batch(
        leaves,
        blank.layouts,
        given={"position": row < 2, "shade": torch.ones(SAMPLES, dtype=torch.bool)},
    )
    sampler = make(Replacement(ExactDenoiser(process, data), known), UniformTime(60))
    drawn = sampler.sample(blank, Generator(0))
    assert torch.equal(drawn["shade"], record)
    gaps = drawn["position"] - data["position"][of_row]
    shift = gaps[row == 0]
    # The held rows keep their shape exactly; where they are in the centred frame is the model's.
    torch.testing.assert_close(gaps[row == 1], shift, atol=1e-9, rtol=0)
    # What is known shows through the noise before the rest is decided: far more than the third
    # that chance would give (0.33 +- 0.024) goes with it.
    right = (drawn["angle"] - data["angle"][record]).abs().squeeze(1) < 0.2
    assert right.double().mean() > 0.55


def test_it_agrees_with_given_where_the_known_leaf_is_seen_before_the_rest_is_decided():
    process, data = world(noise=100.0)
    blank = blank_like(process, SAMPLES)
    record = torch.arange(SAMPLES) % 3
    of_row = record.repeat_interleave(3) * 3 + blank.layouts["position"].row
    everything = torch.ones(3 * SAMPLES, dtype=torch.bool)
    leaves = {**blank.leaves, "position": data["position"][of_row]}
    known = Batch(leaves, blank.layouts, given={"position": everything})
    sampler = DDPM(Replacement(ExactDenoiser(process, data), known), UniformTime(60))
    drawn = sampler.sample(blank, Generator(0))
    right = (drawn["angle"] - data["angle"][record]).abs().squeeze(1) < 0.2
    assert right.double().mean() == 1
    given = DDPM(ExactDenoiser(process, data), UniformTime(60))
    drawn = given.sample(known, Generator(0))
    right = (drawn["angle"] - data["angle"][record]).abs().squeeze(1) < 0.2
    assert right.double().mean() == 1


def test_without_masks_nothing_changes():
    process, data = world()
    blank = blank_like(process, 20)
    exact = ExactDenoiser(process, data)
    plain = DDPM(exact, UniformTime(20)).sample(blank, Generator(3))
    held = DDPM(Replacement(exact, blank), UniformTime(20)).sample(blank, Generator(3))
    for name in plain.leaves:
        assert torch.equal(plain[name], held[name])


@pytest.mark.parametrize("make", [DDPM, DDIM], ids=["DDPM", "DDIM"])
def test_known_entries_return_exactly_on_r_n_and_classes(make):
    """Whatever the denoiser says of them, and no more than them."""
    denoiser, known = opinionated(), clean(everything(), SIZES)
    masks = {name: torch.zeros_like(known[name], dtype=torch.bool) for name in ("field", "shades")}
    masks["field"][:, 1], masks["shades"][1:, 0] = True, True
    plain = make(denoiser, UniformTime(5)).sample(known, Generator(0))
    known = known.with_leaves({**known.leaves, "shades": (plain["shades"] + 1) % 3})
    sampler = make(Replacement(denoiser, known.with_given(masks)), UniformTime(5))
    drawn = sampler.sample(blank(denoiser.process, SIZES), Generator(0))
    for name, mask in masks.items():
        assert torch.equal(drawn[name][mask], known[name][mask])
    assert (drawn["field"][:, 0] != known["field"][:, 0]).all()


@pytest.mark.parametrize("name", ["atoms", "angle", "turn"])
def test_masks_of_single_entries_are_refused_where_rows_are_held_whole(name):
    """A point of a manifold is one thing, and so is a row that fixes a frame."""
    denoiser, known = opinionated(), clean(everything(), SIZES)
    entries = {name: torch.ones_like(known[name], dtype=torch.bool)}
    sampler = DDPM(Replacement(denoiser, known.with_given(entries)), UniformTime(2))
    with pytest.raises(ValueError, match=r"held must be \(rows,\) .*: hold whole rows"):
        sampler.sample(blank(denoiser.process, SIZES), Generator(0))
