"""Laws of all codecs that lose nothing: they come back, and their log-determinants are right."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff.codecs.blocks import Blocks
from structdiff.codecs.chain import Chain
from structdiff.codecs.flows import Couplings
from structdiff.codecs.kinds import described, make_codec
from structdiff.codecs.latent import LatentCodec
from structdiff.codecs.residual_frames import ResidualFrames
from structdiff.codecs.standardise import Identity, Standardise
from structdiff.codecs.stored import codec_checksum, load_codec, save_codec
from structdiff.codecs.wavelet import Wavelet

EVENT = (2, 4, 8)

CODECS: dict[str, Callable[[], LatentCodec]] = {
    "identity": lambda: Identity(EVENT),
    "standardise all": lambda: Standardise(EVENT),
    "standardise channels": lambda: Standardise(EVENT, axes=(0,)),
    "standardise lines": lambda: Standardise(EVENT, axes=(0, -2)),
    "standardise entries": lambda: Standardise(EVENT, axes=(0, 1, 2)),
    "wavelet": lambda: Wavelet(EVENT, levels=2),
    "wavelet on a line": lambda: Wavelet((2, 32), levels=3),
    "entries": lambda: Blocks(EVENT, size=2, basis="entries"),
    "cosines": lambda: Blocks(EVENT, size=4),
    "principal": lambda: Blocks(EVENT, size=2, basis="principal"),
    "couplings": lambda: shaken(Couplings(EVENT, layers=3, width=16)),
    "odd couplings": lambda: shaken(Couplings((3,), layers=4, width=16)),
    "film": lambda: shaken(ResidualFrames((1, 3, 4, 3), width=8)),
    "line film": lambda: shaken(ResidualFrames((2, 3, 5), past=1, width=8)),
    "series": lambda: shaken(ResidualFrames((2, 6), past=3, width=8)),
    "chain": lambda: Chain(
        [Standardise(EVENT, axes=(0,)), Wavelet(EVENT), Standardise((8, 2, 4), axes=(0,))]
    ),
}


def shaken(codec: LatentCodec) -> LatentCodec:
    """Weights away from where they begin."""
    source = torch.Generator().manual_seed(1)
    for weight in codec.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=source)
    return codec


def samples(codec: LatentCodec, count: int = 20) -> Tensor:
    """Data whose entries have means and deviations of their own."""
    source = torch.Generator().manual_seed(0)
    shift = 3 * torch.rand(codec.event, generator=source, dtype=torch.float64)
    scale = torch.exp(torch.randn(codec.event, generator=source, dtype=torch.float64))
    z = torch.randn(count, *codec.event, generator=source, dtype=torch.float64)
    return shift + scale * z


@pytest.fixture(params=CODECS)
def fitted(request) -> tuple[LatentCodec, Tensor]:
    torch.manual_seed(0)
    codec = CODECS[request.param]().double().requires_grad_(requires_grad=False)
    x = samples(codec)
    codec.fit(x)
    return codec, x


def test_samples_come_back(fitted) -> None:
    codec, x = fitted
    z = codec.encode(x)
    assert z.shape == (len(x), *codec.latent)
    torch.testing.assert_close(codec.decode(z), x, rtol=1e-10, atol=1e-10)
    short = codec.float()
    torch.testing.assert_close(
        short.decode(short.encode(x.float())), x.float(), rtol=1e-4, atol=1e-4
    )


def test_latents_come_back(fitted) -> None:
    codec, x = fitted
    z = torch.randn(3, *codec.latent, dtype=torch.float64)
    torch.testing.assert_close(codec.encode(codec.decode(z)), z, rtol=1e-9, atol=1e-9)


def test_the_log_determinant_is_that_of_the_jacobian(fitted) -> None:
    codec, x = fitted
    for one in x[:2]:
        jacobian = torch.func.jacrev(lambda v: codec.encode(v[None])[0].flatten())(one)
        size = one.numel()
        expected = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
        torch.testing.assert_close(codec.log_det(one[None])[0], expected, rtol=1e-8, atol=1e-8)


def test_the_log_determinant_is_that_of_finite_differences(fitted) -> None:
    codec, x = fitted
    one, step = x[0], 1e-5
    moved = step * torch.eye(one.numel(), dtype=torch.float64).reshape(-1, *one.shape)
    ahead, behind = codec.encode(one + moved), codec.encode(one - moved)
    jacobian = ((ahead - behind) / (2 * step)).flatten(1)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(codec.log_det(x[:1])[0], expected, rtol=0, atol=1e-4)


def test_a_sample_has_the_same_latent_alone_and_in_a_batch(fitted) -> None:
    codec, x = fitted
    whole = codec.encode(x)
    for number in (0, 7):
        alone = codec.encode(x[number : number + 1])
        torch.testing.assert_close(alone[0], whole[number], rtol=1e-12, atol=1e-12)


def test_gradients_reach_the_samples(fitted) -> None:
    codec, x = fitted
    y = x[:1].clone().requires_grad_()
    codec.decode(codec.encode(y)).sum().backward()
    torch.testing.assert_close(y.grad, torch.ones_like(y), rtol=1e-8, atol=1e-8)


def test_a_description_makes_the_same_kind_and_a_file_the_same_codec(fitted, tmp_path) -> None:
    codec, x = fitted
    again = make_codec(described(codec))
    assert described(again) == described(codec)
    assert (again.event, again.latent, again.classes) == (codec.event, codec.latent, codec.classes)
    save_codec(tmp_path / "codec.safetensors", codec.float())
    loaded = load_codec(tmp_path / "codec.safetensors")
    assert codec_checksum(loaded) == codec_checksum(codec)
    assert torch.equal(loaded.encode(x.float()), codec.encode(x.float()))
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_what_has_another_shape_or_no_number_is_not_fitted_to(fitted) -> None:
    codec, x = fitted
    with pytest.raises(ValueError, match=r"x must have shape \(samples, "):
        codec.fit(x[..., :-1])
    with pytest.raises(ValueError, match="x has no samples"):
        codec.fit(x[:0])
    broken = x.clone()
    broken[3].view(-1)[0] = math.nan
    with pytest.raises(ValueError, match=r"x is not finite in the samples \[3\]"):
        codec.fit(broken)


@pytest.mark.parametrize("name", ["wavelet", "wavelet on a line", "cosines", "principal"])
def test_orthogonal_codecs_leave_white_noise_white(name) -> None:
    """The matrix times its transpose is the identity, so the covariance of noise is too."""
    codec = CODECS[name]().double()
    x = samples(codec)
    codec.fit(x)
    size = x[0].numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *codec.event)
    matrix = codec.encode(units).flatten(1)
    torch.testing.assert_close(
        matrix.mT @ matrix, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12
    )
