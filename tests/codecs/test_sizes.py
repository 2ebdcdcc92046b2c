"""The law of sizes given conditions."""

import numpy as np
import pytest
import torch

from structdiff.codecs import Condition, SizeLaw, draw_sizes, encode_conditions

RANDOM = np.random.default_rng(0)
SIZES = RANDOM.integers(3, 9, 20_000)
KIND = np.where(RANDOM.random(20_000) < SIZES / 12, "big", "small")
VALUE = 2.0 * SIZES + RANDOM.normal(size=20_000)


def law(**properties: np.ndarray) -> tuple[SizeLaw, list[Condition]]:
    conditions = [Condition.fit(name, values) for name, values in properties.items()]
    return SizeLaw.fit(SIZES, *encode_conditions(conditions, properties)), conditions


def given(conditions: list[Condition], **values: object) -> tuple[dict, dict]:
    return encode_conditions(conditions, {n: np.asarray([v]) for n, v in values.items()})


def normal(weights: np.ndarray) -> np.ndarray:
    return weights[0] / weights[0].sum()


def test_without_conditions_it_is_the_histogram() -> None:
    sizes, _ = law()
    expected = np.bincount(SIZES) / len(SIZES)
    np.testing.assert_allclose(normal(sizes.weights(1, {}, {})), expected)


def test_a_class_gives_the_empirical_conditional() -> None:
    sizes, conditions = law(kind=KIND)
    for kind in ("big", "small"):
        found = normal(sizes.weights(1, *given(conditions, kind=kind)))
        counts = np.bincount(SIZES[kind == KIND], minlength=len(found))
        # One pseudo-count among thousands.
        np.testing.assert_allclose(found, counts / counts.sum(), atol=5e-4)


def test_a_number_gives_bayes_rule() -> None:
    sizes, conditions = law(value=VALUE)
    for value in (8.0, 11.0, 15.0):
        found = normal(sizes.weights(1, *given(conditions, value=value)))
        n = np.arange(len(found))
        exact = np.exp(-0.5 * (value - 2.0 * n) ** 2) * ((n >= 3) & (n < 9))
        assert 0.5 * np.abs(found - exact / exact.sum()).sum() < 0.12  # the bin's width


def test_two_conditions_multiply_given_the_size() -> None:
    sizes, conditions = law(value=VALUE, kind=KIND)
    both = sizes.weights(1, *given(conditions, value=11.0, kind="big"))
    one = sizes.weights(1, *given(conditions, value=11.0))
    other = sizes.weights(1, *given(conditions, kind="big"))
    base = sizes.weights(1, {}, {})
    inside = base > 0
    np.testing.assert_allclose(both[inside], one[inside] * other[inside] / base[inside])


def test_an_absent_condition_says_nothing() -> None:
    sizes, conditions = law(kind=KIND)
    condition, present = given(conditions, kind="big")
    absent = {"kind": torch.zeros_like(present["kind"])}
    np.testing.assert_allclose(sizes.weights(1, condition, absent), sizes.weights(1, {}, {}))


def test_each_entry_of_a_vector_counts() -> None:
    vector = np.stack([VALUE, RANDOM.normal(size=len(VALUE))], 1)
    sizes, conditions = law(v=vector)
    assert set(sizes.tables) == {"v[0]", "v[1]"}
    high = normal(sizes.weights(1, *given(conditions, v=[16.0, 0.0])))
    low = normal(sizes.weights(1, *given(conditions, v=[6.0, 0.0])))
    assert high @ np.arange(len(high)) > low @ np.arange(len(low)) + 4


def test_draws_follow_the_weights_and_extend() -> None:
    weights = np.tile([0.0, 1.0, 3.0, 0.0, 4.0], (40_000, 1))
    drawn = draw_sizes(weights, np.random.default_rng(1))
    share = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(share, np.array([0, 1, 3, 0, 4]) / 8, atol=4 * 0.5 / 200)
    fewer = draw_sizes(weights[:100], np.random.default_rng(1))
    np.testing.assert_array_equal(fewer, drawn[:100])


def test_the_state_round_trips() -> None:
    sizes, conditions = law(value=VALUE, kind=KIND)
    again = SizeLaw.from_state(sizes.state())
    assert again.histogram == sizes.histogram
    asked = given(conditions, value=9.0, kind="small")
    np.testing.assert_array_equal(again.weights(1, *asked), sizes.weights(1, *asked))


@pytest.mark.parametrize("value", [-1e9, 1e9])
def test_values_outside_the_data_count_in_the_last_bin(value: float) -> None:
    sizes, conditions = law(value=VALUE)
    found = normal(sizes.weights(1, *given(conditions, value=value)))
    assert found.argmax() == (3 if value < 0 else 8)


def test_heaped_values_keep_their_bins() -> None:
    """Counts that are mostly zero: rare ones are not lost, and less than the least counts too."""
    rings = np.where((SIZES == 8) & (RANDOM.random(len(SIZES)) < 0.01), 1.0, 0.0)
    sizes, conditions = law(rings=rings)
    assert normal(sizes.weights(1, *given(conditions, rings=1.0)))[8] > 0.8
    for value in (-3.0, 0.0):
        found = normal(sizes.weights(1, *given(conditions, rings=value)))
        assert abs(found[3] - 1 / 6) < 0.02


def test_a_name_with_brackets_is_a_name() -> None:
    sizes, conditions = law(**{"gap [eV]": VALUE})
    found = normal(sizes.weights(1, *given(conditions, **{"gap [eV]": 8.0})))
    assert found.argmax() in (3, 4, 5)
