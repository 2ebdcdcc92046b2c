"""Models of latents and with encoders, all made of what there is for any data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Denoiser,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Linear,
    Product,
    UniformTime,
    absorbing,
    fit,
    sample,
)
from structdiff.codecs.autoencoder import Autoencoder
from structdiff.codecs.latent import LatentCodec
from structdiff.codecs.quantiser import VectorQuantiser
from structdiff.codecs.residual_quantiser import ResidualQuantiser
from structdiff.codecs.standardise import Identity, Standardise
from structdiff.codecs.wavelet import Wavelet
from structdiff.guidance import Replacement
from structdiff.objectives import Denoising
from structdiff.objectives.weights import Uniform
from structdiff.processes import Estimate, vq_diffusion
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import FromCondition
from structdiff.samplers import FirstHitting
from structdiff.samplers.encoding import Rising, encode
from structdiff.samplers.truncated import Truncated
from structdiff.testing import ExactDenoiser

EVENT = (1, 8, 8)
SMALL = {"widths": (8,), "factors": (4,)}


class Pooled(LatentCodec):
    """Sums over blocks of four by four places in units of their deviation, and their means said
    at each place: a pair of functions, no more."""

    classes = 0

    def __init__(self, event=EVENT):
        super().__init__()
        self.event, self.latent = event, (event[0], event[1] // 4, event[2] // 4)

    def fit(self, x):
        del x

    def encode(self, x):
        return 4 * F.avg_pool2d(x, 4)

    def decode(self, z):
        return F.interpolate(z / 4, scale_factor=4.0)

    def log_det(self, x):
        del x

    def settings(self):
        return {"event": list(self.event)}


class Spectrum(Pooled):
    """Real and imaginary parts of a spectrum."""

    def __init__(self):
        super().__init__()
        self.latent = (2, 8, 5)

    def encode(self, x):
        found = torch.fft.rfft2(x, norm="ortho")
        return torch.cat([found.real, found.imag], 1)

    def decode(self, z):
        real, imaginary = z.chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imaginary), s=(8, 8), norm="ortho")


REAL = {
    "identity": lambda: Identity(EVENT),
    "standardise": lambda: Standardise(EVENT),
    "wavelet": lambda: Wavelet(EVENT),
    "autoencoder": lambda: Autoencoder(EVENT, channels=2, **SMALL),
    "pooled": Pooled,
    "spectrum": Spectrum,
}
CODES = {
    "vector": lambda: VectorQuantiser(EVENT, classes=6, width=3, **SMALL),
    "residual": lambda: ResidualQuantiser(EVENT, classes=6, width=3, levels=2, **SMALL),
}


def fields(count=4):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, *EVENT, generator=draw, dtype=torch.float64)


def made(make):
    torch.manual_seed(0)
    codec = make().double().eval()
    codec.fit(fields())
    return codec


def matched(drawn, known, tolerance=1e-3):
    """Which of the known fields each drawn one is, -1 for none."""
    distance = (drawn.flatten(1).unsqueeze(1) - known.flatten(1)).norm(dim=2)
    least, index = distance.min(1)
    return torch.where(least < tolerance, index, -1)


@pytest.mark.parametrize("name", REAL)
def test_any_pair_of_maps_carries_a_model_of_latents(name):
    """With the exact model of the latents, samples decode to the data, each as often."""
    codec, x = made(REAL[name]), fields()
    z = codec.encode(x)
    process = Product({"x": Gaussian(Cosine(), event=codec.latent)})
    sampler = DDIM(ExactDenoiser(process, Batch.of(z)), UniformTime(25))
    drawn = sampler.sample(Batch.of(torch.zeros(200, *codec.latent).double()), Generator(1))
    found = matched(codec.decode(drawn["x"]), codec.decode(z))
    assert (found >= 0).all()
    counts = torch.bincount(found, minlength=4)
    assert (counts - 50).abs().max() < 4 * math.sqrt(200 * 0.25 * 0.75)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("chain", ["absorbing", "vq-diffusion"])
def test_codes_are_classes_to_any_categorical_process(name, chain):
    """A row for each code: absorbing as of tokens, mask and replace as in VQ-Diffusion."""
    codec, x = made(CODES[name]), fields()
    z = codec.encode(x).flatten(1)
    rows = Layout.ragged([z.shape[1]] * 4)
    data = Batch({"code": z.flatten()}, {"code": rows})
    blank = Layout.ragged([z.shape[1]] * 100)
    blank = Batch({"code": torch.zeros(blank.rows, dtype=torch.long)}, {"code": blank})
    if chain == "absorbing":
        process = Product({"code": Categorical(Flow(), absorbing(6))})
        drawn = FirstHitting(ExactDenoiser(process, data)).sample(blank, Generator(0))
        torn = 0.0
    else:
        process = Product({"code": Categorical(Flow(), vq_diffusion(6, 100))})
        sampler = DDPM(ExactDenoiser(process, data), UniformTime(100))
        drawn, torn = sampler.sample(blank, Generator(0)), 0.05
    decoded = codec.decode(drawn["code"].reshape(-1, *codec.latent))
    found = matched(decoded, codec.decode(codec.encode(x)), 1e-9)
    assert (found < 0).double().mean() <= torn
    assert len(found[found >= 0].unique()) == len(z.unique(dim=0))


class Field(nn.Module):
    """A small network of one leaf."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 1))

    def forward(self, x, clock):
        return self.layers(torch.cat([x, clock.reshape(-1, 1, 1, 1).expand_as(x) / 4], 1))


def test_the_identity_gives_the_run_of_the_data_bit_for_bit():
    """Training, sampling and decoding, beside the same without a codec."""
    x, codec = fields(20).float(), Identity(EVENT)
    codec.fit(x)
    ends = []
    for data, back in ((x, lambda z: z), (codec.encode(x), codec.decode)):
        torch.manual_seed(0)
        denoiser = fit(data, Gaussian(Cosine(), event=EVENT), Field(), steps=6, batch_size=5)
        ends.append((denoiser.state_dict(), back(sample(denoiser, 4, steps=5, seed=3))))
    (weights, drawn), (others, decoded) = ends
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert torch.equal(drawn, decoded)


def test_latents_that_are_known_stay_where_they_are_decoded():
    """Blended latent diffusion: the left half comes from a source, the rest from the model."""
    codec, x = Pooled(), fields(6)
    source, others = x[:3], x[3:]
    process = Product({"x": Gaussian(Cosine(), event=codec.latent)})
    exact = ExactDenoiser(process, Batch.of(codec.encode(others)))
    mask = torch.zeros(3, *codec.latent, dtype=torch.bool)
    mask[..., :1] = True
    known = Batch.of(codec.encode(source)).with_given({"x": mask})
    sampler = DDIM(Replacement(exact, known), UniformTime(20))
    drawn = codec.decode(sampler.sample(Batch.of(known["x"]), Generator(0))["x"])
    kept, rest = drawn[..., :4], drawn[..., 4:]
    error = (codec.decode(codec.encode(source)) - source)[..., :4]
    torch.testing.assert_close(source[..., :4] + error, kept)
    assert error.std() > 0.5  # what the codec alone loses
    allowed = codec.decode(codec.encode(others))[..., 4:]
    assert (matched(rest, allowed, 1e-6) >= 0).all()


class Around(Denoiser):
    """The exact denoiser of x = centre + detail, detail ~ N(0, s^2 P), of a known centre.

    P takes from a field the means of its blocks, if there are any; otherwise it is the identity.
    """

    def __init__(self, process, s, *, blocks=False):
        super().__init__()
        self.process, self.s, self.blocks = process, s, blocks

    def forward(self, batch, t, previous=None):
        bound = self.process.bind(batch)
        clock = bound.clock(t)["x"]
        alpha, sigma = torch.sigmoid(2 * clock).sqrt(), torch.sigmoid(-2 * clock).sqrt()
        centre = batch.condition["centre"]
        # The process of a shifted terminal is centred already.
        faded = centre if isinstance(self.process["x"], Affine) else alpha * centre
        gain = alpha * self.s**2 / (alpha**2 * self.s**2 + sigma**2)
        detail = batch["x"] - faded
        if self.blocks:
            detail = detail - Pooled().decode(Pooled().encode(detail))
        return {"x": Estimate(centre + gain * detail)}


def detailed(count, s, seed=0):
    """Fields of block means and of detail, which has none."""
    draw = torch.Generator().manual_seed(seed)
    codec = Pooled()
    means = 4 * torch.randn(count, *codec.latent, generator=draw, dtype=torch.float64)
    detail = s * torch.randn(count, *EVENT, generator=draw, dtype=torch.float64)
    detail = detail - codec.decode(codec.encode(detail))
    return means, detail


def test_a_semantic_code_and_a_stochastic_one_say_a_field_again():
    """Diffusion autoencoders: the flow under the semantic code takes x to the stochastic code and
    back; another semantic code changes the block means alone, other noise the detail alone."""
    codec, s = Pooled(), 0.4
    means, detail = detailed(5, s)
    x = codec.decode(means) + detail
    denoiser = Around(Product({"x": Gaussian(Cosine(), event=EVENT)}), s, blocks=True)
    sampler = DDIM(denoiser, UniformTime(400))

    def batch(field, semantic):
        return Batch.of(field).with_condition({"centre": codec.decode(semantic)})

    def decoded(noise, semantic):
        walk = Truncated(sampler, {"x": noise}, noisy=True)
        return walk.sample(batch(noise, semantic), Generator(0))["x"]

    semantic = codec.encode(x)
    rising = DDIM(denoiser, Rising(UniformTime(400)))
    noise = encode(rising, batch(x, semantic))["x"]
    assert (decoded(noise, semantic) - x).square().mean().sqrt() < 1e-2
    swapped = decoded(noise, semantic.flip(0))
    torch.testing.assert_close(codec.encode(swapped), semantic.flip(0))
    fine = swapped - codec.decode(codec.encode(swapped))
    assert (fine - detail).square().mean().sqrt() < 1e-2
    other = decoded(Generator(5).normal(noise.shape, noise.dtype, "cpu"), semantic)
    torch.testing.assert_close(codec.encode(other), semantic)
    fine = other - codec.decode(codec.encode(other))
    correlation = torch.corrcoef(torch.stack([fine.flatten(), detail.flatten()]))[0, 1]
    assert correlation.abs() < 0.2


@pytest.mark.parametrize("shifted", [False, True])
def test_what_an_autoencoder_says_is_refined(shifted):
    """DiffuseVAE: its field is a condition (1) or the terminal mean too (2). In ten steps of the
    flow a sample comes within s^2 of it; from noise that knows nothing of it, the start's
    distance of a shifted process contracts by the flow's own factor and no more."""
    codec, s, count = Pooled(), 0.3, 400
    means, detail = detailed(count, s)
    said = codec.decode(codec.encode(codec.decode(means) + detail))
    inner = Gaussian(Linear(), event=EVENT)
    leaf = Affine(inner, mean=FromCondition("centre")) if shifted else inner
    process = Product({"x": leaf})
    sampler = DDIM(Around(process, s), UniformTime(10))
    batch = Batch.of(torch.zeros_like(said)).with_condition({"centre": said})
    drawn = sampler.sample(batch, Generator(0))["x"]
    spread = (drawn - said).square().mean().item()
    assert spread < 1.5 * s**2
    marginal = (said.flip(0) - said).square().mean().item()
    assert spread < 0.1 * marginal  # a sample that knows nothing of the code is as far
    if shifted:
        prior = process.bind(batch).prior(Generator(1))["x"] - said
        assert abs(prior.mean()) < 4 / math.sqrt(prior.numel())
        assert abs(prior.var() - 1) < 4 * math.sqrt(2 / prior.numel())
        noise = Generator(2).normal(said.shape, said.dtype, "cpu")
        far = Truncated(sampler, {"x": noise}, noisy=True).sample(batch, Generator(0))["x"]
        worse = (far - said).square().mean().item()
        torch.testing.assert_close(
            worse / spread, 1 + said.square().mean().item(), rtol=0.1, atol=0
        )


class Represented(nn.Module):
    """A denoiser's network that sees two numbers of the clean record."""

    def __init__(self, entries):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(entries, 64), nn.Tanh(), nn.Linear(64, 2))
        self.layers = nn.Sequential(
            nn.Linear(entries + 3, 128), nn.SiLU(), nn.Linear(128, entries)
        )

    def forward(self, batch, clock, previous):
        x, code = batch["x"], self.encoder(batch.condition["clean"])
        time = clock["x"].expand(len(x)).reshape(-1, 1).to(x) / 4
        return {"x": self.layers(torch.cat([x, code, time], 1))}


def probe(code: Tensor, label: Tensor, held: int) -> float:
    """Accuracy of least squares on one-hot labels, on the last samples."""
    seen = torch.cat([code, torch.ones(len(code), 1)], 1)
    weight = torch.linalg.lstsq(seen[:-held], F.one_hot(label[:-held]).float()).solution
    return (seen[-held:] @ weight).argmax(1).eq(label[-held:]).float().mean().item()


def test_a_condition_that_is_encoded_learns_what_the_labels_are():
    """Three kinds in 2 of 24 directions, seen through two numbers: a linear probe of those that
    the denoising loss has learned, beside one of an untrained encoder."""
    torch.manual_seed(0)
    label = torch.randint(3, (3000,))
    angle = 2 * math.pi * label / 3
    corner = 3 * torch.stack([angle.cos(), angle.sin()], 1)
    basis = torch.linalg.qr(torch.randn(24, 24))[0]
    x = corner @ basis[:2] + torch.randn(3000, 24)
    network = Represented(24)
    with torch.no_grad():
        before = probe(network.encoder(x), label, 1000)
    fit(
        {"x": x},
        Product({"x": Gaussian(Cosine(), event=(24,))}),
        network,
        steps=400,
        batch_size=128,
        learning_rate=5e-3,
        objective=Denoising(Uniform()),
        condition={"clean": x},
        condition_dropout=0.0,
    )
    with torch.no_grad():
        after = probe(network.encoder(x), label, 1000)
    assert after > 0.9
    assert after > before + 0.2
