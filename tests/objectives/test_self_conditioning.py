"""Self-conditioning in every space: classes, bits, embeddings, rotations and angles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Product,
    absorbing,
)
from structdiff.codecs import Bits, ClassDenoiser
from structdiff.objectives.embedded import ScoreInterpolation
from structdiff.parameterisations import Embedding, embed
from structdiff.processes import Estimate
from structdiff.schedules import UniformTime
from structdiff.spaces import SO3, Torus

SAID = {"bits": 3, "kind": 4, "word": 6, "angle": 2, "turn": 3}
HEARD = {"bits": 3, "kind": 4, "word": 2, "angle": 2, "turn": 3}
SEEN = {"bits": 3, "kind": 1, "word": 2, "angle": 2, "turn": 9}


def features(name: str, value: Tensor) -> Tensor:
    """A previous estimate as a network sees it: probabilities of classes."""
    return value.exp() if name == "kind" else value


class Network(nn.Module):
    """Linear in each leaf and, if it has ears, in the previous estimate (zeros for none)."""

    def __init__(self, *, ears: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = nn.ModuleDict({n: nn.Linear(SEEN[n], k) for n, k in SAID.items()})
        self.hear = nn.ModuleDict({n: nn.Linear(HEARD[n], k, bias=False) for n, k in SAID.items()})
        self.ears = ears
        self.heard: list[dict[str, Tensor] | None] = []

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        self.heard.append(previous)
        said = {}
        for name in SAID:
            x = batch[name].float().reshape(len(batch[name]), -1)
            said[name] = torch.tanh(self.see[name](x))
            if self.ears:
                before = torch.zeros(len(x), HEARD[name])
                before = before if previous is None else features(name, previous[name])
                said[name] = said[name] + self.hear[name](before)
        return said


def made(*, ears: bool = True) -> tuple[Network, ClassDenoiser, Batch]:
    network = Network(ears=ears)
    process = Product(
        {
            "bits": Gaussian(Cosine(), event=(3,)),
            "kind": Categorical(Flow(), absorbing(4)),
            "word": Gaussian(Cosine(), event=(2,)),
            "angle": Brownian(Geometric(0.02, 4.0), Torus(2)),
            "turn": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )
    word = Embedding(6, 2)
    denoiser = ClassDenoiser(network, process, {"word": word}, self_conditioning=ears)
    layout = Layout.ragged([2, 1, 3])
    blank = Batch(process.empty(6), dict.fromkeys(SAID, layout))
    record = dict(process.bind(blank).prior(Generator(0)))
    classes = {"bits": 8, "kind": 4, "word": 6}
    record |= {n: torch.arange(6) % k for n, k in classes.items()}
    return network, denoiser, Batch(record, blank.layouts)


def codes(denoiser: ClassDenoiser) -> dict[str, Any]:
    return {"bits": Bits(8), "word": denoiser._embeddings["word"]}


def test_a_silent_extra_input_is_the_plain_model() -> None:
    """D07: no previous estimate, and one of zeros, change no bit in any space; another does."""
    (_, denoiser, batch), (_, plain, _) = made(), made(ears=False)
    plain.load_state_dict(denoiser.state_dict())
    noisy = embed(batch, codes(denoiser))
    bound = denoiser.process.bind(noisy)
    t = bound.times(torch.tensor(0.4))
    x_t = noisy.with_leaves(bound.diffuse(noisy.leaves, t, Generator(1)))
    expected = plain(x_t, t)
    zeros = {n: Estimate(torch.zeros(6, k)) for n, k in HEARD.items()}
    zeros["kind"] = Estimate(torch.full((6, 4), -torch.inf))
    for previous in (None, zeros):
        said = denoiser(x_t, t, previous)
        for name, estimate in expected.items():
            assert torch.equal(said[name].value, estimate.value), name
    again = denoiser(x_t, t, expected)
    for name, estimate in expected.items():
        assert not torch.allclose(again[name].value, estimate.value), name
    # A model without the input does not look at what it is shown.
    for name, estimate in plain(x_t, t, expected).items():
        assert torch.equal(estimate.value, expected[name].value), name


def test_training_costs_one_more_call_in_half_of_the_updates() -> None:
    """D07: never more than one; the number of them within 4 standard deviations of a half."""
    network, denoiser, batch = made()
    updates = 200
    word = {"word": denoiser._embeddings["word"]}
    objective = ScoreInterpolation(codes(denoiser), word, self_conditioning=0.5)
    random, calls = Generator(0), []
    for _ in range(updates):
        network.heard.clear()
        objective(denoiser, batch, random)
        calls.append(len(network.heard))
        assert network.heard[0] is None
        if calls[-1] == 2:
            assert network.heard[1] is not None
            assert not any(x.requires_grad for x in network.heard[1].values())
    assert set(calls) == {1, 2}
    assert abs(calls.count(2) - updates / 2) < 4 * (updates / 4) ** 0.5


def test_the_extra_input_is_trained_in_every_space() -> None:
    """The weights that read the previous estimate get a gradient, and only when there is one."""
    for probability in (0.0, 1.0):
        network, denoiser, batch = made()
        word = {"word": denoiser._embeddings["word"]}
        objective = ScoreInterpolation(codes(denoiser), word, self_conditioning=probability)
        objective(denoiser, batch, Generator(0)).total.backward()
        for name, layer in network.hear.items():
            assert layer.weight.grad is not None
            assert bool(layer.weight.grad.any()) == (probability == 1), name


def test_a_walk_always_shows_the_last_estimate() -> None:
    network, denoiser, batch = made()
    kept = []
    noisy = embed(batch, codes(denoiser))
    DDPM(denoiser, UniformTime(5)).sample(
        noisy, Generator(0), watch=lambda i, carry: kept.append(carry.previous)
    )
    assert network.heard[0] is None
    assert len(network.heard) == len(kept) == 5
    for shown, before in zip(network.heard[1:], kept[:-1], strict=True):
        for name, estimate in before.items():
            assert torch.equal(shown[name], estimate.value), name


def test_plain_denoising_does_it_too() -> None:
    """The objective of classes and the ordinary one call the network equally often."""
    network, denoiser, batch = made()
    Denoising(self_conditioning=1.0)(denoiser, embed(batch, codes(denoiser)), Generator(0))
    assert [previous is None for previous in network.heard] == [True, False]
