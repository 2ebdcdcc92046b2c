"""Where noise comes from.

No part of the library calls a global generator: whoever draws is handed a `Randomness`. A draw
has an *address*: the sample's id, the row inside its sample, the leaf, the step of the walk and
the draw's index within the step. `scoped` narrows a source to an address; how much of the
address a source uses is its own choice. `Generator` uses none (one stream, fastest);
`structdiff.counter.Counter` uses all of it, and gives the same noise alone and in any batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from structdiff.layout import Layout

__all__ = ["Around", "Displaced", "Generator", "Randomness", "Tempered"]


class Randomness(ABC):
    """A source of uniform and normal numbers."""

    @abstractmethod
    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent standard normal numbers; the first axis is rows."""

    @abstractmethod
    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent numbers, uniform in [0, 1); the first axis is rows."""

    @abstractmethod
    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Randomness:
        """The source at a narrower address.

        Arguments:
            leaf: Name of the leaf that is drawn.
            step: Number of the step in the walk or of the update in training.
            ids: Id of each sample, `(samples,)`.
            layout: Which sample each row belongs to, and so its index inside it.
        """

    @abstractmethod
    def state(self) -> Tensor:
        """Everything needed to go on from here, as one uint8 tensor on the CPU."""

    @abstractmethod
    def restore(self, state: Tensor) -> None:
        """Go on from a state that `state` gave."""


class Generator(Randomness):
    """One stream of torch's generator; addresses are not used.

    Arguments:
        seed: Start of the stream.
        device: Device that draws; results on another device are drawn here and moved.

    Example:
        >>> Generator(0).normal((2,), torch.float32, "cpu")
        tensor([ 1.5410, -0.2934])
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent standard normal numbers."""
        source = self.generator
        return torch.randn(*shape, generator=source, dtype=dtype, device=source.device).to(device)

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent numbers, uniform in [0, 1)."""
        source = self.generator
        return torch.rand(*shape, generator=source, dtype=dtype, device=source.device).to(device)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Generator:
        """The same stream, whatever the address."""
        del leaf, step, ids, layout
        return self

    def state(self) -> Tensor:
        """The generator's state."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Set the generator's state."""
        self.generator.set_state(state)


class Around(Randomness):
    """A source around another one: uniform numbers and the state are the other's.

    Arguments:
        source: Where the numbers come from.
    """

    def __init__(self, source: Randomness) -> None:
        self.source = source

    @final
    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """As the source draws them."""
        return self.source.uniform(shape, dtype, device)

    @final
    def state(self) -> Tensor:
        """That of the source."""
        return self.source.state()

    @final
    def restore(self, state: Tensor) -> None:
        """Restore the source."""
        self.source.restore(state)


class Tempered(Around):
    """Another source with the normal noise of steps scaled: sampling at low temperature.

    Samples become more typical and less diverse; their law is no longer the model's. The draw
    from the prior (step 0) and uniform numbers are left as they are.

    Arguments:
        source: Where the numbers come from.
        temperature: Factor on normal numbers, at least 0; 1 changes nothing.

    Raises:
        ValueError: If the temperature is negative.

    Example:
        >>> cold = Tempered(Generator(0), 0.5).scoped(step=1)
        >>> cold.normal((2,), torch.float32, "cpu")
        tensor([ 0.7705, -0.1467])
    """

    def __init__(self, source: Randomness, temperature: float, *, scaled: bool = True) -> None:
        if temperature < 0:
            msg = f"temperature must be at least 0, got {temperature}"
            raise ValueError(msg)
        super().__init__(source)
        self.temperature, self.scaled = temperature, scaled

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Normal numbers times the temperature, inside steps."""
        drawn = self.source.normal(shape, dtype, device)
        return drawn * self.temperature if self.scaled else drawn

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tempered:
        """The source at that address; step 0 is not scaled."""
        scaled = self.scaled if step is None else step > 0
        source = self.source.scoped(leaf=leaf, step=step, ids=ids, layout=layout)
        return Tempered(source, self.temperature, scaled=scaled)


class Displaced(Around):
    """Another source whose steps are other ones, so that several walks meet at no step.

    Arguments:
        source: Where the numbers come from.
        first: Which step of the source step 0 is.
        stride: How many steps of the source one step is.
    """

    def __init__(self, source: Randomness, first: int, stride: int = 1) -> None:
        super().__init__(source)
        self.first, self.stride = first, stride

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """As the source draws them."""
        return self.source.normal(shape, dtype, device)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Displaced:
        """The source at that address; step k is step `first + stride k` of the source."""
        place = None if step is None else self.first + self.stride * step
        source = self.source.scoped(leaf=leaf, step=place, ids=ids, layout=layout)
        return Displaced(source, self.first, self.stride)
