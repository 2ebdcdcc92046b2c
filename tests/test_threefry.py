"""The bits of Threefry-2x64: published answers, a second implementation, diffusion of one bit."""

from __future__ import annotations

import math
import random

import pytest
import torch

from structdiff.threefry import mix, signed, threefry

ONES = 2**64 - 1
# Random123 1.14, tests/kat_vectors, the lines of threefry2x64 with 20 rounds: counter, key, words.
KNOWN = [
    ((0, 0), (0, 0), (0xC2B6E3A8C2C69865, 0x6F81ED42F350084D)),
    ((ONES, ONES), (ONES, ONES), (0xE02CB7C4D95D277A, 0xD06633D0893B8B68)),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344),
        (0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x263C7D30BB0F0AF1, 0x56BE8361D3311526),
    ),
]


def tensors(counters):
    return tuple(torch.tensor([signed(c[i]) for c in counters]) for i in (0, 1))


def words(counters, key):
    """Words as Python ints, a pair for each counter."""
    pairs = zip(*(x.tolist() for x in threefry(tensors(counters), key)), strict=True)
    return [(low % 2**64, high % 2**64) for low, high in pairs]


def by_hand(counter, key):
    """The definition in Python integers modulo 2^64."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDAA9FC1A22)
    low, high = (counter[0] + keys[0]) % 2**64, (counter[1] + keys[1]) % 2**64
    for r in range(20):
        low = (low + high) % 2**64
        turn = (16, 42, 12, 31, 16, 32, 24, 21)[r % 8]
        high = ((high << turn) % 2**64 | high >> (64 - turn)) ^ low
        if r % 4 == 3:
            s = r // 4 + 1
            low = (low + keys[s % 3]) % 2**64
            high = (high + keys[(s + 1) % 3] + s) % 2**64
    return low, high


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_published_answers(counter, key, answer):
    assert words([counter], key) == [answer]


def test_any_counter_and_key():
    source = random.Random(0)
    for _ in range(20):
        key = (source.getrandbits(64), source.getrandbits(64))
        counters = [(source.getrandbits(64), source.getrandbits(64)) for _ in range(17)]
        assert words(counters, key) == [by_hand(counter, key) for counter in counters]


def test_counters_broadcast_and_stay():
    low, high = torch.arange(5)[:, None], torch.arange(7)
    first, second = threefry((low, high), (3, 4))
    assert torch.equal(low, torch.arange(5)[:, None]) and torch.equal(high, torch.arange(7))
    flat = threefry((low.repeat(1, 7).flatten(), high.repeat(5)), (3, 4))
    assert torch.equal(torch.stack((first, second)).flatten(1), torch.stack(flat))


def test_tensors_and_arrays_are_mixed_alike():
    """Other devices mix tensors, the CPU arrays that share their memory."""
    start = torch.randint(
        -(2**63), 2**63 - 1, (2, 1001), generator=torch.Generator().manual_seed(0)
    )
    ours, theirs, keys = start.clone(), start.clone(), (2**63 + 1, 5, 2**64 - 1)
    mix(ours[0], ours[1], keys)
    mix(*theirs.numpy(), keys)
    assert torch.equal(ours, theirs) and not torch.equal(ours, start)


def bits(x):
    """`(n, 128)` of ones and zeros."""
    each = [(word[:, None] >> torch.arange(64)) & 1 for word in x]
    return torch.cat(each, 1).double()


@pytest.mark.parametrize("part", ["counter", "key"])
def test_flipping_one_input_bit_flips_half_of_the_output(part):
    """Each pair (input bit, output bit) is Binomial(n, 1/2): all 2^14 within 6 sigma."""
    source, n = random.Random(1), 400
    key = (source.getrandbits(64), source.getrandbits(64))
    counters = tensors([(source.getrandbits(64), source.getrandbits(64)) for _ in range(n)])
    before = bits(threefry(counters, key))
    for bit in range(128):
        flip = [signed(1 << bit), 0] if bit < 64 else [0, signed(1 << (bit - 64))]
        if part == "counter":
            after = threefry((counters[0] ^ flip[0], counters[1] ^ flip[1]), key)
        else:
            after = threefry(counters, (key[0] ^ flip[0], key[1] ^ flip[1]))
        flipped = (bits(after) != before).double().mean(0)
        assert float((flipped - 0.5).abs().max()) < 6 * 0.5 / math.sqrt(n)
        assert abs(float(flipped.mean()) - 0.5) < 5 * 0.5 / math.sqrt(128 * n)
