"""`fit`, `sample` and `log_prob` on plain tensors, with a process and a network of one's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.guidance import ClassifierFree
from structdiff.likelihood import Density, flow_log_prob
from structdiff.objectives import ConditionDropout, Denoising, Objective
from structdiff.processes import Markov, Process, Product
from structdiff.random import Generator
from structdiff.samplers import DDIM, DDPM, Sampler, Walk
from structdiff.samplers.truncated import (
    Init,
    Since,
    Truncated,
    check_classes,
    check_leaves,
    initial,
)
from structdiff.schedules import UniformTime

__all__ = ["fit", "log_prob", "sample"]


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
    data: Tensor | ArrayLike | Mapping[str, Tensor | ArrayLike],
    process: Process,
    network: nn.Module,
    *,
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    objective: Objective | None = None,
    condition: Mapping[str, Tensor | ArrayLike] | None = None,
    condition_dropout: float = 0.1,
    seed: int = 0,
    **training: Any,
) -> Denoiser:
    """Train a denoiser on tensors.

    Arguments:
        data: `(samples, *event)`, a tensor or an array, or a mapping of them by leaf (one row
            per sample each); real numbers are taken in the default dtype of torch.
        process: The process of the leaf, or a `Product` with the mapping's names.
        network: For a bare tensor, `network(x_t, clock)` with x_t `(samples, *event)` as the
            process encodes it and the clock `(samples,)`; for a mapping, a `Backbone`.
        steps: Number of updates.
        batch_size: Samples per update.
        learning_rate: Peak learning rate of AdamW.
        objective: `Denoising()` by default.
        condition: What is known of each sample, `(samples, ...)` by name. The network must be a
            `Backbone`, which finds it in its batch (see `structdiff.nn.ConditionFeatures`).
        condition_dropout: Share of samples trained without their conditions, so that sampling
            can go without them and be guided.
        seed: Start of all random numbers.
        training: Other fields of `TrainingConfig`.

    Returns:
        The denoiser, with averaged weights.

    Raises:
        ValueError: If the data has no samples or is not numbers, or a network of a bare tensor
            is to have conditions.

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
    from structdiff.training.distributed import shard

    bare = not isinstance(data, Mapping)
    known = {n: _numbers(f"condition {n!r}", x) for n, x in (condition or {}).items()}
    if bare and known:
        msg = "a network of a bare tensor sees no condition: pass {'x': data} and a Backbone"
        raise ValueError(msg)
    named = data if isinstance(data, Mapping) else {"x": data}
    leaves = {name: _numbers(f"data {name!r}", x) for name, x in named.items()}
    if not leaves or any(x.ndim == 0 for x in leaves.values()):
        msg = "data must be (samples, *event), or a mapping of such by leaf, at least one"
        raise ValueError(msg)
    product = Product({"x": process}) if bare else process
    denoiser = NetworkDenoiser(_OneLeaf(network) if bare else network, product)
    samples = next(iter(leaves.values())).shape[0]
    whole = Batch.of(leaves).with_condition(known)
    source = Source(
        samples,
        lambda index: whole.select(torch.from_numpy(index)),
        batch_size=batch_size,
        seed=seed,
        shard=shard(),
    )
    aim = objective or Denoising()
    if known:
        aim = ConditionDropout(aim, 0.0, together=condition_dropout)
    settings = {"bf16": False, "warm_up": min(100, steps // 10), "ema": 0.99} | training
    config = TrainingConfig(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed, **settings
    )
    trainer = Trainer(denoiser, aim, source, config)
    trainer.run()
    trainer.average.swap()
    return denoiser.eval()


def sample(
    denoiser: Denoiser,
    samples: int,
    *,
    steps: int = 100,
    sampler: Walk | None = None,
    condition: Mapping[str, Any] | None = None,
    guidance: float | Mapping[str, float] = 1.0,
    given: Mapping[str, Tensor | ArrayLike] | None = None,
    init: Tensor | ArrayLike | Init | None = None,
    start: float | None = None,
    seed: int = 0,
) -> Any:
    """Draw samples of regular leaves.

    Arguments:
        denoiser: What `fit` returned.
        samples: How many.
        steps: Steps of the default sampler on a grid uniform in time: DDPM, or DDIM for flows,
            which have no fresh noise.
        sampler: Another sampler, made with this denoiser (for guidance, with
            `ClassifierFree(denoiser, scale)`).
        condition: Value of each condition by name, one for all samples or one for each. A name
            that the network does not look at changes nothing: what it reads is not known here.
        guidance: Scale of the conditions: 0 unconditional, 1 conditional, above 1 guided.
        given: Leaves that are known, one value for all samples or one for each; exact for a model
            trained with `GivenRows(Denoising(), random_leaves)`, or with
            `Denoising(independent=True)` if its network treats clocks beyond those of training
            (that of a given leaf is 20) as clean.
        init: Clean records to begin from, for all samples or one for each, as a tensor or a
            mapping by leaf; or what draws them, `init(batch, random)` (see `Truncated`).
        start: How far they are noised first, in [0, 1]: at 1 they are forgotten, at 0 they are
            what is returned. Of the steps those below start are taken. A sampler of one's own
            begins at its grid's first time, so it goes without a start.
        seed: Start of the random numbers.

    Returns:
        A tensor `(samples, *event)` if the denoiser has the one leaf `x`, else a mapping.

    Raises:
        ValueError: If a given leaf or condition has another shape or is not known, there are
            a sampler and a guidance scale, or init goes neither with start nor with the sampler.

    Example:
        >>> from structdiff import Cosine, Gaussian
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> sample(denoiser, 2, init=torch.tensor([-1.0, 2.0]), start=0.0)
        tensor([-1.,  2.])
    """
    process: Any = denoiser.process
    device = next((weight.device for weight in denoiser.parameters()), torch.device("cpu"))
    batch = _blank(process.empty(samples, device), condition or {}, given or {})
    aware = denoiser if guidance == 1 else ClassifierFree(denoiser, guidance)
    if sampler is not None and aware is not denoiser:
        msg = "guidance goes with the default sampler: make yours with ClassifierFree(denoiser, w)"
        raise ValueError(msg)
    check_classes("given", {name: batch[name] for name in batch.given}, process)
    begin = None if init is None else _as_init(init, batch)
    _check_start(begin, start, sampler)
    if begin is not None and start == 0:
        begun = initial(begin, batch, Generator(seed))
        check_classes("init", begun, process)
        leaves: Mapping[str, Tensor] = {name: x.clone() for name, x in begun.items()}
        return leaves["x"] if list(leaves) == ["x"] else dict(leaves)
    usual = DDPM if process.offers(Markov) else DDIM
    grid = UniformTime(steps)
    walk = sampler or usual(aware, grid if start in (None, 1) else Since(grid, start))
    walk = walk if begin is None else _begun(walk, begin)
    leaves = walk.sample(batch, Generator(seed)).leaves
    return leaves["x"] if list(leaves) == ["x"] else dict(leaves)


def log_prob(
    denoiser: Denoiser,
    data: Tensor | ArrayLike | Mapping[str, Tensor | ArrayLike],
    *,
    condition: Mapping[str, Any] | None = None,
    given: Collection[str] = (),
    start: float = 1e-3,
    tolerance: float = 1e-4,
    probes: int | None = None,
    seed: int = 0,
) -> Density:
    """How probable samples are under a model, by its probability flow.

    Arguments:
        denoiser: What `fit` returned; of leaves on R^n and manifolds alone. For a record with a
            leaf on classes there is `continuous_bound`.
        data: `(samples, *event)`, or a mapping of them by leaf, as for `fit`.
        condition: What is known of the samples, as for `sample`.
        given: Names of leaves that are conditions: the density of the others beside them.
        start: The time that the data are taken to be of, see `flow_log_prob`.
        tolerance: Error of a step of the solver.
        probes: Random probes of the divergence; None for its exact value, which takes a backward
            pass for each coordinate.
        seed: Start of the random numbers of the probes.

    Returns:
        A report: `.total` has the log density of each sample in nats.

    Raises:
        ValueError: If there is no density, or the data do not fit the model.

    Example:
        >>> from structdiff import Gaussian, Linear
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
        >>> log_prob(denoiser, torch.zeros(2)).total
        tensor([-0.9189, -0.9189], dtype=torch.float64)
    """
    process: Any = denoiser.process
    named = data if isinstance(data, Mapping) else {"x": data}
    leaves = {name: _numbers(f"data {name!r}", x) for name, x in named.items()}
    samples = len(next(iter(leaves.values()), []))
    device = next((weight.device for weight in denoiser.parameters()), torch.device("cpu"))
    blank = process.empty(samples, device)
    if leaves.keys() != blank.keys():
        msg = f"data has the leaves {sorted(leaves)}, the process {sorted(blank)}: give them all"
        raise ValueError(msg)
    batch = _blank(blank, condition or {}, leaves)
    unknown = sorted(set(given) - leaves.keys())
    if unknown:
        msg = f"given names the leaves {unknown}, the data have {sorted(leaves)}"
        raise ValueError(msg)
    held = batch.with_given({name: batch.given[name] for name in given})
    return flow_log_prob(
        denoiser, held, start=start, tolerance=tolerance, probes=probes, random=Generator(seed)
    )


def _as_init(init: Tensor | ArrayLike | Init, batch: Batch) -> Init:
    """Numbers by leaf, or what draws them."""
    if callable(init):
        return init
    named = init if isinstance(init, Mapping) else {"x": init}
    leaves = {name: _numbers(f"init {name!r}", x) for name, x in named.items()}
    check_leaves(leaves, batch.leaves)
    return leaves


def _begun(walk: Walk, init: Init) -> Walk:
    """The walk, from the records on."""
    if not isinstance(walk, Sampler):
        name = type(walk).__name__
        msg = f"init goes with a Sampler, not with what walks around one, got {name}"
        raise ValueError(msg)
    return Truncated(walk, init)


def _check_start(init: Init | None, start: float | None, sampler: Walk | None) -> None:
    """Refuse a start that means nothing, and records without one."""
    if start is not None and not 0 <= start <= 1:
        msg = f"start must be in [0, 1], got {start}"
        raise ValueError(msg)
    if sampler is not None and start is not None:
        msg = "start goes with the default sampler: make yours with the grid Since(grid, start)"
        raise ValueError(msg)
    if init is not None and isinstance(sampler, Sampler) and sampler.times[0] == 1:
        msg = "init would be forgotten, since the sampler's grid begins at pure noise, t = 1"
        raise ValueError(f"{msg}: make it with the grid Since(grid, start)")
    if init is None and start not in (None, 1):
        msg = f"start = {start} needs records to begin from: give init"
        raise ValueError(msg)
    if sampler is None and init is not None and start is None:
        msg = "init needs a start in [0, 1], how far it is noised: 0 not at all, 1 to pure noise"
        raise ValueError(msg)


def _blank(
    leaves: Mapping[str, Tensor],
    condition: Mapping[str, Tensor | ArrayLike],
    given: Mapping[str, Tensor | ArrayLike],
) -> Batch:
    """What is to be drawn: placeholders, conditions, and leaves that are known."""
    for title, named in (("condition", condition), ("given", given)):
        if not isinstance(named, Mapping):
            msg = f"{title} must be a mapping from names to values, got {type(named).__name__}"
            raise ValueError(msg)
    unknown = given.keys() - leaves.keys()
    if unknown:
        msg = f"given names the leaves {sorted(unknown)}, the process has {sorted(leaves)}"
        raise ValueError(msg)
    values = {n: _for_all(f"given {n!r}", x, leaves[n]) for n, x in given.items()}
    batch = Batch.of({**leaves, **values})
    samples, device = batch.samples, batch.device
    held = {n: torch.ones(samples, dtype=torch.bool, device=device) for n in values}
    asked = {n: _numbers(f"condition {n!r}", x).to(device) for n, x in condition.items()}
    asked = {
        n: x if x.ndim and len(x) == samples else x.expand(samples, *x.shape)
        for n, x in asked.items()
    }
    return batch.with_condition(asked).with_given(held)


def _for_all(name: str, value: Tensor | ArrayLike, like: Tensor) -> Tensor:
    """A value for each sample."""
    x = _numbers(name, value).to(like.device)
    if x.is_floating_point() and not like.is_floating_point():
        msg = f"{name} must be whole numbers, got {x.dtype}"
        raise ValueError(msg)
    x = x.to(like.dtype)
    if x.shape not in (like.shape, like.shape[1:]):
        must = f"{tuple(like.shape)} or {tuple(like.shape[1:])}"
        msg = f"{name} must have shape {must}, got {tuple(x.shape)}"
        raise ValueError(msg)
    return x.expand_as(like)


def _numbers(name: str, value: Tensor | ArrayLike) -> Tensor:
    """Numbers as a tensor: real ones in the default dtype, whole ones in int64."""
    try:
        x = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        has = f"{type(value).__name__} ({error})"
        msg = f"{name} must be numbers, as a tensor, an array or lists, got {has}"
        raise ValueError(msg) from None
    if x.is_floating_point():
        return x.to(torch.get_default_dtype())
    return x if x.dtype == torch.bool or x.is_complex() else x.long()
