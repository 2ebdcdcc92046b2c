r"""Threefry-2x64: 128 random bits for each 128-bit counter under a 128-bit key.

For a fixed key it is a bijection of counters (x_0, x_1), made of additions and rotations of 64-bit
words. Twenty rounds

    x_0 <- x_0 + x_1,    x_1 <- rotl(x_1, R_r) xor x_0,

and after every fourth one, the s-th time, x_0 += k_{s mod 3}, x_1 += k_{(s+1) mod 3} + s, where
k_2 = k_0 xor k_1 xor C. All additions wrap, so int64 tensors serve on any device.

References:
    Parallel Random Numbers: As Easy as 1, 2, 3 (Salmon et al., 2011), section 4.2 and table 2.
    https://www.thesalmons.org/john/random123/papers/random123sc11.pdf
    The Skein Hash Function Family (Ferguson et al., 2010), version 1.3, for C.
    https://www.schneier.com/wp-content/uploads/2015/01/skein.pdf
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["mix", "signed", "threefry"]

ROUNDS = 20
ROTATIONS = (16, 42, 12, 31, 16, 32, 24, 21)
PARITY = 0x1BD11BDAA9FC1A22


def signed(word: int) -> int:
    """The 64 low bits of an integer, read as int64."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


def threefry(counter: tuple[Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two words of random bits for each counter.

    Arguments:
        counter: Low and high word, int64, of shapes that broadcast.
        key: Two words; the 64 low bits of each are used.

    Returns:
        Two int64 tensors of the common shape; the counters stay as they are.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [f"{int(word) % 2**64:016x}" for word in threefry((zero, zero), (0, 0))]
        ['c2b6e3a8c2c69865', '6f81ed42f350084d']
    """
    words = (*key, key[0] ^ key[1] ^ PARITY)
    low, high = torch.broadcast_tensors(*counter)  # type: ignore[no-untyped-call]
    x_0, x_1 = low + signed(words[0]), high + signed(words[1])
    if x_0.device.type == "cpu":  # numpy's calls take a third of the time of torch's
        mix(x_0.numpy(), x_1.numpy(), words)
    else:
        mix(x_0, x_1, words)
    return x_0, x_1


def mix(x_0: Any, x_1: Any, words: Sequence[int]) -> None:
    """The rounds, in place, on int64 tensors or arrays."""
    for r in range(ROUNDS):
        rotation = ROTATIONS[r % len(ROTATIONS)]
        x_0 += x_1
        carried = x_1 >> (64 - rotation)
        carried &= (1 << rotation) - 1  # a shift of int64 fills with the sign
        x_1 <<= rotation
        x_1 |= carried
        x_1 ^= x_0
        s, rest = divmod(r + 1, 4)
        if rest == 0:
            x_0 += signed(words[s % 3])
            x_1 += signed(words[(s + 1) % 3] + s)
