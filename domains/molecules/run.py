"""A trained model of molecules: training it, keeping it in a folder, drawing from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from structdiff.artifacts import RunFolder, load_tensors, read_json, write_json
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.domains.molecules.chemistry import Verdict, judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.data import Skipped, embedded, read
from structdiff.domains.molecules.recipe import (
    MoleculesConfig,
    build,
    grid_of,
    objective_of,
)
from structdiff.domains.molecules.structures import Structures
from structdiff.layout import Layout
from structdiff.likelihood import Bound, bound
from structdiff.random import Generator
from structdiff.samplers import Ancestral, Carry
from structdiff.training import Source, Trainer, pick_device
from structdiff.training.distributed import shard, start

__all__ = ["Data", "Run", "Samples", "load_data", "train"]


@dataclass(frozen=True)
class Data:
    """Molecules for training, for validation during it, and for judging."""

    train: Structures
    validation: Structures
    reference: Structures
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Samples:
    """Drawn molecules, all of them, each with its verdict."""

    structures: Structures
    verdicts: Sequence[Verdict]

    def __len__(self) -> int:
        return len(self.verdicts)


def load_data(config: MoleculesConfig) -> Data:
    """Read and split the molecules of a config.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If too few molecules are left to train on, or the split does not fit.
    """
    settings = config.data
    skipped: tuple[Skipped, ...] = ()
    if settings.path is None:
        molecules = embedded()
    else:
        loaded = read(settings.path, max_atoms=settings.max_atoms)
        molecules, skipped = loaded.structures, loaded.skipped
    train, test = _split(molecules, settings.split, skipped)
    if settings.hydrogens == "implicit":
        train, test = train.without_hydrogens(), test.without_hydrogens()
    held = min(settings.validation, len(train) // 5)
    order = np.random.default_rng(0).permutation(len(train))
    kept, aside = train.select(np.sort(order[held:])), train.select(np.sort(order[:held]))
    if len(kept) < 2:
        msg = f"{len(kept)} molecules are left to train on; at least 2 are needed: give a larger file"
        raise ValueError(msg)
    return Data(kept, aside, test if len(test) else kept, skipped)


def _split(
    molecules: Structures, path: str | None, skipped: tuple[Skipped, ...]
) -> tuple[Structures, Structures]:
    """Training and test molecules."""
    if path is None:
        return molecules, molecules.select(np.zeros(0, np.int64))
    if skipped:
        msg = f"data.split numbers the molecules of the whole file, but {len(skipped)} of it were skipped: split the file itself"
        raise ValueError(msg)
    with np.load(path, allow_pickle=False) as file:
        missing = {"train", "test"} - set(file.files)
        if missing:
            msg = f"{path} has the arrays {sorted(file.files)}, {sorted(missing)} are missing"
            raise ValueError(msg)
        parts = file["train"], file["test"]
    highest = max(int(part.max(initial=-1)) for part in parts)
    if highest >= len(molecules):
        msg = f"{path} names molecule {highest}, but the data has {len(molecules)}"
        raise ValueError(msg)
    return molecules.select(parts[0]), molecules.select(parts[1])


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
            msg = f"{folder.ema} does not exist: the training has not ended, run train again to go on"
            raise FileNotFoundError(msg)
        weights, _ = load_tensors(folder.ema)
        try:
            denoiser.load_state_dict(weights)
        except RuntimeError as error:
            msg = f"{folder.ema} does not fit {folder.config}: {error}"
            raise ValueError(msg) from None
        denoiser.to(pick_device(config.training.device)).eval()
        return cls(folder, config, codec, denoiser)

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
        seed: int = 0,
        progress: bool = True,
        watch: Callable[[int, Structures], None] | None = None,
    ) -> Samples:
        """Draw molecules; nothing is rejected or corrected.

        Arguments:
            molecules: How many.
            sizes: Numbers of atoms to choose from, each as often; the training data's histogram
                by default.
            steps: Calls of the network, the config's by default.
            eta: Fresh noise in [0, 1], the config's by default.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
            watch: Called with the steps done and the noisy molecules of the first batch.

        Raises:
            ValueError: If a number is out of range.
        """
        counts = self._sizes(molecules, sizes, seed)
        settings = self.config.sampler
        sampler = Ancestral(
            self.denoiser,
            grid_of(self.config, steps),
            eta=settings.eta if eta is None else eta,
        )
        parts = []
        size = settings.batch_size
        bar = tqdm(total=len(counts) * sampler.steps, unit="step", disable=not progress)
        for number, low in enumerate(range(0, len(counts), size)):
            chosen = counts[low : low + size]

            def done(step: int, carry: Carry, chosen: Any = chosen, first: bool = low == 0) -> None:
                bar.update(len(chosen))
                if watch is not None and first:
                    watch(step, self._structures(carry.x, chosen))

            blank = self._blank(chosen)
            parts.append(self.codec.decode(sampler.sample(blank, self._random(seed, number), done)))
        bar.close()
        structures = Structures.concatenate(parts)
        return Samples(structures, judge(structures, implicit=self.implicit))

    @property
    def implicit(self) -> bool:
        """Whether hydrogens are left out."""
        return self.config.data.hydrogens == "implicit"

    def _random(self, seed: int, number: int) -> Generator:
        return Generator(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))

    def _sizes(self, molecules: int, sizes: Sequence[int] | None, seed: int) -> list[int]:
        if molecules < 1:
            msg = f"molecules must be at least 1, got {molecules}"
            raise ValueError(msg)
        if sizes is None:
            return [int(n) for n in self.codec.draw_sizes(molecules, seed)]
        if not sizes or min(sizes) < 2:
            msg = f"sizes must be numbers of atoms, each at least 2, got {list(sizes)}"
            raise ValueError(msg)
        return [int(n) for n in np.random.default_rng(seed).choice(sizes, molecules)]

    def _blank(self, counts: Sequence[int]) -> Batch:
        layout = Layout.ragged(counts, self.device)
        process: Any = self.denoiser.process
        return Batch(
            process.empty(layout.rows, self.device), {"position": layout, "element": layout}
        )

    def _structures(self, x: Mapping[str, torch.Tensor], counts: Sequence[int]) -> Structures:
        """Noisy leaves as molecules; a masked atom is the unknown element."""
        numbers = np.array([*self.codec.elements, 0], np.uint8)
        return Structures(
            x["position"].cpu().numpy(),
            numbers[x["element"].clamp(max=len(self.codec.elements)).cpu().numpy()],
            np.asarray(counts),
        )

    def bound(self, structures: Structures, *, draws: int = 2, steps: int = 500) -> Bound:
        """Variational bound of molecules, given their sizes.

        Arguments:
            structures: Molecules with known elements.
            draws: Monte-Carlo repetitions.
            steps: Steps of the chain.
        """
        batch = self.codec.encode(structures).to(self.device)
        grid = grid_of(self.config, steps)
        return bound(self.denoiser, batch, grid, Generator(0), draws=draws, terms=20)

    def nats(self, batch: Batch) -> dict[str, float]:
        """Validation numbers: the bound per molecule, in nats."""
        report = bound(
            self.denoiser,
            batch.to(self.device),
            grid_of(self.config, 500),
            Generator(0),
            terms=10,
        )
        per_leaf = {f"bound_{n}": float(report.leaf(n).mean()) for n in report.prior}
        return {"bound": math.fsum(per_leaf.values()), **per_leaf}

    def denoise(self) -> Denoiser:
        """The denoiser, for samplers of one's own."""
        return self.denoiser
