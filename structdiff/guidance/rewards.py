r"""Guidance by a function of the clean record: rewards.

A reward r(x_0) is to tilt p(x_0) by e^(w r). What it does to a step is decided by what is known of
x_0 at x_t, the estimate:

- on classes log p(x_0 = k | x_t) grows by w dr/dp_k, where r is a function of the
  probabilities p. For one row and r(p) = sum_k p_k r(k) that is the exact p(x_0 | x_t) e^(w r),
  for a step of any length. For several rows it is one step of the mean-field solution, from p.
- on R^n and manifolds grad log p_t grows by w grad r(estimate(x_t)), through the denoiser, which
  takes E[e^(w r(x_0)) | x_t] for e^(w r(E[x_0 | x_t])): exact for a linear r and normal data.

No function of noisy records has to be learned, and each call differentiates the denoiser where the
record has entries on R^n or a manifold.

References:
    Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023),
    theorem 1.
    https://arxiv.org/abs/2209.14687
    Universal Guidance for Diffusion Models (Bansal et al., 2023), section 3.
    https://arxiv.org/abs/2302.07121
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.classifier import check_guide
from structdiff.guidance.slopes import check_depends, others, per_sample
from structdiff.processes import Estimate, Finite

__all__ = ["Reward", "Rewarded"]

Reward: TypeAlias = Callable[[Mapping[str, Estimate], Batch], Tensor]
"""r(estimates, batch): what is said of the clean record, and x_t, to one number a sample.

Values of estimates are means on R^n, log-probabilities on classes, and on manifolds tangent
vectors v, with the clean point at exp_{x_t}(v).
"""


def detached(estimate: Estimate) -> Estimate:
    """An estimate without its graph."""
    extras = {name: extra.detach() for name, extra in estimate.extras.items()}
    return Estimate(estimate.value.detach(), extras)


class Rewarded(Denoiser):
    """A denoiser whose clean records are tilted by e^(scale r).

    Given entries stay. A denoiser inside that is itself guided by a gradient has its shift taken
    for a constant: put `Rewarded` innermost.

    Arguments:
        denoiser: Any denoiser of a Tractable process, differentiable in x_t unless all leaves are
            on classes.
        reward: r(estimates, batch), differentiable; see `Reward`.
        scale: w.

    Raises:
        ValueError: If the scale is not finite or the process is not Tractable; on a call, if the
            reward is not one number a sample or has no gradient.

    Example:
        >>> from structdiff import Categorical, Flow, Product, absorbing
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), absorbing(2))})
        >>> denoiser = ExactDenoiser(process, Batch.of(torch.tensor([0, 1])))
        >>> worth = torch.tensor([0.0, 3.0]).log1p()
        >>> rewarded = Rewarded(denoiser, lambda said, batch: said["x"].value.exp() @ worth, 1.0)
        >>> rewarded(Batch.of(torch.tensor([2])), {"x": torch.tensor(0.5)})["x"].value.exp()
        tensor([[0.2000, 0.8000]])
    """

    def __init__(self, denoiser: Denoiser, reward: Reward, scale: float) -> None:
        super().__init__()
        check_guide(denoiser, scale)
        self.denoiser, self.reward, self.scale = denoiser, reward, scale
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The tilted estimate; at scale 0 the reward is not asked."""
        if self.scale == 0:
            plain: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
            return plain
        process: Any = self.process.bind(batch)
        finite = process.offering(Finite)
        opened = {n: x.detach().requires_grad_() for n, x in others(batch, finite).items()}
        seen = batch.with_leaves({**batch.leaves, **opened})
        with torch.set_grad_enabled(bool(opened)):
            said = self.denoiser(seen, t, previous)
        opened |= {n: chances(said[n]) for n in finite}
        slopes = slopes_of(self.reward, said, seen, opened, finite)
        slopes = {n: self.scale * slope for n, slope in slopes.items()}
        shift = {n: slope for n, slope in slopes.items() if n not in finite}
        said = {n: detached(estimate) for n, estimate in said.items()}
        shifted = dict(process.shift(said, shift, batch.leaves, t))
        for name in finite:
            value = shifted[name].value
            slope = torch.where(value == -torch.inf, 0.0, slopes[name])
            shifted[name] = replace(shifted[name], value=torch.log_softmax(value + slope, -1))
        return shifted


def slopes_of(
    reward: Reward,
    said: Mapping[str, Estimate],
    seen: Batch,
    opened: Mapping[str, Tensor],
    finite: Collection[str],
) -> dict[str, Tensor]:
    """The gradient of a reward in what is opened: on classes the probabilities."""
    with torch.enable_grad():
        least = torch.finfo(torch.float32).tiny
        told = {n: replace(said[n], value=opened[n].clamp(min=least).log()) for n in finite}
        total = per_sample(reward({**said, **told}, seen), seen, "reward").sum()
        check_depends(total, "reward")
        slopes = torch.autograd.grad(
            total, list(opened.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(opened, slopes, strict=True))


def chances(estimate: Estimate) -> Tensor:
    """The probabilities, to be differentiated in; still a function of x_t if they were one."""
    with torch.enable_grad():
        p = estimate.value.exp()
    return p if p.requires_grad else p.requires_grad_()
