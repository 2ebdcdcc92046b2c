"""Another generator at the start, in the kernel and around the space of a chain of few steps."""

import torch

from structdiff.batch import Batch
from structdiff.codecs.latent import LatentCodec
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Gaussian, Product
from structdiff.random import Generator
from structdiff.samplers import DDPM
from structdiff.samplers.truncated import Since, Truncated
from structdiff.schedules import Cosine, UniformTime
from structdiff.testing import NormalDenoiser

SIDE = torch.arange(-2.0, 3.0, dtype=torch.float64)
MODES = torch.cartesian_prod(SIDE, SIDE)
SPREAD = 0.05
GAUSSIAN = Gaussian(Cosine(), event=(2,))
COUNT = 4000


class Posterior(Denoiser):
    """Draws x_0 from p(x_0 | x_t), as a conditional generator G(x_t, z, t) would."""

    def __init__(self, seed=0):
        super().__init__()
        self.process = Product({"x": GAUSSIAN})
        self.source = torch.Generator().manual_seed(seed)

    def forward(self, batch, t, previous=None):
        x_t = batch["x"]
        level = GAUSSIAN.schedule(torch.as_tensor(t["x"], dtype=torch.float64))
        alpha, sigma = level.alpha.reshape(-1, 1), level.sigma.reshape(-1, 1)
        variance = alpha**2 * SPREAD**2 + sigma**2
        square = (x_t.unsqueeze(1) - alpha.unsqueeze(2) * MODES).square().sum(2)
        weight = torch.softmax(-0.5 * square / variance, 1)
        mode = MODES[torch.multinomial(weight, 1, generator=self.source)[:, 0]]
        gain = alpha * SPREAD**2 / variance
        mean = mode + gain * (x_t - alpha * mode)
        noise = torch.randn(x_t.shape, generator=self.source, dtype=x_t.dtype)
        return {"x": Estimate(mean + (SPREAD**2 * sigma**2 / variance).sqrt() * noise)}


def drawn(walk):
    return walk.sample(Batch.of(torch.zeros(COUNT, 2, dtype=torch.float64)), Generator(1))["x"]


def near(x):
    """Share of samples within four deviations of a mode, and how many each mode has."""
    distance, mode = torch.cdist(x, MODES).min(1)
    close = distance < 4 * SPREAD
    return close.double().mean(), torch.bincount(mode[close], minlength=len(MODES))


def test_a_stochastic_denoiser_is_exact_in_four_steps():
    share, counts = near(drawn(DDPM(Posterior(), UniformTime(4))))
    assert share > 0.995  # 4 deviations of a normal law in the plane hold all but 0.0003
    expected = COUNT / len(MODES)
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < 51  # 24 degrees of freedom, one in a thousand


def test_the_mean_alone_falls_between_the_modes():
    mean = NormalDenoiser(GAUSSIAN, MODES, torch.full((25,), SPREAD, dtype=torch.float64))
    share, _ = near(drawn(DDPM(mean, UniformTime(4))))
    assert share < 0.9


class Start(torch.nn.Module):
    """A generator of noisy data at the time where the chain starts."""

    def forward(self, batch, random):
        count = batch.samples
        mode = (random.uniform((count,), torch.float64, "cpu") * len(MODES)).long()
        level = GAUSSIAN.schedule(torch.tensor(0.5, dtype=torch.float64))
        clean = MODES[mode] + SPREAD * random.normal((count, 2), torch.float64, "cpu")
        noise = random.normal((count, 2), torch.float64, "cpu")
        return {"x": level.alpha * clean + level.sigma * noise}


class Turned(LatentCodec):
    """A codec around the space: a turn and a stretch."""

    event = latent = (2,)
    classes = 0

    def fit(self, x):
        del x

    def encode(self, x):
        return x.flip(1) / 3

    def decode(self, z):
        return 3 * z.flip(1)

    def log_det(self, x):
        return x.new_full((len(x),), -2 * torch.log(torch.tensor(3.0)).item())

    def settings(self):
        return {}


def test_all_three_plugs_work_together():
    grid = Since(UniformTime(2), 0.5)
    codec, walk = Turned(), Truncated(DDPM(Posterior(), grid), Start(), noisy=True)
    latents = drawn(walk)
    share, counts = near(codec.encode(codec.decode(latents)))
    assert share > 0.995
    expected = COUNT / len(MODES)
    assert ((counts - expected) ** 2 / expected).sum() < 51
