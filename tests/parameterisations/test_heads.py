"""Networks with several heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import Batch, Cosine, Discrete, Gaussian, NetworkDenoiser, Product
from structdiff.parameterisations import Data, Noise, Parameterisation, Velocity
from structdiff.parameterisations.heads import Dual, InterpolatedVariance, ResidualVariance
from structdiff.processes.affine import Affine
from structdiff.processes.covariance_dense import Cholesky
from structdiff.processes.gaussian_step import deviation
from structdiff.spaces import ZeroCentre

ALPHA, SIGMA = torch.tensor(0.8).double(), torch.tensor(0.6).double()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_dual_blends_what_two_heads_say() -> None:
    """At r = 1 and 0 each head alone, between them a convex combination, entry by entry."""
    x_t, data, noise = numbers(3, 5, 2).unbind()
    alone = Data().decode(data, x_t, ALPHA, SIGMA), Noise().decode(noise, x_t, ALPHA, SIGMA)

    def said(logit: Tensor) -> Tensor:
        return Dual().decode(torch.stack([data, noise, logit], -1), x_t, ALPHA, SIGMA)

    torch.testing.assert_close(said(torch.full_like(x_t, torch.inf)), alone[0])
    torch.testing.assert_close(said(torch.full_like(x_t, -torch.inf)), alone[1])
    logit = numbers(5, 2, seed=1)
    r = torch.sigmoid(logit)
    torch.testing.assert_close(said(logit), r * alone[0] + (1 - r) * alone[1])


def test_dual_at_pure_noise_and_its_gradients() -> None:
    """Where alpha is 0 the first head is all, and no gradient is infinite."""
    x_t = numbers(4)
    output = numbers(4, 3, seed=2).requires_grad_()
    zero, one = torch.tensor([0.0, 1.0]).double()
    said = Dual().decode(output, x_t, zero, one)
    torch.testing.assert_close(said, output[..., 0])
    (gradient,) = torch.autograd.grad(said.sum(), output)
    assert gradient.tolist() == [[1, 0, 0]] * 4


@pytest.mark.parametrize(
    "how",
    [Dual(), InterpolatedVariance(Velocity()), ResidualVariance(Noise())],
    ids=lambda h: type(h).__name__,
)
def test_decode_inverts_target(how: Parameterisation) -> None:
    x_0, x_t = numbers(2, 5, 2).unbind()
    output = how.target(x_0, x_t, ALPHA, SIGMA)
    torch.testing.assert_close(how.decode(output, x_t, ALPHA, SIGMA), x_0)


class Heads(nn.Module):
    """The same output for every row."""

    def __init__(self, *heads: float) -> None:
        super().__init__()
        self.heads = torch.tensor(heads).double()

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        return {"x": self.heads.expand(*batch["x"].shape, len(self.heads))}


@pytest.mark.parametrize("steps", [1, 10, 40])
def test_interpolation_reaches_beta_tilde_and_beta(steps: int) -> None:
    """Of the betas themselves, a step or several: u = -1 and 1; geometric in between."""
    schedule = Discrete.ddpm(100)
    s, t = (50 - steps) / 100, 0.5
    alpha = schedule.alpha(torch.tensor([s, t]).double()) ** 2
    beta = 1 - alpha[1] / alpha[0]
    tilde = (1 - alpha[0]) / (1 - alpha[1]) * beta
    batch = Batch.of(numbers(3))
    found = []
    for u in (-1.0, 1.0, 0.0):
        how = InterpolatedVariance(Noise())
        denoiser = NetworkDenoiser(Heads(0.3, u), Product({"x": Gaussian(schedule, how)}))
        leaf: Any = denoiser.process.bind(batch)["x"]
        estimate = denoiser(batch, {"x": torch.tensor(t).double()})["x"]
        (step,) = leaf.plan(torch.tensor([t, s]).double(), 1.0)
        found.append(deviation(estimate.extras, step) ** 2)
    expected = [tilde, beta, (tilde * beta).sqrt()]
    for value, right in zip(found, expected, strict=True):
        torch.testing.assert_close(value, right.expand(3), rtol=1e-9, atol=1e-15)


def test_variance_of_the_second_head() -> None:
    """0 is that of N(0, 1) data; any other number is a positive variance."""
    process = Product({"x": Gaussian(Cosine(), ResidualVariance(Data()), event=(2,))})
    batch = Batch.of(numbers(3, 2))
    t = {"x": torch.tensor(0.3).double()}
    level = Cosine()(t["x"])
    unit = level.sigma**2 / (level.alpha**2 + level.sigma**2)
    said = NetworkDenoiser(Heads(0.3, 0.0), process)(batch, t)["x"]
    torch.testing.assert_close(said.extras["variance"], unit.expand(3, 2))
    torch.testing.assert_close(said.value, torch.full((3, 2), 0.3).double())
    for raw in (-20.0, -1.0, 2.0):
        more = NetworkDenoiser(Heads(0.3, raw), process)(batch, t)["x"].extras["variance"]
        assert bool((more > 0).all())
        assert bool((more > unit).all()) == (raw > 0)


@pytest.mark.parametrize(
    "how", [Dual(), InterpolatedVariance(Velocity()), ResidualVariance(Data())]
)
def test_heads_of_coloured_noise(how: Parameterisation) -> None:
    """Vectors are those of x, A times the parameterisation's; other heads are as they are."""
    factor = Cholesky(torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double())
    plain, batch = Gaussian(Cosine(), how, event=(2,)), Batch.of(numbers(3, 2))
    process: Any = Affine(plain, factor, torch.ones(2).double()).bind(batch)
    t, x_t = torch.tensor(0.5).double(), numbers(3, 2, seed=1)
    level = plain.schedule(t)
    inner = how.target(process.whiten(batch["x"]), process.whiten(x_t), level.alpha, level.sigma)
    inner[..., -1] = numbers(3, 2, seed=2)
    vectors = 2 if isinstance(how, Dual) else 1
    heads = [*inner.unbind(-1)]
    heads[:vectors] = [process.factor.multiply(head) for head in heads[:vectors]]
    said = process.decode(torch.stack(heads, -1), x_t, t)
    torch.testing.assert_close(said.value, batch["x"])
    truth = how.extras(inner, process.whiten(x_t), level.alpha, level.sigma)
    for name, value in truth.items():
        torch.testing.assert_close(said.extras[name], value)


def test_variances_by_entry_leave_a_subspace() -> None:
    with pytest.raises(ValueError, match="leads out of the subspace ZeroCentre"):
        Gaussian(Cosine(), ResidualVariance(Data()), event=(3,), space=ZeroCentre())


def test_refusals() -> None:
    process = Product({"x": Gaussian(Cosine(), ResidualVariance(Data()), event=(2,))})
    batch = Batch.of(numbers(3, 2))
    t = {"x": torch.tensor(0.3).double()}
    with pytest.raises(ValueError, match=r"2 heads must return .* got \(3, 2, 3\)"):
        NetworkDenoiser(Heads(0.0, 0.0, 0.0), process)(batch, t)
    with pytest.raises(ValueError, match="InterpolatedVariance has no meaning at t = 1"):
        Gaussian(Cosine(), InterpolatedVariance(Noise()))
