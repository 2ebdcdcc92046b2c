"""The recipe: settings become the pieces that they name, and what does not fit is refused."""

import math

import pytest
import torch

from structdiff.domains.text import TextCodec, TextConfig
from structdiff.domains.text.recipe import build, objective_of, walk_of
from structdiff.random import Generator
from structdiff.samplers import Ancestral
from structdiff.samplers.blocks import Blocks
from structdiff.samplers.first_hitting import FirstHitting
from structdiff.samplers.leaping import Leaping
from structdiff.samplers.remasking import Remasking
from structdiff.samplers.routing import Routed
from structdiff.testing import ExactDenoiser

TEXTS = ["abcab", "bcabc", "cabca", "aabbc"]
SMALL = {"network": {"width": 16, "layers": 1, "heads": 2}}


def config(**groups):
    return TextConfig.model_validate({**SMALL, **groups})


@pytest.fixture(scope="module")
def codec():
    return TextCodec.fit(TEXTS)


@pytest.mark.parametrize("process", ["absorbing", "uniform", "marginal", "mask-and-replace"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "log-linear", "mutual-information"])
def test_noise_ends_where_its_name_says(codec, process, schedule):
    made = config(noise={"process": process, "schedule": schedule})
    leaf = build(made, codec).process["token"]
    ends = {
        "absorbing": [0, 0, 0, 1],
        "uniform": [1 / 3] * 3,
        "marginal": codec.vocabulary.frequencies.tolist(),
        "mask-and-replace": [0, 0, 0, 1],
    }
    law = leaf.transition.stationary.tolist()
    assert law == pytest.approx(ends[process])
    half = float(leaf.schedule.alpha(torch.tensor(0.5, dtype=torch.float64)))
    if schedule == "cosine":
        assert half == pytest.approx(1 - math.cos(math.pi / 4))
    if schedule == "log-linear":
        assert half == pytest.approx(0.5005)
    if schedule == "linear" or (schedule, process) == ("mutual-information", "absorbing"):
        assert half == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("objective", ["bound", "order-agnostic", "steps"])
def test_bounds_of_the_exact_model_are_the_entropy_of_the_data(codec, objective):
    """Four texts alike take log 4 nats, in five tokens each; a chain of steps takes more."""
    made = config(loss={"objective": objective, "steps": 100})
    data = codec.encode(TEXTS)
    exact = ExactDenoiser(build(made, codec).process, data)
    many, random = codec.encode(TEXTS * 250), Generator(0)
    terms = torch.cat([objective_of(made)(exact, many, random).leaves["token"] for _ in range(4)])
    error = float(terms.std() / math.sqrt(len(terms)))
    entropy = math.log(4) / 5
    assert float(terms.mean()) > entropy - 4 * error
    assert float(terms.mean()) < entropy + 4 * error + (0.03 if objective == "steps" else 0)


def test_weights_follow_from_the_seed(codec):
    first, same = (build(config(), codec).state_dict() for _ in range(2))
    other = build(config(training={"seed": 1}), codec).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["backbone.embedding.weight"], other["backbone.embedding.weight"])


@pytest.mark.parametrize(
    ("kind", "walk"),
    [
        ("ancestral", Ancestral),
        ("leaping", Leaping),
        ("first-hitting", FirstHitting),
        ("confidence", Routed),
        ("remasking", Remasking),
        ("blocks", Blocks),
    ],
)
def test_each_walk_of_the_exact_model_draws_its_texts(codec, kind, walk):
    """Whatever the walk, the exact model of one text draws that text."""
    made = config(sampler={"kind": kind, "steps": 20, "block": 2})
    data = codec.encode(["abcab"])
    denoiser = ExactDenoiser(build(made, codec).process, data)
    sampler = walk_of(made.sampler, denoiser)
    assert type(sampler) is walk
    assert codec.decode(sampler.sample(data, Generator(0))) == ["abcab"]


def test_low_temperature_draws_the_likelier_token(codec):
    made = config(sampler={"temperature": 0.05, "steps": 4})
    data = codec.encode(["a", "a", "b"])
    exact = ExactDenoiser(build(made, codec).process, data)
    blank = codec.encode(["a"] * 200)
    cold = codec.decode(walk_of(made.sampler, exact).sample(blank, Generator(0)))
    assert set(cold) == {"a"}
    warm = made.sampler.model_copy(update={"temperature": 1.0})
    assert set(codec.decode(walk_of(warm, exact).sample(blank, Generator(0)))) == {"a", "b"}
    cut = made.sampler.model_copy(update={"temperature": 1.0, "nucleus": 0.5})
    assert set(codec.decode(walk_of(cut, exact).sample(blank, Generator(0)))) == {"a"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"network": {"width": 10, "heads": 4}}, "width must be a multiple of twice"),
        (
            {"loss": {"objective": "order-agnostic"}, "noise": {"process": "uniform"}},
            "order-agnostic unmasks tokens",
        ),
        ({"loss": {"given": 0.5}}, "given is not needed with noise.process absorbing"),
        ({"loss": {"auxiliary": 0.1}}, "auxiliary is added to loss.objective steps alone"),
        ({"network": {"self_conditioning": True}}, "needs loss.objective cross-entropy"),
        (
            {"sampler": {"kind": "blocks"}, "noise": {"process": "marginal"}},
            "kind blocks needs noise.process absorbing",
        ),
        ({"sampler": {"kind": "beam"}}, "kind"),
        ({"data": {"tokens": "bytes"}}, "tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        TextConfig.model_validate(groups)
