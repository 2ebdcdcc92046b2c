"""A trained model of molecules: training it, keeping it in a folder, drawing from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from structdiff.artifacts import RunFolder, load_tensors, read_json, write_json
from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.recipe import (
    MoleculesConfig,
    SamplerConfig,
    build,
    grid_of,
    objective_of,
)
from structdiff.domains.molecules.sampling import Samples, Watch, draw, draw_sizes
from structdiff.domains.molecules.structures import Structures
from structdiff.likelihood import Bound, bound
from structdiff.random import Generator
from structdiff.schedules import Grid
from structdiff.training import Source, Trainer, pick_device
from structdiff.training.distributed import finish, shard, start

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
    data = load_data(config)
    start(pick_device(config.training.device))
    rank, _ = shard()
    if rank == 0:
        folder.open("molecules", config.model_dump(mode="json"))
        if data.skipped:
            say(f"{len(data.skipped)} records were skipped, the first: {data.skipped[0]}")
        say(f"{len(data.train)} molecules for training, {len(data.validation)} for validation")
    codec = MoleculeCodec.fit(data.train)
    if rank == 0:
        write_json(folder.codec, codec.state())
    denoiser = build(config, codec)
    records = codec.encode(data.train)
    source = Source(
        len(data.train),
        lambda index: records.select(torch.from_numpy(index)),
        batch_size=config.training.batch_size,
        costs=(data.train.count * (data.train.count - 1) / 2).tolist(),
        budget=config.training.batch_cost,
        seed=config.training.seed,
        shard=shard(),
    )
    run = Run(folder, config, codec, denoiser)
    check = codec.encode(data.validation) if len(data.validation) else None
    trainer = Trainer(
        denoiser,
        objective_of(config, codec),
        source,
        config.training,
        folder=folder,
        validate=None if check is None else lambda _: run.nats(check),
    )
    trainer.run()
    finish()
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
        config = MoleculesConfig.model_validate(folder.read_config("molecules"))
        codec = MoleculeCodec.from_state(read_json(folder.codec))
        denoiser = build(config, codec)
        if not folder.ema.exists():
            msg = f"{folder.ema} does not exist: the training has not ended, train again to go on"
            raise FileNotFoundError(msg)
        weights, _ = load_tensors(folder.ema)
        try:
            denoiser.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            msg = f"{folder.ema} does not fit {folder.config}: {first}"
            raise ValueError(msg) from None
        denoiser.to(pick_device(config.training.device)).eval()
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

    def sample(
        self,
        molecules: int,
        *,
        sizes: Sequence[int] | None = None,
        steps: int | None = None,
        eta: float | None = None,
        temperature: float | None = None,
        given: Structures | None = None,
        seed: int = 0,
        progress: bool = True,
        watch: Watch | None = None,
    ) -> Samples:
        """Draw molecules; nothing is rejected or corrected.

        Arguments:
            molecules: How many.
            sizes: Numbers of atoms to choose from; the training data's histogram by default.
            steps: Calls of the network, the config's by default.
            eta: Fresh noise in [0, 1], the config's by default.
            temperature: Factor on the fresh noise, the config's by default.
            given: One molecule whose atoms every drawn one contains, where they are (held by
                replacement, see `structdiff.guidance.Replacement`).
            seed: Start of the random numbers.
            progress: Whether to show a bar.
            watch: Called with the steps done and the noisy molecules of the first batch.

        Raises:
            ValueError: If a number is out of range, or the given part does not fit.
        """
        changes = {"steps": steps, "eta": eta, "temperature": temperature}
        settings = self.config.sampler.model_dump()
        settings |= {name: value for name, value in changes.items() if value is not None}
        sampler = SamplerConfig.model_validate(settings)
        config = self.config.model_copy(update={"sampler": sampler})
        least = 0 if given is None else int(given.count[0]) + 1
        counts = draw_sizes(self.codec, molecules, sizes, seed, least)
        return draw(
            self.denoiser,
            self.codec,
            config,
            counts,
            seed=seed,
            given=given,
            progress=progress,
            watch=watch,
        )

    def bound(self, structures: Structures, *, draws: int = 2, steps: int = 500) -> Bound:
        """Variational bound of molecules, given their sizes.

        Arguments:
            structures: Molecules with known elements.
            draws: Monte-Carlo repetitions.
            steps: Steps of the chain.
        """
        batch = self.codec.encode(structures).to(self.device)
        return bound(self.denoiser, batch, self._grid(steps), Generator(0), draws=draws, terms=20)

    def _grid(self, steps: int) -> Grid:
        sampler = self.config.sampler.model_copy(update={"steps": steps})
        return grid_of(self.config.model_copy(update={"sampler": sampler}))

    def nats(self, batch: Batch) -> dict[str, float]:
        """Validation numbers: the bound per molecule, in nats."""
        batch = batch.to(self.device)
        report = bound(self.denoiser, batch, self._grid(500), Generator(0), terms=10)
        per_leaf = {f"bound_{n}": float(report.leaf(n).mean()) for n in report.prior}
        return {"bound": math.fsum(per_leaf.values()), **per_leaf}
