"""The recurrent interface network, and the latents that it hands on from call to call."""

from functools import partial

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    ClassifierFree,
    Cosine,
    Denoising,
    Gaussian,
    Heun,
    NetworkDenoiser,
    Product,
    UniformTime,
)
from structdiff.nn.field import FieldNetwork
from structdiff.nn.interface import InterfaceNetwork
from structdiff.parameterisations import Velocity
from structdiff.processes import Estimate
from structdiff.random import Generator
from structdiff.remembering import MEMORY, Remembering
from structdiff.samplers import Carry
from tests.nn.networks import awake, random

SMALL = {"width": 8, "latents": 3, "latent_width": 8, "blocks": 2, "heads": 2, "depth": 1}


def make(*, asleep=False, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    network = InterfaceNetwork(2, 3, **(SMALL | settings))
    return network.to(dtype) if asleep else awake(network, dtype=dtype)


@pytest.mark.parametrize("places", [(7,), (5, 6), (1, 1), (2, 3, 5)])
def test_the_output_has_the_places_of_the_input_and_each_sees_all(places):
    """Through the latents alone: patches do not look at each other."""
    network = make(dimensions=len(places))
    x = random(2, 2, *places).requires_grad_()
    out = network(x)
    assert out.shape == (2, 3, *places)
    out[0, 0].flatten()[-1].backward()
    assert (x.grad[0].abs() > 0).all()
    assert not x.grad[1].any()


def test_it_is_zero_at_first_and_has_gradients():
    network = make(asleep=True)
    out = network(random(2, 2, 4, 4))
    assert not out.any()
    (out - random(2, 3, 4, 4)).square().sum().backward()
    assert network.leave.weight.grad.abs().max() > 1e-3


def test_the_condition_moves_its_sample_alone():
    network, x, condition = make(condition=5), random(2, 2, 4, 4), random(2, 5)
    other = condition.clone()
    other[1] += 1
    moved = (network(x, other) - network(x, condition)).abs().amax((1, 2, 3))
    assert moved[0] == 0
    assert moved[1] > 1e-4


def test_padding_of_the_context_does_not_matter_and_tokens_do():
    network, x = make(context=4), random(2, 2, 5, 4)
    tokens, mask = random(2, 5, 4), torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    plain = network(x, None, tokens, mask)
    spoiled = torch.where(mask.unsqueeze(2), tokens, torch.nan)
    torch.testing.assert_close(network(x, None, spoiled, mask), plain, rtol=0, atol=0)
    short = network(x[:1], None, tokens[:1, mask[0]])
    torch.testing.assert_close(short, plain[:1], rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x[1:]), plain[1:], rtol=0, atol=1e-12)
    other = tokens.clone()
    other[0, 3] += 1
    assert (network(x, None, other, mask) - plain)[0].abs().max() > 1e-4


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="heads must divide width 8 and latent_width 9, got 2"):
        make(latent_width=9)
    with pytest.raises(ValueError, match="latents must be at least 1, got 0"):
        make(latents=0)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        make(width=0)


def world(*, asleep=False, **settings):
    torch.manual_seed(0)
    network = FieldNetwork(partial(InterfaceNetwork, **SMALL), 1, features=8, **settings)
    network = network.double() if asleep else awake(network)
    process = Product({"x": Gaussian(Cosine(), Velocity(), event=(1, 4, 4))})
    denoiser = Remembering(NetworkDenoiser(network, process))
    inside, brought, kept = network.network, [], []
    # What was carried is rectified on its way to this layer.
    inside.mix.register_forward_pre_hook(lambda m, a: brought.append(a[0].detach()))
    inside.after.register_forward_hook(lambda m, a, h: kept.append(h.detach()))
    return denoiser, brought, kept


EMPTY = Batch.of(torch.zeros(3, 1, 4, 4).double())


@pytest.mark.parametrize("sampler", [DDIM, DDPM])
def test_the_memory_is_zero_at_first_and_carried_between_steps(sampler):
    denoiser, brought, kept = world()
    sampler(denoiser, UniformTime(4)).sample(EMPTY, Generator(0))
    assert len(kept) == 4
    assert not brought[0].any()
    for k in range(1, 4):
        torch.testing.assert_close(brought[k], kept[k - 1].relu(), rtol=0, atol=0)
    assert kept[0].shape == (3, 3, 8)
    assert (kept[1] - kept[0]).abs().max() > 1e-6


def test_a_fresh_network_does_not_look_at_its_memory_and_learns_to():
    """The gain of what is carried is zero at first, and has a gradient."""
    denoiser, *_ = world(asleep=True)
    network = denoiser.denoiser.backbone.network
    network.leave.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    t, noisy = {"x": torch.tensor(0.5)}, EMPTY.with_leaves({"x": random(3, 1, 4, 4)})
    first = denoiser(noisy, t)
    second = denoiser(noisy, t, first)
    torch.testing.assert_close(second["x"].value, first["x"].value, rtol=0, atol=0)
    second["x"].value.square().sum().backward()
    assert network.gain.grad.abs().max() > 1e-6
    with torch.no_grad():
        network.gain += 1
        assert (denoiser(noisy, t, first)["x"].value - first["x"].value).abs().max() > 1e-3


def test_without_a_memory_it_is_the_plain_denoiser():
    denoiser, *_ = world()
    t, noisy = {"x": torch.tensor(0.5)}, EMPTY.with_leaves({"x": random(3, 1, 4, 4)})
    plain = denoiser.denoiser(noisy, t)["x"].value
    assert denoiser(noisy, t)["x"].value.equal(plain)
    forgotten = denoiser(noisy, t, {"x": Estimate(random(3, 1, 4, 4))})
    assert forgotten["x"].value.equal(plain)


@pytest.mark.parametrize("sampler", [DDIM, Heun])
def test_a_walk_is_saved_and_resumed_with_its_memory(sampler):
    denoiser, *_ = world()
    bound = sampler(denoiser, UniformTime(5)).bind(EMPTY, Generator(0))
    with torch.no_grad():
        carry = bound.start()
        for i in range(2):
            carry = bound.step(carry, i)
        resumed = Carry.from_tensors(carry.tensors())
        assert MEMORY in resumed.previous["x"].extras
        for i in range(2, 5):
            carry, resumed = bound.step(carry, i), bound.step(resumed, i)
    assert resumed.x["x"].equal(carry.x["x"])


def test_the_memory_is_trained_by_a_first_estimate():
    denoiser, brought, kept = world()
    data = EMPTY.with_leaves({"x": random(3, 1, 4, 4)})
    terms = Denoising(self_conditioning=1.0)(denoiser, data, Generator(0))
    assert len(brought) == 2
    torch.testing.assert_close(brought[1], kept[0].relu(), rtol=0, atol=0)
    terms.total.backward()
    assert denoiser.denoiser.backbone.network.mix.weight.grad.abs().max() > 1e-8


def test_a_guided_denoiser_remembers():
    denoiser, brought, kept = world(kinds={"label": 2})
    batch = EMPTY.with_condition({"label": torch.tensor([0, 1, 1])})
    DDIM(ClassifierFree(denoiser, 2.0), UniformTime(3)).sample(batch, Generator(0))
    assert not brought[0].any()
    assert all(memory.any() for memory in brought[-2:])


def test_what_cannot_be_is_refused():
    denoiser, *_ = world()
    with pytest.raises(ValueError, match=r"the network has the layers .* not \['nothing'\]"):
        Remembering(denoiser.denoiser, before="nothing")
    t, noisy = {"x": torch.tensor(0.5)}, EMPTY
    other = {"x": Estimate(noisy["x"], {MEMORY: torch.zeros(3, 2, 8)})}
    with pytest.raises(
        ValueError, match=r"memory must be \(3, 3, 8\), got \(3, 2, 8\): what wraps"
    ):
        denoiser(noisy, t, other)
