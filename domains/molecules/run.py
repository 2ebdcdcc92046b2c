"""A trained model of molecules: training it, keeping it in a folder, drawing from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from numpy.typing import ArrayLike

from structdiff.artifacts import Part, RunFolder, partition, piecewise
from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.recipe import (
    MoleculesConfig,
    build,
    grid_of,
    objective_of,
)
from structdiff.domains.molecules.regressor import Regressor
from structdiff.domains.molecules.reports.scoring import Scores, score
from structdiff.domains.molecules.request import Request, condition_of, request
from structdiff.domains.molecules.sampling import Samples, Watch, draw
from structdiff.domains.molecules.structures import Structures
from structdiff.likelihood import Bound, bound
from structdiff.random import Generator
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
from structdiff.schedules import Grid

__all__ = ["Run", "train"]


def train(
    config: MoleculesConfig | None = None,
    out: Path | str = "runs/molecules",
    *,
    say: Callable[[str], None] = print,
) -> Run:
    """Train on molecules, or go on with a run that was stopped.

    Arguments:
        config: Settings; the defaults train on the embedded molecules.
        out: Folder of the run.
        say: Where to report.

    Raises:
        ValueError: If the data cannot be used, or the folder has another config.
        FileNotFoundError: If the data is missing.
    """
    config = config or MoleculesConfig()
    folder = RunFolder(out)
    data = load_together(lambda: load_data(config), config.training)
    settings = config.data
    codec = MoleculeCodec.fit(data.train, settings.conditions, data.units, bonds=settings.bonds)
    denoiser = model_of(lambda: build(config, codec), "the settings")
    check = codec.encode(data.validation) if len(data.validation) else None
    run = Run(folder, config, codec, denoiser)
    words = [data.report] if data.skipped or data.notes else []
    words += [f"{len(data.train)} molecules for training, {len(data.validation)} for validation"]
    fit(
        folder,
        "molecules",
        config,
        config.training,
        denoiser,
        objective_of(config, codec),
        samples=len(data.train),
        collate=lambda index: codec.encode(data.train.select(index)),
        identity=data.train.identity(),
        codec=codec.state(),
        costs=(data.train.count * (data.train.count - 1) / 2).tolist(),
        validate=None if check is None else lambda _: run.nats(check),
        words=words,
        say=say,
    )
    return Run.load(folder.path)


class Run:
    """A model of molecules in a folder.

    Arguments:
        folder: The folder.
        config: Settings of the run.
        codec: Vocabulary and sizes.
        denoiser: The denoiser.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: MoleculesConfig,
        codec: MoleculeCodec,
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
        config = stored_config(folder, "molecules", MoleculesConfig)
        codec = stored_codec(folder, MoleculeCodec.from_state)
        denoiser = averaged(folder, lambda: build(config, codec), config.training.device)
        return cls(folder, config, codec, denoiser)

    @classmethod
    def pretrained(cls) -> Run:
        """The model that comes with structdiff, trained on 100,000 molecules of QM9.

        Raises:
            FileNotFoundError: If the package was installed without it.
        """
        return cls.load(Path(__file__).with_name("pretrained"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def drawing(self, **changes: float | str | None) -> Run:
        """The same run with other settings of the sampler; None leaves one as it is.

        Raises:
            ValueError: If a setting is not known or out of range.
        """
        config = with_sampler(self.config, changes)
        return Run(self.folder, config, self.codec, self.denoiser)

    def parse(
        self, condition: Mapping[str, str], regressor: Regressor | None = None
    ) -> dict[str, ArrayLike]:
        """Conditions in words as values; those that a regressor knows are its.

        Raises:
            ValueError: If the run does not know a name, or a value is not one.
        """
        empty = [name for name, text in condition.items() if not text.strip()]
        if empty:
            msg = f"condition {empty[0]!r} must be NAME=VALUE, the value is empty"
            raise ValueError(msg)
        known = {} if regressor is None else dict.fromkeys(regressor.columns, regressor.codec)
        return {
            name: condition_of(known.get(name, self.codec), name).parse(text)
            for name, text in condition.items()
        }

    def request(
        self,
        molecules: int,
        *,
        sizes: Sequence[int] | None = None,
        condition: Mapping[str, ArrayLike] | None = None,
        guidance: float | Mapping[str, float] | None = None,
        given: Structures | None = None,
        regressor: Regressor | None = None,
        seed: int = 0,
    ) -> Request:
        """What to draw, see `request.request`; guidance is the config's by default."""
        if regressor is not None:
            regressor.check(self.config, self.codec)
        if guidance is None:
            guidance = self.config.sampler.guidance if condition else 1.0
        return request(
            self.codec,
            molecules,
            sizes=sizes,
            condition=condition,
            guidance=guidance,
            given=given,
            implicit=self.config.data.hydrogens == "implicit",
            regressor=regressor,
            seed=seed,
        )

    def draw(
        self,
        asked: Request,
        part: Part,
        *,
        done: Callable[[float], None] | None = None,
        watch: Watch | None = None,
    ) -> Structures:
        """Molecules of a part of a request, see `sampling.draw`."""
        return draw(self.denoiser, self.codec, self.config, asked, part, done=done, watch=watch)

    def judge(self, structures: Structures) -> Samples:
        """The molecules, each with its verdict."""
        implicit = self.config.data.hydrogens == "implicit"
        return Samples(structures, judge(structures, implicit=implicit))

    def sample(
        self,
        molecules: int,
        *,
        sizes: Sequence[int] | None = None,
        condition: Mapping[str, ArrayLike] | None = None,
        guidance: float | Mapping[str, float] | None = None,
        given: Structures | None = None,
        regressor: Regressor | None = None,
        seed: int = 0,
        progress: bool = True,
        watch: Watch | None = None,
        **settings: float | str | None,
    ) -> Samples:
        """Draw molecules; nothing is rejected or corrected.

        Arguments:
            molecules: How many.
            sizes: Numbers of atoms to choose from; p(size | condition) of the training data by
                default.
            condition: What is asked of the molecules: property name to a value for all, or to one
                per molecule.
            guidance: Scale w of the conditions: 0 unconditional, 1 conditional, above 1 guided;
                one for all or one per condition. The config's by default.
            given: One molecule whose atoms every drawn one contains, where they are: exact with a
                model trained with `loss.given`, else by replacement, or RePaint with
                `repaint` above 1. It may be in several pieces.
            regressor: A regressor of noisy molecules, by whose gradient the conditions that it
                knows are followed; `guidance` is its scale, 0 for none.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
            watch: Called with the steps done and the noisy molecules of the first batch.
            settings: Other fields of `SamplerConfig`: steps, eta, temperature, ...

        Raises:
            ValueError: If a number is out of range, a condition is not known, or the given part
                does not fit.
        """
        run = self.drawing(**settings)
        asked = run.request(
            molecules,
            sizes=sizes,
            condition=condition,
            guidance=guidance,
            given=given,
            regressor=regressor,
            seed=seed,
        )
        cut, drawn = partition(molecules, run.config.sampler.batch_size), []
        with Progress(molecules, unit="molecule", show=progress) as bar:

            def make(part: Part) -> Structures:
                show = watch if part.low == 0 else None
                return run.draw(asked, part, done=bar.walk(part), watch=show)

            for part, made in piecewise(cut, make):
                bar.settle(part.high - part.low)
                drawn.append(made)
        return self.judge(Structures.concatenate(drawn))

    def bound(self, structures: Structures, *, draws: int = 2, steps: int = 500) -> Bound:
        """Variational bound of molecules, given their sizes.

        Arguments:
            structures: Molecules with known elements.
            draws: Monte-Carlo repetitions.
            steps: Steps of the chain.
        """
        batch = self.codec.encode(structures).to(self.device)
        return bound(self.denoiser, batch, self._grid(steps), Generator(0), draws=draws, terms=20)

    def score(
        self,
        structures: Structures,
        *,
        draws: int = 4,
        steps: int = 500,
        seed: int = 0,
        progress: bool = True,
    ) -> Scores:
        """Bound of each molecule by leaf, with its Monte-Carlo errors; see `scoring.score`.

        Arguments:
            structures: Molecules; those that the model cannot know get a reason instead.
            draws: Monte-Carlo repetitions, at least 2.
            steps: Steps of the chain.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
        """
        return score(
            self.denoiser,
            self.codec,
            self.config,
            structures,
            draws=draws,
            steps=steps,
            seed=seed,
            progress=progress,
        )

    def _grid(self, steps: int) -> Grid:
        sampler = self.config.sampler.model_copy(update={"steps": steps})
        return grid_of(self.config.model_copy(update={"sampler": sampler}))

    def nats(self, batch: Batch) -> dict[str, float]:
        """Validation numbers: the bound per molecule, in nats."""
        batch = batch.to(self.device)
        report = bound(self.denoiser, batch, self._grid(500), Generator(0), terms=10)
        per_leaf = {f"bound_{n}": float(report.leaf(n).mean()) for n in report.prior}
        return {"bound": math.fsum(per_leaf.values()), **per_leaf}
