"""Schedules of other libraries, by stand-ins that hold the same numbers.

`tests/benchmarks/peers_schedules.py` does it with the libraries themselves.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from structdiff.schedules import (
    Cosine,
    Discrete,
    Exploding,
    Flow,
    Geometric,
    Karras,
    Linear,
    agree,
    differences,
    translate,
)

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
STEPS = torch.arange(1, 1001, dtype=torch.float64) / 1000


def chain(start: float, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """What diffusers' DDPM (start 1) and Euler (start above 1) hold."""
    survival = torch.cumprod(1 - BETAS.to(dtype), 0)
    sigmas = ((1 - survival) / survival) ** 0.5
    return SimpleNamespace(alphas_cumprod=survival, sigmas=sigmas, init_noise_sigma=start)


def test_products_become_a_chain() -> None:
    """A14: values to 1e-6 on grid points, from float32; exactly ours from float64."""
    theirs = chain(1.0)
    level = translate(theirs)(STEPS)
    survival = theirs.alphas_cumprod.double()
    torch.testing.assert_close(level.alpha, survival.sqrt(), rtol=0, atol=1e-12)
    torch.testing.assert_close(level.sigma, (1 - survival).sqrt(), rtol=0, atol=1e-12)
    assert agree(Discrete(BETAS), chain(1.0, torch.float64), STEPS, 1e-12)
    assert agree(Discrete(BETAS), chain(1.0), STEPS, 1e-5)
    assert not agree(Discrete.ddpm(), theirs, STEPS, 0.1)


def test_a_chain_that_starts_above_one_explodes() -> None:
    """The same products, but the state is x_0 + sigma z."""
    theirs = chain(14.6)
    level = translate(theirs)(STEPS)
    assert torch.equal(level.alpha, torch.ones(1000).double())
    survival = theirs.alphas_cumprod.double()
    expected = torch.sqrt((1 - survival) / survival)
    torch.testing.assert_close(level.sigma, expected, rtol=1e-10, atol=0)
    assert agree(Exploding(Discrete(BETAS)), chain(14.6, torch.float64), STEPS, 1e-12)


def test_a_zero_terminal_chain() -> None:
    survival = torch.tensor([0.9, 0.5, 0.1, 0.0])
    level = translate(SimpleNamespace(alphas_cumprod=survival))(torch.ones(()).double())
    assert (level.alpha, level.sigma) == (0, 1)


@pytest.mark.parametrize("way", ["falling", "rising", "with a zero", "held"])
def test_sigmas_become_an_exploding_schedule(way: str) -> None:
    """EDM's 1001 levels are `Karras`, whichever way they come."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    falling = (high + t * (low - high)) ** 7
    given = {
        "falling": falling,
        "rising": falling.flip(0),
        "with a zero": torch.cat([falling, torch.zeros(1).double()]),
        "held": SimpleNamespace(sigmas=falling),
    }[way]
    assert agree(Karras(), given, t, 1e-12)
    between = (t[1:] + t[:-1]) / 2
    assert not agree(Karras(), given, between, 1e-9)
    assert agree(Karras(), given, between, 1e-4)
    even = translate(torch.logspace(-2, 2, 5, dtype=torch.float64))
    assert agree(Geometric(0.01, 100.0), even, t, 1e-12)


def test_functions_are_called() -> None:
    def cosine(t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)

    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert agree(Cosine(0.0), cosine, t, 1e-12)
    assert not agree(Cosine(0.008), cosine, t, 1e-3)


def test_wrappers_of_sigma_to_time() -> None:
    """A module is callable too: what says its sigma comes first."""

    class Wrapper(nn.Module):
        def t_to_sigma(self, t: Tensor) -> Tensor:
            return torch.tan(t * math.pi / 2)

    t = torch.linspace(0, 0.99, 50, dtype=torch.float64)
    level, cosine = translate(Wrapper())(t), Cosine(0.0)(t)
    assert torch.equal(level.alpha, torch.ones_like(t))
    torch.testing.assert_close(level.clock, cosine.clock, rtol=1e-9, atol=1e-9)


def test_flow_matching_sigmas_are_times() -> None:
    """Its levels are not those of an exploding schedule."""
    theirs = SimpleNamespace(sigmas=torch.linspace(1, 0.1, 10), scale_noise=lambda *_: None)
    assert agree(Flow(), theirs, torch.linspace(0, 1, 11))


def test_differences_say_where() -> None:
    """In units of sqrt(alpha^2 + sigma^2): values, not names."""

    def nearly(t: Tensor) -> tuple[Tensor, Tensor]:
        level = Linear()(t)
        return level.alpha, level.sigma + 0.25 * (t == 0.5)

    apart = differences(Linear(), nearly, torch.linspace(0, 1, 5))
    torch.testing.assert_close(apart.sigma, torch.tensor([0, 0, 0.25, 0, 0]).double())
    assert float(apart.alpha.max()) < 1e-15
    assert "in sigma by 0.25 at t = 0.5" in str(apart)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (3.0, r"alphas_cumprod, sigmas, or to be a function .* got float: write a subclass"),
        (torch.ones(2, 2), r"sigmas must be a vector, got shape \(2, 2\)"),
        (torch.tensor([1.0, 0.0]), "at least 2 finite levels that fall or rise"),
        (torch.tensor([1.0, 3.0, 2.0]), "at least 2 finite levels that fall or rise"),
        (torch.tensor([math.inf, 3.0, 2.0]), "at least 2 finite levels that fall or rise"),
    ],
)
def test_refusals(other: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        translate(other)


def test_a_last_product_that_rises_stands_for_zero() -> None:
    """diffusers' rescale_betas_zero_snr puts 2^-24 where alpha is zero."""
    products = torch.tensor([0.9, 0.4, 1e-9, 2.0**-24])
    schedule = translate(SimpleNamespace(alphas_cumprod=products, init_noise_sigma=1.0))
    assert schedule.alpha(torch.tensor(1.0)) == 0
    assert schedule.alpha(torch.tensor(0.5)).item() == pytest.approx(0.4**0.5, rel=1e-6)


def test_flow_sigmas_of_a_chain_are_a_flow() -> None:
    config = SimpleNamespace(use_flow_sigmas=True)
    other = SimpleNamespace(alphas_cumprod=torch.tensor([0.9, 0.1]), config=config)
    assert isinstance(translate(other), Flow)
