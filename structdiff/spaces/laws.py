r"""Laws on a manifold that can be drawn from and have a density: where walks and flows end.

The wrapped normal is the law of exp_c(s z) with z standard normal in the tangent space at a
centre c. Its density against the Riemannian volume is

    log p(x) = -|v|^2 / (2 s^2) - n/2 log(2 pi s^2) - log |det d exp_c(v)|,   v = log_c(x),

where exp_c covers the space once: without conjugate points and with an infinite injectivity
radius (R^n, hyperbolic space, SPD matrices). On compact spaces the heat kernel takes its place,
which knows its images. Laws of the factors of a product, and of the copies of a power, make one of
independent parts, whose densities multiply.

References:
    A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning (Nagano et al.,
    2019), section 3. https://arxiv.org/abs/1902.02992
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from structdiff.spaces.base import Compact, HeatKernel, Manifold
from structdiff.spaces.powers import Folded, Power
from structdiff.spaces.products import ProductSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from structdiff.random import Randomness

__all__ = [
    "HeatLaw",
    "Law",
    "PowerLaw",
    "ProductLaw",
    "UniformLaw",
    "WrappedNormal",
    "natural_law",
]


class Law(ABC):
    """A law on a manifold.

    Attributes:
        manifold: The space.
        name: What it is, for reports: the base measure of likelihoods stays the volume.
    """

    manifold: Manifold
    name: str

    @abstractmethod
    def draw(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent draws, `(rows, *point)`."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log density against the volume in nats, `(rows,)`."""

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """Gradient of `log_prob`, a tangent vector at each x."""


class UniformLaw(Law):
    """The uniform law of a compact manifold.

    Arguments:
        manifold: The space.

    Raises:
        ValueError: If the space is not compact.
    """

    def __init__(self, manifold: Manifold) -> None:
        if not isinstance(manifold, Compact):
            name = type(manifold).__name__
            msg = f"{name} has no uniform law: it is not compact, use WrappedNormal({name}(...))"
            raise ValueError(msg)
        self.manifold: Compact = manifold
        self.name = "uniform"

    def draw(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Uniform points."""
        return self.manifold.uniform(rows, random, dtype, device)

    def log_prob(self, x: Tensor) -> Tensor:
        """Minus the log volume."""
        return x.new_full(x.shape[:1], -self.manifold.log_volume)

    def score(self, x: Tensor) -> Tensor:
        """Zero."""
        return x.new_zeros(len(x), *self.manifold.tangent)


class HeatLaw(Law):
    """The heat kernel around a centre.

    Arguments:
        manifold: A compact space with a heat kernel.
        tau: Its time, positive.
        centre: A point of shape `manifold.point`; the origin by default.

    Raises:
        ValueError: If the time is not positive.
    """

    def __init__(self, manifold: HeatKernel, tau: float, centre: Tensor | None = None) -> None:
        if not tau > 0:
            msg = f"tau must be positive, got {tau}"
            raise ValueError(msg)
        self.manifold: HeatKernel = manifold
        self.tau, self.centre = tau, centre
        self.name = f"heat kernel at tau = {tau:g}"

    def draw(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Exact draws of the kernel."""
        centre = around(self.manifold, self.centre, rows, dtype, device)
        return self.manifold.diffuse(centre, self._time(centre), random)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log kernel."""
        centre = around(self.manifold, self.centre, len(x), x.dtype, x.device)
        return self.manifold.log_kernel(centre, x, self._time(x))

    def score(self, x: Tensor) -> Tensor:
        """The kernel's score."""
        centre = around(self.manifold, self.centre, len(x), x.dtype, x.device)
        return self.manifold.score(centre, x, self._time(x))

    def _time(self, x: Tensor) -> Tensor:
        return torch.tensor(self.tau, dtype=x.dtype, device=x.device)


class WrappedNormal(Law):
    """A normal of a tangent space, wrapped on the manifold by exp.

    Arguments:
        manifold: A space whose injectivity radius is infinite.
        scale: Standard deviation s in each direction, positive.
        centre: A point of shape `manifold.point`; the origin by default.

    Raises:
        ValueError: If the scale is not positive or exp covers the space more than once.

    Example:
        >>> from structdiff.random import Generator
        >>> from structdiff.spaces import Euclidean
        >>> law = WrappedNormal(Euclidean(2), scale=2.0)
        >>> law.log_prob(torch.zeros(1, 2))
        tensor([-3.2242])
    """

    def __init__(
        self, manifold: Manifold, scale: float = 1.0, centre: Tensor | None = None
    ) -> None:
        if not scale > 0:
            msg = f"scale must be positive, got {scale}"
            raise ValueError(msg)
        if manifold.injectivity < math.inf:
            name = type(manifold).__name__
            msg = (
                f"exp of {name} covers it more than once (injectivity radius "
                f"{manifold.injectivity:.3g}), so a wrapped normal has no simple density there: "
                "use UniformLaw or HeatLaw"
            )
            raise ValueError(msg)
        self.manifold, self.scale, self.centre = manifold, scale, centre
        self.name = f"wrapped normal of scale {scale:g}"

    def draw(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """exp of normal tangent vectors."""
        centre = around(self.manifold, self.centre, rows, dtype, device)
        return self.manifold.exp(centre, self.scale * self.manifold.noise(centre, random))

    def log_prob(self, x: Tensor) -> Tensor:
        """The normal density over the Jacobian of exp."""
        space = self.manifold
        centre = around(space, self.centre, len(x), x.dtype, x.device)
        v = space.log(centre, x)
        constant = space.dimension * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        bell = -space.norm2(v) / (2 * self.scale**2) - constant
        return bell - space.log_jacobian(centre, v)

    def score(self, x: Tensor) -> Tensor:
        """By differentiation along exp_x."""
        again = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            v = x.new_zeros(len(x), *self.manifold.tangent).requires_grad_()
            total = self.log_prob(self.manifold.exp(x if again else x.detach(), v)).sum()
            (slope,) = torch.autograd.grad(total, v, create_graph=again)
        return self.manifold.to_tangent(x, slope)


class ProductLaw(Law):
    """Independent laws of the factors of a product.

    Arguments:
        manifold: The product.
        laws: One for each factor, on it.

    Raises:
        ValueError: If there are more laws than factors or fewer.

    Example:
        >>> from structdiff.spaces import SE3
        >>> space = SE3()
        >>> rotation, place = space.spaces
        >>> law = ProductLaw(space, [UniformLaw(rotation), WrappedNormal(place, scale=10.0)])
        >>> law.name
        'uniform x wrapped normal of scale 10'
    """

    def __init__(self, manifold: ProductSpace, laws: Sequence[Law]) -> None:
        if len(laws) != len(manifold.spaces):
            msg = f"laws must be {len(manifold.spaces)}, one for each factor, got {len(laws)}"
            raise ValueError(msg)
        self.manifold: ProductSpace = manifold
        self.laws = tuple(laws)
        self.name = " x ".join(law.name for law in laws)

    def draw(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent draws of the factors."""
        return self.manifold.join([law.draw(rows, random, dtype, device) for law in self.laws])

    def log_prob(self, x: Tensor) -> Tensor:
        """The sum over factors."""
        pieces = zip(self.laws, self.manifold.parts(x), strict=True)
        return torch.stack([law.log_prob(p) for law, p in pieces]).sum(0)

    def score(self, x: Tensor) -> Tensor:
        """Those of the factors."""
        pieces = zip(self.laws, self.manifold.parts(x), strict=True)
        return self.manifold.join([law.score(p) for law, p in pieces])


class PowerLaw(Law):
    """Independent copies of a law.

    Arguments:
        manifold: The power.
        law: A law on the space that it is a power of.
    """

    def __init__(self, manifold: Power, law: Law) -> None:
        self.manifold: Power = manifold
        self.law = law
        self.name = f"{manifold.copies} copies of {law.name}"

    def draw(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent draws."""
        each = Folded(random, self.manifold.copies)
        return self.manifold.together(
            self.law.draw(rows * self.manifold.copies, each, dtype, device)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """The sum over copies."""
        space = self.manifold
        return space.together(self.law.log_prob(space.apart(x))).sum(1)

    def score(self, x: Tensor) -> Tensor:
        """Those of the copies."""
        space = self.manifold
        return space.together(self.law.score(space.apart(x)))


def natural_law(manifold: Manifold) -> Law:
    """Uniform on a compact space, else the wrapped normal of scale 1 at the origin.

    Where neither exists (rigid motions: rotations are compact, translations are not) the factors
    of a product and the copies of a power have theirs.

    Raises:
        ValueError: If there is none.
    """
    if manifold.injectivity == math.inf:
        return WrappedNormal(manifold)
    if not isinstance(manifold, Compact):
        if isinstance(manifold, ProductSpace):
            return ProductLaw(manifold, [natural_law(space) for space in manifold.spaces])
        if isinstance(manifold, Power):
            return PowerLaw(manifold, natural_law(manifold.space))
    return UniformLaw(manifold)


def around(
    space: Manifold, centre: Tensor | None, rows: int, dtype: torch.dtype, device: Any
) -> Tensor:
    """A centre, or the origin, `(rows, *point)`."""
    point = space.origin(dtype, device) if centre is None else centre.to(device, dtype)
    return point.expand(rows, *space.point)
