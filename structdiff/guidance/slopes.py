r"""How a function of a noisy record changes around it: gradients, and differences on classes.

On R^n and manifolds the gradient of f(x_t) is had by autograd. A class-valued entry i has the
differences

    d_i(j) = f(x_t with symbol j at i) - f(x_t)

in its place, which are found by evaluating f at all of them (`Enumerated`), or to first order in
the change, by the gradient of f at the one-hot vectors e of x_t (`Linearised`),

    d_i(j) = (e_j - e_{x_t})^T grad_i f + O(|e_j - e_{x_t}|^2),

which is exact for an f that is linear in each entry's vector, and only then: the vectors of two
classes are at a distance that does not shrink with the step. For f(e) = a.e + e^T H e / 2 it errs
by half the second difference, (e_j - e_i)^T H (e_j - e_i) / 2.

References:
    Oops I Took A Gradient: Scalable Sampling for Discrete Distributions (Grathwohl et al., 2021),
    section 3 (first order). https://arxiv.org/abs/2102.04509
    DiGress: Discrete Denoising Diffusion for Graph Generation (Vignac et al., 2023), conditional
    generation (first order). https://arxiv.org/abs/2209.14734
    Unlocking Guidance for Discrete State-Space Diffusion and Flow Models (Nisonoff et al., 2024),
    section 3 (exact, and first order as its "Taylor-approximated guidance").
    https://arxiv.org/abs/2406.01572
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.processes import Finite

__all__ = ["Enumerated", "Linearised", "LogProb", "Slopes", "check_depends", "per_sample"]

LogProb: TypeAlias = Callable[[Batch, Mapping[str, Tensor]], Tensor]
"""f(batch, t): noisy records and their times by leaf to one number a sample, `(samples,)`."""


def per_sample(value: Tensor, batch: Batch, name: str) -> Tensor:
    """The value, if it is one number a sample.

    Raises:
        ValueError: If it is not.
    """
    if value.shape != (batch.samples,):
        must = f"must return one number a sample, ({batch.samples},)"
        msg = f"{name} {must}, got {tuple(value.shape)}: sum over rows with the leaf's layout"
        raise ValueError(msg)
    return value


def check_depends(total: Tensor, name: str) -> None:
    """Refuse a function without a gradient.

    Raises:
        ValueError: If there is none.
    """
    if not total.requires_grad:
        msg = f"{name} has no gradient in the record: it is constant, detached or a step function"
        raise ValueError(msg)


class Slopes(ABC):
    """The changes of a function around a noisy record."""

    @abstractmethod
    def around(
        self, log_prob: LogProb, process: Any, batch: Batch, t: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """What `process.shift` takes: gradients by leaf, differences on classes.

        Arguments:
            log_prob: The function.
            process: The process, bound to the batch.
            batch: Noisy records.
            t: Times by leaf.
        """


def gradients(
    log_prob: LogProb, batch: Batch, t: Mapping[str, Tensor], leaves: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The gradient in these leaves, put in place of the batch's own.

    It can be differentiated in the function's weights where gradients are enabled outside.

    Raises:
        ValueError: If the function depends on no leaf, all of them being asked for.
    """
    training = torch.is_grad_enabled()
    opened = {name: x.detach().requires_grad_() for name, x in leaves.items()}
    if not opened:
        return {}
    with torch.enable_grad():
        value = log_prob(batch.with_leaves({**batch.leaves, **opened}), t)
        total = per_sample(value, batch, "log_prob").sum()
        if not total.requires_grad and len(opened) < len(batch.leaves):
            return {name: torch.zeros_like(x) for name, x in leaves.items()}
        check_depends(total, "log_prob")
        slopes = torch.autograd.grad(
            total,
            list(opened.values()),
            create_graph=training,
            allow_unused=True,
            materialize_grads=True,
        )
    return dict(zip(opened, slopes, strict=True))


def others(batch: Batch, names: Collection[str]) -> dict[str, Tensor]:
    """The leaves that are not among the names."""
    return {name: x for name, x in batch.leaves.items() if name not in names}


class Linearised(Slopes):
    """Differences to first order, from one gradient: one evaluation of f and its derivative.

    The function sees class-valued leaves as one-hot vectors over the S symbols (with a mask, if
    there is one), `(rows, *event, S)`, in the default float.

    Example:
        >>> from structdiff import Categorical, Flow, Product, uniform
        >>> batch = Batch.of(torch.tensor([1]))
        >>> process = Product({"x": Categorical(Flow(), uniform(3))}).bind(batch)
        >>> weight = torch.tensor([1.0, 2.0, 4.0])
        >>> t = {"x": torch.tensor(0.5)}
        >>> Linearised().around(lambda b, t: b["x"] @ weight, process, batch, t)
        {'x': tensor([[-1.,  0.,  2.]])}
    """

    def around(
        self, log_prob: LogProb, process: Any, batch: Batch, t: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """One autograd call for all leaves."""
        finite = process.offering(Finite)
        relaxed = {
            name: F.one_hot(batch[name], process[name].symbols).to(torch.get_default_dtype())
            for name in finite
        }
        slopes = gradients(log_prob, batch, t, {**others(batch, finite), **relaxed})
        for name in finite:
            slope = slopes[name]
            slopes[name] = slope - slope.gather(-1, batch[name].unsqueeze(-1))
        return slopes


class Enumerated(Slopes):
    """Differences by evaluating f at every change of one entry: exact.

    S evaluations for each class-valued entry that is not given, on copies of the entry's whole
    sample, of which at most `chunk` are in memory at once (and what f makes of them). The other
    leaves take one gradient.

    Arguments:
        chunk: Number of changed samples in a call of f, at least 1.

    Raises:
        ValueError: If chunk is less than 1; on a call, if a leaf has edge rows, of which samples
            cannot be copied: use `Linearised`.

    Example:
        >>> from structdiff import Categorical, Flow, Product, uniform
        >>> batch = Batch.of(torch.tensor([1]))
        >>> process = Product({"x": Categorical(Flow(), uniform(3))}).bind(batch)
        >>> t = {"x": torch.tensor(0.5)}
        >>> Enumerated().around(lambda b, t: b["x"] ** 2.0, process, batch, t)
        {'x': tensor([[-1.,  0.,  3.]])}
    """

    def __init__(self, chunk: int = 4096) -> None:
        if chunk < 1:
            msg = f"chunk must be at least 1 changed sample, got {chunk}"
            raise ValueError(msg)
        self.chunk = chunk

    def around(
        self, log_prob: LogProb, process: Any, batch: Batch, t: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """All changes of each class-valued leaf in turn."""
        finite = process.offering(Finite)
        slopes = gradients(log_prob, batch, t, others(batch, finite))
        for name in finite:
            slopes[name] = self.differences(log_prob, batch, t, name, process[name].symbols)
        return slopes

    @torch.no_grad()
    def differences(
        self, log_prob: LogProb, batch: Batch, t: Mapping[str, Tensor], name: str, symbols: int
    ) -> Tensor:
        """f at each symbol less f at x_t, `(rows, *event, S)`; zero at given entries.

        Where f is -inf at x_t, what is returned is f at each symbol.
        """
        x = batch[name]
        entry = self.free_entries(batch, name).repeat_interleave(symbols)
        symbol = torch.arange(symbols, device=x.device).repeat(len(entry) // symbols)
        cuts = [slice(i, i + self.chunk) for i in range(0, len(entry), self.chunk)]
        values = [changed(log_prob, batch, t, name, entry[cut], symbol[cut]) for cut in cuts]
        table = torch.zeros(x.numel(), symbols, device=x.device)
        if values:
            found = torch.cat(values)
            table = table.to(found.dtype).index_put_((entry, symbol), found)
        table = table.reshape(*x.shape, symbols)
        own = table.gather(-1, x.unsqueeze(-1))
        return table - torch.where(own == -torch.inf, 0.0, own)

    def free_entries(self, batch: Batch, name: str) -> Tensor:
        """Places in the flattened leaf that are not given."""
        x = batch[name]
        held = batch.given.get(name, torch.zeros(len(x), dtype=torch.bool, device=x.device))
        held = held.reshape(*held.shape, *(1,) * (x.ndim - held.ndim)).expand_as(x)
        return (~held).flatten().nonzero().squeeze(1)


def changed(
    log_prob: LogProb,
    batch: Batch,
    t: Mapping[str, Tensor],
    name: str,
    entry: Tensor,
    symbol: Tensor,
) -> Tensor:
    """f at the samples of these entries of a leaf, each with its symbol there, `(changes,)`."""
    layout, width = batch.layouts[name], batch[name][0].numel()
    row, inside = entry // width, entry % width
    sample = layout.sample[row]
    many = batch.select(sample)
    times = {
        n: time if time.ndim == 0 else time[batch.layouts[n].rows_of(sample)]
        for n, time in t.items()
    }
    at = (many.layouts[name].start + layout.row[row]) * width + inside
    x = many[name].flatten().scatter(0, at, symbol).reshape(many[name].shape)
    return per_sample(
        log_prob(many.with_leaves({**many.leaves, name: x}), times), many, "log_prob"
    )
