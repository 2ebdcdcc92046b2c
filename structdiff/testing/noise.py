"""Sources of noise for tests: impulses, none at all, and one that follows addresses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from structdiff.layout import Layout
from structdiff.random import Randomness

__all__ = ["Addressed", "Impulses", "Silent"]


class Impulses(Randomness):
    """The k-th normal draw is 1 in row k and 0 elsewhere, k = 1, 2, ...

    Through a walk that is affine in its noise, row 0 ends at the mean and row k less row 0 is what
    the walk makes of draw k, so the sum of their squares is the variance: exactly, with no
    sampling.

    Example:
        >>> random = Impulses()
        >>> [random.normal((3,), torch.float32, "cpu").tolist() for _ in range(2)]
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    def __init__(self) -> None:
        self.draws = 0

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """The next impulse.

        Raises:
            ValueError: If there are as many draws as rows.
        """
        self.draws += 1
        if self.draws >= shape[0]:
            msg = f"impulses need more rows than draws, got {shape[0]} rows: add rows"
            raise ValueError(msg)
        z = torch.zeros(*shape, dtype=dtype, device=device)
        z[self.draws] = 1
        return z

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Refused: a walk that draws classes is not affine in its noise."""
        msg = "impulses have no uniform numbers: use them on R^n only"
        raise ValueError(msg)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Impulses:
        """The same source."""
        del leaf, step, ids, layout
        return self

    def state(self) -> Tensor:
        """The number of draws."""
        return torch.tensor([self.draws]).view(torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Set the number of draws."""
        self.draws = int(state.view(torch.int64))


class Silent(Randomness):
    """No numbers: whoever draws one fails.

    Example:
        >>> Silent().normal((1,), torch.float32, "cpu")
        Traceback (most recent call last):
        AssertionError: a random number was drawn where none should be
    """

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Fail."""
        msg = "a random number was drawn where none should be"
        raise AssertionError(msg)

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Fail."""
        return self.normal(shape, dtype, device)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Silent:
        """The same source."""
        del leaf, step, ids, layout
        return self

    def state(self) -> Tensor:
        """Nothing."""
        return torch.zeros(0, dtype=torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Nothing."""


class Addressed(Randomness):
    """Each row's numbers follow from its address alone; slow, for a few rows.

    So what a sample becomes may be compared alone and in a batch, bit for bit.

    Arguments:
        seed: Start of all numbers.
    """

    def __init__(self, seed: int) -> None:
        self.address: tuple[int | str, ...] = (seed, "", 0)
        self.ids: Tensor | None = None
        self.layout: Layout | None = None
        self.draws = 0

    def _draw(
        self,
        law: Callable[..., Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        self.draws += 1
        rows = []
        for i in range(shape[0]):
            place: tuple[int, ...] = (i,)
            if self.ids is not None and self.layout is not None:
                place = (int(self.ids[self.layout.sample[i]]), int(self.layout.row[i]))
            text = repr((self.address, self.draws, place)).encode()
            generator = torch.Generator()
            generator.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "big"))
            rows.append(law(*shape[1:], generator=generator, dtype=dtype))
        return torch.stack(rows).to(device) if rows else torch.zeros(*shape, dtype=dtype)

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Normal numbers of the rows' addresses."""
        return self._draw(lambda *s, **k: torch.randn(s, **k), shape, dtype, device)

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Uniform numbers of the rows' addresses."""
        return self._draw(lambda *s, **k: torch.rand(s, **k), shape, dtype, device)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Addressed:
        """A source at the narrower address, whose draws are counted from one."""
        seed, old_leaf, old_step = self.address
        narrow = Addressed(0)
        narrow.address = (seed, leaf or old_leaf, old_step if step is None else step)
        narrow.ids = self.ids if ids is None else ids
        narrow.layout = self.layout if layout is None else layout
        return narrow

    def state(self) -> Tensor:
        """The number of draws at this address."""
        return torch.tensor([self.draws]).view(torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Set the number of draws at this address."""
        self.draws = int(state.view(torch.int64))
