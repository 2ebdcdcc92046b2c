"""The molecules' recipe: how data, processes, network and training are put together.

`position` is a centred Gaussian with geometric noise, `element` an absorbing chain that is
unmasked while the positions' noise falls through a window. With bonds, `bond` is a chain over the
pairs of atoms with a window of its own, by default about that of the elements: well below it,
bonds are noised first and drawn last (MolDiff); above it, they are drawn first. Training draws
noise levels around those at which bond lengths are decided. Properties of the molecules may be
conditions, and a part of each molecule may be given.

References:
    MiDi: Mixed Graph and 3D Denoising Diffusion for Molecule Generation (Vignac et al., 2023).
    https://arxiv.org/abs/2302.09048
    MolDiff: Addressing the Atom-Bond Inconsistency Problem in 3D Molecule Diffusion Generation
    (Peng et al., 2023). https://arxiv.org/abs/2305.07508
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator

from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules.codec import BondKind, MoleculeCodec
from structdiff.domains.molecules.fragments import GivenKind, random_parts
from structdiff.domains.molecules.network import MoleculeBackbone
from structdiff.nn.graph_networks import GraphKind
from structdiff.objectives import (
    EDM,
    ConditionDropout,
    Denoising,
    GivenRows,
    NormalClock,
    Objective,
    Uniform,
    Weight,
)
from structdiff.parameterisations import Preconditioned
from structdiff.processes import (
    Categorical,
    Gaussian,
    Process,
    Product,
    RankOne,
    absorbing,
    marginal,
    uniform,
)
from structdiff.runs import Settings
from structdiff.schedules import Flow, Geometric, Grid, UniformLogSNR, Window
from structdiff.spaces import ZeroCentre
from structdiff.training import TrainingConfig

__all__ = ["DataConfig", "MoleculesConfig", "build", "grid_of", "objective_of"]


class DataConfig(Settings):
    """Which molecules."""

    path: str | None = None
    """What to read: a file (.sdf, .xyz, .npz, .smi, .csv, also .gz), a folder of them, or qm9, all
    of that data set; without one, 2,000 molecules of QM9 that come along."""
    split: str | None = None
    """An .npz with index arrays `train` and `test`; by default all is for training, of qm9 the
    100,000 molecules of EDM's split."""
    hydrogens: Literal["explicit", "implicit"] = "explicit"
    """Whether hydrogens are atoms of the record, or left out and added back by RDKit."""
    bonds: BondKind = "none"
    """Whether bonds are of the record, and whether those of aromatic rings are single and double
    ones or a kind of their own."""
    conditions: tuple[str, ...] = ()
    """Properties of the data that the model is to know, by name."""
    max_atoms: int = Field(default=500, ge=2)
    """Larger molecules are skipped and counted."""
    validation: int = Field(default=200, ge=0)
    """Molecules kept out of training, for the validation bound."""

    @model_validator(mode="after")
    def _telling(self) -> DataConfig:
        if self.bonds == "aromatic" and self.hydrogens == "implicit":
            msg = (
                "bonds cannot be aromatic with implicit hydrogens, which say what a ring nitrogen "
                "gives to its ring: use bonds kekulized, or hydrogens explicit"
            )
            raise ValueError(msg)
        return self


class NoiseConfig(Settings):
    """How the leaves are noised."""

    sigma_min: float = Field(default=0.005, gt=0)
    """Least noise on positions, Angstrom."""
    sigma_max: float = Field(default=8.0, gt=0)
    """Most noise on positions, Angstrom."""
    element: Literal["absorbing", "uniform", "marginal"] = "absorbing"
    """Where an element goes that is noised: to a mask, or to another element."""
    element_from: float = Field(default=0.1, gt=0)
    """Noise on positions at which the first elements are noised, Angstrom."""
    element_to: float = Field(default=3.0, gt=0)
    """Noise on positions at which all elements are noised, Angstrom."""
    bond: Literal["absorbing", "uniform", "marginal"] = "absorbing"
    """Where a bond goes that is noised: to a mask, or to another order."""
    bond_from: float = Field(default=0.05, gt=0)
    """Noise on positions at which the first bonds are noised, Angstrom."""
    bond_to: float = Field(default=3.0, gt=0)
    """Noise on positions at which all bonds are noised, Angstrom."""

    @model_validator(mode="after")
    def _ordered(self) -> NoiseConfig:
        for leaf in ("element", "bond"):
            low, high = getattr(self, f"{leaf}_from"), getattr(self, f"{leaf}_to")
            if not self.sigma_min <= low < high <= self.sigma_max:
                msg = f"sigma_min <= {leaf}_from < {leaf}_to <= sigma_max must hold"
                raise ValueError(msg)
        return self


class NetworkConfig(Settings):
    """The equivariant network."""

    kind: GraphKind = "pairs"
    """Which: symmetric messages on pairs, the published EGNN, PaiNN (or one that tells mirror
    images apart), tensor products of e3nn, a graph transformer."""
    layers: int = Field(default=6, ge=1, le=1_000)
    """Rounds of messages."""
    width: int = Field(default=64, ge=1, le=10_000)
    """Features of a pair of atoms."""
    hidden: int = Field(default=128, ge=1, le=10_000)
    """Features of an atom."""
    basis: int = Field(default=48, ge=2, le=10_000)
    """Radial functions."""
    self_conditioning: bool = False
    """Whether the network sees its previous estimate."""


class LossConfig(Settings):
    """What training looks at."""

    noise_mean: float = -1.4
    """Mean of the log of the positions' noise (log Angstrom) at which the model is trained."""
    noise_std: float = Field(default=1.3, gt=0)
    """Its standard deviation."""
    element_weight: float = Field(default=0.5, gt=0)
    """Weight of the elements' cross-entropy."""
    bond_weight: float = Field(default=2.0, gt=0)
    """Weight of the bonds' cross-entropy."""
    condition_dropout: float = Field(default=0.1, ge=0, le=1)
    """Share of molecules that are trained without their conditions; guidance needs some."""
    given: float = Field(default=0.0, ge=0, le=1)
    """Share of molecules of which a fragment is given; above 0, --given is exact."""
    given_kind: GivenKind = "fragments"
    """What is given: a fragment, two fragments whose linker is missing, or either."""
    independent: bool = False
    """Whether positions, elements and bonds have times of their own in training."""

    @model_validator(mode="after")
    def _given(self) -> LossConfig:
        if self.given == 0 and self.given_kind != "fragments":
            msg = (
                f"given_kind {self.given_kind} needs given above 0, the share that has such a part"
            )
            raise ValueError(msg)
        return self


class SamplerConfig(Settings):
    """How molecules are drawn."""

    steps: int = Field(default=100, ge=1, le=1_000_000)
    """Calls of the network."""
    eta: float = Field(default=1.0, ge=0, le=1)
    """Fresh noise: 0 none, 1 that of the Bayes kernel."""
    temperature: float = Field(default=0.8, ge=0)
    """Factor on the positions' fresh noise: 1 draws from the model, below molecules are more
    typical."""
    class_temperature: float = Field(default=0.5, gt=0)
    """Temperature of the law of each element and bond: 1 draws from the model, below they are
    surer."""
    remask_share: float = Field(default=0.4, ge=0, lt=1)
    """Probability that an element or bond is noised anew in a step, so that what was drawn before
    its neighbours were there is drawn again."""
    sigma_last: float = Field(default=0.01, gt=0)
    """Noise on positions at the last call, Angstrom."""
    guidance: float = 1.0
    """Guidance scale w of conditions: 0 unconditional, 1 conditional, above 1 guided."""
    repaint: int = Field(default=1, ge=1)
    """How often each stretch of steps is repeated for a given part that was not trained; above 1
    temperatures are 1 and nothing is noised anew besides."""
    batch_size: int = Field(default=100, ge=1)
    """Molecules drawn together."""
    randomness: Literal["batch", "sample"] = "batch"
    """Noise from one stream per batch, or keyed by molecule: then the same in every batch."""


class MoleculesConfig(Settings):
    """Everything about a run."""

    data: DataConfig = DataConfig()
    noise: NoiseConfig = NoiseConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    sampler: SamplerConfig = SamplerConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _ending(self) -> MoleculesConfig:
        last, noise = self.sampler.sigma_last, self.noise
        if not noise.sigma_min <= last < noise.sigma_max:
            msg = (
                f"sampler.sigma_last must be at least noise.sigma_min ({noise.sigma_min:g}) and "
                f"below noise.sigma_max ({noise.sigma_max:g}), got {last:g}"
            )
            raise ValueError(msg)
        return self


def schedule_of(config: MoleculesConfig) -> Geometric:
    """The schedule of the positions."""
    return Geometric(config.noise.sigma_min, config.noise.sigma_max)


def build(config: MoleculesConfig, codec: MoleculeCodec) -> NetworkDenoiser:
    """The untrained denoiser; its weights follow from the seed."""
    noise, scale = config.noise, Preconditioned(codec.position_std)
    element = _transition(noise.element, codec.type_counts)
    leaves: dict[str, Process] = {
        "position": Gaussian(schedule_of(config), scale, event=(3,), space=ZeroCentre()),
        "element": _chain(config, element, noise.element_from, noise.element_to),
    }
    bond_symbols = 0
    if codec.bond_counts:
        bond = _transition(noise.bond, codec.bond_counts)
        leaves["bond"] = _chain(config, bond, noise.bond_from, noise.bond_to)
        bond_symbols = bond.symbols
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        backbone = MoleculeBackbone(
            element.symbols,
            len(codec.types),
            codec.position_std,
            bond_symbols=bond_symbols,
            bond_classes=len(codec.bond_counts),
            **config.network.model_dump(),
            numbers={c.name: c.entries for c in codec.conditions if not c.classes},
            kinds={c.name: len(c.classes) for c in codec.conditions if c.classes},
        )
    process, self_conditioning = Product(leaves), config.network.self_conditioning
    return NetworkDenoiser(backbone, process, self_conditioning=self_conditioning)


def _transition(kind: str, counts: Sequence[int]) -> RankOne:
    """Where a class goes that is noised; `counts` is how often each occurs."""
    if kind == "marginal":
        frequencies = torch.tensor(counts, dtype=torch.float64)
        return marginal(frequencies / frequencies.sum())
    return {"absorbing": absorbing, "uniform": uniform}[kind](len(counts))


def _chain(config: MoleculesConfig, transition: RankOne, first: float, last: float) -> Categorical:
    """A chain that is noised while the noise on positions is between two values, Angstrom."""
    ends = -torch.log(torch.tensor([first, last]))
    start, end = schedule_of(config).time(ends).tolist()
    return Categorical(Window(Flow(), start, end), transition)


def objective_of(config: MoleculesConfig, codec: MoleculeCodec) -> Objective:
    """Preconditioned regression on positions, cross-entropy on elements."""
    loss = config.loss
    weights: dict[str, Weight] = {
        "position": EDM(codec.position_std),
        "element": Uniform(loss.element_weight),
    }
    if codec.bond_counts:
        weights["bond"] = Uniform(loss.bond_weight)
    objective: Objective = Denoising(
        weights,
        NormalClock(schedule_of(config), loss.noise_mean, loss.noise_std),
        independent=loss.independent,
        self_conditioning=0.5 if config.network.self_conditioning else 0.0,
    )
    if loss.given > 0:
        objective = GivenRows(objective, random_parts(loss.given_kind), rate=loss.given)
    if codec.conditions:
        alone = len(codec.conditions) > 1
        objective = ConditionDropout(
            objective,
            loss.condition_dropout if alone else 0.0,
            together=loss.condition_dropout,
        )
    return objective


def grid_of(config: MoleculesConfig) -> Grid:
    """Times of sampling: evenly in the log of the noise, from the most to `sigma_last`."""
    schedule = schedule_of(config)
    last = -torch.log(torch.tensor(config.sampler.sigma_last))
    return UniformLogSNR(schedule, config.sampler.steps, end=float(schedule.time(last)))
