r"""The training loop: draw a batch, take the objective's gradient, step, save.

Everything random in update n follows from (seed, n) and either the process or, with `randomness`
at sample, the sample's id. So weights, optimiser and n are all that a save holds, and a run that
was killed and resumed ends with the weights, bit for bit, of one that was not (same number of
processes and threads, CPU). With noise by sample the number of processes changes weights by
rounding alone, also in the middle of a run; with noise by process it changes the noise of the
updates that follow, not its law.

With several processes all methods that compute are called by all of them, in the same order: they
exchange gradients, losses and, where the weights are sharded, what is saved. The first one writes.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Generic, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from structdiff.artifacts import RunFolder, load_tensors, save_tensors
from structdiff.batch import Batch
from structdiff.counter import Counter
from structdiff.objectives import Terms
from structdiff.random import Generator, Randomness
from structdiff.training.average import MovingAverage
from structdiff.training.config import TrainingConfig
from structdiff.training.distributed import (
    any_process,
    average,
    gather_text,
    shard,
    share_first,
)
from structdiff.training.failure import Failure, where_broken
from structdiff.training.memory import keep_freed_memory
from structdiff.training.sharding import place
from structdiff.training.source import Source
from structdiff.training.state import collect, restore

__all__ = ["NonFiniteLoss", "Stopped", "Trainer", "pick_device"]


Model = TypeVar("Model", bound=nn.Module)


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not a finite number."""


class Stopped(Exception):  # noqa: N818
    """Training was asked to stop (SIGTERM or Ctrl-C) and has saved its state."""


def pick_device(name: str) -> torch.device:
    """A device by name; `auto` is a GPU if there is one, each process of torchrun's its own.

    Raises:
        ValueError: If torch knows no such device, or this machine has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        msg = f"device = {name!r} cannot be used ({reason}): choose auto, cpu or cuda"
        raise ValueError(msg) from None
    if device.type == "meta":
        msg = "device = 'meta' cannot be used (it computes nothing): choose auto, cpu or cuda"
        raise ValueError(msg)
    return device


class Trainer(Generic[Model]):
    """Trains a denoiser, or any module; with several processes all of them make and run it.

    Arguments:
        denoiser: What is trained, in place; with sharded weights, each process is left with its
            part of them, and the whole is in the folder.
        objective: What is made small, an `Objective` or what is called like one.
        source: Batches by number.
        config: Settings.
        folder: Where to save and resume; None keeps nothing.
        validate: Called with the module at averaged weights, in every process on the same
            data; the first one's numbers are logged.
    """

    def __init__(
        self,
        denoiser: Model,
        objective: Callable[[Model, Batch, Randomness], Terms],
        source: Source,
        config: TrainingConfig,
        *,
        folder: RunFolder | None = None,
        validate: Callable[[Model], Mapping[str, float]] | None = None,
    ) -> None:
        self.denoiser, self.objective, self.source, self.config = (
            denoiser,
            objective,
            source,
            config,
        )
        self.folder, self.validate = folder, validate
        self.device = pick_device(config.device)
        denoiser.to(self.device)
        share_first(list(denoiser.state_dict().values()))
        self.sharding = place(denoiser, config.sharding, self.device)
        self.weights = self.sharding.weights
        self.optimiser = torch.optim.AdamW(
            self.weights,
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.average = MovingAverage(self.weights, config.ema)
        self.called: Model = torch.compile(denoiser) if config.compile else denoiser  # type: ignore[assignment]
        self.step = 0
        self._stop = False

    def run(self) -> None:
        """Train to the last update, from the last save if there is one.

        Raises:
            NonFiniteLoss: If the loss is not finite; the batch is saved for reproduction.
            ValueError: If not all processes see the same save.
            Stopped: If a signal asked to stop; the state is saved.
        """
        if self.device.type == "cpu":
            torch.set_num_threads(self.config.threads)
            keep_freed_memory()
        self.resume()
        own = [self.device] if self.device.type == "cuda" else []
        with self._signals(), self._bar() as bar, torch.random.fork_rng(own):
            self._loop(bar)
        self.save()
        self.export()

    def _loop(self, bar: tqdm[NoReturn]) -> None:
        saved = time.monotonic()
        recent: dict[str, list[Tensor]] = {}
        started = (time.monotonic(), self.step)
        while self.step < self.config.steps:
            terms = self.update()
            for name, value in terms.items():
                recent.setdefault(name, []).append(value)
            bar.update()
            last = self.step == self.config.steps
            if last or self.step % self.config.log_every == 0:
                means = _means(recent)
                rate = (self.step - started[1]) / (time.monotonic() - started[0])
                bar.set_postfix({n: f"{x:.3f}" for n, x in means.items()})
                self.log(step=self.step, steps_per_second=round(rate, 2), **means)
                recent = {}
            if last or self.step % self.config.validate_every == 0:
                self.log(step=self.step, **self.validated())
            due = time.monotonic() - saved > self.config.save_seconds
            stop, due = any_process([self._stop, due], self.device)
            if stop or due:
                self.save()
                saved = time.monotonic()
            if stop:
                kept = "nothing is kept" if self.folder is None else "the state is saved"
                msg = f"stopped at step {self.step} of {self.config.steps}; {kept}"
                raise Stopped(msg)

    def _bar(self) -> tqdm[NoReturn]:
        """Progress, shown by the first process."""
        quiet, total = shard()[0] > 0, self.config.steps
        return tqdm(total=total, initial=self.step, unit="step", disable=quiet, mininterval=1.0)

    def update(self) -> dict[str, Tensor]:
        """One update; the mean loss of each leaf here, times this process's share.

        So the mean over processes is the mean over the samples of all of them.
        """
        config = self.config
        self.optimiser.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for part, random in enumerate(self.noise()):
            number = self.step * config.accumulate + part
            batch, state = self.source(number).to(self.device), random.state()
            terms, share = self.terms(batch, random), self.source.share(number)
            loss = terms.total * share / config.accumulate
            if any(any_process([not bool(torch.isfinite(loss))], self.device)):
                self.fail(batch, terms, state)
            loss.backward()  # type: ignore[no-untyped-call]
            for name, term in terms.leaves.items():
                means[name] = (
                    means.get(name, 0.0) + term.detach().mean() * share / config.accumulate
                )
        self.sharding.reduce()
        norm = self.sharding.norm()
        if not bool(torch.isfinite(norm)):
            self.fail(batch, terms, state)
        torch.nn.utils.clip_grads_with_norm_(self.weights, config.clip, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * self.rate(self.step)
        self.optimiser.step()
        self.average.update(self.step)
        self.step += 1
        return means

    def noise(self) -> list[Randomness]:
        """Where the noise of each batch of the next update comes from.

        torch's own generator, which networks draw from (dropout), starts anew at each update too.
        """
        config, (rank, _) = self.config, shard()
        torch.manual_seed(_seed(config.seed, self.step, rank))
        if not config.by_sample:
            return [Generator(_seed(config.seed, self.step, rank), "cpu")] * config.accumulate
        first = self.step * config.accumulate
        return [Counter(_seed(config.seed, first + part)) for part in range(config.accumulate)]

    def terms(self, batch: Batch, random: Randomness) -> Terms:
        """The objective of a batch, in the precision of the config."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            return self.objective(self.called, batch, random.scoped(step=self.step))

    def reproduce(self, path: Path) -> Terms:
        """The terms of a batch that `fail` kept, with its weights and its noise."""
        failure = Failure.load(path)
        self.sharding.load(failure.weights)
        random = self.noise()[0]
        random.restore(failure.random)
        self.step = failure.step
        return self.terms(failure.batch.to(self.device), random)

    def rate(self, step: int) -> float:
        """The learning rate at an update, as a part of its peak."""
        rise = min(1.0, (step + 1) / max(1, self.config.warm_up))
        return rise * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))

    def validated(self) -> Mapping[str, float]:
        """Numbers of the validation, at averaged weights."""
        if self.validate is None:
            return {}
        self.average.swap()
        self.denoiser.eval()
        try:
            return self.validate(self.denoiser)
        finally:
            self.average.swap()
            self.denoiser.train()

    def log(self, **values: float) -> None:
        """A line of metrics, from the first process."""
        if self.folder is not None and shard()[0] == 0 and len(values) > 1:
            self.folder.log(**values)

    def fail(self, batch: Batch, terms: Terms, random: Tensor) -> None:
        """Keep the batch, the weights and the noise, and say where the loss broke.

        Where it broke in several processes, the first of them keeps its batch; all raise the same.

        Raises:
            NonFiniteLoss: Always.
        """
        found = gather_text(where_broken(batch, terms))
        first = next((rank for rank, text in enumerate(found) if text), 0)
        failure = Failure(batch, self.sharding.model(), random, self.step)
        message = ""
        if shard()[0] == first:
            where = found[first] or f"in the gradient, sample ids {batch.ids.tolist()[:10]}"
            kept = ""
            if self.folder is not None:
                path = self.folder.path / f"failure-step-{self.step}.safetensors"
                failure.save(path)
                kept = f" Batch, weights and noise are kept in {path}."
            message = (
                f"the loss is not finite at step {self.step}: {where}.{kept} "
                "Look for extreme values in these samples, or lower training.learning_rate"
            )
        raise NonFiniteLoss(gather_text(message)[first])

    def state(self) -> dict[str, Tensor]:
        """Everything that resuming needs, flat and whole."""
        return collect(self.sharding, self.average, self.optimiser)

    def save(self) -> None:
        """Write the state, atomically."""
        if self.folder is None:
            return
        state = self.state()
        if shard()[0] == 0:
            save_tensors(self.folder.state, state, {"step": str(self.step)})

    def resume(self) -> None:
        """Go on from the last save, if there is one.

        Raises:
            ValueError: If not all processes see the same save.
        """
        if self.folder is None:
            return
        if self.folder.state.exists():
            flat, metadata = load_tensors(self.folder.state)
            restore(flat, self.sharding, self.average, self.optimiser)
            self.step = int(metadata["step"])
        steps = gather_text(str(self.step))
        if len(set(steps)) > 1:
            msg = (
                f"the processes found saves of steps {', '.join(steps)} in {self.folder.path}: "
                "choose a folder that all of them see"
            )
            raise ValueError(msg)
        if shard()[0] == 0:
            self.folder.keep_metrics(self.step)

    def export(self) -> None:
        """Write the weights for use: as trained, and averaged."""
        if self.folder is None:
            return
        metadata = {"step": str(self.step)}
        for path in (self.folder.model, self.folder.ema):
            model = self.sharding.model()
            if shard()[0] == 0:
                save_tensors(path, model, metadata)
            self.average.swap()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C finish the update, save and stop."""

        def ask(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._stop = True

        try:
            before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _means(recent: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """Means of the losses since the last line, over the samples of all processes."""
    means = {name: torch.stack(values).mean() for name, values in recent.items()}
    average(list(means.values()))
    return {name: float(mean) for name, mean in means.items()}


def _seed(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
