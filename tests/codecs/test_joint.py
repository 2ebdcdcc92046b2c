"""An autoencoder and the model of its latents: bounds, blends and gradients in closed form."""

import math

import pytest
import torch
from torch import nn

from structdiff.batch import Batch
from structdiff.codecs.joint import JointLatent, JointObjective, MixedPrior, joint_bound
from structdiff.codecs.latent import StochasticCodec
from structdiff.denoiser import NetworkDenoiser
from structdiff.objectives import UniformClock
from structdiff.processes import Gaussian, Product
from structdiff.random import Generator
from structdiff.schedules import Cosine, Flow, Geometric
from structdiff.testing import NormalDenoiser

WEIGHT = torch.tensor([[1.5], [-0.5], [0.3]], dtype=torch.float64)
SPREAD = 0.4
TIMES = UniformClock(Cosine())


class Linear(StochasticCodec):
    """x = W z + s eps; q(z | x) = N(A x, v)."""

    event, latent, classes = (3,), (1,), 0

    def __init__(self, reader, log_variance):
        super().__init__()
        self.reader = nn.Parameter(reader.clone())
        self.log_variance = nn.Parameter(torch.as_tensor(log_variance, dtype=torch.float64))

    def fit(self, x):
        del x

    def encode(self, x):
        return self.posterior(x)[0]

    def decode(self, z):
        return z @ WEIGHT.mT

    def log_det(self, x):
        del x

    def settings(self):
        return {}

    def terms(self, x, random):
        raise NotImplementedError

    def posterior(self, x):
        mean = x @ self.reader.mT
        return mean, self.log_variance.expand_as(mean)

    def surprise(self, x, z):
        square = ((x - self.decode(z)) / SPREAD).square().sum(1)
        return 0.5 * (square + 3 * math.log(2 * math.pi * SPREAD**2))


def exact():
    """The true posterior's A and log v."""
    precision = 1 + (WEIGHT.mT @ WEIGHT) / SPREAD**2
    return WEIGHT.mT / SPREAD**2 / precision, -math.log(float(precision))


def true_nats(x):
    cov = WEIGHT @ WEIGHT.mT + SPREAD**2 * torch.eye(3, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), cov)
    return -law.log_prob(x)


def gap(codec, x):
    """KL(q(z | x) | p(z | x))."""
    reader, log_variance = exact()
    shift = (x @ (codec.reader - reader).mT).square().sum(1) / math.exp(log_variance)
    ratio = codec.log_variance - log_variance
    return 0.5 * (ratio.exp() - 1 - ratio + shift)


def model_of(codec):
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return JointLatent(codec, NormalDenoiser(Gaussian(Cosine(), event=(1,)), zero, one))


def samples(count):
    z, noise = torch.randn(count, 1, dtype=torch.float64), torch.randn(count, 3).double()
    return z @ WEIGHT.mT + SPREAD * noise


CODECS = {
    "exact": lambda: Linear(*exact()),
    "wrong": lambda: Linear(exact()[0] + 0.1, exact()[1] + 0.7),
}


@pytest.mark.parametrize("name", CODECS)
def test_the_bound_is_the_truth_and_the_gap_of_the_encoder(name):
    torch.manual_seed(0)
    codec, batch = CODECS[name](), Batch.of(samples(50))
    found = joint_bound(model_of(codec), "x", batch, Generator(1), draws=400, times=TIMES)
    expected = (true_nats(batch["x"]) + gap(codec, batch["x"])).detach()
    error = found.std(0) / 400**0.5
    assert ((found.mean(0) - expected) / error).abs().max() < 4.5
    assert float((found.mean() - expected.mean()).abs()) < 4 * float(found.std()) / 20000**0.5
    assert float(expected.mean()) >= float(true_nats(batch["x"]).mean()) - 1e-12


def test_the_gradient_reaches_the_encoder_and_is_that_of_the_bound():
    torch.manual_seed(0)
    codec, x = CODECS["wrong"](), samples(8)
    batch = Batch.of(x.repeat(4000, 1))
    objective = JointObjective("x", TIMES)
    found = []
    for seed in range(12):
        total = objective(model_of(codec), batch, Generator(seed)).total * 3
        found.append(torch.autograd.grad(total, list(codec.parameters())))
    expected = torch.autograd.grad(gap(codec, x).mean(), list(codec.parameters()))
    for draws, one in zip(zip(*found, strict=True), expected, strict=True):
        several = torch.stack(draws)
        error = several.std(0) / len(found) ** 0.5
        assert one.abs().max() > 0.05
        assert ((several.mean(0) - one).abs() < 5 * error + 0.01 * one.abs().max()).all()


class Anything(nn.Module):
    def forward(self, batch, clock, previous):
        return {"x": torch.full_like(batch["x"], 3.0)}


@pytest.mark.parametrize("schedule", [Cosine(), Flow(), Geometric(0.01, 20.0)])
def test_without_the_network_the_prior_is_standard_normal(schedule):
    process = Gaussian(schedule, event=(2, 3))
    blend = MixedPrior(NetworkDenoiser(Anything(), Product({"x": process})), "x", 2)
    blend.logit.data.fill_(-torch.inf)
    zero, one = torch.zeros(1, 2, 3), torch.ones(1)
    batch, t = Batch.of(torch.randn(5, 2, 3)), {"x": torch.linspace(0.05, 0.95, 5)}
    expected = NormalDenoiser(process, zero, one)(batch, t)["x"].value
    torch.testing.assert_close(blend(batch, t)["x"].value, expected)


def test_the_blend_is_one_of_noises_with_a_weight_for_each_channel():
    process = Product({"x": Gaussian(Cosine(), event=(2, 3))})
    inner = NetworkDenoiser(Anything(), process)
    blend = MixedPrior(inner, "x", 2)
    blend.logit.data.copy_(torch.tensor([0.0, 2.0]))
    batch, t = Batch.of(torch.randn(4, 2, 3)), {"x": torch.linspace(0.1, 0.9, 4)}
    level = Cosine()(t["x"])
    alpha, sigma = (v.view(-1, 1, 1).float() for v in (level.alpha, level.sigma))
    noise = [(batch["x"] - alpha * d(batch, t)["x"].value) / sigma for d in (inner, blend)]
    share = torch.sigmoid(blend.logit).view(2, 1)
    expected = sigma * (1 - share) * batch["x"] + share * noise[0]
    torch.testing.assert_close(noise[1], expected, rtol=1e-4, atol=1e-4)


def test_bad_arguments_are_named():
    denoiser = NormalDenoiser(Gaussian(Flow(), event=(1,)), torch.zeros(1, 1), torch.ones(1))
    with pytest.raises(ValueError, match="start must be inside"):
        MixedPrior(denoiser, "x", 1, start=1.0)
    with pytest.raises(ValueError, match="share must be positive"):
        JointObjective("x", share=0.0)
    two = Batch.of({"x": torch.zeros(2, 3), "y": torch.zeros(2)})
    with pytest.raises(ValueError, match="leaf 'x' alone"):
        joint_bound(model_of(CODECS["exact"]()), "x", two, Generator(0))


def test_the_share_weighs_all_but_the_reconstruction():
    torch.manual_seed(0)
    model, batch = model_of(CODECS["wrong"]()), Batch.of(samples(8))
    whole, part = (
        JointObjective("x", TIMES, share=share)(model, batch, Generator(0)).leaves
        for share in (1.0, 0.25)
    )
    for name, factor in {"reconstruction": 1.0, "entropy": 0.25, "x": 0.25}.items():
        assert whole[name].abs().mean() > 1e-2
        torch.testing.assert_close(part[name], factor * whole[name])
