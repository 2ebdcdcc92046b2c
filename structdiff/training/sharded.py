"""A part of the weights in each process, by torch's FSDP2.

Of n processes each keeps 1/n of every weight, of its gradient, of the optimiser's moments and of
the moving average: rows of its first axis. The weights of a block are gathered for its forward and
backward pass and dropped after.

A block is a member of an `nn.ModuleList` with modules of its own and a `forward` that is called
and returns tensors (in tuples, lists or mappings); the rest of the network is gathered as one, and
so is a network that shares weights between modules. All processes must call the network equally
often and use the same weights: chance may decide on a call only if it is the same chance in all of
them, as it is with noise by sample, and a network uses a weight in every batch or in none.

References:
    ZeRO: Memory Optimizations Toward Training Trillion Parameter Models (Rajbhandari et al.,
    2020).
    https://arxiv.org/abs/1910.02054
    PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel (Zhao et al., 2023).
    https://arxiv.org/abs/2304.11277
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from structdiff.denoiser import Denoiser
from structdiff.training.distributed import average_gradients, shard
from structdiff.training.sharding import Sharding, norm_of

__all__ = ["Sharded"]


class Sharded(Sharding):
    """Every process has its part of the network's weights.

    Weights of the process (a learned schedule's) and scalars, which cannot be cut, stay whole.
    `weights` are plain tensors that share their memory with the denoiser's parameters.
    """

    def __init__(self, denoiser: nn.Module, device: torch.device) -> None:
        super().__init__(denoiser)
        self.mesh = init_device_mesh(device.type, (shard()[1],))
        for network in _networks(denoiser):
            scalars = {p for p in network.parameters() if p.ndim == 0}
            for unit in (*_blocks(network), network):
                unit.register_forward_hook(_own_memory)
                fully_shard(
                    unit, mesh=self.mesh, reshard_after_forward=True, ignored_params=scalars
                )
        self.parameters = [p for p in denoiser.parameters() if p.requires_grad]
        self.weights = [
            nn.Parameter(p.to_local().detach()) if isinstance(p, DTensor) else p
            for p in self.parameters
        ]

    def reduce(self) -> None:
        """Parts are averaged in the backward pass; those that are whole, here."""
        for parameter, weight in zip(self.parameters, self.weights, strict=True):
            if isinstance(parameter, DTensor):
                gradient = parameter.grad
                weight.grad = gradient.to_local() if isinstance(gradient, DTensor) else None
                parameter.grad = None
        average_gradients(self._select(sharded=False))

    def norm(self) -> Tensor:
        """Of the parts in all processes, and of the weights that are whole once."""
        square = norm_of(self._select(sharded=True)).square()
        torch.distributed.all_reduce(square)
        whole = self._select(sharded=False)
        return (square + norm_of(whole).square() if whole else square).sqrt()

    def _select(self, *, sharded: bool) -> list[nn.Parameter]:
        pairs = zip(self.parameters, self.weights, strict=True)
        return [weight for p, weight in pairs if isinstance(p, DTensor) == sharded]

    def whole(self, index: int, part: Tensor) -> Tensor:
        """Gathered from all processes."""
        like = self.parameters[index]
        if not isinstance(like, DTensor):
            return part
        return DTensor.from_local(
            part,
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        ).full_tensor()

    def part(self, index: int, whole: Tensor) -> Tensor:
        """Cut as the weight is."""
        cut = _cut(whole, self.parameters[index])
        return cut.to_local().clone() if isinstance(cut, DTensor) else cut

    def model(self) -> dict[str, Tensor]:
        """Gathered from all processes, one tensor after the other, on the CPU."""
        return {
            name: (x.full_tensor() if isinstance(x, DTensor) else x).cpu()
            for name, x in self.denoiser.state_dict().items()
        }

    def load(self, model: Mapping[str, Tensor]) -> None:
        """Cut each tensor as the denoiser's."""
        own = self.denoiser.state_dict()
        self.denoiser.load_state_dict(
            {n: _cut(x, own[n]) if n in own else x for n, x in model.items()}
        )


def _own_memory(module: nn.Module, inputs: Any, output: Any) -> Any:
    """An output with views copied, for FSDP's hooks do not survive in-place changes of one."""
    del module, inputs
    return tree_map_only(Tensor, lambda x: x.clone() if x._is_view() else x, output)


def _cut(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has, distributed as another is."""
    if not isinstance(like, DTensor):
        return whole
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _networks(denoiser: nn.Module) -> Iterator[nn.Module]:
    """What of the denoiser has weights, but for the process."""
    for name, child in denoiser.named_children():
        if isinstance(child, Denoiser):
            yield from _networks(child)
        elif name != "process" and any(True for _ in child.parameters()):
            yield child


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Outermost blocks, none where modules share a weight."""
    names = [n for n, _ in network.named_parameters(remove_duplicate=False)]
    if len(names) > len(list(network.parameters())):
        return []
    return list(_outermost(network))


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    inside = isinstance(module, nn.ModuleList)
    for child in module.children():
        if inside and _is_block(child):
            yield child
        else:
            yield from _outermost(child)


def _is_block(module: nn.Module) -> bool:
    called = type(module).forward is not nn.Module.forward
    cut = any(p.ndim > 0 for p in module.parameters())
    return called and cut and any(True for _ in module.children())
