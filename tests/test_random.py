"""Where noise comes from."""

import math

import pytest
import torch

from structdiff import Generator, Layout, Randomness
from structdiff.random import Tempered

N = 100_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(dtype: torch.dtype) -> None:
    """Within five standard errors of N draws."""
    normal = Generator(1).normal((N,), dtype, "cpu")
    uniform = Generator(2).uniform((N,), dtype, "cpu")
    assert normal.dtype == uniform.dtype == dtype
    assert abs(float(normal.mean())) < 5 / math.sqrt(N)
    assert abs(float(normal.var()) - 1) < 5 * math.sqrt(2 / N)
    assert abs(float(uniform.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / N)
    assert bool(((uniform >= 0) & (uniform < 1)).all())


def test_the_seed_decides() -> None:
    def draw(seed: int) -> list[float]:
        return Generator(seed).normal((3,), torch.float64, "cpu").tolist()

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_state_goes_on_where_it_was() -> None:
    source = Generator(3)
    source.normal((7,), torch.float32, "cpu")
    state = source.state()
    assert state.dtype == torch.uint8
    first = source.uniform((9,), torch.float64, "cpu")
    other = Generator(99)
    other.restore(state)
    assert torch.equal(other.uniform((9,), torch.float64, "cpu"), first)


def test_global_generator_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    Generator(0).normal((10,), torch.float32, "cpu")
    Generator(0).uniform((10,), torch.float32, "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_generator_ignores_addresses() -> None:
    source: Randomness = Generator(0)
    narrow = source.scoped(leaf="x", step=3, ids=torch.arange(2), layout=Layout.regular(2))
    assert narrow is source


def test_tempered_scales_the_normal_noise_of_steps() -> None:
    def draw(source: Randomness, kind: str) -> torch.Tensor:
        return getattr(source, kind)((5,), torch.float64, "cpu")

    cold = Tempered(Generator(0), 0.5)
    torch.testing.assert_close(
        draw(cold.scoped(step=1), "normal"), 0.5 * draw(Generator(0), "normal")
    )
    same = Tempered(Generator(0), 0.5).scoped(step=0)
    assert torch.equal(draw(same, "normal"), draw(Generator(0), "normal"))
    same = Tempered(Generator(0), 0.5).scoped(step=1)
    assert torch.equal(draw(same, "uniform"), draw(Generator(0), "uniform"))
    with pytest.raises(ValueError, match="temperature must be at least 0, got -1"):
        Tempered(Generator(0), -1)
