r"""Learned modifications: trained modules beside a frozen backbone.

An *adapter* looks at what the backbone looks at, and at conditions of its own (controls), and
gives features to add to the outputs of named layers of the backbone,

    h_l <- h_l + sum_i w_i a_i(batch)_l.

`Adapted` is a backbone with some adapters: the sum does not depend on their order, and with all
weights 0 it is the backbone, bit for bit. A small network that gives features is one adapter.
`TrainableCopy` is another: a copy of the backbone that is trained, sees the control, and is joined
to the layers of the frozen one through layers that are zero at first, so that before training the
output is the backbone's, bit for bit.

References:
    Adding Conditional Control to Text-to-Image Diffusion Models (Zhang, Rao and Agrawala, 2023),
    section 3.1. https://arxiv.org/abs/2302.05543 There the control enters the copy through a zero
    layer too; here what the encoder ends in is its own business.
    T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image Diffusion
    Models (Mou et al., 2023), section 3. https://arxiv.org/abs/2302.08453
    Uni-ControlNet: All-in-One Control to Text-to-Image Diffusion Models (Zhao et al., 2023).
    https://arxiv.org/abs/2305.16322
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.nn.hooks import check_layers, editing, reading

__all__ = ["Adapted", "TrainableCopy", "zeroed"]

Module = TypeVar("Module", bound=nn.Module)


def zeroed(module: Module) -> Module:
    """The module with all its parameters set to zero.

    Example:
        >>> zeroed(nn.Linear(2, 3))(torch.ones(1, 2)).tolist()
        [[0.0, 0.0, 0.0]]
    """
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    return module


def adding(features: Tensor) -> Callable[[Tensor], Tensor]:
    """The edit of a layer that adds these."""
    return lambda h: h + features


def without(batch: Batch, names: Collection[str]) -> Batch:
    """The batch without these conditions."""
    condition = {name: value for name, value in batch.condition.items() if name not in names}
    present = {name: mask for name, mask in batch.present.items() if name not in names}
    return batch.with_condition(condition).with_present(present)


class Adapted(nn.Module):
    """A frozen backbone with adapters.

    Arguments:
        backbone: Any backbone; its weights get no gradient from here on.
        adapters: Modules from (batch, clock, previous) to features by layer of the backbone.
        controls: Names of the conditions that are the adapters' alone, which the backbone does
            not see.
        weights: w of each adapter, 1 by default; one of weight 0 is not called.

    Raises:
        ValueError: If the weights are not one finite number for each adapter; on a call, if an
            adapter names an unknown layer.

    Example:
        >>> class Backbone(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Identity()
        ...     def forward(self, batch, clock, previous):
        ...         return {"x": self.layer(batch["x"])}
        >>> class Lift(nn.Module):
        ...     def forward(self, batch, clock, previous):
        ...         return {"layer": batch.condition["height"]}
        >>> network = Adapted(Backbone(), [Lift()], controls=["height"])
        >>> batch = Batch.of(torch.zeros(2)).with_condition({"height": torch.tensor([1.0, 2.0])})
        >>> network(batch, {"x": torch.tensor(0.5)}, None)["x"]
        tensor([1., 2.])
    """

    def __init__(
        self,
        backbone: nn.Module,
        adapters: Sequence[nn.Module],
        *,
        controls: Collection[str] = (),
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        weights = [1.0] * len(adapters) if weights is None else list(weights)
        if len(weights) != len(adapters) or not all(math.isfinite(w) for w in weights):
            msg = f"weights must be {len(adapters)} finite numbers, one an adapter, got {weights}"
            raise ValueError(msg)
        self.backbone = backbone.requires_grad_(False)
        self.adapters, self.weights = nn.ModuleList(adapters), weights
        self.controls = frozenset(controls)

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """The backbone's outputs with the features added inside."""
        added: dict[str, Tensor] = {}
        for adapter, weight in zip(self.adapters, self.weights, strict=True):
            if weight != 0:
                for layer, features in adapter(batch, clock, previous).items():
                    part = weight * features
                    added[layer] = added[layer] + part if layer in added else part
        edits = {layer: adding(features) for layer, features in added.items()}
        with editing(self.backbone, edits):
            output: Mapping[str, Tensor] = self.backbone(
                without(batch, self.controls), clock, previous
            )
        return output


class TrainableCopy(nn.Module):
    """An adapter that is a copy of a backbone which sees a control.

    Arguments:
        backbone: The backbone as it is now; it is copied.
        encoder: From the batch to features of the control, to be added to the output of `entry`.
        entry: A layer of the copy, the first one that is to see the control.
        joins: Name of a layer to a module from the copy's output there to what is added to that
            of the frozen backbone, as a linear map of one width; its parameters are set to zero.
        controls: Names of the conditions that the encoder reads and the copy does not see.

    Raises:
        ValueError: If a layer is unknown or nothing is joined.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: Callable[[Batch], Tensor],
        *,
        entry: str,
        joins: Mapping[str, nn.Module],
        controls: Collection[str] = (),
    ) -> None:
        super().__init__()
        check_layers(backbone, [entry, *joins])
        if not joins:
            msg = "joins must have at least one layer, or the copy is not heard"
            raise ValueError(msg)
        self.network = copy.deepcopy(backbone).requires_grad_(True)
        self.encoder, self.entry = encoder, entry
        self.layers, self.joins = tuple(joins), nn.ModuleList(map(zeroed, joins.values()))
        self.controls = frozenset(controls)

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """What is added to the layers of the frozen backbone."""
        seen = without(batch, self.controls)
        with (
            editing(self.network, {self.entry: adding(self.encoder(batch))}),
            reading(self.network, self.layers) as outputs,
        ):
            self.network(seen, clock, previous)
        joined = zip(self.layers, self.joins, strict=True)
        return {layer: join(outputs[layer]) for layer, join in joined}
