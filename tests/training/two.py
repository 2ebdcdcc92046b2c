"""One of several processes that train a line together: `two.py FOLDER`."""

import os
import signal
import sys
from pathlib import Path

import torch
from line import DATA, make

from structdiff.artifacts import RunFolder, save_tensors
from structdiff.training import Stopped
from structdiff.training.distributed import shard, start

COSTS = {"costs": [1.0 + 5 * (i % 5 == 0) for i in range(len(DATA))], "budget": 6.0}


def main(folder):
    start(torch.device("cpu"))
    rank, _ = shard()
    for name, source in (("size", None), ("cost", COSTS)):
        trainer = make(seed=rank, shard=shard(), batch_size=5, source=source)
        trainer.run()
        save_tensors(folder / f"{name}-{rank}.safetensors", trainer.state())

    trainer = make(RunFolder(folder), seed=rank, shard=shard(), batch_size=5)
    update = trainer.update

    def ask_one_process_to_stop():
        means = update()
        if rank == 1 and trainer.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return means

    trainer.update = ask_one_process_to_stop
    try:
        trainer.run()
    except Stopped:
        (folder / f"stopped-{rank}").write_text(str(trainer.step))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
