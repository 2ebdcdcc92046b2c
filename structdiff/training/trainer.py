r"""The training loop: draw a batch, take the objective's gradient, step, save.

Everything random in update n follows from (seed, n, process), so weights, optimiser and n are all
that a save holds, and a run that was killed and resumed ends with the weights, bit for bit, of one
that was not (same number of threads, CPU).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from structdiff.artifacts import RunFolder, load_tensors, save_tensors
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives import Objective, Terms
from structdiff.random import Generator, Randomness
from structdiff.training.average import MovingAverage
from structdiff.training.config import TrainingConfig
from structdiff.training.distributed import any_process, average, shard, share_first
from structdiff.training.failure import Failure
from structdiff.training.memory import keep_freed_memory
from structdiff.training.source import Source

__all__ = ["NonFiniteLoss", "Stopped", "Trainer", "pick_device"]


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not a finite number."""


class Stopped(Exception):  # noqa: N818
    """Training was asked to stop (SIGTERM or Ctrl-C) and has saved its state."""


def pick_device(name: str) -> torch.device:
    """A device by name; `auto` is a GPU if there is one.

    Raises:
        ValueError: If torch knows no such device, or this machine has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        msg = f"device = {name!r} cannot be used ({reason}): choose auto, cpu or cuda"
        raise ValueError(msg) from None
    return device


class Trainer:
    """Trains a denoiser.

    Arguments:
        denoiser: What is trained, in place.
        objective: What is made small.
        source: Batches by number.
        config: Settings.
        folder: Where to save and resume; None keeps nothing.
        validate: Called with the denoiser at averaged weights; its numbers are logged.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective,
        source: Source,
        config: TrainingConfig,
        *,
        folder: RunFolder | None = None,
        validate: Callable[[Denoiser], Mapping[str, float]] | None = None,
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
        self.weights = [p for p in denoiser.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.weights,
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.average = MovingAverage(self.weights, config.ema)
        self.called: Denoiser = torch.compile(denoiser) if config.compile else denoiser  # type: ignore[assignment]
        self.step = 0
        self._stop = False

    def run(self) -> None:
        """Train to the last update, from the last save if there is one.

        Raises:
            NonFiniteLoss: If the loss is not finite; the batch is saved for reproduction.
            Stopped: If a signal asked to stop; the state is saved.
        """
        if self.device.type == "cpu":
            torch.set_num_threads(self.config.threads)
            keep_freed_memory()
        self.resume()
        share_first([*self.denoiser.state_dict().values(), *self.average.average])
        with self._signals():
            self._loop()
        self.save()
        self.export()

    def _loop(self) -> None:
        rank, _ = shard()
        saved = time.monotonic()
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            unit="step",
            disable=rank > 0,
            mininterval=1.0,
        )
        recent: dict[str, list[Tensor]] = {}
        started = (time.monotonic(), self.step)
        while self.step < self.config.steps:
            terms = self.update()
            for name, value in terms.items():
                recent.setdefault(name, []).append(value)
            bar.update()
            last = self.step == self.config.steps
            if last or self.step % self.config.log_every == 0:
                means = {n: float(torch.stack(x).mean()) for n, x in recent.items()}
                rate = (self.step - started[1]) / (time.monotonic() - started[0])
                bar.set_postfix({n: f"{x:.3f}" for n, x in means.items()})
                self.log(step=self.step, steps_per_second=round(rate, 2), **means)
                recent = {}
            if last or self.step % self.config.validate_every == 0:
                self.log(step=self.step, **self.validated())
            stop = any_process(self._stop, self.device)
            if stop or time.monotonic() - saved > self.config.save_seconds:
                self.save()
                saved = time.monotonic()
            if stop:
                bar.close()
                kept = "nothing is kept" if self.folder is None else "the state is saved"
                msg = f"stopped at step {self.step} of {self.config.steps}; {kept}"
                raise Stopped(msg)
        bar.close()

    def update(self) -> dict[str, Tensor]:
        """One update; the mean loss of each leaf."""
        rank, _ = shard()
        config = self.config
        random = Generator(_seed(config.seed, self.step, rank), "cpu")
        self.optimiser.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for part in range(config.accumulate):
            number = self.step * config.accumulate + part
            batch, state = self.source(number).to(self.device), random.state()
            terms = self.terms(batch, random)
            loss = terms.total * self.source.share(number) / config.accumulate
            if not bool(torch.isfinite(loss)):
                self.fail(batch, terms, state)
            loss.backward()  # type: ignore[no-untyped-call]
            for name, term in terms.leaves.items():
                means[name] = means.get(name, 0.0) + term.detach().mean() / config.accumulate
        average([p.grad for p in self.weights if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.weights, config.clip)
        if not bool(torch.isfinite(norm)):
            self.fail(batch, terms, state)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * self.rate(self.step)
        self.optimiser.step()
        self.average.update(self.step)
        self.step += 1
        return means

    def terms(self, batch: Batch, random: Randomness) -> Terms:
        """The objective of a batch, in the precision of the config."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            return self.objective(self.called, batch, random.scoped(step=self.step))

    def reproduce(self, path: Path) -> Terms:
        """The terms of a batch that `fail` kept, with its weights and its noise."""
        failure = Failure.load(path)
        self.denoiser.load_state_dict(failure.weights)
        random = Generator(0, "cpu")
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

        Raises:
            NonFiniteLoss: Always.
        """
        parts = []
        for name, term in terms.leaves.items():
            index = torch.nonzero(~torch.isfinite(term)).flatten()
            if len(index):
                clock = terms.clock[name]
                rows = torch.isin(batch.layouts[name].sample, index)
                seen = clock[rows] if clock.ndim else clock
                ids = batch.ids[index].tolist()[:10]
                parts.append(
                    f"leaf {name!r}, clock {float(seen.min()):.3g} to {float(seen.max()):.3g}, "
                    f"sample ids {ids}"
                )
        where = "; ".join(parts) or f"in the gradient, sample ids {batch.ids.tolist()[:10]}"
        kept = ""
        if self.folder is not None:
            path = self.folder.path / f"failure-step-{self.step}.safetensors"
            Failure(batch, self.denoiser.state_dict(), random, self.step).save(path)
            kept = f" Batch, weights and noise are kept in {path}."
        msg = (
            f"the loss is not finite at step {self.step}: {where}.{kept} "
            "Look for extreme values in these samples, or lower training.learning_rate"
        )
        raise NonFiniteLoss(msg)

    def state(self) -> dict[str, Tensor]:
        """Everything that resuming needs, flat."""
        flat = {f"model.{name}": x for name, x in self.denoiser.state_dict().items()}
        flat |= {f"ema.{i}": x for i, x in enumerate(self.average.average)}
        for i, weight in enumerate(self.weights):
            moments = self.optimiser.state.get(weight, {})
            flat |= {f"optimiser.{i}.{key}": x for key, x in moments.items()}
        return flat

    def save(self) -> None:
        """Write the state, atomically."""
        if self.folder is not None and shard()[0] == 0:
            save_tensors(self.folder.state, self.state(), {"step": str(self.step)})

    def resume(self) -> None:
        """Go on from the last save, if there is one."""
        if self.folder is None:
            return
        if not self.folder.state.exists():
            if shard()[0] == 0:
                self.folder.keep_metrics(0)
            return
        flat, metadata = load_tensors(self.folder.state)
        model = {n.removeprefix("model."): x for n, x in flat.items() if n.startswith("model.")}
        self.denoiser.load_state_dict(model)
        for i, kept in enumerate(self.average.average):
            kept.copy_(flat[f"ema.{i}"])
        for i, weight in enumerate(self.weights):
            prefix = f"optimiser.{i}."
            moments = {n.removeprefix(prefix): x for n, x in flat.items() if n.startswith(prefix)}
            if moments:
                self.optimiser.state[weight] = {n: x.to(self.device) for n, x in moments.items()}
        self.step = int(metadata["step"])
        if shard()[0] == 0:
            self.folder.keep_metrics(self.step)

    def export(self) -> None:
        """Write the weights for use: as trained, and averaged."""
        if self.folder is None or shard()[0] > 0:
            return
        metadata = {"step": str(self.step)}
        save_tensors(self.folder.model, self.denoiser.state_dict(), metadata)
        self.average.swap()
        save_tensors(self.folder.ema, self.denoiser.state_dict(), metadata)
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


def _seed(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
