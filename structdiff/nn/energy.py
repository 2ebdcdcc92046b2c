r"""The gradient of a scalar network: a vector field that is conservative by construction.

With e the energy that a network gives to a sample, the output is its gradient in the entries of
the rows that it sees, so that the Jacobian of the output is symmetric. As a network that predicts
`Noise` (eps = -sigma score), with u = x_t / sqrt(alpha^2 + sigma^2) what it sees,

    score = -grad E,    E(x_t) = sqrt(alpha^2 + sigma^2) / sigma e(u),

an energy of p_t up to a constant, which no derivative needs to know.

References:
    Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002).
    How to Train Your Energy-Based Models (Song and Kingma, 2021), section 2.
    https://arxiv.org/abs/2101.03288
    Learning Energy-Based Models in High-Dimensional Spaces with Multiscale Denoising-Score
    Matching (Li, Chen and Sommer, 2019). https://arxiv.org/abs/1910.07762
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from structdiff.batch import Batch

__all__ = ["EnergyGradient"]


class EnergyGradient(nn.Module):
    """A backbone whose output is the gradient of another one's number a sample.

    Arguments:
        energy: As a backbone (batch, clock, previous), but to energies `(samples,)`.

    Raises:
        ValueError: On a call, if a leaf is not real.

    Example:
        >>> class Bowl(nn.Module):
        ...     def forward(self, batch, clock, previous):
        ...         return batch["x"].square().sum(1) / 2
        >>> EnergyGradient(Bowl())(Batch.of(torch.tensor([[1.0, 2.0]])), {}, None)["x"].tolist()
        [[1.0, 2.0]]
    """

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(
        self,
        batch: Batch,
        clock: Mapping[str, Tensor],
        previous: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Gradients by leaf; differentiable where gradients are wanted."""
        classes = [name for name, x in batch.leaves.items() if not x.is_floating_point()]
        if classes:
            msg = f"leaves {classes} are classes, of which an energy has no gradient"
            raise ValueError(msg)
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            points = {
                name: x if x.requires_grad else x.detach().requires_grad_()
                for name, x in batch.leaves.items()
            }
            energy = self.energy(batch.with_leaves(points), clock, previous)
            slopes = torch.autograd.grad(
                energy.sum(), [*points.values()], create_graph=again, materialize_grads=True
            )
        return dict(zip(points, slopes, strict=True))
