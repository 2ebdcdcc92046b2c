"""Objectives of embedded classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Cosine,
    Denoising,
    Gaussian,
    Generator,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
)
from structdiff.codecs import Bits, ClassDenoiser
from structdiff.objectives import SNR, Uniform, UniformTimes
from structdiff.objectives.embedded import EndToEnd, ScoreInterpolation
from structdiff.parameterisations import Embedding, embed
from tests.objectives.embedded_worlds import CLASSES, LAW, made, pairs


def test_the_exact_posterior_minimises_the_loss() -> None:
    """D09: E[p - one hot] = 0, within 4.5 standard errors of at most 1/2 a sample; others not."""
    n = 8000
    code, denoiser = made()
    objective = ScoreInterpolation({"pair": code}, {"pair": code}, times=UniformTimes(0.1, 0.95))
    offset = denoiser.backbone.offset
    limit = 4.5 * 0.5 / n**0.5 / 2  # the mean over two entries
    (gradient,) = torch.autograd.grad(objective(denoiser, pairs(n), Generator(0)).total, offset)
    assert float(gradient.abs().max()) < limit
    with torch.no_grad():
        offset[0, 0] = 1.0
    (gradient,) = torch.autograd.grad(objective(denoiser, pairs(n), Generator(0)).total, offset)
    assert float(gradient[0, 0]) > 3 * limit


def test_at_pure_noise_it_is_the_entropy_of_the_columns() -> None:
    n = 20_000
    code, denoiser = made()
    objective = ScoreInterpolation({"pair": code}, {"pair": code}, times=UniformTimes(0.999, 1.0))
    loss = float(objective(denoiser, pairs(n), Generator(0)).total.detach())
    laws = [LAW.sum(1), LAW.sum(0)]
    entropy = sum(float(-(p * p.log()).sum()) for p in laws) / 2
    spread = max(float(p.log().abs().max()) for p in laws)
    assert abs(loss - entropy) < 4.5 * spread / n**0.5


def test_the_embedding_gets_the_gradient_of_the_loss() -> None:
    """Through the noisy state and the network: against differences of the loss itself."""
    code, denoiser = made()
    objective = ScoreInterpolation({"pair": code}, {"pair": code}, times=UniformTimes(0.2, 0.9))

    def loss(weight: Tensor) -> Tensor:
        code.weight.data.copy_(weight)
        return objective(denoiser, pairs(50), Generator(1)).total

    start = code.weight.detach().clone()
    (gradient,) = torch.autograd.grad(loss(start), code.weight)
    for i in range(CLASSES):
        step = torch.zeros_like(start)
        step[i, 0] = 1e-5
        difference = float((loss(start + step) - loss(start - step)).detach()) / 2e-5
        assert abs(difference - float(gradient[i, 0])) < 1e-7


def test_given_entries_count_nothing() -> None:
    """By hand: the second entry of the first pair and all of the second are given."""
    code, denoiser = made()
    held = torch.tensor([[False, True], [True, True], [False, False]])
    batch = pairs(3).with_given({"pair": held})
    objective = ScoreInterpolation({"pair": code}, {"pair": code}, times=UniformTimes(0.4, 0.6))
    random = Generator(0)
    terms = objective(denoiser, batch, random)
    clean = embed(batch, {"pair": code})
    random = Generator(0)
    process: Any = denoiser.process.bind(clean)
    t = process.times(Denoising(times=UniformTimes(0.4, 0.6)).draw_times(clean, random))
    noisy = clean.with_leaves(process.diffuse(clean.leaves, t, random))
    assert torch.equal(noisy["pair"][1], clean["pair"][1])
    assert not torch.equal(noisy["pair"][0, 0], clean["pair"][0, 0])
    log_p = denoiser(noisy, t)["pair"].extras["log_p"]
    error = -log_p.gather(-1, batch["pair"][..., None])[..., 0]
    by_hand = torch.stack([error[0, 0] / 2, torch.zeros(()).double(), error[2].mean()])
    torch.testing.assert_close(terms.leaves["pair"], by_hand)


def test_other_leaves_keep_the_error_of_their_process() -> None:
    """Bits beside embeddings: the terms of bits are those of `Denoising`."""
    codes = {"b": Bits(6)}
    process = Product({"b": Gaussian(Linear(), event=(3,))})

    class Tanh(nn.Module):
        def forward(self, batch: Batch, clock: object, previous: object) -> dict[str, Tensor]:
            return {"b": torch.tanh(batch["b"])}

    batch = Batch.of({"b": torch.tensor([0, 5, 2, 3])})
    ours = ScoreInterpolation(codes, {}, weights=SNR(), times=UniformTimes(0.1, 0.9))
    theirs = Denoising(SNR(), UniformTimes(0.1, 0.9))
    for denoiser in (ClassDenoiser(Tanh(), process, {}), NetworkDenoiser(Tanh(), process)):
        terms = ours(denoiser, batch, Generator(0))
        expected = theirs(denoiser, embed(batch, codes), Generator(0))
        assert torch.equal(terms.leaves["b"], expected.leaves["b"])


class Words(nn.Module):
    """Predicts x_0 of embedded tokens from all it sees of one, and holds their embedding."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.code = Embedding(classes, width, normalised=False)
        self.layers = nn.Sequential(nn.Linear(width + 1, 32), nn.SiLU(), nn.Linear(32, width))

    def forward(self, batch: Batch, clock: dict[str, Tensor], previous: object) -> dict:
        x = batch["token"]
        c = clock["token"].float().expand(len(x))[:, None] / 5
        return {"token": self.layers(torch.cat([x, c], 1))}


def tokens() -> Batch:
    layout = Layout.ragged([2, 3, 1])
    return Batch({"token": torch.tensor([0, 4, 2, 2, 1, 3])}, {"token": layout})


def reader(classes: int = 5, width: int = 3) -> tuple[Words, NetworkDenoiser]:
    network = Words(classes, width)
    process = Product({"token": Gaussian(Linear(), event=(width,))})
    return network, NetworkDenoiser(network, process)


def test_the_end_to_end_loss_is_the_sum_of_its_terms() -> None:
    """D11: L_simple + prior + |Emb(w) - mu|^2 + rounding, each by hand from the same draws."""
    network, denoiser = reader()
    batch, held = tokens(), torch.tensor([True] + [False] * 5)
    batch = batch.with_given({"token": held})
    inner = Denoising(SNR(), UniformTimes(0.05, 0.9))
    objective = EndToEnd(inner, {"token": network.code}, spread=0.2, anchor=0.5, first=0.01)
    terms = objective(denoiser, batch, Generator(0))

    random, table = Generator(0), network.code.weight
    words = table[batch["token"]]
    x_0 = words + 0.2 * random.normal((6, 3), torch.float32, "cpu") * ~held[:, None]
    clean = Batch({"token": x_0}, batch.layouts, given=batch.given)
    simple = inner(denoiser, clean, random).leaves["token"]

    def mean(per_row: Tensor) -> Tensor:
        return torch.stack([part.mean() for part in (per_row * ~held).split([2, 3, 1])])

    distance = torch.cdist(x_0, table, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    rounding = -torch.log_softmax(-distance / 2, 1)[torch.arange(6), batch["token"]]
    end = Linear()(torch.tensor(1.0))
    prior = 0.5 * (end.alpha / end.sigma) ** 2 * x_0.square().sum(1)
    level = Linear()(torch.tensor(0.01))
    x_1 = level.alpha * x_0 + level.sigma * random.normal((6, 3), torch.float32, "cpu")
    x_1 = torch.where(held[:, None], x_0, x_1.float())
    clock = torch.where(held, 20.0, level.clock.float())
    mu = network(Batch({"token": x_1}, batch.layouts), {"token": clock}, None)["token"]
    anchor = 0.5 * (words - mu).square().sum(1)
    expected = {
        "token": simple,
        "token rounding": mean(rounding),
        "token prior": mean(prior.float()) / 3,
        "token anchor": mean(anchor) / 3,
    }
    assert terms.leaves.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms.leaves[name], value, rtol=2e-5, atol=1e-6)
    total = torch.stack([value.mean() for value in expected.values()]).sum()
    torch.testing.assert_close(terms.total, total, rtol=2e-5, atol=1e-6)


def test_without_an_anchor_the_denoiser_is_called_once() -> None:
    network, denoiser = reader()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    for anchor in (0.0, 1.0):
        objective = EndToEnd(Denoising(), {"token": network.code}, anchor=anchor)
        terms = objective(denoiser, tokens(), Generator(0))
        assert ("token anchor" in terms.leaves) == (anchor > 0)
    assert len(calls) == 1 + 2


def trained(objective: Any, network: Words, denoiser: NetworkDenoiser) -> Tensor:
    """The embeddings after a short training on all tokens."""
    batch = Batch({"token": torch.arange(5).repeat(40)}, {"token": Layout.ragged([1] * 200)})
    random = Generator(1)
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=2e-2)
    for _ in range(150):
        loss = objective(denoiser, batch, random).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.code.table().detach()


def test_rounding_keeps_embeddings_apart() -> None:
    """D11: regression alone draws them together, end to end each is rounded to its class.

    Rounding a point where all five are would give each the probability 1/5.
    """
    inner = Denoising(Uniform(), UniformTimes(0.05, 1.0))

    class Regression:
        def __init__(self, code: Embedding) -> None:
            self.code = code

        def __call__(self, denoiser: Any, batch: Batch, random: Any) -> Any:
            return inner(denoiser, embed(batch, {"token": self.code}), random)

    spread = {}
    for kind in ("regression", "end to end"):
        network, denoiser = reader()
        whole = EndToEnd(inner, {"token": network.code}, spread=0.1, anchor=0.01)
        objective: Any = whole if kind == "end to end" else Regression(network.code)
        table = trained(objective, network, denoiser)
        spread[kind] = float(torch.pdist(table).min())
        rounded = network.code.logits(table).softmax(-1).diagonal()
        assert bool((rounded > 0.5).all()) == (kind == "end to end")
    assert spread["end to end"] > 10 * spread["regression"]


def test_embeddings_must_be_trained_by_someone() -> None:
    network, denoiser = reader()
    other = {"token": Embedding(5, 3)}
    for objective in (EndToEnd(Denoising(), other), ScoreInterpolation(other, other)):
        with pytest.raises(ValueError, match=r"the embeddings of \['token'\] are no part"):
            objective(denoiser, tokens(), Generator(0))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"spread": -1.0}, "spread and anchor must be at least 0, got -1.0 and 1.0"),
        ({"anchor": -1.0}, "got 0.0 and -1.0"),
        ({"first": 0.0}, r"first must be in \(0, 1\], got 0.0"),
    ],
)
def test_refusals(settings: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EndToEnd(Denoising(), {}, **settings)


def test_a_schedule_with_no_end_has_no_prior_term() -> None:
    """Where nothing of the data is left at t = 1 embeddings pay nothing for their length."""
    network = Words(5, 3)
    denoiser = NetworkDenoiser(network, Product({"token": Gaussian(Cosine(), event=(3,))}))
    terms = EndToEnd(Denoising(), {"token": network.code})(denoiser, tokens(), Generator(0))
    assert float(terms.leaves["token prior"].detach().abs().max()) < 1e-30
