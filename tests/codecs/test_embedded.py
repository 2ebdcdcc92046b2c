"""Denoisers of embedded classes against enumeration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDIM,
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
    absorbing,
)
from structdiff.codecs import Bits, Clamped, ClassDenoiser
from structdiff.parameterisations import Embedding, Velocity, embed, unembed
from structdiff.processes import Process
from structdiff.schedules import UniformTime
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser

K, WIDTH = 4, 3
LAW = torch.tensor(
    [
        [0.20, 0.00, 0.05, 0.05],
        [0.00, 0.15, 0.00, 0.05],
        [0.10, 0.00, 0.10, 0.00],
        [0, 0, 0.05, 0.25],
    ],
    dtype=torch.float64,
)
"""A law of pairs of classes, with zeros."""


class Table(nn.Module):
    """The exact log-probabilities of each class of a pair, by Bayes' rule over all pairs."""

    def __init__(self, code: Embedding) -> None:
        super().__init__()
        self.code = code

    def forward(self, batch: Batch, clock: dict, previous: object) -> dict[str, Tensor]:
        x, words = batch["pair"], self.code.table()
        alpha = torch.sigmoid(2 * clock["pair"]).sqrt()
        variance = torch.sigmoid(-2 * clock["pair"])
        near = -(x[:, :, None] - alpha * words).square().sum(-1) / (2 * variance)
        joint = LAW.log() + near[:, 0, :, None] + near[:, 1, None, :]
        return {"pair": torch.stack([joint.logsumexp(2), joint.logsumexp(1)], 1)}


def made() -> tuple[Embedding, Product]:
    code = Embedding(K, WIDTH)
    code.weight = nn.Parameter(Generator(5).normal((K, WIDTH), torch.float64, "cpu"))
    return code, Product({"pair": Gaussian(Cosine(), event=(2, WIDTH))})


def world(code: Embedding, process: Process) -> tuple[Batch, ExactDenoiser]:
    pairs = torch.cartesian_prod(torch.arange(K), torch.arange(K))
    clean = embed(Batch.of({"pair": pairs}), {"pair": code})
    clean = clean.with_leaves({"pair": clean["pair"].detach()})
    return clean, ExactDenoiser(process, clean, LAW.flatten())


@pytest.mark.parametrize("time", [0.05, 0.3, 0.6, 0.9, 1.0])
def test_the_mean_of_what_the_network_says_is_the_exact_denoiser(time: float) -> None:
    """D09: E[e | x_t] and the class probabilities, where the exact denoiser knows no classes."""
    code, process = made()
    clean, exact = world(code, process)
    bound = process.bind(clean)
    t = bound.times(torch.tensor(time, dtype=torch.float64))
    tolerance = 1e-10 if time < 1 else 1e-7  # networks see a finite clock at pure noise
    likely = clean.select(torch.arange(16)[LAW.flatten() > 0])
    noisy = likely.with_leaves(process.bind(likely).diffuse(likely.leaves, t, Generator(0)))
    said = ClassDenoiser(Table(code), process, {"pair": code})(noisy, t)["pair"]
    torch.testing.assert_close(said.value, exact(noisy, t)["pair"].value, rtol=0, atol=tolerance)
    p = said.extras["log_p"].exp()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p.sum(-1)))
    # p is the only law over 4 codewords in R^3 with that mean and that sum.
    rows = torch.cat([code.table(), torch.ones(K, 1)], 1)
    target = torch.cat([said.value, torch.ones_like(said.value[..., :1])], -1)
    solved = torch.linalg.solve(rows.T, target.mT).mT
    torch.testing.assert_close(solved, p, rtol=0, atol=10 * tolerance)


def test_the_classes_of_a_noisy_state_have_the_gradient_of_bayes_rule() -> None:
    """d log p(k_1 | x) / d x_1 = alpha (e_k - E[e_1 | x]) / sigma^2: what guidance needs."""
    code, process = made()
    x = Generator(3).normal((7, 2, WIDTH), torch.float64, "cpu").requires_grad_()
    t = {"pair": torch.tensor(0.5, dtype=torch.float64)}
    said = ClassDenoiser(Table(code), process, {"pair": code})(Batch.of({"pair": x}), t)["pair"]
    level = Cosine()(t["pair"])
    for k in range(K):
        log_p = said.extras["log_p"][:, 0, k].sum()
        (gradient,) = torch.autograd.grad(log_p, x, retain_graph=True)
        expected = level.alpha * (code.table()[k] - said.value[:, 0]) / level.sigma**2
        torch.testing.assert_close(gradient[:, 0], expected)


def test_a_walk_draws_the_law_of_the_pairs() -> None:
    """No impossible pair, and each share within 4.5 standard errors and the step's bias."""
    code, process = made()
    n = 4000
    blank = Batch.of({"pair": torch.zeros(n, 2, WIDTH, dtype=torch.float64)})
    denoiser = ClassDenoiser(Table(code), process, {"pair": code})
    drawn = unembed(DDIM(denoiser, UniformTime(60)).sample(blank, Generator(1)), {"pair": code})
    share = torch.bincount(drawn["pair"] @ torch.tensor([K, 1]), minlength=16) / n
    error = (LAW.flatten() * (1 - LAW.flatten()) / n).sqrt()
    assert share[LAW.flatten() == 0].sum() < 0.005
    assert bool(((share - LAW.flatten()).abs() < 4.5 * error + 0.01).all())


def test_given_rows_keep_their_words() -> None:
    code = Embedding(3, 2)
    process = Product({"token": Gaussian(Cosine(), event=(2,))})

    class Flat(nn.Module):
        def forward(self, batch, clock, previous):
            return {"token": torch.zeros(len(batch["token"]), 3)}

    tokens = Batch({"token": torch.tensor([2, 0, 1])}, {"token": Layout.ragged([1, 2])})
    given = embed(tokens.with_given({"token": torch.tensor([True, False, True])}), {"token": code})
    denoiser = ClassDenoiser(Flat(), process, {"token": code})
    drawn = DDIM(denoiser, UniformTime(5)).sample(given, Generator(0))
    assert torch.equal(drawn["token"][[0, 2]], given["token"][[0, 2]])
    torch.testing.assert_close(drawn["token"][1], code.table().mean(0).detach())


@pytest.mark.parametrize("kind", ["embedding", "bits"])
def test_clamped_estimates_are_codewords(kind: str) -> None:
    """D11: of the nearest class; codewords themselves stay as they are."""
    code = Embedding(6, 3) if kind == "embedding" else Bits(6)
    process = Product({"token": Gaussian(Cosine(), event=(3,)), "x": Gaussian(Cosine())})

    class Echo(nn.Module):
        def forward(self, batch, clock, previous):
            return dict(batch.leaves)

    denoiser = NetworkDenoiser(Echo(), process)
    x = Generator(0).normal((50, 3), torch.float32, "cpu")
    words = code.encode(torch.arange(6)).detach()
    batch = Batch.of({"token": torch.cat([x, words]), "x": torch.randn(56)})
    t = process.bind(batch).times(torch.tensor(0.5))
    clamped = Clamped(denoiser, {"token": code})(batch, t)
    nearest = words[torch.cdist(x, words).argmin(1)]
    torch.testing.assert_close(clamped["token"].value.detach(), torch.cat([nearest, words]))
    assert torch.equal(clamped["x"].value, denoiser(batch, t)["x"].value)


def test_a_clamped_walk_ends_at_codewords() -> None:
    code, process = made()
    denoiser = Clamped(ClassDenoiser(Table(code), process, {"pair": code}), {"pair": code})
    blank = Batch.of({"pair": torch.zeros(20, 2, WIDTH, dtype=torch.float64)})
    drawn = DDIM(denoiser, UniformTime(6)).sample(blank, Generator(0))["pair"]
    assert torch.equal(drawn, code.encode(code.decode(drawn)))


def test_the_embedding_is_trained_and_saved_with_the_denoiser() -> None:
    code, process = made()
    denoiser = ClassDenoiser(nn.Identity(), process, {"pair": code})
    assert [id(weight) for weight in denoiser.parameters()] == [id(code.weight)]
    other = Embedding(K, WIDTH).double()
    again = ClassDenoiser(nn.Identity(), process, {"pair": other})
    again.load_state_dict(denoiser.state_dict())
    assert torch.equal(other.table(), code.table())


def test_leaves_of_other_kinds_go_beside() -> None:
    code = Embedding(3, 2)
    process = Product(
        {
            "token": Gaussian(Linear(), Velocity(), event=(2,)),
            "kind": Categorical(Flow(), absorbing(3)),
            "v": Gaussian(Linear(), Velocity(), event=(2,)),
            "angle": Brownian(Geometric(0.02, 4.0), Torus(2)),
        }
    )

    class Says(nn.Module):
        def forward(self, batch, clock, previous):
            logits = torch.arange(3.0).expand(2, 3)
            flat = {"v": batch["v"], "angle": torch.ones(2, 2)}
            return {"token": logits, "kind": logits, **flat}

    batch = Batch.of(process.empty(2)).with_leaves(
        process.bind(Batch.of(process.empty(2))).prior(Generator(0))
    )
    t = process.bind(batch).times(torch.tensor(0.7))
    ours = ClassDenoiser(Says(), process, {"token": code})(batch, t)
    plain = Product({n: p for n, p in process._leaves.items() if n != "token"})
    rest = Batch.of({n: x for n, x in batch.leaves.items() if n != "token"})
    theirs = NetworkDenoiser(Says(), plain)(rest, {n: x for n, x in t.items() if n != "token"})
    for name, estimate in theirs.items():
        assert torch.equal(ours[name].value, estimate.value), name
    mean = torch.arange(3.0).softmax(0) @ code.table()
    torch.testing.assert_close(ours["token"].value, mean.expand(2, 2))


def refused(**leaves: Process) -> object:
    return ClassDenoiser(nn.Identity(), Product(leaves), {"token": Embedding(3, 2)})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: refused(word=Gaussian(Linear(), event=(2,))),
            r"a Gaussian leaf 'token' of event \(\*event, 2\), it has leaves \['word'\]",
        ),
        (lambda: refused(token=Gaussian(Linear(), event=(3,))), r"it has event \(3,\) there"),
        (lambda: Clamped(refused(token=Gaussian(Linear(), event=(2,))), {}), "at least one leaf"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
