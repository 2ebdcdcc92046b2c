r"""Classes that become their nearest neighbours.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    appendix A.2.4.
    https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.processes.transitions.dense import Rates, relaxed
from structdiff.processes.transitions.semigroup import reachable

__all__ = ["nearest_neighbour"]


def nearest_neighbour(embeddings: Tensor, neighbours: int) -> Rates:
    r"""D3PM's nearest-neighbour transition.

    G_ij = 1 if i is one of the k classes nearest to j; A = (G + G^T) / (2 k), and R = A off the
    diagonal, rows summing to zero. R is symmetric: all kernels are doubly stochastic, and rows
    end uniform. It is scaled so that its slowest mode decays as alpha does, where the paper
    leaves the scale to its schedule.

    Arguments:
        embeddings: A point per class, `(K, D)`; near classes are alike.
        neighbours: How many nearest ones, k in 1 to K - 1.

    Raises:
        ValueError: If they are not points, k is out of range, or the graph falls apart.

    Example:
        >>> chain = nearest_neighbour(torch.tensor([[0.0], [1.0], [2.5]]), 1)
        >>> (chain.inflow(torch.tensor(0)) > 0).tolist()
        [False, True, False]
    """
    points = embeddings.detach().double().cpu()
    if points.ndim != 2 or not bool(points.isfinite().all()):
        msg = f"embeddings must be finite, of shape (K, D), got {tuple(points.shape)}"
        raise ValueError(msg)
    if not 1 <= neighbours < len(points):
        must = f"in 1 to K - 1 = {len(points) - 1}"
        msg = f"neighbours must be {must}, got {neighbours}"
        raise ValueError(msg)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.fill_diagonal_(torch.inf).topk(neighbours, largest=False).indices
    graph = torch.zeros_like(distance).scatter(1, nearest, 1.0)
    graph = (graph + graph.T) / (2 * neighbours)
    apart = torch.nonzero(~reachable(graph)[0])[:, 0]
    if len(apart):
        what = f"class {int(apart[0])} cannot be reached from class 0"
        msg = f"neighbours = {neighbours} is too few, {what}: take more neighbours"
        raise ValueError(msg)
    return Rates(relaxed(graph - torch.diag(graph.sum(1))))
