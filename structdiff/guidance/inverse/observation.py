r"""What was measured of a leaf on R^n: y = A(x_0) + n, with n ~ N(0, noise_std^2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.operators.base import Factored, Measurement
from structdiff.operators.check import check_operator
from structdiff.processes.base import Estimate, Process
from structdiff.processes.gaussian import Gaussian
from structdiff.processes.leaf import sum_event
from structdiff.samplers.base import Sampler
from structdiff.spaces.subspace import Whole

__all__ = ["Observation", "check_factored", "check_noise", "check_whole", "row_times"]


class Observation:
    """A measurement of a leaf and what came out.

    Arguments:
        operator: What is measured of each row.
        y: What came out, `(rows, *measured)`, or `(*measured)` for all rows alike.
        noise_std: Standard deviation of its noise, at least 0.
        leaf: Name of the leaf.

    Raises:
        ValueError: If y has another shape or is not finite, the noise is negative, or the
            operator breaks its contract (see `check_operator`).

    Example:
        >>> from structdiff.operators import Mask
        >>> mask = Mask(torch.tensor([True, False]))
        >>> seen = Observation(mask, torch.tensor([3.0]), noise_std=0.1)
        >>> seen.residual(torch.zeros(4, 2)).shape
        torch.Size([4, 1])
    """

    def __init__(
        self, operator: Measurement, y: Tensor, *, noise_std: float = 0.0, leaf: str = "x"
    ) -> None:
        if not (math.isfinite(noise_std) and noise_std >= 0):
            msg = f"noise_std must be finite and at least 0, got {noise_std}"
            raise ValueError(msg)
        measured = operator.measured
        if tuple(y.shape[1:]) != measured and tuple(y.shape) != measured:
            must = f"(rows, *{measured}) or {measured}"
            msg = f"y must have what {type(operator).__name__} measures, {must}, got "
            raise ValueError(msg + f"{tuple(y.shape)}")
        if not bool(torch.isfinite(y).all()):
            msg = f"y must be finite, {int((~torch.isfinite(y)).sum())} of its numbers are not"
            raise ValueError(msg)
        if y.is_complex():
            msg = "y must be real: stack real and imaginary parts as two channels, see FourierMask"
            raise ValueError(msg)
        y = y if y.is_floating_point() else y.to(torch.get_default_dtype())
        one = y.ndim == len(measured)
        self.operator, self.y = operator, y.unsqueeze(0) if one else y
        self.noise_std, self.leaf = float(noise_std), leaf
        check_operator(operator, like=self.y)

    def check_rows(self, x: Tensor) -> None:
        """Refuse rows for which there is no y.

        Raises:
            ValueError: If y has other rows than x.
        """
        if len(self.y) not in (1, len(x)):
            msg = f"y has {len(self.y)} rows, the leaf {self.leaf!r} has {len(x)}: give one each"
            raise ValueError(msg)

    def residual(self, x: Tensor) -> Tensor:
        """y - A(x).

        Raises:
            ValueError: If y has other rows than x.
        """
        self.check_rows(x)
        gap: Tensor = self.y.to(x) - self.operator(x)
        return gap

    def squares(self, said: Mapping[str, Estimate], batch: Batch) -> Tensor:
        """|y - A(estimate)|^2 of each sample, `(samples,)`."""
        gap = self.residual(said[self.leaf].value)
        return batch.layouts[self.leaf].sum(sum_event(gap.square()))

    def log_prob(self, said: Mapping[str, Estimate], batch: Batch) -> Tensor:
        """log N(y; A(estimate), noise_std^2) of each sample: a `Reward`.

        With `Rewarded` at scale 1 it gives theorem 1 of Chung et al., which takes p(y | x_t) for
        p(y | x_0 = E[x_0 | x_t]).

        Raises:
            ValueError: If there is no noise, so that there is no density.
        """
        if self.noise_std == 0:
            msg = "noise_std is 0, so that y has no density: give the noise, or use PiGDM or DDRM"
            raise ValueError(msg)
        size = math.prod(self.operator.measured)
        constant = size * (math.log(self.noise_std) + 0.5 * math.log(2 * math.pi))
        rows = batch.layouts[self.leaf].size.to(self.y.dtype)
        return -0.5 * self.squares(said, batch) / self.noise_std**2 - constant * rows

    def check_leaf(self, process: Process) -> None:
        """Refuse a process whose leaf is not on R^n or has rows of another shape.

        Raises:
            ValueError: If so.
        """
        product: Any = process
        if self.leaf not in product.offering(Gaussian):
            has = f"Gaussian leaves are {list(product.offering(Gaussian))}"
            msg = f"leaf {self.leaf!r} must be Gaussian for its entries to be measured, {has}"
            raise ValueError(msg)
        if product[self.leaf].event != self.operator.event:
            rows = f"leaf {self.leaf!r} has rows of shape {product[self.leaf].event}"
            msg = f"{rows}, the operator measures {self.operator.event}"
            raise ValueError(msg)


def check_whole(seen: Observation, process: Process) -> None:
    """Refuse a leaf that a pseudo-inverse could lead out of its subspace, or no leaf of R^n.

    Raises:
        ValueError: If it is one.
    """
    seen.check_leaf(process)
    product: Any = process
    space = product[seen.leaf].space
    if not isinstance(space, Whole):
        has = f"leaf {seen.leaf!r} lives in the subspace {type(space).__name__}"
        msg = f"{has}, out of which what was measured may lead: use DPS"
        raise ValueError(msg)


def check_noise(seen: Observation, process: Process) -> None:
    """Refuse a leaf whose noise differs between directions.

    Raises:
        ValueError: If it lives in a subspace, has noise levels by entry, or is not on R^n.
    """
    seen.check_leaf(process)
    product: Any = process
    leaf = product[seen.leaf]
    if not isinstance(leaf.space, Whole) or leaf.schedule.event:
        msg = f"leaf {seen.leaf!r} must have the same noise in all directions of R^n: use Rewarded"
        raise ValueError(msg)


def check_factored(seen: Observation, process: Process) -> Factored:
    """The operator, if the coefficients of its singular basis can be set in a noisy leaf.

    Raises:
        ValueError: If its singular values are not known, or the noise of the leaf differs between
            directions.
    """
    check_noise(seen, process)
    if not isinstance(seen.operator, Factored):
        has = f"the singular values of {type(seen.operator).__name__} are not known"
        msg = f"{has}: use Matrix.of(operator), which finds them"
        raise ValueError(msg)
    return seen.operator


def row_times(sampler: Sampler, name: str) -> Tensor:
    """When the rows of a leaf are, at each of a sampler's times, `(steps + 1, 1 or rows)`.

    Given entries are earlier than the others of their row, and not looked at.
    """
    times = [t[name] for t in sampler.leaf_times[: sampler.steps + 1]]
    return torch.stack([t.reshape(-1) if t.ndim < 2 else t.flatten(1).amax(1) for t in times])
