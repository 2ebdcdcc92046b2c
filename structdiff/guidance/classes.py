r"""Classifiers of noisy records, as guides and beside a denoiser in training.

`Classifier` makes f(x_t, t) = log p(c | x_t) for `Guided` out of anything that gives logits of
noisy records: a network of its own, or a light head on the layers of the denoiser
(`Activations`). `Classified` trains one, with the cross-entropy

    -lambda E_t log p(c | x_t)

added to another objective: with a head on a shared encoder a joint model of data and classes.

What guides is the gradient of f, of which cross-entropy says little: f may be right at the data
and vary wildly around them. Denoising likelihood score matching looks at the gradient itself,

    E | s(x_t) + grad log p(c | x_t) - grad log q(x_t | x_0) |^2,

which is the denoising objective on R^n of the *guided* denoiser, so that
`Classified(Denoising(), classifier, lam)(Guided(frozen, classifier, 1.0), batch, random)` is it
and cross-entropy together.

References:
    Denoising Likelihood Score Matching for Conditional Score-based Data Generation (Chao et al.,
    2022). https://arxiv.org/abs/2203.14206
    Learning Data Representations with Joint Diffusion Models (Deja, Trzcinski and Tomczak, 2023).
    https://arxiv.org/abs/2301.13622
    Conditional Generation from Unconditional Diffusion Models using Denoiser Representations
    (Graikos, Yellapragada and Samaras, 2023). https://arxiv.org/abs/2306.01900
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.batch import Batch, Part
from structdiff.denoiser import Denoiser
from structdiff.guidance.slopes import LogProb, per_sample
from structdiff.objectives.denoising import Objective, Terms
from structdiff.objectives.times import TimeDistribution, UniformTimes
from structdiff.random import Randomness

__all__ = ["Classified", "Classifier"]


class Classifier(nn.Module):
    """log p(c | x_t) for the class c that the batch has as a condition.

    Arguments:
        logits: From (batch, t) to logits of each sample, `(samples, classes)`; a module is trained
            with this one. Where leaves are on classes and `Linearised` is used, it sees them
            as one-hot vectors.
        condition: Name of the class condition; samples where it is absent have the value 0, so
            they are not guided and teach nothing.

    Raises:
        ValueError: On a call, if the batch has no such condition, or classes or logits are of
            another shape.

    Example:
        >>> slope = torch.tensor([-1.0, 1.0])
        >>> classifier = Classifier(lambda batch, t: batch["x"][:, None] * slope, "kind")
        >>> batch = Batch.of(torch.tensor([0.0])).with_condition({"kind": torch.tensor([1])})
        >>> classifier(batch, {"x": torch.tensor(0.5)})
        tensor([-0.6931])
    """

    def __init__(
        self, logits: Callable[[Batch, Mapping[str, Tensor]], Tensor], condition: str
    ) -> None:
        super().__init__()
        self.logits, self.condition = logits, condition

    def forward(self, batch: Batch, t: Mapping[str, Tensor]) -> Tensor:
        """log p(c | x_t), `(samples,)`."""
        if self.condition not in batch.condition:
            has = f"the batch has the conditions {sorted(batch.condition)}"
            msg = f"the classifier is of {self.condition!r}, but {has}"
            raise ValueError(msg)
        log_p = self.log_prob(batch, t)
        label = batch.condition[self.condition]
        if label.is_floating_point() or label.shape != (batch.samples,):
            got = f"{label.dtype} {tuple(label.shape)}"
            msg = f"condition {self.condition!r} must be a class a sample, an integer, got {got}"
            raise ValueError(msg)
        known = batch.present.get(self.condition)
        if known is None:
            return log_p.gather(1, label.unsqueeze(1)).squeeze(1)
        told = log_p.gather(1, torch.where(known, label, 0).unsqueeze(1)).squeeze(1)
        return torch.where(known, told, 0.0)

    def log_prob(self, batch: Batch, t: Mapping[str, Tensor]) -> Tensor:
        """log p of every class, `(samples, classes)`."""
        logits = self.logits(batch, t)
        if logits.ndim != 2 or len(logits) != batch.samples:
            must = f"must return ({batch.samples}, classes)"
            msg = f"logits {must}, got {tuple(logits.shape)}: one row a sample"
            raise ValueError(msg)
        return torch.log_softmax(logits, 1)


class Classified(Objective):
    """Another objective and the cross-entropy of a classifier of noisy records.

    The classifier's term is the leaf "class" of the terms; it looks at noisy records of its own.

    Arguments:
        objective: The other objective; it draws what it would draw alone.
        classifier: log p(c | x_t); see `Classifier`.
        weight: lambda, at least 0; at 0 this is the other objective.
        times: Law of the times at which the classifier is trained.

    Raises:
        ValueError: If the weight is negative or not finite; on a call, if the classifier does not
            return one number a sample.
    """

    def __init__(
        self,
        objective: Objective,
        classifier: LogProb,
        weight: float,
        *,
        times: TimeDistribution | None = None,
    ) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            msg = f"weight must be finite and at least 0, got {weight}"
            raise ValueError(msg)
        self.objective, self.classifier, self.weight = objective, classifier, weight
        self.times = times or UniformTimes()

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the other objective, and that of the classifier."""
        terms = self.objective(denoiser, batch, random)
        if self.weight == 0:
            return terms
        process: Any = denoiser.process.bind(batch)
        part = batch.part or Part(0, 1, batch.samples)
        own = random.scoped(leaf="class")
        drawn = self.times.draw(batch.samples, own, part=part).to(batch.device)
        t = process.times({n: layout.spread(drawn) for n, layout in batch.layouts.items()})
        noisy = batch.with_leaves(process.diffuse(batch.leaves, t, own))
        missed = -per_sample(self.classifier(noisy, t), batch, "classifier")
        return Terms({**terms.leaves, "class": self.weight * missed}, terms.clock)
