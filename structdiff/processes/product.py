r"""A product of processes is a process.

States, estimates, times and coefficients are mappings from leaf to that of the leaf; the noise
of the leaves is independent given x_0. A scalar time is shared by all leaves; a mapping gives each
leaf its own. What a product offers is what all its leaves offer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.processes.base import (
    Conditional,
    Flowing,
    Markov,
    Process,
    Rule,
    Scored,
    Tractable,
)
from structdiff.random import Randomness

__all__ = ["Product"]

Record = Mapping[str, Any]


class Product(Process):
    """Several leaves, one process each.

    `Product(leaves)` meets a contract (Markov, Tractable, Flowing, ...) when all its leaves do.

    Arguments:
        leaves: Name to process.

    Raises:
        ValueError: If there are no leaves.

    Example:
        >>> from structdiff.processes import Categorical, Gaussian, Tractable, absorbing
        >>> from structdiff.schedules import Cosine, Flow
        >>> process = Product({
        ...     "position": Gaussian(Cosine(), event=(3,)),
        ...     "element": Categorical(Flow(), absorbing(5)),
        ... })
        >>> process.offers(Tractable)
        True
    """

    def __new__(cls, leaves: Mapping[str, Process]) -> Self:
        """The most capable product that the leaves allow."""
        offered = [part for contract, part in _PARTS.items() if _all_offer(leaves, contract)]
        chosen = _composed(tuple(offered)) if cls is Product else cls
        return object.__new__(chosen)  # type: ignore[return-value]

    def __getnewargs__(self) -> tuple[Mapping[str, Process]]:
        """What `__new__` is called with by copy and pickle."""
        return (self._leaves,)

    def __init__(self, leaves: Mapping[str, Process]) -> None:
        super().__init__()
        if not leaves:
            msg = "a product needs at least one leaf: Product({'name': process})"
            raise ValueError(msg)
        # A list: a ModuleDict refuses names such as "type" or "a.b".
        self.leaves = nn.ModuleList(leaves.values())
        self._leaves = dict(leaves)
        self._addresses: dict[str, tuple[Tensor, Layout]] = {}

    def offers(self, contract: type[Any]) -> bool:
        """Whether all leaves meet the contract."""
        return isinstance(self, contract)

    def offering(self, contract: type[Any]) -> tuple[str, ...]:
        """Names of the leaves that meet the contract."""
        return tuple(name for name, leaf in self._leaves.items() if leaf.offers(contract))

    def __getitem__(self, name: str) -> Any:
        """The process of a leaf."""
        return self._leaves[name]

    def bind(self, batch: Batch) -> Self:
        """Bind each leaf to its leaf of the batch.

        Raises:
            ValueError: If names differ.
        """
        if batch.leaves.keys() != self._leaves.keys():
            ours, theirs = sorted(self._leaves), sorted(batch.leaves)
            msg = f"the process has leaves {ours}, the batch {theirs}: they must agree"
            raise ValueError(msg)
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.__dict__["_leaves"] = {
            name: leaf.bind(batch.only(name)) for name, leaf in self._leaves.items()
        }
        bound.__dict__["_addresses"] = {
            name: (batch.ids, layout) for name, layout in batch.layouts.items()
        }
        return bound

    def _each(self, call: Callable[[str, Any], Any]) -> dict[str, Any]:
        return {name: call(name, leaf) for name, leaf in self._leaves.items()}

    def _random(self, random: Randomness, name: str) -> Randomness:
        ids, layout = self._addresses[name]
        return random.scoped(leaf=name, ids=ids, layout=layout)

    def empty(self, rows: Any, device: torch.device | str = "cpu") -> Record:
        """Placeholders; `rows` is one number for all leaves or a mapping."""
        return self._each(
            lambda n, p: p.empty(rows[n] if isinstance(rows, Mapping) else rows, device)
        )

    def prior(self, random: Randomness, t: float = 1.0) -> Record:
        """Independent priors."""
        return self._each(lambda n, p: p.prior(self._random(random, n), t))

    def prior_log_prob(self, x_1: Record, t: float = 1.0) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.prior_log_prob(x_1[n], t))

    def times(self, t: Any) -> Record:
        """A time per leaf, from one for all or from a mapping."""
        return self._each(lambda n, p: p.times(t[n] if isinstance(t, Mapping) else t))

    def clock(self, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.clock(t[n]))

    def diffuse(self, x_0: Record, t: Any, random: Randomness) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.diffuse(x_0[n], t[n], self._random(random, n)))

    def encode(self, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.encode(x_t[n], t[n]))

    def decode(self, output: Record, x_t: Record, t: Any) -> Record:
        """Per leaf.

        Raises:
            ValueError: If the network left out a leaf.
        """
        missing = self._leaves.keys() - output.keys()
        if missing:
            returned = f"the network returned {sorted(output)}"
            msg = f"{returned}, but the process also needs {sorted(missing)}"
            raise ValueError(msg)
        return self._each(lambda n, p: p.decode(output[n], x_t[n], t[n]))

    def loss(self, estimate: Record, x_0: Record, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.loss(estimate[n], x_0[n], x_t[n], t[n]))

    def plan(self, times: Any, eta: float) -> Sequence[Record]:
        """Per step, a mapping of the leaves' coefficients; `times` may be one grid per leaf."""
        return _transpose(
            self._each(lambda n, p: p.plan(times[n] if isinstance(times, Mapping) else times, eta))
        )

    def leap(self, times: Any) -> Sequence[Record]:
        """Per step, a mapping of the leaves' coefficients; `times` may be one grid per leaf."""
        return _transpose(
            self._each(lambda n, p: p.leap(times[n] if isinstance(times, Mapping) else times))
        )

    def step(
        self, x_t: Record, estimate: Record, coefficients: Record, random: Randomness
    ) -> Record:
        """Per leaf."""
        return self._each(
            lambda n, p: p.step(x_t[n], estimate[n], coefficients[n], self._random(random, n))
        )

    def weights(self, rule: Rule, times: Any) -> Sequence[Record]:
        """Per step, a mapping of the leaves' weights."""
        return _transpose(
            self._each(
                lambda n, p: p.weights(rule, times[n] if isinstance(times, Mapping) else times)
            )
        )

    def combine(
        self, history: Sequence[tuple[Record, Record]], weights: Record, x_t: Record
    ) -> Record:
        """Per leaf."""
        return self._each(
            lambda n, p: p.combine([(x[n], past[n]) for x, past in history], weights[n], x_t[n])
        )

    def tilt(self, estimates: Sequence[Record], weights: Sequence[float]) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.tilt([one[n] for one in estimates], weights))

    def standard(self) -> Product:
        """Each leaf in standard units."""
        return Product(self._each(lambda _, p: p.standard()))

    def from_standard(self, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.from_standard(x_t[n], t[n]))


class _MarkovProduct(Product, Markov):
    """A product of Markov processes."""

    def corrupt(self, x_s: Record, s: Any, t: Any, random: Randomness) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.corrupt(x_s[n], s[n], t[n], self._random(random, n)))

    def graft(self, x_t: Record, known: Record, held: Record) -> Record:
        """At the leaves that `held` names."""
        return self._each(lambda n, p: p.graft(x_t[n], known[n], held[n]) if n in held else x_t[n])


class _ConditionalProduct(Product, Conditional):
    """A product of processes with densities."""

    def log_prob(self, x_t: Record, x_0: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.log_prob(x_t[n], x_0[n], t[n]))

    def oracle(self, x_0: Record, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.oracle(x_0[n], x_t[n], t[n]))

    def mean(self, estimates: Record, weights: Record, rows: Record) -> Record:
        """Per leaf; the weights are those of whole records, spread to rows."""
        return self._each(lambda n, p: p.mean(estimates[n], weights[n], rows[n]))


class _TractableProduct(_MarkovProduct, _ConditionalProduct, Tractable):
    """A product of processes whose steps have densities."""

    def impose(self, estimate: Record, x_0: Record, held: Any, x_t: Record, t: Any) -> Record:
        """At the leaves that `held` names."""
        return self._each(
            lambda n, p: (
                p.impose(estimate[n], x_0[n], held[n], x_t[n], t[n]) if n in held else estimate[n]
            )
        )

    def shift(self, estimate: Record, gradient: Record, x_t: Record, t: Any) -> Record:
        """At the leaves that `gradient` names."""
        return self._each(
            lambda n, p: (
                p.shift(estimate[n], gradient[n], x_t[n], t[n]) if n in gradient else estimate[n]
            )
        )

    def divergence(
        self, oracle: Record, estimate: Record, x_t: Record, coefficients: Record
    ) -> Record:
        """Per leaf."""
        return self._each(
            lambda n, p: p.divergence(oracle[n], estimate[n], x_t[n], coefficients[n])
        )

    def divergence_rate(self, estimate: Record, x_0: Record, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.divergence_rate(estimate[n], x_0[n], x_t[n], t[n]))

    def prior_divergence(self, x_0: Record, t: float = 1.0) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.prior_divergence(x_0[n], t))

    def reconstruction(self, estimate: Record, x_0: Record, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.reconstruction(estimate[n], x_0[n], x_t[n], t[n]))

    def reverse_log_prob(
        self, x_s: Record, x_t: Record, estimate: Record, coefficients: Record
    ) -> Record:
        """Per leaf."""
        return self._each(
            lambda n, p: p.reverse_log_prob(x_s[n], x_t[n], estimate[n], coefficients[n])
        )


class _FlowingProduct(Product, Flowing):
    """A product of processes that flow."""

    @property
    def geometry(self) -> Record:
        """The leaves' manifolds."""
        return self._each(lambda _, p: p.geometry)

    def velocity(self, estimate: Record, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.velocity(estimate[n], x_t[n], t[n]))

    def tangent(self, x_t: Record, v: Record) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.tangent(x_t[n], v[n]))


class _ScoredProduct(_FlowingProduct, Scored):
    """A product of diffusions."""

    def score(self, estimate: Record, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.score(estimate[n], x_t[n], t[n]))

    def diffusion(self, v: Record, x_t: Record, t: Any) -> Record:
        """Per leaf."""
        return self._each(lambda n, p: p.diffusion(v[n], x_t[n], t[n]))


_PARTS: dict[type[Any], type[Product]] = {
    Markov: _MarkovProduct,
    Conditional: _ConditionalProduct,
    Tractable: _TractableProduct,
    Flowing: _FlowingProduct,
    Scored: _ScoredProduct,
}


def _all_offer(leaves: Mapping[str, Process], contract: type[Any]) -> bool:
    return all(leaf.offers(contract) for leaf in leaves.values())


@functools.cache
def _composed(parts: tuple[type[Product], ...]) -> type[Product]:
    """One class of these parts, without those that another one has as its base."""
    least = [p for p in parts if not any(q is not p and issubclass(q, p) for q in parts)]
    if len(least) < 2:
        return least[0] if least else Product
    return type("Product", tuple(least), {"__module__": __name__})


def _transpose(plans: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """One sequence per leaf to one mapping per step."""
    return [dict(zip(plans, steps, strict=True)) for steps in zip(*plans.values(), strict=True)]
