"""`fit` and `sample` on plain tensors, with a process and a network of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.objectives import Denoising, Objective
from structdiff.processes import Process, Product
from structdiff.random import Generator
from structdiff.samplers import DDPM, Sampler
from structdiff.schedules import UniformTime

__all__ = ["fit", "sample"]


class _OneLeaf(nn.Module):
    """A network `(x_t, clock) -> output` on one tensor, as a backbone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        del previous
        x = batch["x"]
        return {"x": self.network(x, clock["x"].to(torch.float32).expand(x.shape[0]))}


def fit(
    data: Tensor | Mapping[str, Tensor],
    process: Process,
    network: nn.Module,
    *,
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    objective: Objective | None = None,
    seed: int = 0,
    **training: Any,
) -> Denoiser:
    """Train a denoiser on tensors.

    Arguments:
        data: `(samples, *event)`, or a mapping of them by leaf (one row per sample each).
        process: The process of the leaf, or a `Product` with the mapping's names.
        network: For a bare tensor, `network(x_t, clock)` with x_t `(samples, *event)` as the
            process encodes it and the clock `(samples,)`; for a mapping, a `Backbone`.
        steps: Number of updates.
        batch_size: Samples per update.
        learning_rate: Peak learning rate of AdamW.
        objective: `Denoising()` by default.
        seed: Start of all random numbers.
        training: Other fields of `TrainingConfig`.

    Returns:
        The denoiser, with averaged weights.

    Raises:
        ValueError: If the data has no samples.

    Example:
        >>> from structdiff import Gaussian, Linear, fit, sample
        >>> class Network(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layers = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))
        ...     def forward(self, x, clock):
        ...         return self.layers(torch.stack([x, clock / 4], -1)).squeeze(-1)
        >>> denoiser = fit(torch.randn(100), Gaussian(Linear()), Network(), steps=5)
        >>> sample(denoiser, 3, steps=4).shape
        torch.Size([3])
    """
    from structdiff.training import Source, Trainer, TrainingConfig

    bare = isinstance(data, Tensor)
    leaves = {"x": data} if isinstance(data, Tensor) else dict(data)
    product = Product({"x": process}) if bare else process
    denoiser = NetworkDenoiser(_OneLeaf(network) if bare else network, product)
    samples = next(iter(leaves.values())).shape[0]
    source = Source(
        samples,
        lambda index: Batch.of({n: x[torch.from_numpy(index)] for n, x in leaves.items()}),
        batch_size=batch_size,
        seed=seed,
    )
    settings = {"bf16": False, "warm_up": min(100, steps // 10), "ema": 0.99} | training
    config = TrainingConfig(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed, **settings
    )
    trainer = Trainer(denoiser, objective or Denoising(), source, config)
    trainer.run()
    trainer.average.swap()
    return denoiser.eval()


def sample(
    denoiser: Denoiser,
    samples: int,
    *,
    steps: int = 100,
    sampler: Sampler | None = None,
    seed: int = 0,
) -> Any:
    """Draw samples of regular leaves.

    Arguments:
        denoiser: What `fit` returned.
        samples: How many.
        steps: Steps of the default sampler, DDPM on a grid uniform in time.
        sampler: Another sampler, made with this denoiser.
        seed: Start of the random numbers.

    Returns:
        A tensor `(samples, *event)` if the denoiser was trained on one, else a mapping.
    """
    process: Any = denoiser.process
    device = next((weight.device for weight in denoiser.parameters()), torch.device("cpu"))
    chosen = sampler or DDPM(denoiser, UniformTime(steps))
    leaves = chosen.sample(Batch.of(process.empty(samples, device)), Generator(seed)).leaves
    return leaves["x"] if list(leaves) == ["x"] else dict(leaves)
