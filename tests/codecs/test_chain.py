"""Codecs one after the other."""

from __future__ import annotations

import pytest
import torch

from structdiff.codecs.chain import Chain
from structdiff.codecs.mel import Mel
from structdiff.codecs.standardise import Identity, Standardise
from structdiff.codecs.wavelet import Wavelet


def data() -> torch.Tensor:
    return 2 + 3 * torch.randn(40, 1, 8, generator=torch.Generator().manual_seed(0)).double()


def test_each_part_is_fitted_to_what_the_ones_before_make() -> None:
    x = data()
    chain = Chain([Wavelet((1, 8)), Standardise((2, 4), axes=(0,))])
    chain.fit(x)
    alone = Standardise((2, 4), axes=(0,))
    alone.fit(Wavelet((1, 8)).encode(x))
    assert torch.equal(chain.encode(x), alone.encode(Wavelet((1, 8)).encode(x)))
    spread = chain.encode(x).std((0, 2), correction=0)
    torch.testing.assert_close(spread, torch.ones(2).double())


def test_log_determinants_add_at_what_each_part_sees() -> None:
    """Two flows: the determinant of the second is taken behind the first."""
    from structdiff.codecs.flows import Couplings

    torch.manual_seed(0)
    flows = [Couplings((4,), layers=2, width=8).double() for _ in range(2)]
    for weight in (w for flow in flows for w in flow.parameters()):
        weight.data += 0.3 * torch.randn_like(weight)
    x = torch.randn(3, 4).double()
    expected = flows[0].log_det(x) + flows[1].log_det(flows[0].encode(x))
    torch.testing.assert_close(Chain(flows).log_det(x), expected)
    assert not torch.allclose(expected, flows[0].log_det(x) + flows[1].log_det(x))


def test_one_part_without_a_density_leaves_none() -> None:
    mel = Mel((1, 4000), 8000.0, mels=20, window=256)
    chain = Chain([Standardise((1, 4000)), mel])
    assert chain.log_det(torch.zeros(1, 1, 4000)) is None


def test_classes_are_those_of_the_last_part() -> None:
    assert Chain([Identity((4,)), Identity((4,), classes=5)]).classes == 5


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        (lambda: [], "codecs is empty"),
        (
            lambda: [Wavelet((1, 8)), Standardise((1, 8))],
            r"codecs\[0\] \(Wavelet\) and codecs\[1\] \(Standardise\) do not fit: latents of "
            r"shape \(2, 4\), then samples of shape \(1, 8\)",
        ),
        (
            lambda: [Identity((4,), classes=3), Standardise((4,))],
            "the latents of the first are classes, so it must be the last",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(codecs, message) -> None:
    with pytest.raises(ValueError, match=message):
        Chain(codecs())
