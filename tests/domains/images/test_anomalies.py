"""What does not belong in an image: found by a partial walk, cut out, drawn anew.

The denoiser is the exact one of real digits, so nothing is trained. Odd digits are held-out ones
with a bright patch in a corner, where digits are dark.

References:
    Exploring Diffusion Models for Unsupervised Video Anomaly Detection (Tur et al., 2023): the
    error of a reconstruction, of features, as a score. https://arxiv.org/abs/2304.05841
    Mask, Stitch, and Re-Sample (Bercea et al., 2023). https://arxiv.org/abs/2305.19643
"""

import pytest
import torch
from torch.nn import functional as F

from structdiff import DDPM, Batch, Cosine, Gaussian, Generator, UniformTime, sample
from structdiff.domains.images.data import read
from structdiff.guidance.repaint import RePaint
from structdiff.likelihood.ranking import auroc
from structdiff.processes import Product
from structdiff.testing import ExactDenoiser


@pytest.fixture(scope="module")
def world():
    """The exact denoiser of training noughts and ones, held-out ones, and these with a patch."""
    data = read()
    train, test = (
        part.fields()[torch.from_numpy(part.labels) < 2] for part in (data.train, data.test)
    )
    process = Product({"x": Gaussian(Cosine(), event=(1, 8, 8))})
    denoiser = ExactDenoiser(process, Batch.of(train[:200]))
    odd = test[:25].clone()
    odd[:, :, :3, :2] = 0.9
    return denoiser, test[:25], odd


@pytest.fixture(scope="module")
def rebuilt(world):
    """Where walks end that begin at some noise of each: the plain ones, then the odd ones."""
    denoiser, plain, odd = world
    return sample(denoiser, 50, steps=12, init=torch.cat([plain, odd]), start=0.5)


def test_the_error_of_a_rebuilt_image_tells_odd_ones(world, rebuilt):
    _, plain, odd = world
    tested = torch.cat([plain, odd])
    error = (rebuilt - tested).flatten(1).norm(dim=1)
    labels = [0] * 25 + [1] * 25
    assert auroc(error.numpy(), labels) > 0.9
    brightness = tested.flatten(1).norm(dim=1)  # what is tested is not told by its size alone
    assert auroc(brightness.numpy(), labels) < 0.75


def test_the_error_may_be_that_of_any_features(world, rebuilt):
    _, plain, odd = world
    tested = torch.cat([plain, odd])
    pooled = [F.avg_pool2d(x, 2).flatten(1) for x in (rebuilt, tested)]
    labels = [0] * 25 + [1] * 25
    error = (pooled[0] - pooled[1]).abs().amax(1)
    assert auroc(error.numpy(), labels) > 0.9


def test_what_is_odd_is_cut_out_and_drawn_anew_and_the_rest_is_kept_exactly(world, rebuilt):
    denoiser, plain, odd = world
    residual = F.max_pool2d((rebuilt[25:] - odd).abs(), 3, stride=1, padding=1)
    kept = residual < 0.8
    patch = ~kept[:, :, :3, :2]
    assert float(patch.double().mean()) > 0.9  # most of the patch is found
    known = Batch.of(odd).with_given({"x": kept})
    walk = RePaint(DDPM(denoiser, UniformTime(12)), known, jump=4, repeats=2)
    mended = walk.sample(Batch.of(torch.zeros_like(odd)), Generator(0))["x"]
    assert torch.equal(mended[kept], odd[kept])
    before, after = ((x - plain)[:, :, :3, :2].square().mean() for x in (odd, mended))
    assert float(after) < 0.1 * float(before)
