r"""Classes as rows of reals, so that Gaussian noise can act on them.

A *code* gives each class k a codeword e_k in R^d and reads any real row back as a class. With
x_t = alpha e_k + sigma z the estimate is the expected codeword,

    E[e | x_t] = sum_k p(k | x_t) e_k,

so a network that says the log-probabilities of the classes says the score too: score
interpolation. The codewords of an `Embedding` are learned. Rounding has the logits

    <x, e_k> - |e_k|^2 / 2 = -|x - e_k|^2 / 2 + |x|^2 / 2,

a linear head tied to the table whose largest one is the nearest codeword, so that clean codewords
are rounded to their classes.

References:
    Continuous Diffusion for Categorical Data (Dieleman et al., 2022), section 3.
    https://arxiv.org/abs/2211.15089
    Diffusion-LM Improves Controllable Text Generation (Li et al., 2022), section 4.
    https://arxiv.org/abs/2205.14217
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch

__all__ = ["LOG_P", "Code", "Embedding", "embed", "unembed"]

LOG_P = "log_p"
"""The extra of an estimate that has log p(class | x_t), `(rows, *event, K)`.

It is differentiable in x_t, which is what guidance by a property of the classes needs.
"""


def check_classes(classes: int) -> None:
    """Refuse an empty set of classes."""
    if classes < 1:
        msg = f"classes must be at least 1, got {classes}"
        raise ValueError(msg)


class Code(ABC):
    """A codeword of `width` reals for each of `classes` classes."""

    classes: int
    width: int

    @abstractmethod
    def encode(self, index: Tensor) -> Tensor:
        """Classes, int64 of any shape, to their codewords, `(..., width)`."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Any reals `(..., width)` to classes; of a codeword its own."""


class Embedding(nn.Module, Code):
    """A learned codeword for each class.

    It has to be a part of the denoiser (of its network, or by `ClassDenoiser`) to be trained and
    saved with it.

    Arguments:
        classes: Number K of classes, at least 1.
        width: Number d of reals of a codeword, at least 1.
        normalised: Whether codewords have the length sqrt(d), so that entries have unit mean
            square and none can grow or vanish in training.

    Raises:
        ValueError: If classes or width is below 1.

    Example:
        >>> code = Embedding(10, 4)
        >>> code.decode(code.encode(torch.tensor([3, 7])))
        tensor([3, 7])
    """

    def __init__(self, classes: int, width: int, *, normalised: bool = True) -> None:
        super().__init__()
        check_classes(classes)
        if width < 1:
            msg = f"width must be at least 1, got {width}"
            raise ValueError(msg)
        self.classes, self.width, self.normalised = classes, width, normalised
        self.weight = nn.Parameter(torch.randn(classes, width))

    def table(self) -> Tensor:
        """All codewords, `(K, d)`."""
        if not self.normalised:
            return self.weight
        return math.sqrt(self.width) * F.normalize(self.weight, dim=-1)

    def encode(self, index: Tensor) -> Tensor:
        """Rows of the table; differentiable in it."""
        return F.embedding(index, self.table())

    def logits(self, x: Tensor) -> Tensor:
        """`(..., d)` to <x, e_k> - |e_k|^2 / 2, `(..., K)`."""
        table = self.table().to(x)
        return x @ table.T - 0.5 * (table**2).sum(-1)

    def expected(self, log_p: Tensor) -> Tensor:
        """The mean codeword of log-probabilities `(..., K)`, `(..., d)`."""
        return log_p.exp() @ self.table().to(log_p)

    def decode(self, x: Tensor) -> Tensor:
        """The nearest codeword's class."""
        return self.logits(x).argmax(-1)


def embed(batch: Batch, codes: Mapping[str, Code]) -> Batch:
    """The batch with class leaves as codewords.

    Arguments:
        batch: Its leaves that `codes` names are classes, `(rows, *event)`, and become
            `(rows, *event, width)`; where single entries are given, their codewords are.
        codes: The code of each such leaf.

    Raises:
        ValueError: If there is no such leaf, or it has other numbers than classes.

    Example:
        >>> codes = {"x": Embedding(5, 3)}
        >>> embed(Batch.of(torch.tensor([4, 0])), codes)["x"].shape
        torch.Size([2, 3])
    """
    unknown = codes.keys() - batch.leaves.keys()
    if unknown:
        msg = f"codes names {sorted(unknown)}, but the batch has the leaves {sorted(batch.leaves)}"
        raise ValueError(msg)
    for name in codes:
        if batch[name].dtype != torch.int64:
            msg = f"leaf {name!r} has dtype {batch[name].dtype}: a code needs classes, int64"
            raise ValueError(msg)
    words = {name: code.encode(batch[name]) for name, code in codes.items()}
    entries = {
        name: mask.unsqueeze(-1).expand_as(words[name])
        for name, mask in batch.given.items()
        if name in codes and mask.ndim > 1
    }
    return replace(batch, leaves={**batch.leaves, **words}, given={**batch.given, **entries})


def unembed(batch: Batch, codes: Mapping[str, Code]) -> Batch:
    """The batch with codewords, or reals near them, as classes: the inverse of `embed`.

    Arguments:
        batch: Its leaves that `codes` names are reals, `(rows, *event, width)`.
        codes: The code of each such leaf.
    """
    read = {name: code.decode(batch[name]) for name, code in codes.items()}
    entries = {
        name: mask.any(-1) for name, mask in batch.given.items() if name in codes and mask.ndim > 1
    }
    return replace(batch, leaves={**batch.leaves, **read}, given={**batch.given, **entries})
