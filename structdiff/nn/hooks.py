"""Reading and editing what the layers of a network give, without a change to the network.

Layers go by the names that `network.named_modules()` has. An edit replaces a layer's output by a
function of it for the calls inside a `with` block, so that an edit that changes nothing is the
identity, bit for bit; a reader keeps the output, with its gradient. Readers see the edited output.

References:
    Diffusion Models Already Have a Semantic Latent Space (Kwon, Jeong and Uh, 2023), section 3:
    edits of one layer. https://arxiv.org/abs/2210.10960
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["check_layers", "editing", "reading"]

_SHOWN = 12


def check_layers(network: nn.Module, names: Collection[str]) -> None:
    """Refuse names that are no layers.

    Raises:
        ValueError: If there is one.
    """
    known = [name for name, _ in network.named_modules() if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        more = " ..." if len(known) > _SHOWN else ""
        msg = f"the network has the layers {known[:_SHOWN]}{more}, not {unknown}"
        raise ValueError(f"{msg}: see network.named_modules()")


@contextmanager
def editing(network: nn.Module, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace the outputs of layers, for the calls inside the block.

    Arguments:
        network: The network.
        edits: Name of a layer to a function from its output to another one.

    Raises:
        ValueError: If a layer is unknown; on a call, if one gives no tensor.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Identity(), nn.Identity())
        >>> with editing(network, {"0": lambda h: 2 * h}):
        ...     network(torch.ones(1))
        tensor([2.])
    """
    check_layers(network, edits)
    with ExitStack() as stack:
        for name, edit in edits.items():
            hook = network.get_submodule(name).register_forward_hook(_after(name, edit))
            stack.callback(hook.remove)
        yield


@contextmanager
def reading(network: nn.Module, names: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs that layers gave last, by name, in the calls inside the block.

    Arguments:
        network: The network.
        names: Names of the layers.

    Raises:
        ValueError: If a layer is unknown; on a call, if one gives no tensor.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Tanh(), nn.Flatten())
        >>> with reading(network, ["0"]) as seen:
        ...     output = network(torch.zeros(1, 2))
        >>> seen["0"]
        tensor([[0., 0.]])
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], Tensor]:
        def put(h: Tensor) -> Tensor:
            seen[name] = h
            return h

        return put

    with editing(network, {name: keep(name) for name in names}):
        yield seen


def _after(name: str, edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A hook that edits a layer's output."""

    def hook(layer: nn.Module, inputs: Any, output: Any) -> Tensor:
        del inputs
        if not isinstance(output, Tensor):
            given = f"the layer {name!r}, a {type(layer).__name__}, gives"
            msg = f"{given} a {type(output).__name__}, not a tensor: choose a layer inside it"
            raise ValueError(msg)
        return edit(output)

    return hook
