"""Several processes, by torch.distributed: start with `torchrun`, nothing else changes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["any_process", "average", "finish", "shard", "share_first", "start"]


def start(device: torch.device) -> None:
    """Join the other processes if `torchrun` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def finish() -> None:
    """Wait until every process is here, then part."""
    if shard()[1] > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def shard() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one message."""
    _, world = shard()
    if world == 1:
        return
    flat = torch.cat([x.reshape(-1) for x in tensors])
    torch.distributed.all_reduce(flat)
    flat /= world
    for x, part in zip(tensors, torch.split(flat, [x.numel() for x in tensors]), strict=True):
        x.copy_(part.view_as(x))


@torch.no_grad()
def share_first(tensors: Sequence[Tensor]) -> None:
    """Give every process the tensors of the first."""
    if shard()[1] > 1:
        for x in tensors:
            torch.distributed.broadcast(x, 0)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in some process: all get the same answer, at the same update."""
    if shard()[1] == 1:
        return flag
    count = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(count)
    return bool(count > 0)
