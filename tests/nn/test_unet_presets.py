"""Options of well-known U-Nets, and the processes and guides they come with."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from structdiff import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.guidance import Guided, Rewarded
from structdiff.nn.field import FieldNetwork
from structdiff.nn.resampling import SMOOTH, Double, Halve
from structdiff.nn.unet import UNet
from structdiff.nn.unet_blocks import Attention, ResidualBlock
from structdiff.nn.unet_presets import adm, ddpm_plus_plus, ncsn_plus_plus
from structdiff.parameterisations import Noise
from structdiff.processes import Gaussian, Product
from structdiff.schedules import Cosine, Geometric, Linear


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def woken(network: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.05)
    return network.eval()


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (32, 64), (64, 32)])
def test_rescaled_blocks_keep_the_variance(inputs, outputs):
    """Within a fifth, before training; without the factor and with weights it doubles."""
    torch.manual_seed(0)
    make = partial(ResidualBlock, inputs, outputs, dimensions=2, condition=8)
    block, x, condition = make(rescale=True), noise(8, inputs, 16, 16), noise(8, 8)
    assert block(x, condition).var().item() == pytest.approx(1, rel=0.2)
    plain = make(rescale=False)
    plain.last.load_state_dict(block.last.state_dict())
    assert plain(x, condition).var().item() == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("rescale", [False, True])
def test_the_variance_inside_stays_of_order_one(rescale):
    """From the input to the last norm of a network of 30 sums, by skip rescaling or zeros."""
    torch.manual_seed(0)
    network = UNet(1, 1, width=32, multipliers=(1, 1), blocks=3, rescale=rescale)
    seen = []
    network.norm.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].var()))
    network(noise(4, 1, 16, 16))
    assert 0.3 < seen[0] < 3


def test_ncsn_plus_plus_is_ddpm_plus_plus_with_a_filter_and_the_input_at_every_level():
    plain, smooth = (make(8, 1)(3, 3, condition=4) for make in (ddpm_plus_plus, ncsn_plus_plus))
    for network, taps in ((plain, 2), (smooth, 4)):
        filters = [part for part in network.modules() if isinstance(part, Halve | Double)]
        assert {part.taps for part in filters} == {taps}
        blocks = [part for part in network.modules() if isinstance(part, ResidualBlock)]
        assert all(block.rescale for block in blocks)
        assert sum(block.resample is not None for block in blocks) == 6
        attended = [stage.attend is not None for stages in network.down for stage in stages]
        assert attended == [False, True, False, False]
    torch.testing.assert_close(
        next(part.kernel for part in smooth.modules() if isinstance(part, Halve)).flatten()[:4],
        torch.tensor(SMOOTH) / 64,
    )
    assert len(plain.pyramid) == 0
    assert [part.convolve.in_channels for part in smooth.pyramid] == [3, 8, 16]


def denoiser(make, process: Product) -> NetworkDenoiser:
    torch.manual_seed(0)
    network = FieldNetwork(partial(make, width=8, blocks=1), 1, features=12)
    return NetworkDenoiser(woken(network).double(), process)


def test_for_growing_variance_the_score_is_the_output_over_sigma():
    """NCSN++: the input is scaled by the variance, the output by 1 / sigma; at any real time."""
    process = Product({"x": Gaussian(Geometric(0.01, 50.0), Noise(), event=(1, 8, 8))})
    model = denoiser(ncsn_plus_plus(), process)
    x = noise(2, 1, 8, 8).double()
    for time in (0.1234567, 0.5, 0.9):
        t = {"x": torch.tensor(time, dtype=torch.float64)}
        sigma = 0.01 * 5000**time
        estimate = model(Batch.of(sigma * x), t)["x"].value
        score = (estimate - sigma * x) / sigma**2
        seen = Batch.of(sigma * x / math.sqrt(1 + sigma**2))
        clock = {"x": torch.tensor(-math.log(sigma), dtype=torch.float64)}
        output = model.backbone(seen, clock, None)["x"]
        assert output.abs().max() > 0.01
        torch.testing.assert_close(score, -output / sigma, rtol=1e-6, atol=1e-9)


def test_for_preserved_variance_time_is_continuous():
    """DDPM++ on a linear beta: x_0 = (x_t - sigma output) / alpha, with a slope in time."""
    process = Product({"x": Gaussian(Linear(), Noise(), event=(1, 8, 8))})
    model = denoiser(ddpm_plus_plus(), process)
    batch = Batch.of(noise(2, 1, 8, 8).double())

    def estimate(time: Tensor) -> Tensor:
        return model(batch, {"x": time})["x"].value

    time, step = torch.tensor(0.4321, dtype=torch.float64), 1e-5
    weight, opened = noise(2, 1, 8, 8, seed=1), time.clone().requires_grad_()
    (slope,) = torch.autograd.grad((weight * estimate(opened)).sum(), opened)
    difference = (estimate(time + step) - estimate(time - step)) / (2 * step)
    torch.testing.assert_close(slope, (weight * difference).sum(), rtol=1e-4, atol=1e-6)
    alpha, sigma = Linear().alpha(time), Linear().sigma(time)
    clock = {"x": (alpha / sigma).log()}
    output = model.backbone(batch, clock, None)["x"]
    expected = (batch["x"] - sigma * output) / alpha
    torch.testing.assert_close(estimate(time), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("size", "attended"), [(32, [0, 1, 2]), (64, [1, 2, 3]), (128, [2, 3, 4]), (256, [3, 4, 5])]
)
def test_adm_attends_at_32_16_and_8_places_with_64_entries_a_head(size, attended):
    with torch.device("meta"):
        network = adm(size, 64, 2)(3, 6, condition=256)
    where = [level for level, stages in enumerate(network.down) if stages[0].attend is not None]
    assert where == attended
    parts = [part for part in network.modules() if isinstance(part, Attention)]
    assert {part.attend.in_features // part.heads for part in parts} == {64}


@pytest.mark.parametrize(
    ("size", "width", "blocks", "millions"), [(64, 192, 3, 296), (128, 256, 2, 422)]
)
def test_adm_has_the_published_number_of_parameters(size, width, blocks, millions):
    """Table 11; the table of classes is ours' features, less than one in a hundred."""
    with torch.device("meta"):
        make = adm(size, width, blocks)
        network = FieldNetwork(make, 3, outputs=6, kinds={"label": 1000}, features=4 * width)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.01)


def test_adm_is_guided_by_a_classifier():
    """Nothing of its own: x_0 moves by sigma^2 / alpha times the gradient of log p(c | x_t)."""
    process = Product({"x": Gaussian(Cosine(), event=(1, 32, 32))})
    torch.manual_seed(0)
    make = partial(adm(32, 64, 1), multipliers=(1,), heads=1, attention=())
    model = NetworkDenoiser(woken(FieldNetwork(make, 1, kinds={"label": 3}, features=8)), process)
    classifier = nn.Linear(1024, 3)
    t, label = {"x": torch.tensor(0.4)}, torch.tensor([2, 0])
    batch = Batch.of(noise(2, 1, 32, 32)).with_condition({"label": label})

    def log_prob(batch: Batch, t: dict[str, Tensor]) -> Tensor:
        logits = classifier(batch["x"].flatten(1)).log_softmax(1)
        return logits[torch.arange(2), batch.condition["label"]]

    x = batch["x"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_prob(batch.with_leaves({"x": x}), t).sum(), x)
    alpha, sigma = Cosine().alpha(t["x"]), Cosine().sigma(t["x"])
    with torch.no_grad():
        found = Guided(model, log_prob, 3.0)(batch, t)["x"].value
        expected = model(batch, t)["x"].value + 3 * sigma**2 / alpha * slope
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_clip_is_extended_by_reconstruction_guidance():
    """A U-Net of space and time: the first frames are known, the others follow by its gradient."""
    process = Product({"x": Gaussian(Cosine(), event=(1, 4, 4, 4))})
    torch.manual_seed(0)
    make = partial(UNet, dimensions=3, width=8, multipliers=(1, 2), blocks=1)
    model = NetworkDenoiser(woken(FieldNetwork(make, 1, features=8)).double(), process)
    known, x = noise(1, 1, 2, 4, 4).double(), noise(1, 1, 4, 4, 4, seed=1).double()
    t = {"x": torch.tensor(0.5, dtype=torch.float64)}

    def reward(estimates, batch: Batch) -> Tensor:
        return -0.5 * (estimates["x"].value[:, :, :2] - known).flatten(1).square().sum(1)

    found = Rewarded(model, reward, 2.0)(Batch.of(x), t)["x"].value
    opened = x.clone().requires_grad_()
    plain = model(Batch.of(opened), t)["x"].value
    error = 0.5 * (plain[:, :, :2] - known).square().sum()
    (slope,) = torch.autograd.grad(error, opened)
    alpha, sigma = Cosine().alpha(t["x"]), Cosine().sigma(t["x"])
    expected = plain - 2 * sigma**2 / alpha * slope
    torch.testing.assert_close(found, expected.detach(), rtol=1e-8, atol=1e-8)
    assert (found - plain)[:, :, 2:].abs().max() > 1e-4


def test_sizes_that_were_not_published_are_refused():
    with pytest.raises(ValueError, match="size must be one of"):
        adm(48)
    with pytest.raises(ValueError, match="width a multiple of 64, got size = 64 and width = 100"):
        adm(64, 100)
