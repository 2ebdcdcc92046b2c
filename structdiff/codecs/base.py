"""The boundary: objects to records and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Self, TypeVar

from structdiff.batch import Batch

__all__ = ["Codec"]

Objects = TypeVar("Objects")


class Codec(ABC, Generic[Objects]):
    """Turns many objects into a batch and a batch into objects; saved with the model."""

    @classmethod
    @abstractmethod
    def fit(cls, objects: Objects) -> Self:
        """The codec of these objects: vocabulary, sizes, scales."""

    @abstractmethod
    def encode(self, objects: Objects) -> Batch:
        """Objects as a clean batch.

        Raises:
            ValueError: If an object has something that the codec was not fitted to.
        """

    @abstractmethod
    def decode(self, batch: Batch) -> Objects:
        """Clean leaves as objects."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `from_state` needs, as JSON."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The codec with that state.

        Raises:
            ValueError: If the state is not one of this codec.
        """
