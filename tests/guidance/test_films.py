"""Films by parts that there are: any frames known, one model for all of it, a few at a time."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from structdiff import DDIM, DDPM, Batch, Cosine, Gaussian, Generator, Product
from structdiff.denoiser import NetworkDenoiser
from structdiff.nn.field import FieldNetwork
from structdiff.nn.frames import FrameTransformer
from structdiff.objectives import Denoising, Uniform
from structdiff.schedules import UniformTime
from structdiff.testing import ExactDenoiser
from tests.nn.networks import awake, random

FRAMES, PLACE = 9, (3, 3)


def films(count=4):
    """Films of one channel whose frames all differ."""
    return random(count, 1, FRAMES, *PLACE)


def frames_known(x, frames):
    """A mask of the frames of each film that are known."""
    known = torch.zeros(x.shape, dtype=torch.bool)
    for sample, some in enumerate(frames):
        known[sample, :, some] = True
    return known


def test_the_loss_of_a_film_looks_at_the_frames_that_are_not_known_alone():
    """Past, ends, any subset or none, in one batch: what is known is clean and has no slope."""
    torch.manual_seed(0)
    make = partial(FrameTransformer, width=16, layers=1, heads=2)
    network = awake(FieldNetwork(make, 1, known=True, features=8))
    seen, outputs = [], []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["x"]))
    network.register_forward_hook(
        lambda _, __, output: outputs.append(output["x"].requires_grad_()) or output
    )
    x = films()
    known = frames_known(x, [[0, 1, 2], [0, 8], [1, 4, 5, 7], []])
    process = Product({"x": Gaussian(Cosine(), event=x.shape[1:])})
    batch = Batch.of(x).with_given({"x": known})
    total = Denoising(Uniform())(NetworkDenoiser(network, process), batch, Generator(0)).total
    (slope,) = torch.autograd.grad(total, outputs[-1])
    assert slope[known].abs().max() == 0
    assert slope[~known].abs().min() > 0
    assert torch.equal(seen[-1][known], x[known])
    assert (seen[-1] - x)[~known].abs().min() > 0


PATTERNS = {"predict": [0, 1, 2], "interpolate": [0, 8], "any": [1, 4, 5, 7], "one": [6]}


@pytest.mark.parametrize("sampler", [DDIM, DDPM])
def test_one_model_predicts_interpolates_and_draws_whole_films(sampler):
    """Known frames return bit for bit, the others are those of the film that they are of."""
    x = films()
    process = Product({"x": Gaussian(Cosine(), event=x.shape[1:])})
    walk = sampler(ExactDenoiser(process, Batch.of(x)), UniformTime(12))
    for frames in PATTERNS.values():
        known = frames_known(x, [frames] * 4)
        batch = Batch.of(torch.where(known, x, 0.0)).with_given({"x": known})
        drawn = walk.sample(batch, Generator(0))["x"]
        assert torch.equal(drawn[known], x[known])
        torch.testing.assert_close(drawn, x, rtol=0, atol=1e-6)
    drawn = walk.sample(Batch.of(torch.zeros(100, *x.shape[1:]).double()), Generator(0))["x"]
    found = torch.cdist(drawn.flatten(1), x.flatten(1))
    assert found.amin(1).max() < 1e-3
    counts = torch.bincount(found.argmin(1), minlength=4)
    assert (counts - 25).abs().max() < 4 * math.sqrt(100 * 0.25 * 0.75)


SCHEMES = {
    "one after the other": [([*range(max(0, k - 3), k)], [k, k + 1, k + 2]) for k in (0, 3, 6)],
    "coarse to fine": [([], [0, 4, 8]), ([0, 4], [1, 2, 3]), ([4, 8], [5, 6, 7])],
    "far memory": [([], [0, 1, 2, 3]), ([0, 3], [4, 5]), ([0, 3, 5], [6, 7]), ([0, 7], [8])],
}
"""Frames that are seen and frames that are drawn, step by step."""


@pytest.mark.parametrize("name", SCHEMES)
def test_long_films_are_drawn_a_few_frames_at_a_time(name):
    """No step looks at more than six of nine frames, each frame is drawn once, and every film
    that comes out is one film of the data from beginning to end, each as often."""
    x, count = films(), 100
    drawn = torch.zeros(count, *x.shape[1:], dtype=torch.float64)
    times = torch.zeros(FRAMES, dtype=torch.long)
    for step, (seen, new) in enumerate(SCHEMES[name]):
        frames = sorted([*seen, *new])
        assert len(frames) <= 6
        assert (times[seen] == 1).all()
        part = drawn[:, :, frames]
        known = frames_known(part, [[frames.index(k) for k in seen]] * count)
        process = Product({"x": Gaussian(Cosine(), event=part.shape[1:])})
        walk = DDPM(ExactDenoiser(process, Batch.of(x[:, :, frames])), UniformTime(12))
        found = walk.sample(Batch.of(part).with_given({"x": known}), Generator(step))["x"]
        assert torch.equal(found[known], part[known])
        drawn[:, :, frames] = found
        times[new] += 1
    assert times.tolist() == [1] * FRAMES
    distance = (drawn.unsqueeze(1) - x).abs().flatten(2).amax(2)
    assert distance.amin(1).max() < 1e-3
    counts = torch.bincount(distance.argmin(1), minlength=4)
    assert (counts - 25).abs().max() < 4 * math.sqrt(100 * 0.25 * 0.75)
