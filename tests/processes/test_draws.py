"""Log-probabilities over classes, and draws from them, up to 50,257 classes in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff.processes.draws import draw_class, log_probabilities

SIZES = [1, 2, 27, 64, 65, 100, 257, 4096, 50_257]


def law(classes: int, dtype: torch.dtype, *, gaps: bool = False) -> Tensor:
    """Log-probabilities over some 12 orders of magnitude, some of them zero."""
    random = torch.Generator().manual_seed(classes)
    logits = 6 * torch.randn(classes, dtype=torch.float64, generator=random)
    if gaps and classes > 2:
        logits[::3] = -torch.inf
        logits[-1] = -torch.inf
    return torch.log_softmax(logits, -1).to(dtype)


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("gaps", [False, True])
def test_quantiles_fall_into_their_class(classes: int, *, gaps: bool) -> None:
    """The middle of each class's share of [0, 1) is that class, and none without mass comes."""
    log_p = law(classes, torch.float64, gaps=gaps)
    edges = torch.softmax(log_p, -1).cumsum(-1)
    p = torch.softmax(log_p, -1)
    middle = edges - p / 2
    reached = torch.nonzero(p > 1e-9)[:, 0][:2000]
    drawn = draw_class(log_p.expand(len(reached), -1), middle[reached])
    assert torch.equal(drawn, reached)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        found = draw_class(log_p.to(dtype).expand(2, -1), ends)
        assert bool((p[found] > 0).all())
        present = torch.nonzero(p)[:, 0]
        assert found[0] == present[0]
        # No class between the last quantile and the last class has mass that counts.
        assert p[int(found[1]) + 1 :].sum() < (1e-12 if dtype == torch.float64 else 1e-6)


def tail() -> tuple[Tensor, float]:
    """50,257 classes: one of nearly all mass, the others of e^-20 times it each; their share."""
    logits = torch.full((50_257,), -20.0)
    logits[0] = 0.0
    log_p = torch.log_softmax(logits, -1)
    return log_p, float(log_p.double()[1:].exp().sum() / log_p.double().exp().sum())


def test_the_tail_of_a_large_vocabulary_is_drawn_with_its_own_frequency() -> None:
    """In float32: quantiles in the tail fall into the class that they belong to.

    The first block, which has the top class in it, is right to the rounding of its mass, 2^-24,
    some thirty of these classes; all others to one in 50,000 of the tail.
    """
    log_p, share = tail()
    rare = len(log_p) - 1
    place = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    quantiles = 1 - share + share * place
    drawn = torch.cat(
        [draw_class(log_p.expand(len(part), -1), part) for part in quantiles.split(250)]
    )
    exact = (place * rare).floor().long() + 1
    error = (drawn - exact).abs()
    assert error[exact > 128].max() <= 1
    assert error.max() <= 128
    assert bool((drawn > 0).all())


def test_a_gumbel_draw_in_float32_loses_that_tail() -> None:
    """The largest float32 Gumbel number is 16.6: e^-20 beats no number that the top can have."""
    log_p, share = tail()
    smallest, largest = torch.tensor([2.0**-24, 1 - 2.0**-24])  # the steps of torch.rand
    top = log_p[0] - torch.log(-torch.log(smallest))
    best = log_p[1] - torch.log(-torch.log(largest))
    assert best < top
    # Only where the top's uniform is exactly 0 (once in 2^24) does a rare class win.
    assert share / 1000 > 2**-24


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frequencies_follow_the_law(dtype: torch.dtype) -> None:
    log_p, n = law(300, dtype), 100_000
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    found = torch.bincount(draw_class(log_p.expand(n, -1), place), minlength=300).double() / n
    torch.testing.assert_close(found, log_p.double().exp(), rtol=0, atol=2 / n)


def test_log_probabilities_are_those_of_the_logits() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    certain = torch.tensor([False, True, False, True, False])
    value = torch.tensor([1, 2, 3, 4, 5])
    log_p = log_probabilities(logits, certain, value)
    torch.testing.assert_close(log_p[~certain], torch.log_softmax(logits, -1)[~certain])
    assert torch.equal(log_p[certain].exp(), torch.eye(7).double()[value[certain]])
    low = log_probabilities(logits.bfloat16(), certain, value)
    assert low.dtype == torch.float32


def test_gradients_are_those_of_log_softmax_and_zero_where_certain() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    certain = torch.tensor([False, True, False, True, False])
    value, grads = torch.tensor([1, 2, 3, 4, 5]), []
    weight = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for own in (True, False):
        x = logits.clone().requires_grad_()
        log_p = log_probabilities(x, certain, value) if own else torch.log_softmax(x, -1)
        (weight * log_p)[~certain].sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1])
    assert not grads[0][certain].any()
    x = logits.clone().requires_grad_()
    log_p = log_probabilities(x, certain, value)
    (log_p.exp() * log_p).sum().backward()  # 0 * -inf: not a number, at certain rows
    assert not x.grad[certain].any()
    x = logits.clone().requires_grad_()
    at = value.unsqueeze(-1)
    assert torch.autograd.gradcheck(
        lambda x: log_probabilities(x, certain, value).gather(-1, at), (x,)
    )
    assert torch.autograd.gradgradcheck(
        lambda x: log_probabilities(x, certain, value)[~certain].exp(), (x,)
    )
