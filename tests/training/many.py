"""One of several processes that train the record together: `many.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from record import COSTS, make, stop_at

from structdiff.artifacts import RunFolder
from structdiff.training import NonFiniteLoss, Stopped
from structdiff.training.distributed import average_gradients, finish, leave, shard, start

CASES = {
    "size": {},
    "accumulate": {"accumulate": 3, "steps": 4},
    "cost": {"source": COSTS, "steps": 8},
    "single": {"dtype": torch.float32, "steps": 8},
}
SHARDING = ("replicate", "shard")
BROKEN = 12


def numbers(trainer):
    """How many numbers this process keeps: weights, averages, moments."""
    weights = sum(p.numel() for p in trainer.weights)
    averages = sum(x.numel() for x in trainer.average.average)
    moments = trainer.optimiser.state.values()
    return [weights, averages, sum(x.numel() for m in moments for x in m.values() if x.ndim)]


def gradients(rank):
    """Means of gradients of weights that both, the first and none of the processes used."""
    weights = [torch.zeros(2) for _ in range(3)]
    weights[0].grad = torch.tensor([1.0, 2.0]) * (1 + 2 * rank)
    weights[1].grad = torch.tensor([4.0, 6.0]) if rank == 0 else None
    average_gradients(weights)
    return [None if x.grad is None else x.grad.tolist() for x in weights]


def main(folder):
    start(torch.device("cpu"))
    rank, _ = shard()
    kept = {}
    for sharding in SHARDING:
        settings = {"seed": rank, "shard": shard(), "sharding": sharding}
        for name, case in CASES.items():
            out = folder / f"{name}-{sharding}"
            out.mkdir(exist_ok=True)
            trainer = make(RunFolder(out), **settings, **case)
            trainer.run()
            kept[f"{name}-{sharding}"] = numbers(trainer)
        make(RunFolder(folder / f"from-one-{sharding}"), **settings).run()
        out = folder / f"half-{sharding}"
        out.mkdir(exist_ok=True)
        try:
            stop_at(make(RunFolder(out), **settings), 10).run()
        except Stopped:
            kept[f"half-{sharding}"] = "stopped"
        out = folder / f"broken-{sharding}"
        out.mkdir(exist_ok=True)
        try:
            make(RunFolder(out), broken=BROKEN, **settings).run()
        except NonFiniteLoss as error:
            kept[f"broken-{sharding}"] = str(error)
    try:
        make(RunFolder(folder / f"half-{'replicate' if rank else 'none'}"), **settings).run()
    except ValueError as error:
        kept["folders"] = str(error)
    kept["gradients"] = gradients(rank)
    (folder / f"kept-{rank}.json").write_text(json.dumps(kept))
    finish()  # together: a process that parts alone may end the others in the middle of a message


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave()
