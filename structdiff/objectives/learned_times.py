r"""A schedule that learns from the variance of a loss, not from its mean.

The mean of the continuous bound does not change with a schedule between its ends; the gradient
that its draws have there is noise. What should be small there is their variance, and since the
mean is fixed, their square: the inside of the schedule gets the gradient of E loss^2, all other
parameters that of E loss, from one call of the denoiser.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 5.1 and appendix I.2.
    https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Objective, Terms
from structdiff.random import Randomness

__all__ = ["LearnedTimes"]


class LearnedTimes(Objective):
    """Another objective, with some parameters learned by the square of its draws.

    Arguments:
        objective: What is made small; its mean must not depend on the parameters.
        interior: The parameters, such as `LearnedClock.interior()`.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, objective: Objective, interior: Sequence[Tensor]) -> None:
        self.objective, self.interior = objective, list(interior)
        if not self.interior:
            msg = "interior must have at least one parameter: use the objective as it is"
            raise ValueError(msg)

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the objective, with other gradients."""
        terms = self.objective(denoiser, batch, random)
        if not torch.is_grad_enabled():
            return terms
        loss = torch.stack([*terms.leaves.values()]).sum(0)
        square = loss.square().mean()
        wanted, unwanted = (
            torch.autograd.grad(
                value, self.interior, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for value in (square, loss.mean())
        )
        # A term of value zero, whose gradient turns the one into the other.
        turns = [
            ((a - b) * (p - p.detach())).sum()
            for p, a, b in zip(self.interior, wanted, unwanted, strict=True)
        ]
        share = torch.stack(turns).sum() / len(terms.leaves)
        return Terms({n: leaf + share.to(leaf) for n, leaf in terms.leaves.items()}, terms.clock)
