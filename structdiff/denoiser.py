r"""The denoiser: from a noisy record and its times to an estimate of the clean one.

A denoiser sees the whole record and returns an estimate for each leaf. A network becomes one by
`NetworkDenoiser`: the process encodes x_t, the network sees it beside the clock of each leaf, the
process decodes. Guidance wraps a denoiser and is one.

References:
    Analog Bits (Chen, Zhang and Hinton, 2022), section 3.2: self-conditioning.
    https://arxiv.org/abs/2208.04202
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.processes.base import Estimate, Process

__all__ = ["LIMIT", "Backbone", "Denoiser", "NetworkDenoiser", "ask", "to_standard"]

LIMIT = 20.0
"""Networks see clocks inside +-LIMIT: pure noise and clean rows have infinite ones."""


class Backbone(Protocol):
    """What a network looks like to the library."""

    def __call__(
        self,
        batch: Batch,
        clock: Mapping[str, Tensor],
        previous: Mapping[str, Tensor] | None,
    ) -> Mapping[str, Tensor]:
        """Outputs by leaf.

        Arguments:
            batch: Encoded noisy leaves with layouts, conditions and given masks.
            clock: Each leaf's clock, `()`, `(rows,)` or `(rows, *event)`;
                within +-LIMIT, the upper end where it is clean.
            previous: Values of the previous estimate, or None.
        """
        ...


class Denoiser(nn.Module, ABC):
    """(batch, t) to the estimate of each leaf."""

    process: Process

    @abstractmethod
    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """Estimates by leaf.

        Arguments:
            batch: Noisy leaves.
            t: Times by leaf, as `process.times` gives them.
            previous: The previous estimate, for self-conditioning.
        """


class NetworkDenoiser(Denoiser):
    """A network as a denoiser.

    Arguments:
        backbone: The network, see `Backbone`.
        process: The process of the record, a `Product`.
        self_conditioning: Whether the network sees the previous estimate.
    """

    def __init__(
        self, backbone: nn.Module, process: Process, *, self_conditioning: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.process = process
        self.self_conditioning = self_conditioning

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """Encode, call the network, decode."""
        process = self.process.bind(batch)
        output = ask(
            self.backbone, process, batch, t, previous if self.self_conditioning else None
        )
        estimates: Mapping[str, Estimate] = process.decode(output, batch.leaves, t)
        return estimates


def ask(
    backbone: Callable[..., Mapping[str, Tensor]],
    process: Process,
    batch: Batch,
    t: Any,
    previous: Mapping[str, Estimate] | None,
) -> Mapping[str, Tensor]:
    """What a network says of noisy leaves.

    Arguments:
        backbone: The network, see `Backbone`.
        process: The process, bound to the batch.
        batch: Noisy leaves.
        t: Times by leaf.
        previous: The previous estimate, if the network is to see it.
    """
    seen = batch.with_leaves(process.encode(batch.leaves, t))
    values = None
    if previous is not None:
        values = {name: estimate.value.detach() for name, estimate in previous.items()}
    clock = {name: value.clamp(-LIMIT, LIMIT) for name, value in process.clock(t).items()}
    return backbone(seen, clock, values)


class _Standard(Denoiser):
    """A denoiser that looks at states in standard units."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = denoiser.process.standard()

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """Back to the denoiser's own units; estimates have none."""
        own = self.denoiser.process.bind(batch)
        x_t = own.from_standard(batch.leaves, t)
        estimates: Mapping[str, Estimate] = self.denoiser(batch.with_leaves(x_t), t, previous)
        return estimates


def to_standard(denoiser: Denoiser) -> Denoiser:
    """The same model on the same clock in standard units: alpha^2 + sigma^2 = 1 on R^n.

    A state x_t of the given process becomes x_t / sqrt(alpha^2 + sigma^2). Whatever a model was
    trained as (DDPM, VE, EDM, a straight path), in standard form it can be compared with,
    sampled as or exchanged for any other one.

    Arguments:
        denoiser: Any denoiser.

    Example:
        >>> import torch
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Geometric
        >>> from structdiff.testing import ExactDenoiser
        >>> data = Batch.of(torch.tensor([-1.0, 1.0]))
        >>> exploding = ExactDenoiser(Product({"x": Gaussian(Geometric(0.01, 100.0))}), data)
        >>> to_standard(exploding).process.bind(data).prior_log_prob({"x": torch.zeros(2)})
        {'x': tensor([-0.9189, -0.9189])}
    """
    return _Standard(denoiser)
