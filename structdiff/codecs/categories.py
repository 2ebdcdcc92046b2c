"""One word for how class leaves are noised: as a chain of classes, as bits, or as embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import nn

from structdiff.batch import Batch
from structdiff.codecs.bits import Bits
from structdiff.codecs.embedded import ClassDenoiser
from structdiff.objectives.embedded import ScoreInterpolation
from structdiff.parameterisations.embedded import Code, Embedding, embed, unembed
from structdiff.processes import Categorical, Gaussian, Product, absorbing, uniform
from structdiff.schedules import Cosine, Flow

__all__ = ["Categories", "How"]

How: TypeAlias = Literal["absorbing", "uniform", "bits", "embedding"]
"""How classes are noised."""


@dataclass(frozen=True)
class Categories:
    """The process of a record of class leaves, and how their classes enter it.

    Arguments:
        process: Of the leaves as it sees them.
        outputs: How many numbers a network says of each row, by leaf.
        codes: The code of each leaf that is not a chain.
        embeddings: Those of them that are learned.

    Example:
        >>> import torch
        >>> table = Batch.of({"colour": torch.tensor([4, 0]), "size": torch.tensor([1, 2])})
        >>> for how in ("absorbing", "bits"):
        ...     columns = Categories.of(how, {"colour": 5, "size": 3})
        ...     print(columns.encode(table)["colour"].tolist())
        [4, 0]
        [[1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]
    """

    process: Product
    outputs: Mapping[str, int]
    codes: Mapping[str, Code] = field(default_factory=dict)
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)

    @classmethod
    def of(cls, how: How, classes: Mapping[str, int], *, width: int = 16) -> Categories:
        """By a word.

        Arguments:
            how: `absorbing` or `uniform` for a chain, `bits` for analog bits, `embedding` for
                learned embeddings of unit mean square.
            classes: Number of classes of each leaf.
            width: Numbers of an embedding.

        Raises:
            ValueError: If `how` is none of these.
        """
        if how == "absorbing" or how == "uniform":
            transition = absorbing if how == "absorbing" else uniform
            chains = {n: Categorical(Flow(), transition(k)) for n, k in classes.items()}
            return cls(Product(chains), dict(classes))
        if how == "bits":
            bits = {n: Bits(k) for n, k in classes.items()}
            return cls(reals(bits), {n: code.width for n, code in bits.items()}, bits)
        if how == "embedding":
            tables = {n: Embedding(k, width) for n, k in classes.items()}
            return cls(reals(tables), dict(classes), tables, tables)
        msg = f"how must be absorbing, uniform, bits or embedding, got {how!r}"
        raise ValueError(msg)

    def encode(self, batch: Batch) -> Batch:
        """Classes as the process sees them."""
        return embed(batch, self.codes)

    def decode(self, batch: Batch) -> Batch:
        """What the process drew, as classes."""
        return unembed(batch, self.codes)

    def denoiser(self, backbone: nn.Module, *, self_conditioning: bool = False) -> ClassDenoiser:
        """A network that says `outputs` numbers of each row, as a denoiser."""
        return ClassDenoiser(
            backbone, self.process, self.embeddings, self_conditioning=self_conditioning
        )

    def objective(self) -> ScoreInterpolation:
        """Cross-entropy of chains and embeddings, squared error of bits; of a batch of classes."""
        return ScoreInterpolation(self.codes, self.embeddings)


def reals(codes: Mapping[str, Code]) -> Product:
    """Gaussian noise on codewords."""
    return Product({n: Gaussian(Cosine(), event=(code.width,)) for n, code in codes.items()})
