"""The moving average of weights against its closed form."""

import pytest
import torch

from structdiff.training import MovingAverage


def follow(decay, updates):
    """Averages and the weights w_0 (at the start), w_1, ..."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))
    average, seen = MovingAverage([weight], decay), [weight.detach().clone()]
    for n in range(updates):
        with torch.no_grad():
            weight.copy_(torch.randn(5, generator=generator, dtype=torch.float64))
        seen.append(weight.detach().clone())
        average.update(n)
    return average, weight, seen


def test_a_constant_decay_gives_the_geometric_sum():
    m, updates = 0.1, 8  # the ramp (1 + n) / (10 + n) starts at 0.1
    average, _, seen = follow(m, updates)
    expected = m**updates * seen[0]
    expected = expected + sum((1 - m) * m**k * seen[updates - k] for k in range(updates))
    torch.testing.assert_close(average.average[0], expected, rtol=1e-13, atol=1e-13)


def test_the_ramp_gives_the_product_of_its_decays():
    average, _, seen = follow(0.5, 30)
    decays = [min(0.5, (1 + n) / (10 + n)) for n in range(30)]
    assert decays[7] < 0.5
    assert decays[8] == 0.5
    expected, later = torch.zeros(5, dtype=torch.float64), 1.0
    for n in reversed(range(30)):
        expected += later * (1 - decays[n]) * seen[n + 1]
        later *= decays[n]
    torch.testing.assert_close(
        average.average[0], expected + later * seen[0], rtol=1e-13, atol=1e-13
    )


def test_swapping_twice_is_nothing():
    average, weight, seen = follow(0.9, 3)
    kept = average.average[0].clone()
    average.swap()
    assert torch.equal(weight, kept)
    assert torch.equal(average.average[0], seen[-1])
    average.swap()
    assert torch.equal(weight, seen[-1])
    assert torch.equal(average.average[0], kept)


def test_weights_that_stand_still_are_their_average():
    weight = torch.nn.Parameter(torch.tensor([0.3, -7.0]))
    average = MovingAverage([weight], 0.999)
    for n in range(50):
        average.update(n)
    assert average.average[0].tolist() == pytest.approx(weight.tolist(), rel=1e-6)
