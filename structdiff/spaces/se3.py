r"""Rigid motions of space, SE(3).

A point (R, t) is the product of a rotation and a translation, as a manifold: the metric is the sum
of those of SO(3) (the angle) and of R^3, not one of the group's left-invariant geodesics of
screws. So exp((R, t), (v, u)) = (R expm([v]_x), t + u) and the rotation and the translation never
mix, which is what diffusion and flows on the frames of proteins use.

References:
    SE(3) diffusion model with application to protein backbone generation (Yim et al., 2023),
    section 3. https://arxiv.org/abs/2302.02277
    SE(3)-Stochastic Flow Matching for Protein Backbone Generation (Bose et al., 2024).
    https://arxiv.org/abs/2310.02391
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from structdiff.spaces.euclidean import Euclidean
from structdiff.spaces.products import ProductSpace
from structdiff.spaces.so3 import SO3

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SE3"]


class SE3(ProductSpace):
    """Rotations and translations, `(rows, 12)`: nine entries of the matrix, then the vector.

    Tangent vectors are `(rows, 6)`: the rotation's in the body frame, then the translation's.
    R^3 is not compact, so there is no heat kernel of finite volume: a diffusion has a record of
    two leaves, rotations with `Brownian` and translations with `Gaussian`; flows act on this one
    leaf. Lengths and angles are weighed alike: measure translations in a unit in which both
    spread as much.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space = SE3()
        >>> x = space.assemble(torch.eye(3)[None], torch.zeros(1, 3))
        >>> y = space.exp(x, torch.tensor([[0.0, 0.0, 1.0, 2.0, 0.0, 0.0]]))
        >>> space.translation(y)
        tensor([[2., 0., 0.]])
        >>> space.distance(x, y)
        tensor([2.2361])
    """

    def __init__(self) -> None:
        super().__init__(SO3(), Euclidean(3))

    def assemble(self, rotation: Tensor, translation: Tensor) -> Tensor:
        """The motions with rotations `(rows, 3, 3)` and translations `(rows, 3)`."""
        return self.join([rotation, translation])

    def rotation(self, x: Tensor) -> Tensor:
        """The rotations, `(rows, 3, 3)`."""
        return self.parts(x)[0]

    def translation(self, x: Tensor) -> Tensor:
        """The translations, `(rows, 3)`."""
        return self.parts(x)[1]
