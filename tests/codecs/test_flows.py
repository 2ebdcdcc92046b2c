"""Invertible codecs that learn, and the diffusions that they make nonlinear (INDM, PDM)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import DDIM, Batch, Gaussian, Generator, Linear, UniformTime
from structdiff.codecs.chain import Chain
from structdiff.codecs.density import DataBound, ThroughCodec, data_density, pdm
from structdiff.codecs.flows import Couplings
from structdiff.codecs.mel import Mel
from structdiff.codecs.standardise import Identity, Standardise
from structdiff.likelihood import bound, flow_log_prob
from structdiff.objectives import ContinuousBound, UniformTimes
from structdiff.schedules import UniformLogSNR
from structdiff.testing import NormalDenoiser


def shaken(event: tuple[int, ...], layers: int, spread: float = 0.3) -> Couplings:
    torch.manual_seed(0)
    codec = Couplings(event, layers=layers, width=16).double()
    for weight in codec.parameters():
        weight.data += spread * torch.randn_like(weight)
    return codec.requires_grad_(requires_grad=False)


def standard(event: tuple[int, ...] = (2,)) -> NormalDenoiser:
    process = Gaussian(Linear(), event=event)
    return NormalDenoiser(process, torch.zeros(1, *event).double(), torch.ones(1).double())


def plane(count: int = 5) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("layers", [0, 1, 5])
def test_a_new_flow_is_the_identity_bit_for_bit(layers) -> None:
    x = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0))
    codec = Couplings((3, 2), layers=layers)
    assert torch.equal(codec.encode(x), x)
    assert torch.equal(codec.decode(x), x)
    assert torch.equal(codec.log_det(x), torch.zeros(7))


def test_the_density_of_a_flow_integrates_to_one() -> None:
    """On a grid of the plane: standard normal latents, seen through the flow."""
    codec = shaken((2,), 4)
    line = torch.linspace(-12, 12, 481, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    z = codec.encode(x)
    log_prob = -0.5 * z.square().sum(1) - math.log(2 * math.pi)
    density = data_density(codec, x, log_prob, "exact").total.exp()
    assert float(density.sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=1e-4)
    moment = float((density * x[:, 0] ** 2).sum() * (line[1] - line[0]) ** 2)
    draws = codec.decode(
        torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)).double()
    )
    error = 4 * float((draws[:, 0] ** 2).std()) / 200_000**0.5
    assert moment == pytest.approx(float((draws[:, 0] ** 2).mean()), abs=error)


def test_a_diffusion_behind_a_flow_has_the_density_of_the_change_of_variables() -> None:
    """INDM's identity, by the probability flow of the latents, against the closed form.

    Latents are standard normal, so the exact denoiser is known and p(z) too.
    """
    codec, z = shaken((2,), 3), plane()
    x = codec.decode(z)
    report = flow_log_prob(standard(), Batch.of(z))
    found = data_density(codec, x, report.total, report.kind)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: codec.encode(v[None])[0]))(x)
    closed = -0.5 * z.square().sum(1) - math.log(2 * math.pi) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(found.total, closed, rtol=0, atol=1e-4)
    assert float((found.total - report.total).abs().max()) > 0.1


def test_behind_the_identity_flow_all_is_as_without_it() -> None:
    """The same density, the same loss with the same noise: the base process is recovered.

    So PDM begins as the model of its denoiser, in its bound and its draws.
    """
    x, denoiser, times = plane(64), standard(), UniformTimes()
    model, objective = pdm((2,), denoiser, layers=3, times=times)
    codec = model.double().codec
    report = flow_log_prob(denoiser, Batch.of(x))
    assert torch.equal(data_density(codec, x, report.total, report.kind).total, report.total)
    drawn = DDIM(denoiser, UniformTime(5)).sample(Batch.of(x), Generator(1))["x"]
    assert torch.equal(codec.decode(drawn), drawn)
    alone = ContinuousBound(times)(denoiser, Batch.of(x), Generator(0)).leaves["x"]
    both = objective(model, Batch.of(x), Generator(0))
    far = denoiser.process.bind(Batch.of(x)).prior_divergence({"x": x})["x"]
    assert torch.equal(both.leaves["x"], alone + far / 2)
    assert torch.equal(both.leaves["volume"], torch.zeros(64).double())


def test_the_bound_behind_a_flow_lies_above_the_truth() -> None:
    """PDM's variational bound, with the exact denoiser of the latents: it is tight."""
    codec, denoiser = shaken((2,), 3), standard()
    z = plane(200)
    x = codec.decode(z)
    grid = UniformLogSNR(Linear(), 600)
    terms = bound(denoiser, Batch.of(z), grid, Generator(0), draws=20, terms=60)
    found = data_density(codec, x, -terms.total, terms.kind).total
    truth = codec.log_det(x) - 0.5 * z.square().sum(1) - math.log(2 * math.pi)
    gap = float((truth - found).mean())
    error = 4 * terms.mean_error()
    assert error < 0.2
    assert -error < gap < 0.15 + error


def test_training_by_the_variational_bound_finds_the_flow() -> None:
    """PDM: data are a bent normal law, and latents are to be those of the fixed denoiser.

    What the bound is after training is compared with -log p(x) in closed form, per entry.
    """
    source = torch.Generator().manual_seed(0)
    u = torch.randn(4000, 2, generator=source)
    x = torch.stack([1.5 * u[:, 0], 0.5 * u[:, 1] + u[:, 0] ** 2 - 1], 1)
    truth = float((0.5 * u.square().sum(1) + math.log(2 * math.pi) + math.log(0.75)).mean())
    torch.manual_seed(0)
    denoiser = NormalDenoiser(Gaussian(Linear(), event=(2,)), torch.zeros(1, 2), torch.ones(1))
    model, objective = pdm((2,), denoiser, layers=4, width=32)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    random = Generator(1)
    codec = model.codec

    def surprise() -> float:
        with torch.no_grad():
            z = codec.encode(x)
            normal = -0.5 * z.square().sum(1) - math.log(2 * math.pi)
            return -float(data_density(codec, x, normal, "exact").total.mean())

    first = surprise()
    for step in range(160):
        batch = Batch.of(x[torch.arange(200) + 200 * (step % 20)])
        optimiser.zero_grad()
        objective(model, batch, random).total.backward()
        optimiser.step()
    last = surprise()
    assert first > truth + 0.8
    assert last < truth + 0.15


def test_reports_say_where_numbers_are_from() -> None:
    codec = Chain([Standardise((2,)), shaken((2,), 2)])
    x = plane(3)
    codec.fit(x)
    found = data_density(codec, x, torch.tensor([-1.0, -2.0, -3.0]).double(), "exact flow")
    torch.testing.assert_close(found.total, found.latent + codec.log_det(x))
    bits = -found.total / (2 * math.log(2))
    torch.testing.assert_close(found.bits_per_entry, bits)
    text = str(found)
    assert text.startswith("exact flow; nats, mean over 3 samples\n  latents: -2\n")
    assert f"{float(bits.mean()):.4g} bits per entry" in text


def test_where_there_is_no_density_no_number_is_given() -> None:
    codec = Mel((1, 2000), 8000.0, mels=20, window=256)
    found = data_density(codec, torch.zeros(2, 1, 2000), torch.zeros(2), "exact flow")
    assert "not a density of the data: Mel has no log-determinant" in str(found)
    for ask in (lambda: found.total, lambda: found.bits_per_entry):
        with pytest.raises(ValueError, match="not a density of the data: Mel"):
            ask()
    model = ThroughCodec(codec, standard(codec.latent))
    with pytest.raises(ValueError, match="Mel has no log-determinant: train it with Joint"):
        DataBound()(model, Batch.of(torch.zeros(2, 1, 2000)), Generator(0))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(samples, 2\)"):
        data_density(Identity((2,)), torch.zeros(3, 4), torch.zeros(3), "exact")
    with pytest.raises(ValueError, match=r"log_prob must have shape \(3,\), got \(4,\)"):
        data_density(Identity((2,)), torch.zeros(3, 2), torch.zeros(4), "exact")
    for arguments in ({"event": (1,)}, {"layers": -1}, {"width": 0}, {"bound": math.inf}):
        with pytest.raises(ValueError, match="an event has two entries at least"):
            Couplings(**{"event": (2,), **arguments})


def test_in_low_precision_the_log_determinant_is_still_that_of_the_map() -> None:
    """What the network says is rounded; the map that follows from it is not."""
    codec = shaken((64,), 1).float()
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = codec.encode(x), codec.log_det(x)
        back = codec.decode(z)
    (slope,) = torch.autograd.grad(z[:, 0::2].sum(), x, retain_graph=True)
    torch.testing.assert_close(log_det, slope[:, 0::2].log().sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)
