"""Encoders of conditions: classes, several at once, vectors, pictures, sets and sequences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from structdiff import Batch, Denoising, Generator
from structdiff.nn.encoders import EncodedConditions, SequenceEncoder, SetEncoder
from structdiff.objectives import ConditionDropout

WIDTH = 6


def encoder() -> EncodedConditions:
    torch.manual_seed(0)
    return EncodedConditions(
        {
            "kind": nn.Embedding(3, WIDTH),
            "tags": nn.Linear(4, WIDTH),
            "size": nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, WIDTH)),
            "picture": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, WIDTH)),
            "points": SetEncoder(2, WIDTH),
            "words": SequenceEncoder(9, WIDTH),
        },
        WIDTH,
    )


def values(samples: int = 3) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {
        "kind": torch.tensor([0, 2, 1])[:samples],
        "tags": torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])[:samples],
        "size": torch.randn(samples, 2, generator=source),
        "picture": torch.randn(samples, 1, 4, 4, generator=source),
        "points": torch.randn(samples, 5, 2, generator=source),
        "words": torch.tensor([[3, 7, -1], [7, 3, 0], [1, -1, -1]])[:samples],
    }


BLANK = Batch.of(torch.zeros(3))
MASK = torch.tensor([True, False, True])


def test_conditions_add_up_and_nothing_is_zero():
    """G14, G16: each alone is what it adds to the others."""
    one, told = encoder(), values()
    assert torch.equal(one(BLANK), torch.zeros(3, WIDTH))
    parts = [one(BLANK.with_condition({name: value})) for name, value in told.items()]
    whole = one(BLANK.with_condition(told))
    torch.testing.assert_close(whole, torch.stack(parts).sum(0))
    assert all(float(part.detach().abs().min()) > 0 for part in parts)


@pytest.mark.parametrize("name", list(values()))
def test_a_condition_is_absent_whatever_its_value(name):
    """Bit for bit, in value and gradient, be it NaN."""
    one, told = encoder(), values()
    batch = BLANK.with_condition(told).with_present({name: MASK})
    found = one(batch)
    rest = one(BLANK.with_condition({n: x for n, x in told.items() if n != name}))
    torch.testing.assert_close(found[1], rest[1])
    torch.testing.assert_close(found[MASK], one(BLANK.with_condition(told))[MASK])
    if told[name].is_floating_point():
        lost = told[name].clone()
        lost[1] = torch.nan
        batch = batch.with_condition({**told, name: lost}).with_present({name: MASK})
        assert torch.equal(one(batch), found)
        one(batch).square().sum().backward()
        assert all(bool(torch.isfinite(w.grad).all()) for w in one.parameters())


def test_dropped_keys_are_dropped_for_the_encoder():
    """G14: per-key dropout acts on any tensor."""
    told = values()
    objective = ConditionDropout(Denoising(), {n: float(n == "words") for n in told})
    dropped = objective.dropped(BLANK.with_condition(told), Generator(0))
    one = encoder()
    others = {n: x for n, x in told.items() if n != "words"}
    torch.testing.assert_close(one(dropped), one(BLANK.with_condition(others)))


def test_a_set_has_no_order_and_no_padding():
    torch.manual_seed(0)
    one, x = SetEncoder(2, WIDTH).double(), torch.randn(4, 5, 2).double()
    torch.testing.assert_close(one(x), one(x[:, [3, 0, 4, 2, 1]]), rtol=1e-12, atol=1e-12)
    padded = torch.cat([x, torch.full((4, 3, 2), torch.nan).double()], 1)
    torch.testing.assert_close(one(padded), one(x), rtol=1e-12, atol=1e-12)
    each = one.member(x).mean(1)
    torch.testing.assert_close(one(x), one.whole(each), rtol=1e-12, atol=1e-12)
    empty = one(torch.full((1, 3, 2), torch.nan).double())
    torch.testing.assert_close(empty, one.whole(torch.zeros(1, WIDTH).double()))
    assert (one(x) - one(x[:, :4])).abs().min() > 1e-6


def test_a_sequence_has_an_order_and_no_padding():
    torch.manual_seed(0)
    one = SequenceEncoder(9, 8)
    words = torch.tensor([[3, 7, 1], [7, 3, 1], [3, 7, 7]])
    found = one(words)
    gaps = torch.cdist(found, found) + torch.eye(3)
    assert gaps.min() > 1e-3
    padded = torch.cat([words, torch.full((3, 2), -1)], 1)
    torch.testing.assert_close(one(padded), found)


def test_what_does_not_fit_is_refused():
    one = encoder()
    with pytest.raises(ValueError, match=r"knows the conditions .* not \['colour'\]"):
        one(BLANK.with_condition({"colour": torch.zeros(3)}))
    with pytest.raises(ValueError, match="encoders must have at least one condition"):
        EncodedConditions({}, WIDTH)
    narrow = EncodedConditions({"size": nn.Linear(2, 4)}, WIDTH)
    with pytest.raises(ValueError, match=r"'size' must give \(3, 6\), got \(3, 4\)"):
        narrow(BLANK.with_condition({"size": torch.zeros(3, 2)}))
    with pytest.raises(ValueError, match="features must be even"):
        SequenceEncoder(3, 5)
