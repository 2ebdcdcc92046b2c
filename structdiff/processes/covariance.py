r"""Factors A of a covariance: noise A z has the covariance Sigma = A A^T.

A factor is an invertible linear map of the rows of a leaf. It never is a matrix on all numbers of
a sample: it scales entries (`Scaling`), mixes the entries of a row (`covariance_dense`, and the
bases of `covariance_bases`) or the rows of a sample (`covariance_rows`); `Composed` makes products
of them, and so Kronecker products of covariances along the axes of a row.

Where entries are given, the free ones keep the marginal of the noise, Sigma_FF, and a factor maps
given entries to themselves; one that cannot refuses.

References:
    Score-based Denoising Diffusion with Non-Isotropic Gaussian Noise Models (Voleti, Pal and
    Oberman, 2022). https://arxiv.org/abs/2210.12254
    PriorGrad: Improving Conditional Denoising Diffusion Models with Data-Dependent Adaptive Prior
    (Lee et al., 2022). https://arxiv.org/abs/2106.06406
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from structdiff.batch import Batch

__all__ = ["Composed", "FromCondition", "Factor", "Scaling", "Source"]


class Source(nn.Module, ABC):
    """A number for each row that a process needs: a constant, or read from the condition."""

    @abstractmethod
    def read(self, batch: Batch) -> Tensor:
        """The value for a batch of one leaf, in its dtype; it broadcasts over rows."""


class Constant(Source):
    """The same for all rows.

    Arguments:
        value: The value of one row.
    """

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def read(self, batch: Batch) -> Tensor:
        """The value, whatever the batch."""
        (x,) = batch.leaves.values()
        return self.value.to(x)[None]


class FromCondition(Source):
    """Read from a condition of the batch, by a function of it.

    Presence masks are not looked at: they say what a network sees, and all branches of a guided
    denoiser must speak of one noise.

    Arguments:
        name: The condition.
        function: From the condition's values, `(samples, ...)`, to one value for each sample; the
            identity by default. A module is trained with the rest.

    Example:
        >>> batch = Batch.of(torch.zeros(2)).with_condition({"mean": torch.tensor([1.0, 2.0])})
        >>> FromCondition("mean", lambda value: 3 * value).read(batch)
        tensor([3., 6.])
    """

    def __init__(self, name: str, function: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.name, self.function = name, function

    def read(self, batch: Batch) -> Tensor:
        """The value of each row.

        Raises:
            ValueError: If the batch has no such condition.
        """
        if self.name not in batch.condition:
            has = f"the process needs the condition {self.name!r}"
            msg = f"{has}, but the batch has {sorted(batch.condition)}: give it"
            raise ValueError(msg)
        (x,), (layout,) = batch.leaves.values(), batch.layouts.values()
        value = batch.condition[self.name]
        return layout.spread((value if self.function is None else self.function(value)).to(x))


def source(value: Tensor | Source) -> Source:
    """A source, or a constant."""
    return value if isinstance(value, Source) else Constant(value)


def given_mask(batch: Batch) -> Tensor | None:
    """The mask of what is given of the one leaf, or None."""
    return next(iter(batch.given.values()), None)


class Factor(nn.Module, ABC):
    """An invertible linear map A of the rows of a leaf."""

    mixes_entries = False
    """Whether it mixes entries of a row."""

    mixes_rows = False
    """Whether it mixes rows of a sample."""

    def check(self, event: Sequence[int]) -> None:  # noqa: B027
        """Refuse an event that the factor does not fit."""

    @abstractmethod
    def bind(self, batch: Batch) -> Self:
        """The factor of the rows of a batch of one leaf: its layout, condition and given mask."""

    @abstractmethod
    def multiply(self, u: Tensor) -> Tensor:
        """A u."""

    @abstractmethod
    def solve(self, x: Tensor) -> Tensor:
        """A^{-1} x."""

    @abstractmethod
    def multiply_transpose(self, x: Tensor) -> Tensor:
        """A^T x."""

    @abstractmethod
    def solve_transpose(self, u: Tensor) -> Tensor:
        """A^{-T} u."""

    @abstractmethod
    def log_det(self, x: Tensor) -> Tensor:
        """What each entry adds to log |det A|; it broadcasts against x."""

    @final
    def bound(self, **known: Any) -> Self:
        """A shallow copy that knows more."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__.update(known)
        return other

    @final
    def refuse_entries(self, batch: Batch) -> None:
        """Refuse a mask of entries.

        Raises:
            ValueError: If single entries of rows are given.
        """
        mask = given_mask(batch)
        if mask is not None and mask.ndim > 1:
            has = f"{type(self).__name__} mixes what is given with what is not"
            msg = f"{has}: hold whole rows, (rows,), got a mask of shape {tuple(mask.shape)}"
            raise ValueError(msg)


class Scaling(Factor):
    """A number for each entry: a diagonal covariance.

    Arguments:
        scale: Standard deviations, positive: a tensor that broadcasts against one row, or read
            from the condition.

    Raises:
        ValueError: If a constant is not positive.

    Example:
        >>> from structdiff import Cosine, Gaussian, Generator
        >>> from structdiff.processes.affine import Affine
        >>> process = Affine(Gaussian(Cosine(), event=(2,)), Scaling(torch.tensor([1.0, 5.0])))
        >>> process.bind(Batch.of(torch.zeros(10_000, 2))).prior(Generator(0)).std(0).round()
        tensor([1., 5.])
    """

    scale: Tensor

    def __init__(self, scale: Tensor | Source) -> None:
        super().__init__()
        if isinstance(scale, Tensor) and not bool((scale > 0).all()):
            msg = f"scale must be positive, got {scale.min().item()} at least once"
            raise ValueError(msg)
        self.source = source(scale)

    def check(self, event: Sequence[int]) -> None:
        """Refuse a constant that does not broadcast against a row."""
        if isinstance(self.source, Constant):
            check_broadcast("scale", self.source.value.shape, event)

    def bind(self, batch: Batch) -> Self:
        """Read the scales.

        Raises:
            ValueError: If those of a condition do not fit a row.
        """
        (x,) = batch.leaves.values()
        return self.bound(scale=fitted("scale", self.source.read(batch), x))

    def multiply(self, u: Tensor) -> Tensor:
        """Times the scale."""
        return self.scale * u

    def solve(self, x: Tensor) -> Tensor:
        """Divided by the scale."""
        return x / self.scale

    def multiply_transpose(self, x: Tensor) -> Tensor:
        """Times the scale."""
        return self.scale * x

    def solve_transpose(self, u: Tensor) -> Tensor:
        """Divided by the scale."""
        return u / self.scale

    def log_det(self, x: Tensor) -> Tensor:
        """Log of the scale."""
        del x
        return self.scale.log()


def fitted(name: str, value: Tensor, x: Tensor) -> Tensor:
    """A value `(rows, ...)` or `(1, ...)` with trailing axes, to broadcast against x by row.

    Raises:
        ValueError: If what it has for a row does not broadcast against one.
    """
    check_broadcast(name, value.shape[1:], x.shape[1:])
    missing = x.ndim - value.ndim
    return value.reshape(value.shape[0], *(1,) * missing, *value.shape[1:])


def check_broadcast(name: str, shape: Sequence[int], event: Sequence[int]) -> None:
    """Refuse values of a shape that does not broadcast against one row.

    Raises:
        ValueError: If it does not.
    """
    sizes = zip(reversed(shape), reversed(event), strict=False)
    if len(shape) > len(event) or not all(ours in (1, theirs) for ours, theirs in sizes):
        msg = f"{name} must broadcast against a row {tuple(event)}, got {tuple(shape)}"
        raise ValueError(msg)


def axis_of(x: Tensor, axis: int) -> int:
    """The axis of a row as one of x."""
    return axis + 1 if axis >= 0 else x.ndim + axis


def axis_size(event: Sequence[int], axis: int | None) -> int:
    """Entries of a row, or of one of its axes.

    Raises:
        ValueError: If a row has no such axis.
    """
    if axis is None:
        return torch.Size(event).numel()
    if not -len(event) <= axis < len(event):
        msg = f"axis must be one of a row {tuple(event)}, got {axis}"
        raise ValueError(msg)
    return tuple(event)[axis]


class Composed(Factor):
    """The product A_1 A_2 ... of factors; along two axes that of a Kronecker covariance.

    Arguments:
        factors: The factors, first the one that acts last.

    Raises:
        ValueError: If there are none.

    Example:
        >>> from structdiff.processes.covariance_dense import Cholesky
        >>> time, space = torch.tensor([[1.0, 0.5], [0.5, 1.0]]), 4 * torch.eye(3)
        >>> factor = Composed(Cholesky(time, axis=0), Cholesky(space, axis=1))
        >>> factor = factor.bind(Batch.of(torch.zeros(1, 2, 3)))
        >>> factor.multiply(torch.tensor([[[1.0, 0, 0], [0, 0, 0]]]))
        tensor([[[2., 0., 0.],
                 [1., 0., 0.]]])
    """

    def __init__(self, *factors: Factor) -> None:
        super().__init__()
        if not factors:
            msg = "factors must be at least one, got none"
            raise ValueError(msg)
        self.factors = nn.ModuleList(factors)
        self.mixes_entries = any(factor.mixes_entries for factor in factors)
        self.mixes_rows = any(factor.mixes_rows for factor in factors)
        self.parts: tuple[Any, ...] = factors

    def check(self, event: Sequence[int]) -> None:
        """Of each factor."""
        for factor in self.parts:
            factor.check(event)

    def bind(self, batch: Batch) -> Self:
        """Bind the factors.

        Raises:
            ValueError: If what is given stands in the way: entries where a factor mixes them, or
                rows where two factors mix rows.
        """
        if len(self.parts) > 1 and (self.mixes_entries or self.mixes_rows):
            self.refuse_entries(batch)
        if batch.given and sum(factor.mixes_rows for factor in self.parts) > 1:
            msg = "two factors that mix rows have no marginal on free rows: give whole samples"
            raise ValueError(msg)
        return self.bound(parts=tuple(factor.bind(batch) for factor in self.parts))

    def multiply(self, u: Tensor) -> Tensor:
        """A_1 A_2 ... u."""
        for factor in reversed(self.parts):
            u = factor.multiply(u)
        return u

    def solve(self, x: Tensor) -> Tensor:
        """... A_2^{-1} A_1^{-1} x."""
        for factor in self.parts:
            x = factor.solve(x)
        return x

    def multiply_transpose(self, x: Tensor) -> Tensor:
        """... A_2^T A_1^T x."""
        for factor in self.parts:
            x = factor.multiply_transpose(x)
        return x

    def solve_transpose(self, u: Tensor) -> Tensor:
        """A_1^{-T} A_2^{-T} ... u."""
        for factor in reversed(self.parts):
            u = factor.solve_transpose(u)
        return u

    def log_det(self, x: Tensor) -> Tensor:
        """The sum."""
        return torch.stack([factor.log_det(x).expand_as(x) for factor in self.parts]).sum(0)
