r"""Objectives of class leaves that a Gaussian process noises as codewords.

Batches hold classes; the objective encodes them, so that learned embeddings are trained with the
network. `ScoreInterpolation` trains the classes that a network says,

    E_t w(clock_t) [-log p(k | x_t)],    x_t = alpha e_k + sigma z,

and `EndToEnd` a network that says the embedding x_0 itself, with

    L + KL(q(x_1 | x_0), prior) + |e_k - mean(x_first)|^2 + [-log p(k | x_0)],    x_0 = e_k + s z,

where L is another objective (`Denoising` for L_simple) and p(k | x_0) rounds. Without rounding all
embeddings would fall into one point, where L is 0.

References:
    Continuous Diffusion for Categorical Data (Dieleman et al., 2022), section 3.
    https://arxiv.org/abs/2211.15089
    Diffusion-LM Improves Controllable Text Generation (Li et al., 2022), section 4.
    https://arxiv.org/abs/2205.14217
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Denoising, Objective, Terms
from structdiff.objectives.times import TimeDistribution
from structdiff.objectives.weights import Uniform, Weight
from structdiff.parameterisations.embedded import LOG_P, Code, Embedding, embed
from structdiff.processes.leaf import expand, sum_event
from structdiff.random import Randomness

__all__ = ["EndToEnd", "ScoreInterpolation"]


def cross_entropy(log_p: Tensor, index: Tensor, held: Tensor | None) -> Tensor:
    """-log p of the classes, summed over the event, `(rows,)`; given entries count nothing."""
    error = -log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return sum_event(error if held is None else torch.where(expand(held, error), 0.0, error))


def check_trained(denoiser: Denoiser, embeddings: Mapping[str, Embedding]) -> None:
    """Refuse embeddings that no optimiser of the denoiser will see."""
    known = {id(weight) for weight in denoiser.parameters()}
    strange = [n for n, table in embeddings.items() if id(table.weight) not in known]
    if strange:
        msg = f"the embeddings of {strange} are no part of the denoiser, so nothing trains them"
        raise ValueError(f"{msg}: make them a submodule of it or of its network")


class ScoreInterpolation(Objective):
    """Cross-entropy of the classes that a `ClassDenoiser` says at noisy codewords.

    Leaves that are not embedded have the error of their process: the squared error of bits, the
    cross-entropy of a chain.

    Arguments:
        codes: The code of each leaf of the batch whose classes become codewords.
        embeddings: Those of them that the denoiser says classes of.
        weights: One weight for all leaves or one per leaf; 1 by default.
        times: Law of the training times.
        self_conditioning: Probability that the network sees a first estimate of its own.

    Raises:
        ValueError: On a call, if an embedding is not a part of the denoiser.
    """

    def __init__(
        self,
        codes: Mapping[str, Code],
        embeddings: Mapping[str, Embedding],
        *,
        weights: Weight | Mapping[str, Weight] | None = None,
        times: TimeDistribution | None = None,
        self_conditioning: float = 0.0,
    ) -> None:
        self.codes, self.embeddings = dict(codes), dict(embeddings)
        self.denoising = Denoising(
            weights or Uniform(), times, self_conditioning=self_conditioning
        )

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Encode, diffuse, denoise, compare classes."""
        check_trained(denoiser, self.embeddings)
        clean, plan = embed(batch, self.codes), self.denoising
        process = denoiser.process.bind(clean)
        t = process.times(plan.draw_times(clean, random))
        noisy = clean.with_leaves(process.diffuse(clean.leaves, t, random))
        estimate = denoiser(noisy, t, plan.first_estimate(denoiser, noisy, t, random))
        errors = dict(process.loss(estimate, clean.leaves, noisy.leaves, t))
        for name in self.embeddings:
            log_p = estimate[name].extras[LOG_P]
            errors[name] = cross_entropy(log_p, batch[name], batch.given.get(name))
        clock = process.clock(t)
        seen = {n: batch if n in self.embeddings else clean for n in errors}
        leaves = {n: plan.reduce(n, e, clock[n], seen[n]) for n, e in errors.items()}
        return Terms(leaves, clock)


class EndToEnd(Objective):
    """Another objective on embeddings that are learned with it, and the rounding to classes.

    The terms of a leaf are named `NAME rounding`, `NAME prior` and `NAME anchor` beside its own;
    those of embeddings are means over rows and numbers, that of rounding over rows.

    Arguments:
        objective: What looks at the embedded batch.
        embeddings: The embedding of each leaf of the batch whose classes are embedded.
        spread: Standard deviation s of x_0 around the embedding, at least 0.
        anchor: Weight of the estimate's distance from the embedding at `first`; it costs a
            second call of the denoiser unless it is 0. In a chain of T steps with L_simple the
            paper's is 1 / T.
        first: Time of the first step of the chain, in (0, 1].

    Raises:
        ValueError: If a number is out of range; on a call, if an embedding is not a part of the
            denoiser.
    """

    def __init__(
        self,
        objective: Objective,
        embeddings: Mapping[str, Embedding],
        *,
        spread: float = 0.0,
        anchor: float = 1.0,
        first: float = 5e-4,
    ) -> None:
        if spread < 0 or anchor < 0:
            msg = f"spread and anchor must be at least 0, got {spread} and {anchor}"
            raise ValueError(msg)
        if not 0 < first <= 1:
            msg = f"first must be in (0, 1], got {first}"
            raise ValueError(msg)
        self.objective, self.embeddings = objective, dict(embeddings)
        self.spread, self.anchor, self.first = spread, anchor, first

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the other objective and those that tie embeddings to classes."""
        check_trained(denoiser, self.embeddings)
        words = embed(batch, self.embeddings)
        clean = words.with_leaves({**words.leaves, **self._spread_out(words, random)})
        terms = self.objective(denoiser, clean, random)
        extra = {
            f"{name} rounding": batch.layouts[name].mean(error) / batch[name][:1].numel()
            for name, error in self._rounding(batch, clean).items()
        }
        process: Any = denoiser.process.bind(clean)
        ties = {"prior": process.prior_divergence(clean.leaves)}
        if self.anchor > 0:
            ties["anchor"] = self._anchor(denoiser, words, clean, random)
        for title, errors in ties.items():
            for name in self.embeddings:
                mean = batch.layouts[name].mean(errors[name])
                extra[f"{name} {title}"] = mean / clean[name][:1].numel()
        return Terms({**terms.leaves, **extra}, terms.clock)

    def _spread_out(self, words: Batch, random: Randomness) -> dict[str, Tensor]:
        """x_0 = e + s z where it is not given, by leaf."""
        drawn = {}
        for name in self.embeddings:
            x, layout, held = words[name], words.layouts[name], words.given.get(name)
            scoped = random.scoped(leaf=f"spread of {name}", ids=words.ids, layout=layout)
            noisy = x + self.spread * scoped.normal(x.shape, x.dtype, x.device)
            drawn[name] = noisy if held is None else torch.where(expand(held, x), x, noisy)
        return drawn

    def _rounding(self, batch: Batch, clean: Batch) -> dict[str, Tensor]:
        """-log p(k | x_0) per row, by leaf."""
        return {
            name: cross_entropy(
                torch.log_softmax(table.logits(clean[name]), -1),
                batch[name],
                batch.given.get(name),
            )
            for name, table in self.embeddings.items()
        }

    def _anchor(
        self, denoiser: Denoiser, words: Batch, clean: Batch, random: Randomness
    ) -> dict[str, Tensor]:
        """Weighted |e - mean(x_first)|^2 per row, by leaf."""
        process = denoiser.process.bind(clean)
        t = process.times(torch.tensor(self.first, dtype=torch.float64, device=words.device))
        scoped = random.scoped(leaf="anchor")
        noisy = clean.with_leaves(process.diffuse(clean.leaves, t, scoped))
        errors = process.loss(denoiser(noisy, t, None), words.leaves, noisy.leaves, t)
        return {name: self.anchor * errors[name] for name in self.embeddings}
