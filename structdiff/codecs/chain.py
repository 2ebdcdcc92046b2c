r"""Codecs one after the other.

z = e_n(... e_2(e_1(x))),    log |det dz/dx| = sum_k log |det| of e_k at what it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.codecs.kinds import described
from structdiff.codecs.latent import LatentCodec

__all__ = ["Chain"]


class Chain(LatentCodec):
    """Several codecs as one; each sees the latents of the one before.

    Arguments:
        codecs: The codecs, at least one, the data's first.

    Raises:
        ValueError: If there are none, or one does not fit the latents of the one before.

    Example:
        >>> from structdiff.codecs.standardise import Identity, Standardise
        >>> codec = Chain([Identity((2,)), Standardise((2,))])
        >>> codec.fit(torch.tensor([[1.0, 3.0]]))
        >>> codec.encode(torch.tensor([[1.0, 3.0]]))
        tensor([[-1.,  1.]])
    """

    def __init__(self, codecs: Sequence[LatentCodec]) -> None:
        super().__init__()
        if not codecs:
            msg = "codecs is empty: a chain has at least one"
            raise ValueError(msg)
        for number, (first, second) in enumerate(zip(codecs[:-1], codecs[1:], strict=True)):
            _check_fits(number, first, second)
        self.codecs = nn.ModuleList(codecs)
        self.event, self.latent = codecs[0].event, codecs[-1].latent
        self.classes = codecs[-1].classes

    @property
    def parts(self) -> tuple[LatentCodec, ...]:
        """The codecs."""
        return tuple(self.codecs)  # type: ignore[arg-type]

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Fit each to what the ones before make of x.

        Raises:
            ValueError: If one of them refuses what it is handed.
        """
        *before, last = self.parts
        for codec in before:
            codec.fit(x)
            x = codec.encode(x)
        last.fit(x)

    def encode(self, x: Tensor) -> Tensor:
        """One after the other."""
        for codec in self.parts:
            x = codec.encode(x)
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Back from the last to the first."""
        for codec in reversed(self.parts):
            z = codec.decode(z)
        return z

    def log_det(self, x: Tensor) -> Tensor | None:
        """The sum; None if one of them has none."""
        total = x.new_zeros(len(x))
        for codec in self.parts:
            term = codec.log_det(x)
            if term is None:
                return None
            total, x = total + term, codec.encode(x)
        return total

    def settings(self) -> dict[str, Any]:
        """The descriptions of the codecs."""
        return {"codecs": [described(codec) for codec in self.parts]}


def _check_fits(number: int, first: LatentCodec, second: LatentCodec) -> None:
    names = f"codecs[{number}] ({type(first).__name__}) and codecs[{number + 1}]"
    if first.classes:
        msg = f"{names} do not fit: the latents of the first are classes, so it must be the last"
        raise ValueError(msg)
    if tuple(first.latent) != tuple(second.event):
        msg = (
            f"{names} ({type(second).__name__}) do not fit: latents of shape {first.latent}, "
            f"then samples of shape {second.event}"
        )
        raise ValueError(msg)
