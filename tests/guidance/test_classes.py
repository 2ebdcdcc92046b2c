"""Classifiers of noisy records: any module, trained alone, by scores, and with a denoiser."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDPM,
    Batch,
    Cosine,
    Counter,
    Denoising,
    Gaussian,
    Generator,
    Linear,
    NetworkDenoiser,
    Product,
    UniformTime,
)
from structdiff.guidance import Guided
from structdiff.guidance.activations import Activations
from structdiff.guidance.classes import Classified, Classifier
from structdiff.objectives import ConditionDropout
from structdiff.testing import NormalDenoiser
from tests.guidance.labelled import mixed

LEAF = Gaussian(Cosine(), event=(2,))
MEANS = torch.tensor([[-1.0, 0.3], [1.2, -0.4]]).double()
STDS = torch.tensor([0.5, 0.8]).double()
PROCESS = Product({"x": LEAF})


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def drawn(samples: int, seed: int) -> Batch:
    """Records of two normals with their classes."""
    random = Generator(seed)
    label = (random.uniform((samples,), torch.float64, "cpu") < 0.5).long()
    z = random.normal((samples, 2), torch.float64, "cpu")
    x = MEANS[label] + STDS[label, None] * z
    return Batch.of(x).with_condition({"c": label})


def logits(batch: Batch, t: Any) -> Tensor:
    """Of the exact classifier."""
    x = batch["x"]
    level = LEAF.level(t["x"], x)
    alpha, sigma = (value.expand(len(x), 1) for value in (level.alpha, level.sigma))
    variance = (alpha * STDS) ** 2 + sigma**2
    gap = ((x[:, None] - alpha[..., None] * MEANS) ** 2).sum(-1)
    return -gap / (2 * variance) - variance.log()


class Small(nn.Module):
    """Logits by a perceptron of x_t and the clock."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, batch: Batch, t: Any) -> Tensor:
        clock = LEAF.clock(t["x"]).clamp(-5, 5).expand(batch.samples) / 5
        return self.layers(torch.cat([batch["x"], clock.unsqueeze(1)], 1))


def test_any_module_guides():
    """G08b: the exact logits make the conditional estimate; a module is taken as it is."""
    both, one = NormalDenoiser(LEAF, MEANS, STDS), NormalDenoiser(LEAF, MEANS[1:], STDS[1:])
    batch = Batch.of(drawn(6, 0)["x"]).with_condition({"c": torch.ones(6, dtype=torch.long)})
    t = {"x": torch.tensor(0.4)}
    found = Guided(both, Classifier(logits, "c"), 1.0)(batch, t)["x"].value
    torch.testing.assert_close(found, one(batch, t)["x"].value, rtol=1e-9, atol=1e-9)
    classifier = Classifier(Small(), "c")
    assert {id(w) for w in classifier.parameters()} == {
        id(w) for w in classifier.logits.parameters()
    }
    moved = Guided(both, classifier, 1.0)(batch, t)["x"].value - both(batch, t)["x"].value
    assert moved.abs().min() > 1e-6


def test_samples_without_the_class_are_not_guided():
    both = NormalDenoiser(LEAF, MEANS, STDS)
    present = torch.tensor([True, False, True, False])
    batch = drawn(4, 0).with_present({"c": present})
    t = {"x": torch.tensor(0.4)}
    plain = both(batch, t)["x"].value
    found = Guided(both, Classifier(logits, "c"), 2.0)(batch, t)["x"].value
    assert torch.equal(found[~present], plain[~present])
    assert (found - plain)[present].abs().min() > 1e-4
    assert torch.equal(Classifier(logits, "c")(batch, t)[~present], torch.zeros(2))


def test_log_probabilities_are_normalised():
    batch, t = drawn(5, 0), {"x": torch.tensor(0.4)}
    classifier = Classifier(Small(), "c")
    log_p = classifier.log_prob(batch, t)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(5))
    expected = log_p[torch.arange(5), batch.condition["c"]]
    assert torch.equal(classifier(batch, t), expected)


def fitted(score: bool, steps: int = 400) -> Classifier:
    """A classifier trained by cross-entropy, with or without denoising score matching."""
    classifier, random = Classifier(Small(), "c"), Generator(1)
    guided = Guided(NormalDenoiser(LEAF, MEANS, STDS), classifier, 1.0)
    objective = Classified(Denoising() if score else Nothing(), classifier, 0.3)
    optimiser = torch.optim.Adam(classifier.parameters(), 2e-2)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    data = drawn(400, 5)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(guided, data, random).total.backward()
        optimiser.step()
        falling.step()
    return classifier


class Nothing(Denoising):
    """No objective of the denoiser."""

    def __call__(self, denoiser: Any, batch: Batch, random: Any) -> Any:
        from structdiff.objectives.denoising import Terms

        return Terms({"x": torch.zeros(batch.samples)}, {})


def test_score_matching_brings_the_gradient_nearer_to_the_exact_one():
    """W11: of two classifiers of the same records, on noisy ones that neither saw."""
    fresh, random = drawn(500, 9), Generator(3)
    t = {"x": 0.05 + 0.9 * random.uniform((500,), torch.float64, "cpu")}
    noisy = PROCESS.bind(fresh).diffuse(fresh.leaves, t, random)["x"]

    def gradient(classifier: Classifier) -> Tensor:
        x = noisy.clone().requires_grad_()
        (slope,) = torch.autograd.grad(classifier(fresh.with_leaves({"x": x}), t).sum(), x)
        return slope

    truth = gradient(Classifier(logits, "c"))
    sigma = LEAF.level(t["x"], noisy).sigma
    gaps = [gradient(fitted(matched)) - truth for matched in (False, True)]
    plain, matched = (float(gap.square().mean()) for gap in gaps)
    assert matched < 0.8 * plain
    assert matched < 0.1 * float(truth.square().mean())
    plain, matched = (float((sigma * gap).square().mean()) for gap in gaps)
    assert matched < 0.6 * plain


def test_the_denoising_objective_of_the_guided_denoiser_is_score_matching():
    """W11: E |s + grad log p(c | x_t) - grad log q|^2 in units of alpha^2 / sigma^4."""
    both, classifier = NormalDenoiser(LEAF, MEANS, STDS), Classifier(Small(), "c")
    batch, t = drawn(6, 0), {"x": torch.tensor(0.4)}
    bound = PROCESS.bind(batch)
    noisy = batch.with_leaves(bound.diffuse(batch.leaves, t, Generator(2)))
    estimate = Guided(both, classifier, 1.0)(noisy, t)
    loss = bound.loss(estimate, batch.leaves, noisy.leaves, t)["x"]
    x = noisy["x"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(classifier(noisy.with_leaves({"x": x}), t).sum(), x)
    level = LEAF.level(t["x"], x)
    score = LEAF.bind(batch).score(both(noisy, t)["x"], noisy["x"], t["x"])
    kernel = -(noisy["x"] - level.alpha * batch["x"]) / level.sigma**2
    gap = (score + slope - kernel).square().sum(1)
    torch.testing.assert_close(loss, gap * level.sigma**4 / level.alpha**2, rtol=1e-8, atol=1e-10)
    loss.sum().backward()
    weight = classifier.logits.layers[0].weight
    assert weight.grad is not None
    assert weight.grad.abs().max() > 1e-4


class Joint(nn.Module):
    """A denoiser with a shared middle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.middle = nn.Sequential(nn.Linear(3, 32), nn.SiLU())
        self.leave = nn.Linear(32, 2)

    def forward(self, batch, clock, previous):
        x = batch["x"]
        c = clock["x"].to(x).clamp(-5, 5).expand(len(x)).unsqueeze(1) / 5
        return {"x": self.leave(self.middle(torch.cat([x, c], 1)))}


def joint() -> tuple[NetworkDenoiser, Classifier]:
    denoiser = NetworkDenoiser(Joint(), PROCESS)
    head = nn.Linear(32, 2)

    def read(seen: Any, batch: Batch) -> Tensor:
        return head(seen["backbone.middle"])

    classifier = Classifier(Activations(denoiser, ["backbone.middle"], read), "c")
    classifier.head = head
    return denoiser, classifier


def test_without_weight_the_joint_loss_is_the_plain_one():
    """G11b: bit for bit, and the classifier is not asked."""
    denoiser, _ = joint()
    batch = drawn(20, 0)
    plain = Denoising()(denoiser, batch, Generator(4))
    silent = Classified(Denoising(), lambda batch, t: 1 / 0, 0.0)(denoiser, batch, Generator(4))
    assert torch.equal(silent.total, plain.total)
    weighed = Classified(Denoising(), Classifier(logits, "c"), 0.3)
    terms = weighed(denoiser, batch, Generator(4))
    assert torch.equal(terms.leaves["x"], plain.leaves["x"])
    alone = terms.leaves["class"].mean()
    torch.testing.assert_close(terms.total, plain.total + alone, rtol=1e-12, atol=1e-12)
    assert 0 < alone < 0.3 * math.log(2)


def test_a_shared_encoder_learns_data_and_classes():
    """G11b: accuracy of at least 95 % on well-separated modes, and the head guides."""
    denoiser, classifier = joint()
    objective = Classified(Denoising(), classifier, 0.5)
    weights = [*denoiser.parameters(), *classifier.head.parameters()]
    optimiser, random = torch.optim.Adam(weights, 1e-2), Generator(0)
    far = drawn(256, 1)
    far = far.with_leaves({"x": far["x"] + 2 * MEANS[far.condition["c"]]})
    for _ in range(150):
        optimiser.zero_grad()
        objective(denoiser, far, random).total.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    fresh = drawn(500, 2)
    fresh = fresh.with_leaves({"x": fresh["x"] + 2 * MEANS[fresh.condition["c"]]})
    log_p = classifier.log_prob(fresh, {"x": torch.tensor(0.02)})
    assert (log_p.argmax(1) == fresh.condition["c"]).double().mean() >= 0.95
    asked = torch.arange(100) % 2
    blank = Batch.of(torch.zeros(100, 2)).with_condition({"c": asked})
    x = DDPM(Guided(denoiser, classifier, 2.0), UniformTime(12)).sample(blank, Generator(1))["x"]
    assert (torch.cdist(x, 3 * MEANS).argmin(1) == asked).double().mean() > 0.9


def test_the_classifiers_records_have_noise_of_their_own():
    """By address too, where two draws of one address are one."""
    seen: list[Tensor] = []

    def classify(batch: Batch, t: Any) -> Tensor:
        seen.append(batch["x"] / Linear().sigma(t["x"])[:, None])
        return torch.zeros(batch.samples)

    class Remembering(NormalDenoiser):
        def forward(self, batch, t, previous=None):
            classify(batch, t)
            return super().forward(batch, t, previous)

    leaf = Gaussian(Linear(), event=(2,))
    denoiser = Remembering(leaf, torch.zeros(1, 2), torch.ones(1))
    Classified(Denoising(), classify, 1.0)(denoiser, Batch.of(torch.zeros(9, 2)), Counter(0))
    assert (seen[0] - seen[1]).abs().min() > 1e-6


def test_records_of_several_spaces_are_classified_at_one_time_each():
    """Classes and angles are noised beside, and dropped conditions teach nothing."""
    world, batch = mixed()
    seen: list[Any] = []

    def classify(batch: Batch, t: Any) -> Tensor:
        seen.append((batch, t))
        return torch.zeros(batch.samples, 2)

    classifier = Classifier(classify, "c")
    objective = Classified(Denoising(), classifier, 1.0)
    data = world.data.with_condition({"c": world.labels})
    terms = objective(world.free, data, Generator(0))
    torch.testing.assert_close(terms.leaves["class"], torch.full((5,), math.log(2)))
    noisy, t = seen[-1]
    assert all(torch.equal(time, t["x"]) for time in t.values())
    assert not torch.equal(noisy["angle"], data["angle"])
    dropped = ConditionDropout(objective, 1.0)(world.free, data, Generator(0))
    assert torch.equal(dropped.leaves["class"], torch.zeros(5))


def test_what_does_not_fit_is_refused():
    batch, t = drawn(4, 0), {"x": torch.tensor(0.5)}
    with pytest.raises(ValueError, match=r"classifier is of 'kind', but the batch has .*\['c'\]"):
        Classifier(logits, "kind")(batch, t)
    with pytest.raises(ValueError, match=r"logits must return \(4, classes\), got \(4,\)"):
        Classifier(lambda batch, t: batch["x"][:, 0], "c")(batch, t)
    many = batch.with_condition({"c": torch.zeros(4, 1, dtype=torch.long)})
    with pytest.raises(ValueError, match=r"'c' must be a class a sample, an integer, got .*4, 1"):
        Classifier(logits, "c")(many, t)
    with pytest.raises(ValueError, match="got torch.float64"):
        Classifier(logits, "c")(batch.with_condition({"c": torch.zeros(4)}), t)
    for weight in (-1.0, math.nan):
        with pytest.raises(ValueError, match="weight must be finite and at least 0"):
            Classified(Denoising(), Classifier(logits, "c"), weight)
