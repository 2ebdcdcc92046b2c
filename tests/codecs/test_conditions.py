"""Properties as conditions."""

import numpy as np
import pytest
import torch

from structdiff.codecs import Condition, encode_conditions


def test_numbers_are_standardised_over_what_is_known() -> None:
    values = np.array([1.0, np.nan, 3.0, 8.0])
    condition = Condition.fit("alpha", values)
    encoded, known = condition.encode(values)
    assert known.tolist() == [True, False, True, True]
    assert encoded.shape == (4, 1)
    assert encoded[known].double().mean().abs() < 1e-6
    assert encoded[known].double().std(correction=0) == pytest.approx(1, abs=1e-6)
    assert encoded[1] == 0  # an unknown value is no NaN in the network
    assert (condition.low, condition.high) == ((1.0,), (8.0,))


def test_vectors_are_standardised_by_entry() -> None:
    values = np.random.default_rng(0).normal([5.0, -1.0], [2.0, 0.1], (500, 2))
    condition = Condition.fit("v", values)
    encoded, known = condition.encode(values)
    assert known.all()
    back = encoded.double().numpy() * condition.std + np.array(condition.mean)
    np.testing.assert_allclose(back, values, atol=1e-5)
    assert condition.entries == 2


def test_words_are_classes() -> None:
    condition = Condition.fit("ring", np.array(["no", "yes", "", "no"]))
    encoded, known = condition.encode(["yes", "", "no"])
    assert encoded.dtype == torch.int64
    assert encoded[known].tolist() == [1, 0]
    assert known.tolist() == [True, False, True]
    none, of_none = condition.encode(np.array([], dtype=str))
    assert (none.dtype, none.shape, of_none.dtype) == (torch.int64, (0,), torch.bool)


def test_states_round_trip() -> None:
    for condition in (
        Condition.fit("a", np.array([1.0, 2.0])),
        Condition.fit("v", np.array([[1.0, 2.0], [3.0, 5.0]]), "bohr^3"),
        Condition.fit("k", np.array(["x", "y"])),
    ):
        assert Condition.from_state(condition.state()) == condition
    old = {key: x for key, x in condition.state().items() if key != "unit"}
    assert Condition.from_state(old) == condition


def test_classes_are_compared_as_written_then_as_numbers() -> None:
    condition = Condition.fit("code", np.array(["1", "2", "A", "007", "0.50", "3", "3.0"]))
    index = {word: place for place, word in enumerate(condition.classes)}
    encoded, known = condition.encode(np.array([1.0, 2.0, 7.0, 0.5, np.nan]))
    assert encoded[known].tolist() == [index[word] for word in ("1", "2", "007", "0.50")]
    assert known.tolist() == [True] * 4 + [False]
    assert condition.encode([2, 3])[0].tolist() == [index["2"], index["3"]]
    assert condition.encode(["007", "3.0", "3"])[0].tolist() == [
        index["007"],
        index["3.0"],
        index["3"],
    ]
    assert condition.encode(["1.0", "7"])[0].tolist() == [index["1"], index["007"]]
    with pytest.raises(ValueError, match=r"not \['4', '3.00'\]"):
        condition.encode(["4", "3.00", "4"])  # 3.00 is both 3 and 3.0
    with pytest.raises(ValueError, match=r"not \['1 2'\]"):
        condition.encode(np.array([[1.0, 2.0]]))


def test_numbers_may_be_written_as_words() -> None:
    number = Condition.fit("a", np.array([1.0, 3.0]))
    encoded, known = number.encode(np.array(["3", "", "nan", " 1e0 "]))
    assert encoded[:, 0].tolist() == [1, 0, 0, -1]
    assert known.tolist() == [True, False, False, True]
    vector = Condition.fit("v", np.array([[1.0, 2.0], [3.0, 6.0]]))
    encoded, known = vector.encode(np.array(["3 2", ""]))
    assert encoded.tolist() == [[1, -1], [0, 0]]
    assert known.tolist() == [True, False]
    # A property of another width is unknown where it is NaN, and nothing else.
    assert not number.encode(np.full((3, 2), np.nan))[1].any()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["1", "n/a"], r"needs 1 number\(s\) a sample: a is 'n/a', not a number$"),
        (["1_0"], "a is '1_0', not a number"),
        (["x" * 200], f"a is '{'x' * 60}', not a number"),
        ([[1.0, 2.0]], "a has 2 numbers, expected 1$"),
        (list("uvwxyz"), "'u', not a number; a is 'v', .* a is 'w', not a number; and 3 more$"),
    ],
)
def test_errors_name_the_first_few_values(values: list[object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Condition.fit("a", np.array([1.0, 2.0])).encode(np.array(values))


def test_errors_name_the_first_few_classes() -> None:
    condition = Condition.fit("k", np.array([f"c{i}" for i in range(8)]))
    with pytest.raises(
        ValueError, match=r"\['c0', 'c1', 'c2'\] and 5 more, not \['0', '1', '2'\] and"
    ):
        condition.encode([str(i) for i in range(5)])


def test_scalars_are_no_vectors() -> None:
    vector = Condition.fit("v", np.array([[1.0, 2.0], [3.0, 5.0]]))
    with pytest.raises(ValueError, match="v has 1 number, expected 2"):
        vector.encode([1.0, 2.0])
    assert vector.fault("1 x") == "v is '1 x', not 2 numbers"
    assert vector.fault("1 2") == ""


def test_a_name_must_leave_room_for_its_value() -> None:
    with pytest.raises(ValueError, match="'a=b' has a = in its name.*: rename the property"):
        Condition.fit("a=b", np.array([1.0, 2.0]))


def test_words_of_the_command_line_become_values() -> None:
    number = Condition.fit("a", np.array([1.0, 2.0]))
    vector = Condition.fit("v", np.array([[1.0, 2.0], [3.0, 5.0]]))
    word = Condition.fit("k", np.array(["x", "y"]))
    assert number.parse("75") == 75.0
    assert vector.parse("1,2.5") == [1.0, 2.5]
    assert word.parse("x") == "x"
    for condition, text in ((number, "much"), (number, "1,2"), (vector, "1"), (number, "nan")):
        with pytest.raises(ValueError, match=rf"condition '{condition.name}' must be .* got"):
            condition.parse(text)


def test_it_says_when_a_value_was_never_seen() -> None:
    condition = Condition.fit("a", np.array([1.0, 2.0]))
    assert not condition.outside(1.5)
    assert condition.outside(2.5)
    assert not Condition.fit("k", np.array(["x", "y"])).outside("x")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([2.0, 2.0]), "the same for all"),
        (np.array([np.nan, np.nan]), "known of no sample"),
        (np.array(["x", "x", ""]), "at least 2"),
    ],
)
def test_what_cannot_be_a_condition_is_refused(values: np.ndarray, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Condition.fit("a", values)


def test_unknown_names_classes_and_shapes_are_refused() -> None:
    known = [Condition.fit("a", np.array([1.0, 2.0])), Condition.fit("k", np.array(["x", "y"]))]
    with pytest.raises(ValueError, match=r"knows the conditions \['a', 'k'\], not \['b'\]"):
        encode_conditions(known, {"b": [1.0]})
    with pytest.raises(ValueError, match="no condition"):
        encode_conditions([], {"b": [1.0]})
    with pytest.raises(ValueError, match=r"classes \['x', 'y'\], not \['z'\]"):
        known[1].encode(["z"])
    with pytest.raises(ValueError, match="needs 1 number"):
        known[0].encode(["much"])


def test_rounding_is_no_spread_and_nothing_is_infinite() -> None:
    with pytest.raises(ValueError, match="the same for all"):
        Condition.fit("a", np.array([0.1 + 0.2, 0.3]))
    encoded, known = Condition.fit("a", np.array([1.0, 2.0])).encode([1e300])
    assert known.all()
    assert torch.isfinite(encoded).all()
