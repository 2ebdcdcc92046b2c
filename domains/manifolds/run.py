"""A trained model of points: training it, keeping it in a folder, drawing from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from structdiff.acceleration import Tuned
from structdiff.artifacts import (
    Part,
    RunFolder,
    load_tensors,
    partition,
    piecewise,
    read_json,
    save_tensors,
    write_json,
)
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.domains.manifolds.codec import ManifoldsCodec, Table
from structdiff.domains.manifolds.data import Data, Points, read
from structdiff.domains.manifolds.recipe import ManifoldsConfig, build, objective_of, time_of
from structdiff.domains.manifolds.request import Request, request
from structdiff.domains.manifolds.sampling import draw, joined
from structdiff.domains.manifolds.scoring import TOLERANCE, Scores, choose_noise, look, score
from structdiff.domains.manifolds.tuning import stored, tune
from structdiff.runs import (
    Progress,
    averaged,
    fit,
    load_together,
    model_of,
    stored_codec,
    stored_config,
    with_sampler,
)
from structdiff.training.distributed import shard

__all__ = ["Run", "load_data", "train"]

_LOOKED_AT = 128  # points of a validation

Look = Callable[[Denoiser], Mapping[str, float]]


def load_data(
    config: ManifoldsConfig,
    path: Path | str | None = None,
    codec: ManifoldsCodec | None = None,
) -> Data:
    """The points of a config.

    Arguments:
        config: Settings.
        path: Where they lie, if not where the config says.
        codec: That of a trained model, if there is one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the points cannot be used.
    """
    asked = config.data.model_dump()
    if path is not None:
        asked["path"] = str(path)
    if codec is not None:
        asked["columns"] = None
    return read(**asked, codec=codec)


class _Best:
    """The averaged weights that validation points are likeliest under, in a file of the run.

    The loss would not do: it goes on falling where the density of the flow gets worse, and rises
    where it gets better. A run that is stopped and gone on with repeats the validations after its
    last save, so what the file holds stays true.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: ManifoldsConfig,
        data: Data,
        also: Look | None,
    ) -> None:
        self.path, self.config, self.codec = folder.path / "best.safetensors", config, data.codec
        few = np.linspace(0, len(data.validation) - 1, min(_LOOKED_AT, len(data.validation)))
        self.points, self.also = data.validation.subset(np.unique(few.astype(int))), also

    def __call__(self, denoiser: Denoiser) -> Mapping[str, float]:
        """Mean of -log density; none where the equation cannot be solved yet."""
        noise = min(3 * self.config.noise.sigma_min, 0.5)
        try:
            nll, _ = look(denoiser, self.codec, self.config, self.points, noise).nll()
        except ArithmeticError:
            return {}
        if shard()[0] == 0 and nll < self.least():
            weights = {n: x.detach().cpu() for n, x in denoiser.state_dict().items()}
            save_tensors(self.path, weights, {"bound": repr(nll)})
        return {"bound": nll} | dict(self.also(denoiser) if self.also else {})

    def keep(self, folder: RunFolder) -> None:
        """Put the best weights in the place of the last, with the update that they are of."""
        lines = [line for line in folder.read_metrics() if "bound" in line]
        if self.path.exists() and lines:
            step = min(lines, key=lambda line: float(line["bound"]))["step"]
            best, (now, said) = load_tensors(self.path)[0], load_tensors(folder.ema)
            if said.get("step") != str(step) or any(not x.equal(now[n]) for n, x in best.items()):
                save_tensors(folder.ema, best, {"step": str(step)})

    def least(self) -> float:
        """The least so far."""
        return float(load_tensors(self.path)[1]["bound"]) if self.path.exists() else math.inf


def train(
    config: ManifoldsConfig | None = None,
    out: Path | str = "runs/manifolds",
    *,
    say: Callable[[str], None] = print,
    also: Look | None = None,
) -> Run:
    """Train on points, or go on with a run that was stopped.

    The weights that are kept are those that were best on validation, and the noise at which the
    model's density is taken is chosen there too.

    Arguments:
        config: Settings; the defaults train on covariances of geomstats.
        out: Folder of the run.
        say: Where to report.
        also: More numbers of each validation, from the denoiser at averaged weights, that are
            kept with its loss.

    Raises:
        ValueError: If the data cannot be used, or the folder has another config.
        FileNotFoundError: If the data are missing.
    """
    config = config or ManifoldsConfig()
    folder = RunFolder(out)
    data = load_together(lambda: load_data(config), config.training)
    codec = data.codec
    denoiser = model_of(lambda: build(config, codec), "the settings")
    whole = len(data.validation) > 0 and config.training.sharding == "replicate"
    best = _Best(folder, config, data, also)
    fit(
        folder,
        "manifolds",
        config,
        config.training,
        denoiser,
        objective_of(config, codec),
        samples=len(data.train),
        collate=data.train.collate,
        identity=data.train.identity(),
        codec=codec.state(),
        validate=best if whole else None,
        words=[data.report],
        say=say,
    )
    if shard()[0] == 0:
        best.keep(folder)
        _keep_noise(Run.load(folder.path), data, say)
    return Run.load(folder.path)


def _keep_noise(run: Run, data: Data, say: Callable[[str], None]) -> None:
    """Choose the noise of likelihoods, once."""
    path = run.folder.path / "likelihood.json"
    if path.exists():
        return
    noise, found = choose_noise(run.denoiser, run.codec, run.config, data.validation)
    write_json(path, {"noise": noise, "validation": {f"{n:g}": v for n, v in found.items()}})
    if found:
        say(f"likelihoods at noise {noise:g}: {found[noise]:.4f} nats on validation")


class Run:
    """A model of points in a folder.

    Arguments:
        folder: The folder.
        config: Settings of the run.
        codec: Columns, units and spaces.
        denoiser: The denoiser.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: ManifoldsConfig,
        codec: ManifoldsCodec,
        denoiser: NetworkDenoiser,
    ) -> None:
        self.folder, self.config, self.codec, self.denoiser = folder, config, codec, denoiser

    @classmethod
    def load(cls, path: Path | str) -> Run:
        """The model with averaged weights.

        Raises:
            FileNotFoundError: If the folder is not a finished run's.
            ValueError: If a file is damaged, or does not fit this version.
        """
        folder = RunFolder(path)
        config = stored_config(folder, "manifolds", ManifoldsConfig)
        codec = stored_codec(folder, ManifoldsCodec.from_state)
        denoiser = averaged(folder, lambda: build(config, codec), config.training.device)
        return cls(folder, config, codec, denoiser)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def noise(self) -> float:
        """The noise at which the model's density is taken, as chosen on validation."""
        path = self.folder.path / "likelihood.json"
        if not path.exists():
            return self.config.noise.sigma_min
        content, least = read_json(path), self.config.noise.sigma_min
        noise = content.get("noise") if isinstance(content, dict) else None
        if not isinstance(noise, float | int) or not least <= noise < 1:
            msg = (
                f"{path} is damaged: noise must be from noise.sigma_min = {least:g} to 1, got "
                f"{noise!r}. Restore it from a copy, or remove it and train again to choose it"
            )
            raise ValueError(msg)
        return float(noise)

    def drawing(self, **changes: float | str | None) -> Run:
        """The same run with other settings of the sampler; None leaves one as it is.

        Raises:
            ValueError: If a setting is not known or out of range.
        """
        config = ManifoldsConfig.model_validate(with_sampler(self.config, changes).model_dump())
        return Run(self.folder, config, self.codec, self.denoiser)

    def request(self, points: int, *, given: str | None = None, seed: int = 0) -> Request:
        """What to draw, see `request.request`."""
        exact = self.config.loss.independent
        return request(self.codec, points, given=given, exact=exact, seed=seed)

    def draw(
        self, asked: Request, part: Part, *, done: Callable[[float], None] | None = None
    ) -> Batch:
        """Points of a part of a request, see `sampling.draw`."""
        sampler = self.config.sampler
        tuned = stored(self.folder, sampler.steps) if sampler.kind == "tuned" else None
        return draw(
            self.denoiser,
            self.codec,
            self.config,
            asked,
            part,
            noise=self.noise,
            tuned=tuned,
            done=done,
        )

    def tune(
        self, calls: int, *, pilots: int = 256, seed: int = 0, say: Callable[[str], object] = print
    ) -> Tuned:
        """Choose a walk of so many calls, kept with the run; see `tuning.tune`.

        Points are drawn with it by `sample(..., kind="tuned", steps=calls)`.
        """
        end = time_of(self.config, self.codec, self.noise)
        return tune(self.folder, self.denoiser, calls, end=end, pilots=pilots, seed=seed, say=say)

    def points(
        self,
        points: int,
        *,
        given: str | None = None,
        seed: int = 0,
        progress: bool = True,
        **settings: float | str | None,
    ) -> Batch:
        """Draw points of the spaces; see `sample` for the units of the data."""
        run = self.drawing(**settings)
        asked = run.request(points, given=given, seed=seed)
        found = list[Batch]()
        with Progress(points, unit="point", show=progress) as bar:

            def make(part: Part) -> Batch:
                return run.draw(asked, part, done=bar.walk(part))

            for part, made in piecewise(partition(points, run.config.sampler.batch_size), make):
                bar.settle(part.high - part.low)
                found.append(made)
        return joined(found)

    def sample(
        self,
        points: int,
        *,
        given: str | None = None,
        seed: int = 0,
        progress: bool = True,
        **settings: float | str | None,
    ) -> Table:
        """Draw points, as columns in the units of the data; none is rejected or corrected.

        Arguments:
            points: How many.
            given: Known leaves, as in "place=12.5,41.9"; for a model trained with
                loss.independent.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
            settings: Fields of `SamplerConfig`: kind, steps, eta, ...

        Raises:
            ValueError: If a number is out of range, or the given leaves do not fit.
        """
        drawn = self.points(points, given=given, seed=seed, progress=progress, **settings)
        return self.codec.decode(drawn)

    def score(
        self,
        points: Points,
        *,
        tolerance: float = TOLERANCE,
        probes: int | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> Scores:
        """Log density of each point, see `scoring.score`."""
        return score(
            self.denoiser,
            self.codec,
            self.config,
            points,
            self.noise,
            tolerance=tolerance,
            probes=probes,
            seed=seed,
            progress=progress,
        )

    def facts(self) -> dict[str, Any]:
        """What the model is, for cards and pages."""
        total = sum(weight.numel() for weight in self.denoiser.parameters())
        network = self.config.network
        return {
            "leaves": "; ".join(leaf.describe() for leaf in self.codec.leaves),
            "network": f"{network.blocks} blocks of width {network.width}, {network.waves} waves "
            f"over {network.octaves:g} octaves, {total:,} parameters",
            "noise": f"{self.noise:g} for likelihoods, chosen on validation",
        }
