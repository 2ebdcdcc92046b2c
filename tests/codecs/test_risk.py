"""Minimum risk."""

import itertools
import random

import pytest

from structdiff.codecs import minimum_risk


def distance(one: str, other: str) -> float:
    """Edit distance, by the recursion."""
    if not one or not other:
        return float(len(one) + len(other))
    if one[0] == other[0]:
        return distance(one[1:], other[1:])
    pairs = ((one[1:], other), (one, other[1:]), (one[1:], other[1:]))
    return 1 + min(distance(a, b) for a, b in pairs)


def asymmetric(answer: str, truth: str) -> float:
    return distance(answer, truth) + 3 * ("a" in truth and "a" not in answer)


@pytest.mark.parametrize("risk", [distance, asymmetric])
def test_no_candidate_has_a_smaller_mean_risk(risk) -> None:
    """Against the whole table of risks, on random short words."""
    source = random.Random(0)
    words = ["".join(w) for n in range(1, 4) for w in itertools.product("abc", repeat=n)]
    for _ in range(40):
        candidates = source.choices(words, k=6)
        chosen = minimum_risk(candidates, risk)
        table = {one: sum(risk(one, other) for other in candidates) for one in candidates}
        assert table[chosen] == min(table.values())
        assert max(table.values()) > table[chosen] or len(set(table.values())) == 1


def test_it_is_the_mean_over_draws_not_the_mode() -> None:
    """Twice the same far answer loses against three that are near each other."""
    assert minimum_risk([9.0, 0.0, 9.0, 1.0, 2.0], lambda a, b: abs(a - b)) == 2.0


def test_the_order_of_arguments_is_answer_and_truth() -> None:
    """Risk that only a zero as the truth has: the answer that avoids it is chosen."""
    assert minimum_risk([1, 0], lambda answer, truth: float(truth == 0 and answer != 0)) == 0


def test_refusal() -> None:
    with pytest.raises(ValueError, match="candidates must hold at least one answer, got none"):
        minimum_risk([], distance)
