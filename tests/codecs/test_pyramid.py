"""Walks whose network sees fewer places the noisier they are (DVDP, subspace diffusion)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from structdiff import Batch, Flow, Gaussian, Generator, Product
from structdiff.codecs.pyramid import Pyramid, ends_by_level
from structdiff.denoiser import NetworkDenoiser
from structdiff.nn.field import FieldNetwork
from structdiff.nn.unet import UNet
from structdiff.parameterisations import Data
from structdiff.processes.affine import Affine
from structdiff.processes.covariance_bases import HaarBasis
from structdiff.samplers import DDIM, DDPM, Ancestral, Multistep
from structdiff.schedules import UniformLogSNR
from structdiff.schedules.by_entry import Dropped
from structdiff.testing.noise import Impulses

BASIS, EVENT = HaarBasis(2, (1, 2)), (1, 8, 8)
SPECTRUM = torch.tensor([0.1, 0.4, 1.6], dtype=torch.float64)
"""Deviation of each level, the finest first: normal data of a block spectrum."""
BAYES = partial(Ancestral, eta=1.0)
TIMES = UniformLogSNR(Flow(), 60, end=0.003)


def leaving(share: float) -> Tensor:
    """When the signal of each level is this share of the noise's variance; the means stay."""
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    level = Flow()(t)
    small = (level.alpha[:, None] * SPECTRUM) ** 2 < share * level.sigma[:, None] ** 2
    return torch.cat([t[small.to(torch.uint8).argmax(0)][:-1], torch.ones(1).double()])


class Wiener(nn.Module):
    """E[x_0 | x_t] of data of the block spectrum, in fields of any size; it keeps what it saw."""

    def __init__(self, schedule: Dropped) -> None:
        super().__init__()
        self.schedule = schedule
        self.seen: list[tuple[int, ...]] = []

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: object
    ) -> Mapping[str, Tensor]:
        del previous
        x = batch["x"]
        self.seen.append(tuple(x.shape[1:]))
        gone = (EVENT[1] // x.shape[2]).bit_length() - 1
        basis = HaarBasis(2 - gone, BASIS.axes) if gone < 2 else None
        depth = torch.zeros(x.shape[1:], dtype=torch.long)
        depth = gone + (depth if basis is None else basis.depth(x.shape[1:]))
        t = torch.sigmoid(-clock["x"].reshape(-1)[0])
        level = self.schedule(t)
        alpha = torch.stack([level.alpha[BASIS.depth(EVENT) == k][0] for k in range(3)])[depth]
        sigma, std = level.sigma.flatten()[0], SPECTRUM[depth]
        u = x if basis is None else basis.analyse(x)
        u = u * torch.sqrt(alpha**2 + sigma**2)  # networks see states of unit variance
        u = alpha * std**2 / (alpha**2 * std**2 + sigma**2) * u
        return {"x": u if basis is None else basis.synthesise(u)}


def walked(
    ends: Tensor, sampler: object, *, fade: float = 0.0, pyramid: bool = True
) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Variance of each coefficient at the end of a walk, exactly, and the sizes that were seen."""
    schedule = Dropped(Flow(), ends_by_level(BASIS, EVENT, ends), fade=fade)
    process = Product({"x": Affine(Gaussian(schedule, Data(), event=EVENT), BASIS)})
    network = Wiener(schedule)
    backbone = Pyramid(network, BASIS, schedule) if pyramid else network
    walk = sampler(NetworkDenoiser(backbone, process), TIMES)
    rows = 2 * walk.steps + 3
    x = walk.sample(Batch.of(torch.zeros(rows, *EVENT, dtype=torch.float64)), Impulses())["x"]
    u = BASIS.analyse(x)
    return (u[1:] - u[0]).square().sum(0), network.seen


STAY = torch.ones(3, dtype=torch.float64)
TRUE = (SPECTRUM**2)[BASIS.depth(EVENT)]
SECOND = partial(Multistep, order=2)


def wrong(variance: Tensor) -> float:
    return float((variance / TRUE - 1).abs().max())


@pytest.mark.parametrize(("share", "fade"), [(0.01, 0.0), (0.1, 0.5), (1.0, 1.0)])
def test_the_covariance_is_kept_while_the_field_shrinks(share, fade) -> None:
    """Within 3 % of the truth with less than half of the entries seen.

    What is attenuated before may leave where its signal is as strong as the noise.
    """
    found, sizes = walked(leaving(share), SECOND, fade=fade)
    assert wrong(found) < 0.03
    assert list(dict.fromkeys(sizes)) == [(1, 2, 2), (1, 4, 4), (1, 8, 8)]
    schedule = Dropped(Flow(), ends_by_level(BASIS, EVENT, leaving(share)))
    alive = schedule.alive(TIMES.times()[: len(sizes)])
    assert [torch.Size(size).numel() for size in sizes] == alive.tolist()
    assert int(alive.sum()) < 0.45 * 64 * len(sizes)


def test_leaving_at_once_where_the_signal_still_matters_shows() -> None:
    assert wrong(walked(leaving(1.0), SECOND)[0]) > 0.2


def test_stochastic_walks_keep_the_covariance_too() -> None:
    found, _ = walked(leaving(0.01), BAYES)
    whole, sizes = walked(STAY, BAYES)
    assert set(sizes) == {EVENT}
    assert float((found / whole - 1).abs().max()) < 0.03
    assert not torch.equal(found, whole)


@pytest.mark.parametrize("sampler", [DDIM, BAYES])
def test_what_the_network_does_not_see_changes_nothing(sampler) -> None:
    """The same walk as with the network that sees all and says nothing of what is gone."""
    small, sizes = walked(leaving(0.01), sampler)
    whole, all_sizes = walked(leaving(0.01), sampler, pyramid=False)
    assert set(all_sizes) == {EVENT}
    assert len(set(sizes)) == 3
    torch.testing.assert_close(small, whole, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sampler", [DDIM, DDPM])
def test_without_drops_a_walk_is_the_plain_one(sampler) -> None:
    """A network of any size, the same noise: the walk of the process without a pyramid."""
    torch.manual_seed(0)
    network = FieldNetwork(partial(UNet, width=8), 1, features=8).double()
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    schedule = Dropped(Flow(), torch.ones(EVENT))
    processes = [
        Affine(Gaussian(schedule, Data(), event=EVENT), BASIS),
        Affine(Gaussian(Flow(), Data(), event=EVENT), BASIS),
    ]
    batch, grid = Batch.of(torch.zeros(2, *EVENT).double()), UniformLogSNR(Flow(), 4)
    ends = []
    for process, backbone in zip(
        processes, (Pyramid(network, BASIS, schedule), network), strict=True
    ):
        walk = sampler(NetworkDenoiser(backbone, Product({"x": process})), grid)
        ends.append(walk.sample(batch, Generator(0))["x"])
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)


def test_fields_become_coarse_and_fine_again() -> None:
    schedule = Dropped(Flow(), ends_by_level(BASIS, EVENT, torch.tensor([0.3, 0.6, 1.0])))
    pyramid = Pyramid(nn.Identity(), BASIS, schedule)
    x = torch.randn(3, *EVENT, dtype=torch.float64)
    means = nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(pyramid.coarse(x, 1), 2 * means)
    torch.testing.assert_close(pyramid.coarse(x, 2), 4 * nn.functional.avg_pool2d(x, 4))
    back = pyramid.fine(pyramid.coarse(x, 1), EVENT)
    torch.testing.assert_close(back, means.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_ends_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="ends must be 3 rising times, the finest level's first"):
        ends_by_level(BASIS, EVENT, torch.tensor([0.6, 0.3, 1.0]))
    with pytest.raises(ValueError, match="ends must be 3 rising times"):
        ends_by_level(BASIS, EVENT, torch.tensor([0.6, 1.0]))
    with pytest.raises(ValueError, match="a finer level must leave no later than a coarser one"):
        Pyramid(nn.Identity(), BASIS, Dropped(Flow(), 1 - 0.2 * BASIS.depth(EVENT)))
    ends = torch.rand(EVENT, generator=torch.Generator().manual_seed(0)) + 0.1
    with pytest.raises(ValueError, match="must be equal within a level"):
        Pyramid(nn.Identity(), BASIS, Dropped(Flow(), ends))
    with pytest.raises(ValueError, match=r"fade must be in \[0, 1\], got 2"):
        Dropped(Flow(), torch.ones(2), fade=2.0)


def test_the_estimate_before_is_made_small_with_the_field():
    """A constant stays one, larger by 2 for each level that is gone: the basis is orthogonal."""
    schedule = Dropped(Flow(), ends_by_level(BASIS, EVENT, torch.tensor([0.3, 0.6, 1.0])))
    shown = []

    class Shows(nn.Module):
        def forward(
            self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor]
        ) -> Mapping[str, Tensor]:
            shown.append(previous["x"])
            return {"x": batch["x"]}

    batch, before = Batch.of(torch.zeros(2, *EVENT)), {"x": torch.ones(2, *EVENT)}
    for t, side in ((0.1, 8), (0.5, 4), (0.9, 2)):
        clock = schedule.reference(torch.tensor(t)).clock
        Pyramid(Shows(), BASIS, schedule)(batch, {"x": clock}, before)
        torch.testing.assert_close(shown[-1], torch.full((2, 1, side, side), 8.0 / side))
