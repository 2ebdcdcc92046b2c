r"""The exact denoiser of a finite data set.

For data x_0^1, ..., x_0^N with weights w, the posterior of which record a noisy one came from is
proportional to w_n times the product over leaves of q(x_t | x_0^n), and the estimate is the
posterior mean of the oracles. It needs no training, so samplers, guidance, likelihoods and
user-made processes can be tested against closed forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Conditional, Estimate, Process

__all__ = ["ExactDenoiser", "ImpossibleState"]


class ImpossibleState(ValueError):
    """A noisy record that no data point can have led to."""


class ExactDenoiser(Denoiser):
    """The denoiser of the law that has these records and no others.

    A noisy sample is compared with the records that have as many rows in each leaf.

    Arguments:
        process: A Conditional process: q(x_t | x_0) has a density.
        data: The records.
        weights: Their probabilities, `(records,)`; equal by default.

    Raises:
        ValueError: If the process has no densities or the weights do not fit.
        ImpossibleState: On a call, if a sample has probability zero; it names the ids.

    Example:
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Cosine
        >>> process = Product({"x": Gaussian(Cosine())})
        >>> denoiser = ExactDenoiser(process, Batch.of(torch.tensor([-1.0, 1.0])))
        >>> batch = Batch.of(torch.zeros(1))
        >>> denoiser(batch, process.bind(batch).times(torch.tensor(0.5)))["x"].value
        tensor([0.])
    """

    def __init__(self, process: Process, data: Batch, weights: Tensor | None = None) -> None:
        super().__init__()
        if not process.offers(Conditional):
            name = type(process).__name__
            msg = f"the exact denoiser needs densities: {name} is not Conditional"
            raise ValueError(msg)
        if weights is not None and weights.shape != (data.samples,):
            msg = f"weights must have shape ({data.samples},), got {tuple(weights.shape)}"
            raise ValueError(msg)
        self.process: Any = process
        self.data = data
        uniform = torch.full((data.samples,), 1 / data.samples, dtype=torch.float64)
        self.log_weights = torch.log(
            uniform if weights is None else weights.double() / weights.sum()
        )

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """Posterior mean of the oracles.

        Arguments:
            batch: Noisy records.
            t: Times by leaf.
            previous: Not used.
        """
        del previous
        record, sample = self.data.alike(batch)
        theirs = {n: layout.rows_of(sample) for n, layout in batch.layouts.items()}
        ours = {n: layout.rows_of(record) for n, layout in self.data.layouts.items()}
        many = Batch(
            {n: x[theirs[n]] for n, x in batch.leaves.items()},
            {n: layout.select(sample) for n, layout in batch.layouts.items()},
            {n: value[sample] for n, value in batch.condition.items()},
            {n: value[sample] for n, value in batch.present.items()},
            given={n: mask[theirs[n]] for n, mask in batch.given.items()},
        )
        x_0 = {n: x[ours[n]] for n, x in self.data.leaves.items()}
        times = {n: time if time.ndim == 0 else time[theirs[n]] for n, time in t.items()}
        process = self.process.bind(many)
        weight = self._posterior(
            process.log_prob(many.leaves, x_0, times), many, batch, record, sample
        )
        estimates = process.oracle(x_0, many.leaves, times)
        spread = {n: layout.spread(weight) for n, layout in many.layouts.items()}
        mean: Mapping[str, Estimate] = self.process.bind(batch).mean(estimates, spread, theirs)
        return mean

    def _posterior(
        self,
        log_prob: Mapping[str, Tensor],
        many: Batch,
        batch: Batch,
        record: Tensor,
        sample: Tensor,
    ) -> Tensor:
        """Weight of each pair, normalised per sample."""
        total = self.log_weights[record].clone()
        for name, value in log_prob.items():
            total = total + many.layouts[name].sum(value.double())
        highest = total.new_full((batch.samples,), -torch.inf)
        highest = highest.scatter_reduce(0, sample, total, "amax")
        if bool((highest == -torch.inf).any()):
            ids = batch.ids[highest == -torch.inf].tolist()
            msg = f"no record of the data can have led to the samples with ids {ids[:20]}"
            raise ImpossibleState(msg)
        mass = torch.exp(total - highest[sample])
        return mass / mass.new_zeros(batch.samples).index_add(0, sample, mass)[sample]
