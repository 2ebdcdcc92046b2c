r"""Noise that follows from its address alone.

A draw of a `Counter` is a pure function of its address. Seed, leaf, step and draw index are hashed
to a key; the sample's id, the row inside its sample and the place in the row are the counter of a
Threefry block, whose bits w_0, w_1 make two numbers. For a fixed key no two counters meet, so a
sample's noise has the same bits alone, in any batch, in any order and on any partition.

Normal numbers come in pairs by Box and Muller's method, with the angle in one quadrant and two
signs apart: for u in (0, 1] and x in [-pi/4, pi/4] uniform,

    z_0 = +- sqrt(-log u) (cos x - sin x),    z_1 = +- sqrt(-log u) (cos x + sin x).

They are computed in float64 with sums, products, quotients and square roots only, which IEEE 754
rounds in one way, where `torch.log` and `torch.cos` may differ in the last bit between vectorised
kernels and their tails. They end at sqrt(106 log 2) = 8.57 and are right to some 1e-15.

References:
    Parallel Random Numbers: As Easy as 1, 2, 3 (Salmon et al., 2011).
    https://www.thesalmons.org/john/random123/papers/random123sc11.pdf
    A Note on the Generation of Random Normal Deviates (Box and Muller, 1958).
    https://doi.org/10.1214/aoms/1177706645
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from structdiff.layout import Layout
from structdiff.random import Randomness
from structdiff.threefry import threefry

__all__ = ["Counter"]

MARK = b"counter1"
CACHED = 1 << 15  # blocks that are drawn at once on a CPU: what is made of them fits its cache


def _series(coefficients: Sequence[float]) -> tuple[Tensor, ...]:
    """Tensors: a Python number would be made one at every call."""
    return torch.tensor(coefficients, dtype=torch.float64, device="cpu").unbind()


SINE = _series([(-1) ** k / math.factorial(2 * k + 1) for k in range(8)])
LOGARITHM = _series([2 / (2 * k + 1) for k in range(9)])
HALF = int(torch.tensor(math.sqrt(0.5), dtype=torch.float64).view(torch.int64))


def hashed(address: str) -> tuple[int, int]:
    """A key of Threefry."""
    digest = hashlib.blake2b(address.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


# What torch.compiler.assume_constant_result sets, without loading the compiler: the key follows
# from the address alone, so that a compiled step has it as a number.
hashed._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Counter(Randomness):
    """Every number is a function of seed, sample id, row, leaf, step, draw and place in the row.

    With a layout, row r is keyed by the id of its sample and its index there (without ids, by the
    sample's place in the batch); without one, by its index and the size of a row alone. Scopes
    nest: a leaf or a step inside another adds to the address, while ids and layout replace earlier
    ones. Each scope counts its own draws from zero, so two scopes at one address give the same
    numbers. A lower precision gets the numbers of float64, rounded (uniform ones: cut off).

    On one CPU thread large float32 draws cost 7 to 8 times those of `torch.randn` (17 times with
    one number a row, where half of each block is unused), float64 ones 1.5 to 3 times, and 1000 x
    3 numbers 41 times, nearly all of it calls.

    Arguments:
        seed: Start of all numbers, at least 0.

    Raises:
        ValueError: If the seed is negative.

    Example:
        >>> layout, ids = Layout.ragged([1, 2]), torch.tensor([7, 8])
        >>> both = Counter(0).scoped(leaf="x", step=1, ids=ids, layout=layout)
        >>> alone = Counter(0).scoped(leaf="x", step=1, ids=ids[1:], layout=Layout.ragged([2]))
        >>> z = both.normal((3,), torch.float32, "cpu")
        >>> torch.equal(z[1:], alone.normal((2,), torch.float32, "cpu"))
        True
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            msg = f"seed must be at least 0, got {seed}"
            raise ValueError(msg)
        self.seed, self.draws = int(seed), 0
        self.leaves: tuple[str, ...] = ()
        self.steps: tuple[int, ...] = ()
        self.ids: Tensor | None = None
        self.layout: Layout | None = None

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Counter:
        """A source at the narrower address, whose draws are counted from zero.

        Raises:
            ValueError: If the step is negative, or ids are not one integer for each sample.
        """
        narrow = copy.copy(self)
        narrow.draws = 0
        if leaf is not None:
            narrow.leaves = (*self.leaves, leaf)
        if step is not None:
            if step < 0:
                msg = f"step must be at least 0, got {step}"
                raise ValueError(msg)
            narrow.steps = (*self.steps, int(step))
        narrow.ids = self.ids if ids is None else ids
        narrow.layout = self.layout if layout is None else layout
        if narrow.ids is not None and narrow.layout is not None:
            _check_ids(narrow.ids, narrow.layout)
        return narrow

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent standard normal numbers.

        Raises:
            ValueError: If a layout is bound and has another number of rows, or for integers.
        """
        return self._draw(_normal, shape, dtype, device)

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent numbers, uniform on the multiples of eps / 2 in [0, 1).

        Raises:
            ValueError: If a layout is bound and has another number of rows, or for integers.
        """

        def law(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
            digits = 1 - round(math.log2(torch.finfo(dtype).eps))
            return _uniform(low, digits), _uniform(high, digits)

        return self._draw(law, shape, dtype, device)

    def _draw(
        self,
        law: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """Numbers of the law in pairs, side by side, cut to the entries of a row."""
        if not dtype.is_floating_point:
            msg = f"dtype must be floating, got {dtype}: draw floats and convert them"
            raise ValueError(msg)
        sample, row, entries = self._places(shape, device)
        pair = torch.arange((entries + 1) // 2, device=device)
        low = sample[:, None].expand(-1, len(pair)).flatten()
        high = ((row << 32)[:, None] + pair).flatten()
        drawn = torch.empty(len(low), 2, dtype=dtype, device=device)
        piece = CACHED if drawn.device.type == "cpu" else max(1, len(low))
        key = self._key()
        pieces = (torch.split(x, piece) for x in (low, high, drawn))
        for *words, out in zip(*pieces, strict=True):
            out[:, 0], out[:, 1] = law(*threefry((words[0], words[1]), key))
        return drawn.reshape(len(row), 2 * len(pair))[:, :entries].reshape(*shape)

    def _key(self) -> tuple[int, int]:
        """What the next draw's address is hashed to."""
        address = (self.seed, self.leaves, self.steps, self.layout is not None, self.draws)
        self.draws += 1
        return hashed(repr(address))

    def _places(
        self, shape: Sequence[int], device: torch.device | str
    ) -> tuple[Tensor, Tensor, int]:
        """Sample and index of each row, and its entries; without a layout all is one long row."""
        layout = self.layout
        if layout is None:
            zero = torch.zeros(1, dtype=torch.int64, device=device)
            return zero, zero, math.prod(shape)
        if shape[0] != layout.rows:
            msg = (
                f"shape has {shape[0]} rows, but the layout that is bound has {layout.rows}: draw "
                "one row for each of its rows, or scope to the layout of what is drawn"
            )
            raise ValueError(msg)
        sample = layout.sample.to(device)
        if self.ids is not None:
            sample = self.ids.to(device, torch.int64)[sample]
        return sample, layout.row.to(device), math.prod(shape[1:])

    def state(self) -> Tensor:
        """Seed and number of draws of this object; its address is not part of it."""
        seed = self.seed.to_bytes((self.seed.bit_length() + 7) // 8, "little")
        state = bytearray(MARK + self.draws.to_bytes(8, "little") + seed)
        return torch.frombuffer(state, dtype=torch.uint8).clone()

    def restore(self, state: Tensor) -> None:
        """Set seed and number of draws of this object; its address stays.

        Raises:
            ValueError: If the state is not one of a `Counter`.
        """
        read = bytes(state.tolist())
        if read[:8] != MARK or len(read) < 16:
            msg = f"state must be one that Counter.state gave, got {len(read)} bytes of another"
            raise ValueError(msg)
        self.draws = int.from_bytes(read[8:16], "little")
        self.seed = int.from_bytes(read[16:], "little")


def _check_ids(ids: Tensor, layout: Layout) -> None:
    if ids.is_floating_point() or ids.shape != (layout.samples,):
        got = f"{ids.dtype} of shape {tuple(ids.shape)}"
        msg = f"ids must be integers of shape {(layout.samples,)}, one for each sample, got {got}"
        raise ValueError(msg)


def _uniform(word: Tensor, digits: int) -> Tensor:
    """The leading binary digits of a word as a number in [0, 1), exactly, in float64."""
    return (word >> (64 - digits)).to(torch.float64).mul_(0.5**digits).add_(0.5)


def _normal(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal numbers from 53 bits and a sign of each word; the words are overwritten."""
    radius = _minus_log(_uniform(low, 53).add_(0.5**53)).sqrt_()
    x = (high >> 11).to(torch.float64).mul_(math.pi / 4 * 0.5**52)
    square = x * x
    sine = _polynomial(square, SINE).mul_(x)
    cosine = torch.mul(sine, sine, out=square).neg_().add_(1).sqrt_()
    first = torch.sub(cosine, sine, out=x).mul_(radius)
    second = cosine.add_(sine).mul_(radius)
    return _with_sign(first, low), _with_sign(second, high)


def _minus_log(u: Tensor) -> Tensor:
    """-log u for u in (0, 1], which is overwritten.

    With u = 2^e m, m in [sqrt(1/2), sqrt(2)), and s = (1 - m) / (1 + m) it is
    2 artanh s - e log 2, where artanh is an odd series and |s| < 0.172.
    """
    bits = u.view(torch.int64)
    exponent = (bits - HALF).bitwise_right_shift_(52)
    m = bits.sub_(exponent, alpha=1 << 52).view(torch.float64)
    s = (1 - m).div_(m.add_(1))
    series = _polynomial(torch.mul(s, s, out=m), LOGARITHM).mul_(s)
    return series.add_(exponent.to(torch.float64).mul_(-math.log(2)))


def _polynomial(x: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """Horner's rule, lowest power first."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value.add_(coefficient).mul_(x)
    return value.add_(coefficients[0])


def _with_sign(x: Tensor, word: Tensor) -> Tensor:
    """The number, its sign flipped where the last bit of the word is set; both overwritten."""
    x.view(torch.int64).bitwise_xor_(word.bitwise_left_shift_(63))
    return x
