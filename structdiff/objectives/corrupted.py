r"""Training on data that nobody has seen clean.

- `Ambient`: entries of the data are deleted. More of them are deleted from x_t, and the network,
  which is told what is left, is to say all that are known. As it cannot tell which of the missing
  ones it is asked for, it learns E[x_0 | what is left of x_t] for all of them, and never reads an
  entry that is not there.
- `GSURE`: of the data y = H x_0 + noise n is known. On what H sees, in its singular basis, noise
  of the right size makes x_t out of y, and Stein's identity the error of x_0 out of that of y:

      E |P (f(x_t) - x_0)|^2 = E[|P (f(x_t) - H^+ y)|^2 + sum_i tau_i^2 (2 alpha df_i/dx_i - 1)],

  with tau_i = noise / s_i for the singular values s_i > 0 and P the projection to their vectors.
  The derivative is estimated by one random probe, one backward pass.

References:
    Ambient Diffusion (Daras et al., 2023), theorem 4.1. https://arxiv.org/abs/2305.19256
    GSURE-Based Diffusion Model Training with Corrupted Data (Kawar, Elata, Michaeli and Elad,
    2023), eqs. 7-9. https://arxiv.org/abs/2305.13128
    Estimation of the Mean of a Multivariate Normal Distribution (Stein, 1981).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Denoising, Objective, Terms
from structdiff.objectives.times import TimeDistribution
from structdiff.objectives.weights import Weight
from structdiff.operators.base import Factored
from structdiff.processes import Gaussian, Process
from structdiff.processes.leaf import expand, sum_event
from structdiff.random import Randomness

__all__ = ["GSURE", "Ambient"]


def check_gaussian(process: Process, name: str) -> None:
    """Refuse a leaf without Gaussian noise."""
    known: Any = process
    if name not in known.offering(Gaussian):
        has = f"leaf {name!r} must have Gaussian noise on R^n"
        raise ValueError(f"{has}; such are {list(known.offering(Gaussian))}")


def addressed(random: Randomness, batch: Batch, name: str) -> Randomness:
    """The source of what is drawn for a leaf beside its noise."""
    leaf = f"corruption of {name}"
    return random.scoped(leaf=leaf, ids=batch.ids, layout=batch.layouts[name])


class Ambient(Objective):
    """The error at known entries of an estimate that has seen fewer of them.

    Arguments:
        observed: By leaf, the name of the condition that says which entries are known, bool,
            `(samples, *event)`, where samples have one row each. The network finds there which
            entries are left for it; deleted ones are 0.
        further: Probability that a known entry is deleted too, in (0, 1).
        weights: As in `Denoising`.
        times: Law of the training times.

    Raises:
        ValueError: If `further` is out of range or no leaf is named; on a call, if a leaf is not
            on R^n or its condition is missing or of another shape.

    Example:
        >>> Ambient({"x": "seen"}, further=0.2).further
        0.2
    """

    def __init__(
        self,
        observed: Mapping[str, str],
        further: float = 0.1,
        weights: Weight | Mapping[str, Weight] | None = None,
        times: TimeDistribution | None = None,
    ) -> None:
        if not 0 < further < 1:
            msg = f"further must be in (0, 1), got {further}: Denoising() deletes nothing"
            raise ValueError(msg)
        if not observed:
            msg = "observed must name a leaf and its condition: {'x': 'observed'}"
            raise ValueError(msg)
        self.observed, self.further = dict(observed), further
        self.plain = Denoising(weights, times)

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Delete, diffuse, delete more, denoise, compare where something is known."""
        known = {name: self.mask(denoiser.process, batch, name) for name in self.observed}
        # Deleted entries may hold anything, not numbers too.
        seen = {n: torch.where(mask, batch[n], 0.0) for n, mask in known.items()}
        clean = batch.with_leaves({**batch.leaves, **seen})
        left = {
            n: mask & self.keep(mask, addressed(random, batch, n)) for n, mask in known.items()
        }
        process: Any = denoiser.process.bind(clean)
        t = process.times(self.plain.draw_times(clean, random))
        x_t = process.diffuse(clean.leaves, t, random)
        shown = {**x_t, **{n: torch.where(mask, x_t[n], 0.0) for n, mask in left.items()}}
        told = {self.observed[n]: mask for n, mask in left.items()}
        noisy = replace(clean, leaves=shown, condition={**clean.condition, **told})
        said = denoiser(noisy, t, None)
        unknown = {**clean.given, **{n: ~mask for n, mask in known.items()}}
        judge: Any = denoiser.process.bind(clean.with_given(unknown))
        errors = judge.loss(said, clean.leaves, x_t, t)
        clock = process.clock(t)
        leaves = {n: self.plain.reduce(n, errors[n], clock[n], clean) for n in errors}
        return Terms(leaves, clock)

    def keep(self, mask: Tensor, random: Randomness) -> Tensor:
        """Which entries are not deleted further."""
        return random.uniform(mask.shape, torch.float32, mask.device) >= self.further

    def mask(self, process: Process, batch: Batch, name: str) -> Tensor:
        """Which entries of a leaf are known.

        Raises:
            ValueError: If the leaf is not on R^n or the mask is missing or of another shape.
        """
        check_gaussian(process, name)
        condition = self.observed[name]
        mask = batch.condition.get(condition)
        shape = tuple(batch[name].shape)
        if mask is None or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            has = "none" if mask is None else f"{mask.dtype} {tuple(mask.shape)}"
            msg = f"condition {condition!r} must be bool of shape {shape} like leaf {name!r}"
            raise ValueError(f"{msg}, got {has}")
        return mask


class GSURE(Objective):
    """The error of what an operator sees, from noisy measurements alone.

    The rows of a batch are the measurements brought back, H^+ y, of one leaf.

    Arguments:
        operator: H, with its singular values.
        noise: Standard deviation of the noise of y, at least 0.
        weights: As in `Denoising`.
        times: Law of the training times: sigma / alpha must be at least that of the noisiest
            coefficient that is seen, noise / s.

    Raises:
        ValueError: If `noise` is negative or not finite; on a call, if the record has several
            leaves, one not on R^n or given entries, or the earliest time has less noise than
            the data.
    """

    def __init__(
        self,
        operator: Factored,
        noise: float,
        weights: Weight | None = None,
        times: TimeDistribution | None = None,
    ) -> None:
        if not 0 <= noise < float("inf"):
            msg = f"noise must be at least 0 and finite, got {noise}"
            raise ValueError(msg)
        self.operator, self.noise, self.plain = operator, noise, Denoising(weights, times)

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Add the noise that is missing, denoise, correct for the noise of y."""
        name = self.leaf(denoiser.process, batch)
        process: Any = denoiser.process.bind(batch)
        t = process.times(self.plain.draw_times(batch, random))
        alpha, sigma, _ = process[name].level(t[name], batch[name])
        seen, tau = self.spectrum(batch[name])
        data = self.operator.analysis(batch[name])
        own = random.scoped(leaf=name, ids=batch.ids, layout=batch.layouts[name])
        draw = own.normal(data.shape, data.dtype, data.device)
        alpha_c, sigma_c = (expand(c.flatten(1)[:, 0], data) for c in (alpha, sigma))
        fresh = (sigma_c**2 - (alpha_c * tau) ** 2).clamp(min=0).sqrt()
        coefficients = torch.where(seen, alpha_c * data, 0.0) + fresh * draw
        with torch.enable_grad():
            x_t = self.operator.synthesis(coefficients).detach().requires_grad_()
            said = denoiser(batch.with_leaves({name: x_t}), t, None)[name].value
        stein = self.stein(said, x_t, alpha_c * tau**2, addressed(random, batch, name))
        gap = torch.where(seen, self.operator.analysis(said) - data, 0.0)
        error = sum_event(gap.square() - tau**2) + 2 * stein
        clock = process.clock(t)
        leaf = self.plain.reduce(name, error, clock[name], batch)
        return Terms({name: leaf}, clock)

    def stein(self, said: Tensor, x_t: Tensor, factor: Tensor, random: Randomness) -> Tensor:
        """sum_i factor_i d said_i / dx_i over coefficients, per row, by a probe of signs."""
        signs = random.uniform(factor.shape, x_t.dtype, x_t.device)
        signs = torch.where(signs < 0.5, -1.0, 1.0).to(x_t)
        image = (said * self.operator.synthesis(signs)).sum()
        (pulled,) = torch.autograd.grad(
            image, x_t, create_graph=torch.is_grad_enabled(), retain_graph=True
        )
        return sum_event(pulled * self.operator.synthesis(factor * signs))

    def spectrum(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Which coefficients are seen, and the deviation of their noise (0 of the others)."""
        singular = self.operator.singular.to(like)
        seen = singular > 0
        return seen, torch.where(seen, self.noise / torch.where(seen, singular, 1.0), 0.0)

    def leaf(self, process: Process, batch: Batch) -> str:
        """The record's one leaf.

        Raises:
            ValueError: If there are more, or it has other rows or less noise than needed.
        """
        if len(batch.leaves) != 1:
            msg = f"GSURE needs a record of one leaf, got {sorted(batch.leaves)}"
            raise ValueError(msg)
        if batch.given:
            msg = f"GSURE needs samples without given entries, got some of {sorted(batch.given)}"
            raise ValueError(msg)
        (name,) = batch.leaves
        check_gaussian(process, name)
        if tuple(batch[name].shape[1:]) != self.operator.event:
            rows = tuple(batch[name].shape[1:])
            msg = f"operator takes rows of shape {self.operator.event}, leaf {name!r} has {rows}"
            raise ValueError(msg)
        known: Any = process
        first = self.plain.times.quantile(torch.zeros((), dtype=torch.float64))
        level = known[name].schedule(first)
        least = float(level.sigma / level.alpha)
        worst = float(self.spectrum(batch[name].double())[1].max())
        if least < worst * (1 - 1e-6):
            must = f"sigma / alpha at the earliest time must be at least {worst:.4g}"
            msg = f"{must}, the noise of the data, got {least:.4g}: draw later times"
            raise ValueError(msg)
        return name
