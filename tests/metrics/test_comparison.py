"""Drawn beside real samples: near for one law, far for another, told with the protocol."""

import pytest
import torch

from structdiff.metrics.comparison import Extracted, accuracy, compared, pooled, told
from structdiff.metrics.judge import Judge
from structdiff.metrics.kernel import kernel_distance


def _fields(seed, samples, mean=0.0):
    random = torch.Generator().manual_seed(seed)
    return mean + torch.randn(samples, 1, 4, 4, generator=random)


FEATURES = Extracted(lambda x: x.mean(3), "means of rows")


def test_drawn_samples_of_the_law_are_as_near_as_real_ones_and_others_are_not():
    real, other = _fields(0, 400), _fields(1, 400)
    same = compared(FEATURES, _fields(2, 300), real, other)
    apart = compared(FEATURES, _fields(2, 300, 0.5), real, other)
    for near, far in zip(same.lines, apart.lines, strict=True):
        assert abs(near.drawn.value - near.real.value) < 4 * near.drawn.error + 4 * near.real.error
        assert near.real == far.real
    lines = {line.name: line for line in apart.lines}
    for name in ("Frechet distance", "kernel distance"):
        assert lines[name].drawn.value > lines[name].real.value + 5 * lines[name].drawn.error
    for name in ("precision", "recall", "coverage"):
        assert lines[name].drawn.value < lines[name].real.value


def test_numbers_are_those_of_the_features_and_the_protocol_says_which():
    drawn, real, other = _fields(0, 30), _fields(1, 50), _fields(2, 90)
    found = compared(FEATURES, drawn, real, other)
    lines = {line.name: line for line in found.lines}
    rows = [x.mean(3).flatten(1) for x in (drawn, real, other[:30])]
    assert lines["kernel distance"].drawn == kernel_distance(rows[0], rows[1])
    assert lines["kernel distance"].real == kernel_distance(rows[2], rows[1])
    assert found.protocol == {
        "features": "4 numbers of means of rows",
        "samples": "30 drawn, against 50 real ones; beside, 30 others",
        "neighbours": "5",
    }
    assert found.rows()[0] == ["measure", "drawn", "as many real ones"]
    assert (
        found.numbers()["kernel distance"]["drawn"]["value"] == lines["kernel distance"].drawn[0]
    )


def test_without_classes_brightness_serves():
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    expected = x.reshape(4, 2, 4, 2).mean((1, 3)).flatten()
    assert torch.equal(pooled(4).features(x)[0], expected)
    assert torch.equal(pooled(20).features(x)[0], x.flatten())
    assert "no classifier" in pooled(4).about()


def test_accuracy_counts_what_was_asked_for():
    judge = Judge((1, 4, 4), 3)
    x = _fields(0, 40)
    with torch.no_grad():
        guess = judge(x).argmax(1).numpy()
    asked = guess.copy()
    asked[:10] = (asked[:10] + 1) % 3
    found = accuracy(judge, x, asked)
    assert found.value == 0.75
    assert found.low < 0.75 < found.high
    assert told(found).startswith("0.75 [0.")
    with pytest.raises(ValueError, match=r"labels must be \(40,\)"):
        accuracy(judge, x, asked[:3])


def test_too_few_samples_and_features_that_are_no_vectors_are_refused():
    with pytest.raises(ValueError, match="at least 3 samples"):
        compared(FEATURES, _fields(0, 2), _fields(1, 9), _fields(2, 9))

    class Maps:
        def features(self, x):
            return x

        def about(self):
            return "maps"

    with pytest.raises(ValueError, match="features must be"):
        compared(Maps(), _fields(0, 5), _fields(1, 9), _fields(2, 9))
