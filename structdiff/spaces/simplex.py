r"""The probability simplex with the metric of Fisher and Rao.

A point is K probabilities p, and the length of dp is sum_k dp_k^2 / p_k. The map s = sqrt(p) to
the unit sphere in R^K doubles lengths, d(p, q) = 2 arccos(sqrt(p) . sqrt(q)), so a tangent vector
v = dp / sqrt(p) is one of R^K with <s, v> = 0, in which the metric is the sum of squares, and

    exp(p, v) = exp_S(s, v / 2)^2,    log(p, q) = 2 log_S(s, sqrt(q)),

transport is the sphere's. The image is the part of the sphere with s_k >= 0, which is convex: all
shortest geodesics stay in it. One that meets a face s_k = 0 goes on over the sphere, and the
square folds it back as a mirror does; it is the shortest no longer. So the injectivity radius,
2 pi, is that of the sphere of radius 2, whereas `log` undoes `exp` as long as the way stays
inside: at least up to 2 arcsin(sqrt(min_k p_k)). Brownian motion on the sphere becomes Brownian
motion that is reflected at the faces.

At p_k = 0 the square root has no derivative. Where p_k is at most the square of the rounding its
root is taken for four roundings, so that values are right there to rounding and a point of a face
may move off it, with all derivatives along the way; derivatives in p_k itself, which grow like
p_k^{-1/2}, are those of a constant.

References:
    Categorical Flow Matching on Statistical Manifolds (Cheng et al., 2024).
    https://arxiv.org/abs/2405.16441
    Fisher Flow Matching for Generative Modeling over Discrete Data (Davis et al., 2024).
    https://arxiv.org/abs/2405.14664
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from structdiff.spaces.base import Belonging, Compact, Isometry, check_points, judge
from structdiff.spaces.sphere import Sphere

if TYPE_CHECKING:
    from torch import Tensor

    from structdiff.random import Randomness

__all__ = ["Simplex"]


class Simplex(Compact):
    """`classes` probabilities, `(rows, classes)`, with tangent vectors dp / sqrt(p).

    Arguments:
        classes: K, from 2 to 128.

    Raises:
        ValueError: If there are fewer classes or more.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space = Simplex(2)
        >>> space.distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([3.1416])
        >>> space.exp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4 * torch.pi / 3]]))
        tensor([[0.2500, 0.7500]])
    """

    injectivity = 2 * math.pi

    def __init__(self, classes: int) -> None:
        if not 2 <= classes <= 128:
            message = f"classes is {classes}, must be from 2 to 128: give the number of classes"
            raise ValueError(message)
        self.sphere = Sphere(classes - 1)
        self.point = self.tangent = (classes,)
        self.dimension = classes - 1

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """exp of the sphere, folded at the faces."""
        return self.sphere.exp(_root(x), v / 2).square()

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Twice the log of the sphere; its length is at most pi."""
        return 2 * self.sphere.log(_root(x), _root(y))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """That of the sphere."""
        return self.sphere.transport(_root(x), _root(y), v)

    def project(self, x: Tensor) -> Tensor:
        """Negative numbers set to 0, then divided by the sum: the nearest up to rounding."""
        positive = x.clamp(min=0)
        return positive / positive.sum(1, keepdim=True)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The vector less its part along sqrt(p)."""
        return self.sphere.to_tangent(_root(x), v)

    def frame(self, x: Tensor) -> Tensor:
        """That of the sphere."""
        return self.sphere.frame(_root(x))

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """(K - 2) log |sin(r / 2) / (r / 2)| with r = |v|."""
        return self.sphere.log_jacobian(_root(x), v / 2)

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Equal probabilities."""
        classes = self.point[0]
        return torch.full((classes,), 1 / classes, dtype=dtype, device=device)

    def features(self, x: Tensor) -> Tensor:
        """sqrt(K p), which are 1 at the origin."""
        return math.sqrt(self.point[0]) * _root(x)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Numbers that are not negative and have the sum 1."""
        check_points(self, x)
        off = torch.maximum((x.sum(1) - 1).abs(), -x.amin(1))
        what = "the sum differs from 1, or a number is below 0, by"
        return judge(off, tolerance, what, "give probabilities, or the nearest by project")

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """A random order of the classes; there are no others."""
        order = random.uniform(self.point, dtype, device).argsort()
        return lambda x: x[:, order]

    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Squares of uniform directions: the law Dirichlet(1/2, ..., 1/2)."""
        return self.sphere.uniform(rows, random, dtype, device).square()

    @property
    def log_volume(self) -> float:
        """log(pi^{K/2} / Gamma(K/2)): the 2^K-th part of a sphere of radius 2."""
        return self.sphere.log_volume - math.log(2)


def _root(p: Tensor) -> Tensor:
    """The square root; that of nothing is four roundings, and constant."""
    flat, least = p.detach(), torch.finfo(p.dtype).eps
    steep = flat > least**2
    return torch.where(steep, torch.where(steep, p, 1.0).sqrt(), 4 * least)
