r"""The rotation group SO(3).

A point is a rotation matrix, a tangent vector v in R^3 the velocity in the body frame:
exp(x, v) = x expm([v]_x), where [v]_x u is the vector product of v and u. The length of a geodesic
is its angle, the volume is 8 pi^2, the eigenvalues of the Laplacian are -l (l + 1). With
q = (cos(w / 2), sin(w / 2) n), w in [0, pi], the unit quaternion of x^T y:

    log(x, y) = w n,
    transport of v from x to y = v rotated by -log(x, y) / 2,

the latter since nabla_X Y = [X, Y] / 2 for left-invariant fields. The heat kernel (generator
Laplacian / 2, so tau is the variance per coordinate) is f(w) / (8 pi^2),

    f(w) = sum_{l >= 0} (2 l + 1) exp(-l (l + 1) tau / 2) sin((l + 1/2) w) / sin(w / 2)         (1)
         = sqrt(2 pi) exp(tau / 8) / (tau^{3/2} sin(w / 2))
           sum_k (-1)^k (w - 2 pi k) exp(-(w - 2 pi k)^2 / (2 tau)).                            (2)

(2) is (1) after Poisson summation over the half-integers l + 1/2. The terms of (1) cancel in the
tail of small tau, those of (2) do not. (2) serves tau <= 1, where k = -1, 0, 1 are exact to
rounding, and (1) serves tau >= 1, where l <= 8 are. The literature also writes sigma^2 = tau and
sigma^2 = tau / 2: here the exponent is l (l + 1) tau / 2.

References:
    Normal distribution on the rotation group SO(3) (Nikolayev and Savyolova, 1997), for (1).
    https://doi.org/10.1155/TSM.29.201
    SE(3) diffusion model with application to protein backbone generation (Yim et al., 2023).
    https://arxiv.org/abs/2302.02277
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022).
    https://arxiv.org/abs/2202.02763
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structdiff.spaces.base import (
    Belonging,
    Framed,
    HeatKernel,
    Isometry,
    check_points,
    judge,
)
from structdiff.spaces.igso3 import draw, log_density, score_over_sine
from structdiff.spaces.turns import (
    assemble,
    column,
    components,
    cross,
    dot,
    entries,
    half_sine,
    half_turn,
    largest_root,
    matrix,
    relative,
    stack,
    turn_of,
    vector,
)

if TYPE_CHECKING:
    from structdiff.random import Randomness

__all__ = ["SO3"]

_GRID = 96


class SO3(Framed, HeatKernel):
    """Rotations of space, `(rows, 3, 3)`, with tangent vectors `(rows, 3)` in the body frame.

    At a rotation by pi there are two shortest tangent vectors; `log` returns the one whose largest
    component (the first among equals) is positive.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space, x = SO3(), torch.eye(3)[None]
        >>> y = space.exp(x, torch.tensor([[0.0, 0.0, 1.0]]))
        >>> space.log(x, y)
        tensor([[0., 0., 1.]])
        >>> space.log_kernel(x, y, torch.tensor(0.5))
        tensor([-2.6126])
    """

    point = (3, 3)
    tangent = (3,)
    dimension = 3
    injectivity = math.pi

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The rotation `x expm([v]_x)`."""
        turn = torch.stack([entry for row in matrix(*half_turn(v)) for entry in row])
        turn, start = turn.reshape(3, 3, len(v)), x.permute(1, 2, 0).contiguous()
        end = start[:, 0, None] * turn[None, 0]
        end = torch.addcmul(end, start[:, 1, None], turn[None, 1])
        end = torch.addcmul(end, start[:, 2, None], turn[None, 2])
        return end.permute(2, 0, 1).contiguous()

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The vector of angle times axis of `x^T y`; its length is at most pi."""
        turn = relative(x, y)
        return vector(turn.factor, turn.axis)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """`v` turned by minus half of `log(x, y)`."""
        turn = relative(x, y)
        (a, b, c), (p, q, r) = turn.axis, components(v)
        along = (a * p + b * q + c * r) / (1 + turn.cosine)
        return stack(
            turn.cosine * p + (c * q - b * r) + along * a,
            turn.cosine * q + (a * r - c * p) + along * b,
            turn.cosine * r + (b * p - a * q) + along * c,
        )

    def project(self, x: Tensor) -> Tensor:
        """The nearest rotation in the Frobenius norm, for any matrix where it is unique.

        References:
            Attitude determination using vector observations: a fast optimal matrix algorithm
            (Markley, 1993), equations 14 to 17.
            https://ntrs.nasa.gov/citations/19930015542
        """
        m = entries(x)
        adjugate = [cross(m[(i + 1) % 3], m[(i + 2) % 3]) for i in range(3)]
        det = dot(m[0], adjugate[0])
        size = dot(m[0], m[0]) + dot(m[1], m[1]) + dot(m[2], m[2])
        minors = sum((dot(row, row) for row in adjugate), start=torch.zeros_like(det))
        top = largest_root(size, det, minors)
        kappa = (top * top - size) / 2
        scale = 1 / (kappa * top - det)
        gram = [[dot(m[i], m[j]) for j in range(3)] for i in range(3)]
        mended = [
            [
                ((kappa + size) * m[i][j] + top * adjugate[i][j] - dot(gram[i], column(m, j)))
                * scale
                for j in range(3)
            ]
            for i in range(3)
        ]
        return assemble(mended)

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """2 log(sin(r / 2) / (r / 2)) with r = |v|."""
        del x
        return 2 * torch.log(2 * half_sine(v.square().sum(-1))[1].abs())

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The identity."""
        return torch.eye(3, dtype=dtype, device=device)

    def features(self, x: Tensor) -> Tensor:
        """The nine entries."""
        return x.flatten(1)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Rotation matrices: orthogonal, with determinant 1."""
        check_points(self, x)
        off = (x.mT @ x - self.origin(x.dtype, x.device)).abs().flatten(1).amax(1)
        off = torch.maximum(off, (torch.linalg.det(x) - 1).abs())
        what = "x^T x differs from the identity, or det x from 1, by"
        return judge(off, tolerance, what, "give rotation matrices, or the nearest by project")

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """Turned from the left and from the right."""
        left, right = self.uniform(2, random, dtype, device)
        return lambda x: left @ x @ right

    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Rotations of the Haar measure: a normal quaternion has a uniform direction."""
        z = random.normal((rows, 4), dtype, device)
        a, b, c, d = (z / z.norm(dim=-1, keepdim=True)).unbind(-1)
        return assemble(matrix(a, (b, c, d)))

    @property
    def log_volume(self) -> float:
        """log(8 pi^2)."""
        return math.log(8 * math.pi**2)

    def diffuse(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """An exact draw: a normal quaternion's axis, its angle moved to the law of the kernel.

        Differentiable in `x` and in `tau`.
        """
        z = random.normal((len(x), 4), x.dtype, x.device)
        return self.exp(x, draw(z.double(), tau.to(x.device, torch.float64)).to(x.dtype))

    def log_kernel(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Logarithm of (1) or (2), less the logarithm of the volume."""
        return log_density(relative(x, y), tau.to(x)) - self.log_volume

    def score(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """The derivative of `log f` in the angle, along the axis."""
        turn = relative(x, y)
        return vector(score_over_sine(turn, tau.to(x)), turn.axis)

    def entropy_gap(self, tau: Tensor) -> Tensor:
        """The integral of f log f against (1 - cos w) / pi, by the midpoint rule.

        The integrand is even about 0 and about pi, so the rule converges exponentially.
        """
        t = tau.double()[..., None]
        end = (12 * t.sqrt()).clamp(max=math.pi)
        node = (torch.arange(_GRID, dtype=t.dtype, device=t.device) + 0.5) / _GRID
        w = end * node
        sine, cosine = torch.sin(w / 2), torch.cos(w / 2)
        log_f = log_density(turn_of(cosine, (sine, 0 * w, 0 * w)), t)
        gap = (log_f.exp() * log_f * sine.square()).mean(-1) * end[..., 0] * (2 / math.pi)
        return gap.to(tau.dtype)


# Arithmetic on components. Each entry is a contiguous vector over rows: on small matrices this is
# several times faster than batched products, and autocast leaves it alone.
