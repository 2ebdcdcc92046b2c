"""Sharpened estimates: powers of laws and their nuclei, by enumeration."""

from __future__ import annotations

import pytest
import torch

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Linear,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.guidance import Sharpened
from structdiff.processes import Estimate


class Said(Denoiser):
    """Says the same whatever it is asked."""

    def __init__(self, log_p: torch.Tensor) -> None:
        super().__init__()
        self.process = Product(
            {"x": Gaussian(Linear()), "token": Categorical(Flow(), absorbing(log_p.shape[-1]))}
        )
        self.log_p = log_p

    def forward(self, batch, t, previous=None):
        extras = {"tilt": torch.ones(1)}
        return {"x": Estimate(batch["x"] / 2), "token": Estimate(self.log_p, extras)}


def laws(rows: int = 40, classes: int = 9) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.log_softmax(2 * torch.randn(rows, classes, generator=source).double(), -1)


def ask(denoiser: Denoiser, rows: int) -> dict[str, Estimate]:
    x = torch.linspace(-1, 1, rows)
    batch = Batch.of({"x": x, "token": torch.full((rows,), 9)})
    t = torch.tensor(0.5)
    return dict(denoiser(batch, {"x": t, "token": t}))


def test_at_one_and_one_nothing_changes():
    """D16: bit for bit."""
    said = Said(laws())
    plain, sharpened = ask(said, 40), ask(Sharpened(said), 40)
    for name, estimate in plain.items():
        assert torch.equal(estimate.value, sharpened[name].value)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.5])
def test_temperature_is_a_power(temperature):
    said = Said(laws())
    value = ask(Sharpened(said, temperature=temperature), 40)["token"].value
    power = said.log_p.exp() ** (1 / temperature)
    torch.testing.assert_close(value.exp(), power / power.sum(-1, keepdim=True))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_the_nucleus_is_the_smallest_set_of_its_share(share):
    """Over all 2^K sets; then the law given that the class is in it."""
    said = Said(laws(12, 7))
    value = ask(Sharpened(said, nucleus=share), 12)["token"].value
    sets = torch.tensor([[n >> k & 1 for k in range(7)] for n in range(128)]).bool()
    for p, ours in zip(said.log_p.exp(), value.exp(), strict=True):
        mass = (sets * p).sum(1)
        enough = mass >= share
        smallest = sets.sum(1)[enough].min()
        best = int(torch.where(enough & (sets.sum(1) == smallest), mass, -1).argmax())
        torch.testing.assert_close(ours, torch.where(sets[best], p, 0.0) / mass[best])


def test_temperature_comes_before_the_nucleus():
    """(0.5, 0.3, 0.2) at T = 1/2 is (25, 9, 4) / 38, of which 0.8 is in the first two."""
    said = Said(torch.tensor([[0.5, 0.3, 0.2]]).log())
    value = ask(Sharpened(said, temperature=0.5, nucleus=0.8), 1)["token"].value
    torch.testing.assert_close(value.exp(), torch.tensor([[25 / 34, 9 / 34, 0.0]]))


def test_of_equal_classes_the_first_ones_are_taken():
    value = ask(Sharpened(Said(torch.zeros(2, 4) - 4**0.5 * 0.693147), nucleus=0.5), 2)
    assert value["token"].value.exp().tolist() == [[0.5, 0.5, 0.0, 0.0]] * 2


def test_what_is_sure_stays_and_other_leaves_and_extras_too():
    log_p = torch.log(torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.2, 0.6]]))
    ends = ask(Sharpened(Said(log_p), temperature=0.1, nucleus=0.5), 2)
    assert ends["token"].value.exp().tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert torch.equal(ends["x"].value, torch.tensor([-0.5, 0.5]))
    assert ends["token"].extras["tilt"].tolist() == [1.0]


def test_samples_of_one_row_have_the_sharpened_law():
    """In one step; with 20,000 samples, within 4 standard errors."""
    log_p = torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(20_000, 3)
    said = Said(log_p)
    batch = Batch.of(said.process.empty(20_000))
    sampler = DDPM(Sharpened(said, temperature=0.5), UniformTime(1))
    share = sampler.sample(batch, Generator(0))["token"].bincount(minlength=3) / 20_000
    want = torch.tensor([25, 9, 4]) / 38
    assert ((share - want).abs() < 4 * (want * (1 - want) / 20_000).sqrt()).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be positive and finite, got inf"),
        ({"nucleus": 0.0}, r"nucleus must be in \(0, 1\], got 0.0"),
        ({"nucleus": 1.5}, r"nucleus must be in \(0, 1\], got 1.5"),
    ],
)
def test_refusals(change, match):
    with pytest.raises(ValueError, match=match):
        Sharpened(Said(laws()), **change)


def test_a_record_without_classes_is_refused():
    said = Said(laws())
    said.process = Product({"x": Gaussian(Linear())})
    with pytest.raises(ValueError, match="no leaf of the process is on classes"):
        Sharpened(said, temperature=0.5)


def test_multinomial_leaves_are_sharpened_too():
    said = Said(laws())
    said.process = Product({"x": Gaussian(Linear()), "token": Categorical(Flow(), uniform(9))})
    assert Sharpened(said).names == ("token",)


@pytest.mark.parametrize("temperature", [1e-38, 1e-44, 1e-300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_least_temperatures_take_the_surest_class(temperature, dtype):
    log_p = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.1, 0.9]], dtype=dtype).log()
    cold = Sharpened(Said(log_p), temperature=temperature).sharpen(log_p)
    assert cold.exp().tolist() == [[0, 1, 0], [0, 0, 1]]
