"""Molecules as records: `position` (atoms x 3, Angstrom, zero centre) and `element` (classes)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from structdiff.batch import Batch
from structdiff.codecs import Codec
from structdiff.domains.molecules.structures import SYMBOLS, Structures
from structdiff.layout import Layout

__all__ = ["MoleculeCodec"]


class MoleculeCodec(Codec[Structures]):
    """Vocabulary of elements, histogram of sizes and scale of positions.

    Arguments:
        elements: Atomic numbers that occur, ascending.
        sizes: Number of training molecules of each size, from 0 atoms up.
        position_std: Root mean square of a centred coordinate, Angstrom.
        element_counts: How often each element occurs.
    """

    def __init__(
        self,
        elements: tuple[int, ...],
        sizes: tuple[int, ...],
        position_std: float,
        element_counts: tuple[int, ...],
    ) -> None:
        self.elements, self.sizes = elements, sizes
        self.position_std, self.element_counts = position_std, element_counts
        self._class = np.full(len(SYMBOLS), -1)
        self._class[list(elements)] = np.arange(len(elements))

    @classmethod
    def fit(cls, objects: Structures) -> Self:
        """Read off the molecules.

        Raises:
            ValueError: If there are none.
        """
        if not len(objects):
            msg = "there are no molecules to fit to"
            raise ValueError(msg)
        centred = _centred(objects)
        counts = np.bincount(objects.number)
        return cls(
            objects.elements,
            tuple(np.bincount(objects.count).tolist()),
            float(np.sqrt(np.mean(centred**2))),
            tuple(int(counts[z]) for z in objects.elements),
        )

    def encode(self, objects: Structures) -> Batch:
        """A clean batch in float32.

        Raises:
            ValueError: If a molecule has an element that was not in the training data.
        """
        classes = self._class[objects.number]
        if (classes < 0).any():
            unknown = sorted({SYMBOLS[z] for z in objects.number[classes < 0]})
            known = [SYMBOLS[z] for z in self.elements]
            msg = (
                f"the model knows the elements {known}, but the molecules have {unknown}: "
                "train on data that has them"
            )
            raise ValueError(msg)
        layout = Layout.ragged(objects.count.tolist())
        position = torch.from_numpy(_centred(objects).astype(np.float32))
        leaves = {"position": position, "element": torch.from_numpy(classes.astype(np.int64))}
        return Batch(leaves, {"position": layout, "element": layout})

    def decode(self, batch: Batch) -> Structures:
        """Molecules of a clean batch."""
        classes = batch["element"].cpu().numpy()
        return Structures(
            batch["position"].float().cpu().numpy(),
            np.asarray(self.elements, np.uint8)[classes],
            np.asarray(batch.layouts["element"].counts),
        )

    def state(self) -> dict[str, Any]:
        """The four arguments."""
        return {
            "elements": list(self.elements),
            "sizes": list(self.sizes),
            "position_std": self.position_std,
            "element_counts": list(self.element_counts),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """From the four arguments.

        Raises:
            ValueError: If one is missing.
        """
        try:
            return cls(
                tuple(state["elements"]),
                tuple(state["sizes"]),
                float(state["position_std"]),
                tuple(state["element_counts"]),
            )
        except (KeyError, TypeError) as error:
            msg = f"this is not the state of a molecule codec: {error} is missing or wrong"
            raise ValueError(msg) from None


def _centred(objects: Structures) -> NDArray[np.float64]:
    """Positions with the mean of each molecule at the origin."""
    position = objects.position.astype(np.float64)
    total = np.zeros((len(objects), 3))
    np.add.at(total, objects.owner, position)
    return np.asarray(position - (total / objects.count[:, None])[objects.owner])
