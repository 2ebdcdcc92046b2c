"""A trained regressor of noisy molecules: training it, keeping it in a folder, guiding by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from structdiff.artifacts import RunFolder
from structdiff.artifacts.folder import differences
from structdiff.batch import Batch
from structdiff.codecs import Condition
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.recipe import (
    DataConfig,
    MoleculesConfig,
    NetworkConfig,
    NoiseConfig,
    build,
)
from structdiff.domains.molecules.regression import Aim, NoisyRegressor, Regression, vectors
from structdiff.domains.molecules.structures import Structures
from structdiff.nn.graph_networks import GraphKind
from structdiff.processes import Process
from structdiff.runs import (
    Settings,
    averaged,
    fit,
    load_together,
    model_checksum,
    model_of,
    stored_codec,
    stored_config,
)
from structdiff.training import TrainingConfig

__all__ = ["Regressor", "RegressorConfig", "train_regressor"]

_DOMAIN = "molecules-regressor"
_TOGETHER = 200  # molecules in a call


class RegressorNetworkConfig(Settings):
    """The network, invariant under motions."""

    kind: GraphKind = "pairs"
    """Which, as of the generator."""
    layers: int = Field(default=4, ge=1, le=1_000)
    """Rounds of messages."""
    width: int = Field(default=64, ge=1, le=10_000)
    """Features of a pair of atoms."""
    hidden: int = Field(default=96, ge=1, le=10_000)
    """Features of an atom."""
    basis: int = Field(default=48, ge=2, le=10_000)
    """Radial functions."""


class RegressorConfig(Settings):
    """Everything about the run of a regressor; data and noise are those of the generator."""

    data: DataConfig = DataConfig()
    noise: NoiseConfig = NoiseConfig()
    network: RegressorNetworkConfig = RegressorNetworkConfig()
    training: TrainingConfig = TrainingConfig(learning_rate=1e-3)

    @model_validator(mode="after")
    def _asked(self) -> RegressorConfig:
        if not self.data.conditions:
            msg = "data.conditions must name the properties that the regressor is to know"
            raise ValueError(msg)
        return self


def train_regressor(
    config: RegressorConfig,
    out: Path | str = "runs/regressor",
    *,
    say: Callable[[str], None] = print,
) -> Regressor:
    """Train on noisy molecules, or go on with a run that was stopped.

    Arguments:
        config: Settings; `data.conditions` names the properties.
        out: Folder of the run.
        say: Where to report.

    Raises:
        ValueError: If the data cannot be used, a property is of words, or the folder has another
            config.
        FileNotFoundError: If the data is missing.
    """
    folder, settings = RunFolder(out), _generator(config)
    data = load_together(lambda: load_data(settings), config.training)
    bonds = config.data.bonds
    codec = MoleculeCodec.fit(data.train, config.data.conditions, data.units, bonds=bonds)
    _check_numbers(codec.conditions)
    network = model_of(lambda: _network(config, codec), "the settings")
    regressor = Regressor(folder, config, codec, network)
    words = [data.report] if data.skipped or data.notes else []
    words += [f"{len(data.train)} molecules for training, {len(data.validation)} for validation"]
    fit(
        folder,
        _DOMAIN,
        config,
        config.training,
        network,
        Regression(regressor.columns),
        samples=len(data.train),
        collate=lambda index: codec.encode(data.train.select(index)),
        identity=data.train.identity(),
        codec=codec.state(),
        costs=(data.train.count * (data.train.count - 1) / 2).tolist(),
        validate=(lambda _: regressor.errors(data.validation)) if len(data.validation) else None,
        words=words,
        say=say,
    )
    return Regressor.load(folder.path)


class Regressor:
    """A regressor of noisy molecules in a folder.

    Arguments:
        folder: The folder.
        config: Settings of the run.
        codec: Vocabulary, sizes and properties.
        network: From noisy molecules and times to mean and log variance.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RegressorConfig,
        codec: MoleculeCodec,
        network: NoisyRegressor,
    ) -> None:
        self.folder, self.config, self.codec, self.network = folder, config, codec, network
        ends = pairwise(accumulate((one.entries for one in codec.conditions), initial=0))
        self.columns = {
            one.name: slice(*pair) for one, pair in zip(codec.conditions, ends, strict=True)
        }

    @classmethod
    def load(cls, path: Path | str) -> Regressor:
        """The regressor with averaged weights.

        Raises:
            FileNotFoundError: If the folder is not a finished run's.
            ValueError: If a file is damaged, or it is the run of something else.
        """
        folder = RunFolder(path)
        config = stored_config(folder, _DOMAIN, RegressorConfig)
        codec = stored_codec(folder, MoleculeCodec.from_state)
        network = averaged(folder, lambda: _network(config, codec), config.training.device)
        return cls(folder, config, codec, network.requires_grad_(False))

    @torch.no_grad()
    def predict(
        self, structures: Structures, *, t: float = 0.0
    ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Mean and standard deviation of each property, in the units of the data.

        Arguments:
            structures: Molecules.
            t: The time that the regressor is told, 0 for clean molecules.

        Raises:
            ValueError: If a molecule has an atom type that the regressor does not know.
        """
        parts = []
        for low in range(0, len(structures), _TOGETHER):
            some = structures.select(np.arange(low, min(low + _TOGETHER, len(structures))))
            parts.append(self._look(self.codec.encode(some.with_properties({})), t))
        mean, log_variance = (
            torch.cat(part).double().numpy() for part in zip(*parts, strict=True)
        )
        found = {}
        for one in self.codec.conditions:
            entries, std = self.columns[one.name], np.asarray(one.std)
            value = mean[:, entries] * std + np.asarray(one.mean)
            spread = np.exp(log_variance[:, entries] / 2) * std
            found[one.name] = (
                (value.squeeze(-1), spread.squeeze(-1)) if one.entries == 1 else (value, spread)
            )
        return found

    def _look(self, batch: Batch, t: float) -> tuple[Tensor, Tensor]:
        """What the network says of molecules as they are, told a time."""
        device = next(self.network.parameters()).device
        batch = batch.to(device)
        process: Any = self.network.process.bind(batch)
        times = process.times(torch.tensor(t, dtype=torch.float64))
        mean, log_variance = self.network(vectors(batch, process), times)
        return mean.cpu(), log_variance.cpu()

    def errors(self, structures: Structures) -> dict[str, float]:
        """Mean absolute error of each property on clean molecules, in the units of the data."""
        said = self.predict(structures)
        away = {
            name: np.abs(mean - structures.properties[name]) for name, (mean, _) in said.items()
        }
        # What no molecule has cannot be missed.
        known = {name: gap for name, gap in away.items() if np.isfinite(gap).any()}
        return {f"error_{name}": float(np.nanmean(gap)) for name, gap in known.items()}

    def checksum(self) -> str:
        """What tells this regressor from others."""
        settings = self.config.model_dump(mode="json", exclude={"training"})
        return model_checksum(self.folder, settings, self.codec.state())

    def check(self, config: MoleculesConfig, codec: MoleculeCodec) -> None:
        """Refuse to guide a run whose noisy molecules this regressor has never seen.

        Raises:
            ValueError: If atom types, noise or bonds differ.
        """
        if codec.types != self.codec.types:
            has = f"the regressor knows the elements {self.codec.symbols()}, the run"
            msg = f"{has} {codec.symbols()}: train both on data with the same elements"
            raise ValueError(msg)
        own, other = self.config.noise.model_dump(), config.noise.model_dump()
        changed = differences(own, other, "noise")
        if changed:
            msg = f"the regressor was trained with other noise than the run ({'; '.join(changed)})"
            raise ValueError(f"{msg}: train it with that of the run")
        ours, theirs = self.config.data.bonds, config.data.bonds
        if ours not in ("none", theirs):
            msg = f"the regressor looks at bonds ({ours}), of which the run has {theirs}"
            raise ValueError(f"{msg}: train it with data.bonds {theirs}, or none")

    def aim(self, values: Mapping[str, Tensor], scales: Mapping[str, float]) -> Aim | None:
        """What to guide by, see `Aim`; None where every scale is 0.

        Arguments:
            values: Property to what is asked, `(molecules, entries)`, in standard units.
            scales: Property to its scale.
        """
        pulls = {name: float(scale) for name, scale in scales.items() if scale}
        return Aim(self.network, self.columns, dict(values), pulls) if pulls else None


def _generator(config: RegressorConfig) -> MoleculesConfig:
    """The settings of a generator of the same data and noise, with the least network."""
    least = NetworkConfig(layers=1, width=1, hidden=1, basis=2)
    return MoleculesConfig(data=config.data, noise=config.noise, network=least)


def _network(config: RegressorConfig, codec: MoleculeCodec) -> NoisyRegressor:
    """The untrained network; its weights follow from the seed."""
    process: Process = build(_generator(config), codec).process
    entries = sum(one.entries for one in codec.conditions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return NoisyRegressor(process, entries, codec.position_std, **config.network.model_dump())


def _check_numbers(conditions: tuple[Condition, ...]) -> None:
    """Refuse properties that are words."""
    words = [one.name for one in conditions if one.classes]
    if words:
        msg = f"a regressor knows numbers, but {words[0]!r} has classes"
        raise ValueError(f"{msg}: train the generator with that condition")
