"""Several processes, by torch.distributed: start with `torchrun`, nothing else changes.

    torchrun --nproc-per-node 2 -m structdiff train molecules --out runs/two

Every process draws its part of each batch, and gradients and logged losses are means over all
samples. All processes see the same folder; the first writes. What one process alone learns (a
signal, the time to save, a loss that is not finite) is agreed upon before any of them acts on it,
since a process that leaves alone would keep the others waiting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

__all__ = [
    "any_process",
    "average",
    "average_gradients",
    "finish",
    "first_alone",
    "first_to_fail",
    "gather_text",
    "leave",
    "shard",
    "share_first",
    "start",
]

T = TypeVar("T")


def start(device: torch.device) -> None:
    """Join the other processes if `torchrun` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def finish() -> None:
    """Wait until every process is here, then part."""
    if shard()[1] > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def leave() -> NoReturn:
    """End this process, whose work is done, at once.

    torch's caches of sharded tensors keep the group alive after it was destroyed, and with it
    gloo's threads. Taken apart beside them, as at the usual end, the process aborts now and then,
    and `torchrun` takes what is finished for a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def shard() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one message."""
    _, world = shard()
    if world == 1 or not tensors:
        return
    flat = torch.cat([x.reshape(-1) for x in tensors])
    torch.distributed.all_reduce(flat)
    flat /= world
    for x, part in zip(tensors, torch.split(flat, [x.numel() for x in tensors]), strict=True):
        x.copy_(part.view_as(x))


@torch.no_grad()
def average_gradients(weights: Sequence[Tensor]) -> None:
    """Replace each gradient by its mean over the processes.

    A weight that was not used in some process has the gradient zero there; one that was used in
    none keeps no gradient.
    """
    if shard()[1] == 1 or not weights:
        return
    used = torch.tensor([float(x.grad is not None) for x in weights], device=weights[0].device)
    for x in weights:
        x.grad = torch.zeros_like(x) if x.grad is None else x.grad
    gradients = [x.grad for x in weights if x.grad is not None]
    average([*gradients, used])
    for x, share in zip(weights, used.tolist(), strict=True):
        x.grad = x.grad if share else None


@torch.no_grad()
def share_first(tensors: Sequence[Tensor]) -> None:
    """Give every process the tensors of the first."""
    if shard()[1] > 1:
        for x in tensors:
            torch.distributed.broadcast(x, 0)


def any_process(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Whether each flag is set in some process: all get the same answers, at the same update."""
    if shard()[1] == 1:
        return list(flags)
    count = torch.tensor([float(flag) for flag in flags], device=device)
    torch.distributed.all_reduce(count)
    return [bool(x) for x in count > 0]


def first_alone(make: Callable[[], T]) -> T:
    """What `make` gives, called in the first process before the others: it may leave a cache."""
    rank, world = shard()
    made = make() if rank == 0 else None
    if world > 1:
        torch.distributed.barrier()
    return make() if made is None else made


def gather_text(text: str) -> list[str]:
    """The texts of all processes."""
    _, world = shard()
    texts = [text] * world
    if world > 1:
        torch.distributed.all_gather_object(texts, text)
    return texts


def first_to_fail() -> bool:
    """Whether no other process has asked this before: then this one says what went wrong.

    The answer comes from torchrun's own store, so it needs no process group and waits for nobody.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host, int(port), is_master=False, timeout=timedelta(seconds=5)
        )
        return bool(store.add(f"structdiff/failed/{attempt}", 1) == 1)
    except (RuntimeError, ValueError):  # there is no store, or it has ended
        return True
