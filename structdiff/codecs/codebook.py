r"""A codebook: vectors to the nearest of K codewords, and back.

    q(z) = e_k,    k = argmin_j |z - e_j|^2,

so vectors become classes that chains noise. The *straight-through* value z + sg(e_k - z) is e_k
with the gradient of z, so that what made z learns through the quantiser (sg: no gradient), and
beta |z - sg(e_k)|^2 commits z to its codeword. The codewords follow the vectors

- by the gradient of |sg(z) - e_k|^2 in `Codebook`, or
- as the moving averages in `AveragedCodebook`: with c_k the share of a batch's vectors that are
  nearest to e_k, m_k their mean and d the decay,

      n_k <- d n_k + (1 - d) c_k,    e_k <- e_k + (1 - d) c_k (m_k - e_k) / n_k,

  which is a quotient of two averages, as in the paper, without its second one.

Both know the usage n_k, zero at first. A codeword whose usage falls below a part of 1 / K, what
all would have if they were used alike, is *dead*: it moves to a vector of the batch, drawn at
random, and starts again with the usage 1 / K. So the first batch places all of them.

References:
    Neural Discrete Representation Learning (van den Oord, Vinyals and Kavukcuoglu, 2017), eqs. 1
    to 3 and appendix A.1. https://arxiv.org/abs/1711.00937
    Jukebox: A Generative Model for Music (Dhariwal et al., 2020), section 3: restarts.
    https://arxiv.org/abs/2005.00341
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from structdiff.layout import Layout
from structdiff.random import Randomness

__all__ = ["AveragedCodebook", "Codebook", "Codewords", "Quantised"]

_TINY = 1e-12


class Quantised(NamedTuple):
    """What a codebook makes of vectors.

    Arguments:
        classes: The nearest codewords, int64, `(...)`.
        value: The codewords with the gradient of the vectors, `(..., width)`.
        loss: Codebook and commitment terms, `(...)`.
    """

    classes: Tensor
    value: Tensor
    loss: Tensor


class Codewords(nn.Module, ABC):
    """K codewords, whatever moves them.

    Arguments:
        classes: Number K of codewords, at least 1.
        width: Entries of a codeword, at least 1.
        commitment: Factor beta on the term that draws vectors to their codewords, at least 0;
            0.25 in the paper.
        decay: Decay d of the usage, in [0, 1).
        restart: The part of 1 / K below which a codeword is dead, in [0, 1); 0 restarts none.

    Raises:
        ValueError: If a number is out of range; on a call, if vectors have another width.
    """

    usage: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        commitment: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.0,
    ) -> None:
        super().__init__()
        if classes < 1 or width < 1:
            msg = f"classes and width must be at least 1, got {classes} and {width}"
            raise ValueError(msg)
        if not 0 <= commitment < float("inf"):
            msg = f"commitment must be at least 0 and finite, got {commitment}"
            raise ValueError(msg)
        if not (0 <= decay < 1 and 0 <= restart < 1):
            msg = f"decay and restart must be in [0, 1), got {decay} and {restart}"
            raise ValueError(msg)
        self.classes, self.width = classes, width
        self.commitment, self.decay, self.restart = commitment, decay, restart
        self.register_buffer("usage", torch.zeros(classes))

    @abstractmethod
    def table(self) -> Tensor:
        """The codewords, `(K, width)`."""

    @abstractmethod
    def chase(self, z: Tensor, codeword: Tensor) -> Tensor:
        """The term by which codewords `(..., width)` learn from their vectors, `(...)`."""

    @abstractmethod
    def move(self, share: Tensor, total: Tensor) -> None:
        """Follow a batch; `usage` has been brought up to date.

        Arguments:
            share: Share of the vectors that each codeword has, `(K,)`.
            total: Their sum over the number of all vectors, `(K, width)`.
        """

    @abstractmethod
    def replace(self, dead: Tensor, vectors: Tensor) -> None:
        """Move dead codewords `(K,)` to the vectors in their places, `(K, width)`."""

    @final
    def encode(self, z: Tensor) -> Tensor:
        """The nearest codeword of each vector `(..., width)`, int64; of equal ones the first."""
        if z.shape[-1:] != (self.width,):
            msg = f"vectors have shape {tuple(z.shape)}, codewords {self.width} entries"
            raise ValueError(f"{msg}: the last axes must agree")
        # |z - e|^2 up to |z|^2: no (..., K, width) tensor. In full precision and around the
        # centre, or some codeword is not the nearest to itself.
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            table = self.table()
            centre = table.mean(0)
            table, z = table - centre, z.to(table.dtype) - centre
            flat = z.reshape(-1, self.width)
            scores = torch.addmm(table.square().sum(1), flat, table.t(), alpha=-2)
            return scores.argmin(-1).reshape(z.shape[:-1])

    @final
    def decode(self, classes: Tensor) -> Tensor:
        """The codewords of classes `(...)`."""
        return nn.functional.embedding(classes, self.table())

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(self, z: Tensor, random: Randomness | None = None) -> Quantised:
        """Classes, straight-through values and the loss of both sides.

        Arguments:
            z: Vectors, `(..., width)`.
            random: In training, where restarts draw from; the codebook then follows the vectors,
                for the next call. With several processes all of them call with it together.
        """
        classes = self.encode(z)
        codeword = self.decode(classes)
        commit = (z - codeword.detach()).square().sum(-1)
        value = z + (codeword - z).detach()
        loss = self.chase(z.detach(), codeword) + self.commitment * commit
        if random is not None:
            self._follow(z.detach().reshape(-1, self.width), classes.flatten(), random)
        return Quantised(classes, value, loss)

    @torch.no_grad()
    def _follow(self, z: Tensor, classes: Tensor, random: Randomness) -> None:
        """Count, move, restart: the same in all processes."""
        z = z.to(self.usage.dtype)
        share = self.usage.new_zeros(self.classes).index_add_(
            0, classes, self.usage.new_full((len(z),), 1 / len(z))
        )
        total = z.new_zeros(self.classes, self.width).index_add_(0, classes, z) / len(z)
        drawn = random.scoped(
            leaf="restart",
            ids=torch.arange(self.classes, device=z.device),
            layout=Layout.regular(self.classes, z.device),
        )
        place = drawn.uniform((self.classes,), torch.float64, z.device) * len(z)
        vectors = z[place.long()]
        _agree(share, total, vectors)
        unplaced = self.usage == 0
        self.usage.lerp_(share, 1 - self.decay)
        self.move(share, total)
        dead = self.usage.masked_fill(unplaced, 0) * self.classes < self.restart
        self.replace(dead, vectors)
        self.usage.masked_fill_(dead, 1 / self.classes)


@final
class Codebook(Codewords):
    """Codewords that learn by gradients.

    Arguments:
        classes: Number K of codewords, at least 1.
        width: Entries of a codeword, at least 1.
        commitment: Factor beta on the term that draws vectors to their codewords, at least 0;
            0.25 in the paper.
        decay: Decay d of the usage, in [0, 1).
        restart: The part of 1 / K below which a codeword is dead, in [0, 1); 0 restarts none.

    Raises:
        ValueError: If a number is out of range; on a call, if vectors have another width.

    Example:
        >>> book = Codebook(3, 2)
        >>> torch.equal(book.encode(book.decode(torch.tensor([2, 0, 1]))), torch.tensor([2, 0, 1]))
        True
    """

    moved: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        commitment: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.0,
    ) -> None:
        super().__init__(classes, width, commitment=commitment, decay=decay, restart=restart)
        self.codewords = nn.Parameter(torch.randn(classes, width) / width**0.5)
        # A restart leaves the weight to its optimiser and its average, and moves the origin.
        self.register_buffer("moved", torch.zeros(classes, width))

    def table(self) -> Tensor:
        """The codewords, `(K, width)`."""
        return self.codewords + self.moved

    def chase(self, z: Tensor, codeword: Tensor) -> Tensor:
        """|z - e|^2, `(...)`."""
        return (z - codeword).square().sum(-1)

    def move(self, share: Tensor, total: Tensor) -> None:
        """Gradients do it."""

    def replace(self, dead: Tensor, vectors: Tensor) -> None:
        """Move the origin of the dead."""
        self.moved.copy_(torch.where(dead.unsqueeze(1), vectors - self.codewords, self.moved))


@final
class AveragedCodebook(Codewords):
    """Codewords that are moving averages of their vectors; no gradient reaches them.

    Arguments:
        classes: Number K of codewords, at least 1.
        width: Entries of a codeword, at least 1.
        commitment: Factor beta on the term that draws vectors to their codewords, at least 0;
            0.25 in the paper.
        decay: Decay d of the usage and of the codewords, in [0, 1).
        restart: The part of 1 / K below which a codeword is dead, in [0, 1); 0 restarts none.

    Raises:
        ValueError: If a number is out of range; on a call, if vectors have another width.

    Example:
        >>> from structdiff.random import Generator
        >>> book = AveragedCodebook(1, 2)
        >>> _ = book(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), Generator(0))
        >>> book.table()
        tensor([[2., 3.]])
    """

    codewords: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        commitment: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.0,
    ) -> None:
        super().__init__(classes, width, commitment=commitment, decay=decay, restart=restart)
        self.register_buffer("codewords", torch.randn(classes, width) / width**0.5)

    def table(self) -> Tensor:
        """The codewords, `(K, width)`."""
        return self.codewords

    def chase(self, z: Tensor, codeword: Tensor) -> Tensor:
        """Zero: they follow without."""
        del codeword
        return z.new_zeros(z.shape[:-1])

    def move(self, share: Tensor, total: Tensor) -> None:
        """One step of the averages."""
        gap = total - share.unsqueeze(1) * self.codewords
        pull = (1 - self.decay) / self.usage.clamp(min=_TINY)
        self.codewords.add_(gap * pull.unsqueeze(1))

    def replace(self, dead: Tensor, vectors: Tensor) -> None:
        """Move the dead."""
        self.codewords.copy_(torch.where(dead.unsqueeze(1), vectors, self.codewords))


def _agree(share: Tensor, total: Tensor, vectors: Tensor) -> None:
    """Means of the first two over all processes, and the first process's vectors, for all."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    whole = torch.cat([share.unsqueeze(1), total], 1) / distributed.get_world_size()
    distributed.all_reduce(whole)
    share.copy_(whole[:, 0])
    total.copy_(whole[:, 1:])
    distributed.broadcast(vectors, 0)
