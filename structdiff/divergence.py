r"""The divergence of a field of tangent vectors, exact or from random probes.

At a point x let w be tangent coordinates, and carry the field's vector from exp_x(w) back to x:

    F(w) = transport(exp_x(w) -> x, field(exp_x(w))),    div field (x) = trace dF / dw at w = 0,

the trace of the covariant derivative. Only the directions in which x may move count (those of
`Flowing.tangent`: none at given entries). One forward pass gives the field and the graph; each
direction e then takes one backward pass, as e^T (dF / dw) e. The exact trace has as many
directions as a sample has coordinates, all rows of a sample together; Hutchinson's estimate takes
a few random ones whose covariance is the identity, one backward pass for all leaves at once.

Samples do not see each other, so that all of them are differentiated in one pass.

References:
    A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines
    (Hutchinson, 1989). https://doi.org/10.1080/03610919008812866
    FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et
    al., 2019), section 3.1. https://arxiv.org/abs/1810.01367
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022), section 3.3.
    https://arxiv.org/abs/2202.02763
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.random import Randomness

__all__ = [
    "Divergence",
    "ExactDivergence",
    "Field",
    "FieldDivergence",
    "Hutchinson",
    "draw_probes",
    "exact_divergence",
    "hutchinson_divergence",
]

Leaves: TypeAlias = Mapping[str, Tensor]

Field: TypeAlias = Callable[[Leaves], Leaves]
"""Points by leaf to tangent vectors at them; a sample's vectors depend on its own rows alone."""


class FieldDivergence(NamedTuple):
    """A field and its divergence at the points of a batch.

    Arguments:
        value: The tangent vectors, `(rows, *tangent)` by leaf.
        divergence: Of the sample's part of each leaf, `(samples,)` by leaf; their sum is the
            divergence on the record.
    """

    value: dict[str, Tensor]
    divergence: dict[str, Tensor]


class Divergence(ABC):
    """A way to the divergence of a field."""

    @abstractmethod
    def __call__(
        self,
        field: Field,
        process: Any,
        batch: Batch,
        random: Randomness,
        *,
        create_graph: bool = False,
    ) -> FieldDivergence:
        """The field and its divergence at the points of a batch.

        Arguments:
            field: The field.
            process: A Flowing process, bound to the batch.
            batch: The points.
            random: Where probes come from.
            create_graph: Whether gradients flow through the result, for training.
        """


class ExactDivergence(Divergence):
    """The trace itself: one backward pass for each coordinate of a sample."""

    def __call__(
        self,
        field: Field,
        process: Any,
        batch: Batch,
        random: Randomness,
        *,
        create_graph: bool = False,
    ) -> FieldDivergence:
        """`exact_divergence`."""
        del random
        return exact_divergence(field, process, batch, create_graph=create_graph)


class Hutchinson(Divergence):
    """Hutchinson's estimate, unbiased: one backward pass for each probe.

    Arguments:
        probes: How many random signs each coordinate gets, at least 1.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, probes: int = 1) -> None:
        if probes < 1:
            msg = f"probes must be at least 1, got {probes}: ExactDivergence() needs none"
            raise ValueError(msg)
        self.probes = probes

    def __call__(
        self,
        field: Field,
        process: Any,
        batch: Batch,
        random: Randomness,
        *,
        create_graph: bool = False,
    ) -> FieldDivergence:
        """`hutchinson_divergence` with new probes."""
        probes = draw_probes(process, batch, random, self.probes)
        return hutchinson_divergence(field, process, batch, probes, create_graph=create_graph)


def exact_divergence(
    field: Field, process: Any, batch: Batch, *, create_graph: bool = False
) -> FieldDivergence:
    """The divergence by one backward pass for each coordinate of the largest sample.

    Arguments:
        field: The field.
        process: A Flowing process, bound to the batch.
        batch: The points.
        create_graph: Whether gradients flow through the result, for training.

    Example:
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Linear
        >>> batch = Batch.of(torch.tensor([[1.0, 2.0]]))
        >>> process = Product({"x": Gaussian(Linear(), event=(2,))}).bind(batch)
        >>> square = lambda leaves: {"x": leaves["x"] ** 2}
        >>> exact_divergence(square, process, batch).divergence
        {'x': tensor([6.])}
    """
    graph = _Graph(field, process, batch, create_graph=create_graph)
    total = {name: graph.zeros(name) for name in batch.leaves}
    for name in batch.leaves:
        for direction in _coordinates(process, batch, name):
            total[name] = total[name] + graph.along(direction)[name]
    return graph.result(total)


def hutchinson_divergence(
    field: Field, process: Any, batch: Batch, probes: Leaves, *, create_graph: bool = False
) -> FieldDivergence:
    """The mean over probes z of z^T (dF / dw) z, by one backward pass each.

    Each leaf's number also has the terms that join it to the probes of the other leaves, of mean
    zero, so that the sum over leaves is Hutchinson's estimate on the record.

    Arguments:
        field: The field.
        process: A Flowing process, bound to the batch.
        batch: The points.
        probes: Random tangent coordinates, `(probes, rows, *tangent)` by leaf, as `draw_probes`
            gives them; they are projected to the directions in which the points may move. A
            solver keeps one set for a whole path.
        create_graph: Whether gradients flow through the result, for training.
    """
    graph = _Graph(field, process, batch, create_graph=create_graph)
    total = {name: graph.zeros(name) for name in batch.leaves}
    number = len(next(iter(probes.values())))
    for k in range(number):
        direction = process.tangent(batch.leaves, {name: z[k] for name, z in probes.items()})
        terms = graph.along(direction)
        total = {name: total[name] + terms[name] / number for name in total}
    return graph.result(total)


def draw_probes(
    process: Any, batch: Batch, random: Randomness, number: int = 1
) -> dict[str, Tensor]:
    """Independent random signs for all tangent coordinates, `(number, rows, *tangent)` by leaf.

    Arguments:
        process: A Flowing process, bound to the batch.
        batch: The points.
        random: Where they come from.
        number: How many probes.
    """
    probes = {}
    for name, x in batch.leaves.items():
        # An address of their own: not the numbers that the leaf's noise is made of.
        layout = batch.layouts[name]
        source = random.scoped(leaf=f"probes of {name}", ids=batch.ids, layout=layout)
        shape = (len(x), *process.geometry[name].tangent)
        draws = [source.uniform(shape, x.dtype, x.device) for _ in range(number)]
        probes[name] = 1 - 2 * (torch.stack(draws) < 0.5).to(x.dtype)
    return probes


class _Graph:
    """The field as a function of tangent coordinates at the points of a batch."""

    def __init__(self, field: Field, process: Any, batch: Batch, *, create_graph: bool) -> None:
        self.layouts, self.create_graph = batch.layouts, create_graph
        spaces = process.geometry
        with torch.enable_grad():
            x = {n: y if create_graph else y.detach() for n, y in batch.leaves.items()}
            self.w = {
                n: y.new_zeros(len(y), *spaces[n].tangent, requires_grad=True)
                for n, y in x.items()
            }
            moved = {n: spaces[n].exp(y, self.w[n]) for n, y in x.items()}
            self.value = dict(field(moved))
            # A field that does not move has a derivative too: hence the zero times w.
            self.carried = {
                n: spaces[n].transport(moved[n], x[n], v) + 0 * self.w[n]
                for n, v in self.value.items()
            }

    def zeros(self, name: str) -> Tensor:
        """No divergence yet, `(samples,)`."""
        return self.w[name].new_zeros(self.layouts[name].samples)

    def along(self, direction: Leaves) -> dict[str, Tensor]:
        """e^T (dF / dw) e, by leaf and sample, for e zero at leaves that are not named."""
        with torch.enable_grad():
            total = torch.stack([(e * self.carried[n]).sum() for n, e in direction.items()]).sum()
            slopes = torch.autograd.grad(
                total,
                [self.w[n] for n in direction],
                retain_graph=True,
                create_graph=self.create_graph,
            )
        products = zip(direction.items(), slopes, strict=True)
        return {
            n: self.layouts[n].sum((e * slope).reshape(len(e), -1).sum(1))
            for (n, e), slope in products
        }

    def result(self, divergence: dict[str, Tensor]) -> FieldDivergence:
        """Both, without the graph if nobody asked for it."""
        if self.create_graph:
            return FieldDivergence(self.value, divergence)
        return FieldDivergence({n: v.detach() for n, v in self.value.items()}, divergence)


def _coordinates(process: Any, batch: Batch, name: str) -> Iterator[dict[str, Tensor]]:
    """The directions of a leaf: coordinate by coordinate, in all samples at once."""
    x, layout, space = batch[name], batch.layouts[name], process.geometry[name]
    frame = space.frame(x)
    still = {n: y.new_zeros(len(y), *process.geometry[n].tangent) for n, y in batch.leaves.items()}
    for row in range(max(layout.counts, default=0)):
        own = (layout.row == row).to(x.dtype).reshape(-1, *(1,) * len(space.tangent))
        for k in range(space.dimension):
            moved = process.tangent(batch.leaves, {**still, name: own * frame[:, k]})
            yield {name: moved[name]}
