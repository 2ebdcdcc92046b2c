"""Frames as residuals of what the frames before say (RVD)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import Batch
from structdiff.codecs.reconstruction import Reconstruction
from structdiff.codecs.residual_frames import ResidualFrames
from structdiff.random import Generator


def log_scale(before: Tensor) -> Tensor:
    return torch.tanh(before) - 1


def series(samples: int, frames: int = 12) -> Tensor:
    """x_k = 0.8 x_{k-1} + scale(x_{k-1}) noise, louder after what is positive."""
    source = torch.Generator().manual_seed(0)
    x = [torch.randn(samples, 1, generator=source)]
    for _ in range(frames - 1):
        noise = torch.randn(samples, 1, generator=source)
        x.append(0.8 * x[-1] + log_scale(x[-1]).exp() * noise)
    return torch.stack(x, 2)


def test_at_first_residuals_are_differences() -> None:
    x = torch.tensor([[[1.0, 4.0, 6.0], [0.0, -1.0, -1.0]]])
    z = ResidualFrames((2, 3)).encode(x)
    assert z.tolist() == [[[1, 3, 2], [0, -1, 0]]]


def test_a_residual_says_nothing_of_later_frames() -> None:
    """And a decoded frame follows from the residuals up to it: the map is triangular in time."""
    torch.manual_seed(0)
    codec = ResidualFrames((1, 6, 4, 3), width=8).double()
    for weight in codec.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    x = torch.randn(2, 1, 6, 4, 3).double()
    changed = x.clone()
    changed[:, :, 3] += 1
    gap = (codec.encode(x) - codec.encode(changed)).abs().amax((0, 1, 3, 4)) > 0
    assert gap.tolist() == [False, False, False, True, True, True]
    gap = (codec.decode(x) - codec.decode(changed)).abs().amax((0, 1, 3, 4)) > 0
    assert gap.tolist() == [False, False, False, True, True, True]


def test_a_film_is_predicted_as_the_formula_says() -> None:
    """mu and sigma of one frame by hand, from its two frames before."""
    torch.manual_seed(0)
    codec = ResidualFrames((2, 5, 4), past=2, width=8).double()
    for weight in codec.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    x = torch.randn(3, 2, 5, 4).double()
    ones = torch.ones(3, 2, 4).double()
    stacked = torch.cat([x[:, 0, 1:3], x[:, 1, 1:3], ones], 1)
    change, log_scale = codec.says(stacked).chunk(2, 1)
    scale = torch.exp(5 * torch.tanh(log_scale / 5))
    expected = (x[:, :, 3] - x[:, :, 2] - change) / scale
    torch.testing.assert_close(codec.encode(x)[:, :, 3], expected)


def test_training_leaves_what_is_random() -> None:
    """Surprise falls to the entropy rate, and residuals are white, of unit variance."""
    torch.manual_seed(0)
    codec = ResidualFrames((1, 12), past=1, width=16)
    x, objective, random = series(700), Reconstruction(), Generator(0)
    optimiser = torch.optim.Adam(codec.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        objective(codec, Batch.of(x), random).total.backward()
        optimiser.step()
    with torch.no_grad():
        surprise = float(codec.terms(x, random)["surprise"].mean())
        z = codec.encode(x)[:, 0]
    # The first frame is standard normal, the others have a deviation by the one before.
    later = log_scale(x[:, :, :-1]).mean()
    entropy = 0.5 * math.log(2 * math.pi * math.e) + 11 / 12 * float(later)
    assert surprise == pytest.approx(entropy, abs=0.1)
    assert float((z[:, 1:].std(0) - 1).abs().max()) < 0.15
    lagged = (z[:, 2:] * z[:, 1:-1]).mean()
    assert abs(float(lagged)) < 0.05
    assert abs(float((x[:, 0, 2:] * x[:, 0, 1:-1]).mean() / x.var())) > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event": (3,)}, "sizes of event must be positive and be at least 2"),
        ({"event": (1, 2, 3, 4, 5)}, "event must be a series or a film of at most two axes"),
        ({"past": 0}, "past, width and bound must be positive, got 0"),
        ({"bound": math.nan}, "past, width and bound must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualFrames(**{"event": (1, 4), **arguments})


def test_in_low_precision_the_log_determinant_is_still_that_of_the_map() -> None:
    """The first frame of each residual is scaled by 1 / sigma: its slope, by autograd."""
    torch.manual_seed(0)
    codec = ResidualFrames((16, 1), width=8)
    for weight in codec.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    x = torch.randn(3, 16, 1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = codec.encode(x), codec.log_det(x)
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert log_det.dtype == torch.float32
    torch.testing.assert_close(log_det, slope.log().sum((1, 2)), rtol=1e-5, atol=1e-5)
