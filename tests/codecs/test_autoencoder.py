"""The convolutional autoencoder: its bound, and latents of unit variance."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from structdiff.codecs.autoencoder import Autoencoder
from structdiff.codecs.kinds import described, make_codec
from structdiff.random import Generator

EVENTS = [(3, 24), (2, 8, 12)]


def made(event=(2, 8, 12), **settings):
    torch.manual_seed(0)
    return Autoencoder(event, channels=3, widths=(8, 8), **settings).double()


def fields(event=(2, 8, 12), count=6, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, *event, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("event", EVENTS)
def test_the_terms_are_the_evidence_bound(event):
    """-log p(x | z) + KL, by torch's distributions, is their sum D / 2 s^2 and a constant."""
    codec, x, s = made(event, deviation=0.2), fields(event), 0.2
    terms = codec.terms(x, Generator(3))
    mean, log_variance = codec.posterior(x)
    z = mean + (0.5 * log_variance).exp() * Generator(3).normal(mean.shape, mean.dtype, "cpu")
    likelihood = Normal(codec.reconstruct(z), s).log_prob(x).flatten(1).sum(1)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).flatten(1).sum(1)
    entries = x[0].numel()
    constant = 0.5 * entries * math.log(2 * math.pi * s**2)
    sums = (terms["reconstruction"] + terms["divergence"]) * entries / (2 * s**2)
    torch.testing.assert_close(sums + constant, divergence - likelihood)
    torch.testing.assert_close(codec.surprise(x, z), -likelihood)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("by_channel", [False, True])
def test_fitted_latents_have_mean_zero_and_unit_variance(event, by_channel):
    codec, x = made(event, by_channel=by_channel), fields(event, 700)
    mean, _ = codec.posterior(x)
    decoded = codec.decode(codec.encode(x))
    codec.fit(x)
    z = codec.encode(x)
    over = (0, *range(2, z.ndim)) if by_channel else tuple(range(z.ndim))
    assert z.shape == (700, *codec.latent)
    assert z.mean(over).abs().max() < 1e-6
    torch.testing.assert_close(z.std(over), torch.ones_like(z.std(over)), rtol=1e-3, atol=0)
    expected = 1 / mean.detach().std(over, correction=0, keepdim=True)[0]
    torch.testing.assert_close(codec.scale.reshape(-1), expected.reshape(-1))
    # What is decoded does not depend on the units of the latents, nor does the posterior.
    torch.testing.assert_close(codec.decode(z), decoded)
    assert torch.equal(codec.posterior(x)[0], mean)


def test_encoding_draws_nothing_and_keeps_samples_apart():
    codec, x = made(), fields()
    codec.fit(x)
    assert torch.equal(codec.encode(x), codec.encode(x))
    torch.testing.assert_close(codec.encode(x)[2:4], codec.encode(x[2:4]))


def test_gradients_pass_through_both_ways():
    """Guidance through the decoder and losses of the encoder need them."""
    codec, x = made(), fields(count=1).requires_grad_()
    z = codec.encode(x)
    (slope,) = torch.autograd.grad(codec.decode(z).square().sum(), x)
    assert slope.abs().max() > 1e-6


@pytest.mark.parametrize("event", EVENTS)
def test_settings_and_tensors_are_the_whole_codec(event):
    codec, x = made(event, by_channel=True, deviation=0.5, adversarial=0.1), fields(event)
    codec.fit(x)
    other = make_codec(described(codec)).double()
    other.load_state_dict(codec.state_dict())
    assert torch.equal(other.encode(x), codec.encode(x))
    assert torch.equal(other.surprise(x, codec.encode(x)), codec.surprise(x, codec.encode(x)))
    assert described(other) == described(codec)


def test_latents_have_no_density():
    assert made().log_det(fields()) is None


def broken(x):
    x[4, 0, 0, 0] = torch.nan
    return x


def silenced(codec):
    for weight in codec.encoder.parameters():
        torch.nn.init.zeros_(weight)
    return codec


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(deviation=0.0), "deviation must be positive and finite, got 0.0"),
        (lambda: made((2, 8, 14)), r"places \(8, 14\) must divide evenly by 4"),
        (lambda: made((2,)), "sizes of event must be positive"),
        (lambda: made(adversarial=-1.0), "weight must be positive"),
        (lambda: made().fit(fields((2, 8, 8))), r"\(samples, 2, 8, 12\), got \(6, 2, 8, 8\)"),
        (lambda: made().fit(broken(fields())), r"not finite in the samples \[4\]"),
        (lambda: made().fit(fields(count=0)), "no samples"),
        (lambda: silenced(made()).fit(fields()), "must be positive: train the codec"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
