"""State spaces: the convolution is the recurrence, and both are the differential equation."""

import math

import pytest
import torch

from structdiff.nn.state_space import StateSpace
from tests.nn.networks import random, seen_from


def make(width=3, *, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    return StateSpace(width, **settings).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("length", [1, 2, 300])
def test_the_convolution_is_the_recurrence(length, dtype, tolerance):
    layer, x = make(dtype=dtype), random(2, 3, length, dtype=dtype)
    state, steps = None, []
    for n in range(length):
        y, state = layer.step(x[..., n], state)
        steps.append(y)
    found, expected = layer(x), torch.stack(steps, -1)
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_the_recurrence_is_the_differential_equation():
    """Against the exponential of the whole system, inputs held for a step."""
    layer = make(1, states=4)
    with torch.no_grad():
        rate = torch.complex(-layer.log_decay[0, 0].exp(), layer.turn[0, 0])
        step, read = layer.log_step[0, 0, 0].exp(), torch.view_as_complex(layer.read[0, 0])
        system = torch.zeros(5, 5, dtype=rate.dtype)
        system[:4, :4], system[:4, 4] = torch.diag(rate), 1.0
        move, state = torch.matrix_exp(system * step), torch.zeros(5, dtype=rate.dtype)
        x, expected = random(20), []
        for u in x:
            state[4] = u
            state = move @ state
            expected.append(2 * (read @ state[:4]).real + layer.skip[0] * u)
        found = layer(x.view(1, 1, 20))[0, 0]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_the_kernel_is_the_answer_to_an_impulse():
    layer, impulse = make(), torch.zeros(1, 3, 50).double()
    impulse[..., 0] = 1
    answer = layer(impulse)[0]
    answer[:, 0] -= layer.skip
    torch.testing.assert_close(answer, layer.kernel(50)[0], rtol=0, atol=1e-12)


def test_it_remembers_thousands_of_places_at_first():
    """A state with decay 1/2 and step s is e^(-1) after 2 / s places: 20 to 2000."""
    layer = make(256)
    memory = 2 / layer.log_step.exp()
    assert memory.min() > 20 * (1 - 1e-6)
    assert memory.max() < 2000 * (1 + 1e-6)
    assert memory.log().std() > 0.3 * math.log(100) / math.sqrt(12)


@pytest.mark.parametrize("both", [False, True])
def test_an_output_sees_what_is_before_it_or_all(both):
    seen = seen_from(make(both=both), random(1, 3, 40), (15,))[0].all(0)
    assert seen.tolist() == [both or place <= 15 for place in range(40)]


def test_both_ways_are_mirror_images():
    """With the same states for both ways, a reversed input gives the reversed output."""
    layer, x = make(both=True), random(2, 3, 30)
    with torch.no_grad():
        for weight in (layer.log_step, layer.log_decay, layer.turn, layer.read):
            weight[1] = weight[0]
    torch.testing.assert_close(layer(x.flip(-1)), layer(x).flip(-1), rtol=0, atol=1e-12)


def test_every_weight_has_a_gradient():
    layer = make(both=True)
    layer(random(2, 3, 30)).square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())
    assert all(weight.grad.abs().max() > 1e-6 for weight in layer.parameters())


def test_bfloat16_is_close_to_float32():
    layer, x = make(dtype=torch.float32), random(2, 3, 64, dtype=torch.float32)
    low = layer(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert 0 < (low.float() - layer(x)).norm() < 0.02 * layer(x).norm()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="states must be at least 1, got 0"):
        make(states=0)
    with pytest.raises(ValueError, match="step must have a layer that sees one way alone"):
        make(both=True).step(torch.zeros(2, 3).double())
