r"""Order-agnostic training: any rows of a record given any others.

With D rows of one class each, an order of the rows drawn at random and m of them still to come,

    -log p(x_0) <= E_{m, order} (D / m) sum_{d to come} -log p(x_0^d | the rows before),

m uniform in 1, ..., D. The rows to come are masked, so this is the absorbing chain's bound in
continuous time with the time integrated out: given that m rows are masked, which ones they are is
uniform, and the integral over t leaves 1 / m for each m. Equality holds where the model's
conditionals are those of one law.

References:
    Autoregressive Diffusion Models (Hoogeboom et al., 2022), eq. 3 and algorithm 2.
    https://arxiv.org/abs/2110.02037
    A Deep and Tractable Density Estimator (Uria et al., 2014). https://arxiv.org/abs/1310.1757
    Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions of Clean Data
    (Ou et al., 2024). https://arxiv.org/abs/2406.03736
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Objective, Terms, per_entry
from structdiff.objectives.times import UniformTimes
from structdiff.processes import Finite
from structdiff.random import Randomness

__all__ = ["OrderAgnostic"]


class OrderAgnostic(Objective):
    """The bound over all orders in which rows are unmasked, in nats per entry.

    How many rows of a sample are masked is uniform (spread over the samples of a batch in their
    order, which must be a random one), and so is which. Rows of all leaves stand in
    one order; rows that are given, in whole, stand before all others and count nothing. A row is
    masked as a whole, and each leaf is shown the time at which its clock expects the sample's
    share of masked rows.

    Raises:
        ValueError: On a call, if a leaf is not an absorbing chain, or entries inside of rows are
            given.

    Example:
        >>> from structdiff.layout import Layout
        >>> from structdiff.processes import Categorical, Product, absorbing
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import ExactDenoiser
        >>> words = Batch({"x": torch.tensor([0, 1, 1, 0])}, {"x": Layout.ragged([2, 2])})
        >>> process = Product({"x": Categorical(Flow(), absorbing(2))})
        >>> terms = OrderAgnostic()(ExactDenoiser(process, words), words, Generator(0))
        >>> terms.total  # one bit in two rows, whatever the order
        tensor(0.3466, dtype=torch.float64)
    """

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Mask rows, denoise, compare."""
        check_absorbing(denoiser.process)
        process: Any = denoiser.process.bind(batch)
        rank, free = order_rows(batch, random)
        place = UniformTimes(0.0, 1.0).draw(batch.samples, random, part=batch.part)
        masked = (place.to(batch.device) * free).floor() + 1
        shown = {n: rank[n] >= layout.spread(masked) for n, layout in batch.layouts.items()}
        x_t = process.graft(process.prior(random), batch.leaves, shown)
        t = process.times(times_of_share(process, batch, masked / free.clamp(min=1)))
        noisy = batch.with_leaves(x_t)
        errors = process.loss(denoiser(noisy, t, None), batch.leaves, x_t, t)
        share = free / masked
        leaves = {n: per_entry(batch, n, error) * share.to(error) for n, error in errors.items()}
        return Terms(leaves, process.clock(t))


def check_absorbing(process: Any) -> None:
    """Refuse leaves whose noise may be a class of the data."""
    absorbing = [
        name
        for name in process.offering(Finite)
        if not bool(process[name].stationary[: process[name].classes].any())
    ]
    other = sorted(process.empty(0).keys() - set(absorbing))
    if other:
        msg = f"all leaves must be absorbing chains, but {other} are not: use ContinuousBound()"
        raise ValueError(msg)


def order_rows(batch: Batch, random: Randomness) -> tuple[dict[str, Tensor], Tensor]:
    """A uniform order of the rows of each sample, over all its leaves.

    Returns:
        The rank of each row by leaf, infinite at given rows, and the number of others, by sample.
    """
    place, sample = [], []
    for name, layout in batch.layouts.items():
        scoped = random.scoped(leaf=f"order of {name}", ids=batch.ids, layout=layout)
        drawn = scoped.uniform((layout.rows,), torch.float64, batch.device)
        held = batch.given.get(name)
        if held is not None and held.ndim > 1:
            msg = f"given of {name!r} must hold whole rows, got shape {tuple(held.shape)}"
            raise ValueError(f"{msg}: rows are masked as a whole")
        place.append(drawn if held is None else torch.where(held, torch.inf, drawn))
        sample.append(layout.sample)
    where, key = torch.cat(sample), torch.cat(place)
    order = torch.argsort(key)
    order = order[torch.argsort(where[order], stable=True)]
    size = torch.bincount(where, minlength=batch.samples)
    start = (size.cumsum(0) - size)[where[order]]
    ranked = torch.arange(len(order), device=batch.device) - start
    rank = torch.empty_like(key).scatter_(0, order, ranked.to(key))
    rank = torch.where(key.isinf(), torch.inf, rank)
    free = key.new_zeros(batch.samples).index_add(0, where, (key < torch.inf).to(key))
    rows = [layout.rows for layout in batch.layouts.values()]
    return dict(zip(batch.layouts, rank.split_with_sizes(rows), strict=True)), free


def times_of_share(process: Any, batch: Batch, share: Tensor) -> dict[str, Tensor]:
    """The time of each leaf's rows at which this share of a sample's rows is masked on average."""
    clock = torch.log1p(-share) - torch.log(share)
    return {
        name: layout.spread(process[name].schedule.time(clock))
        for name, layout in batch.layouts.items()
    }
