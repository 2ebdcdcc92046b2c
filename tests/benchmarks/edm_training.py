r"""The public EDM molecules code trained for a given CPU time on QM9, and its bound beside ours.

Training is EDM's own: its network, its loss (l2, polynomial_2 noise, 1,000 steps), its optimiser
at 1e-4, its clipping and moving average, with the settings of its README for QM9 but for the size
(4 layers of 64 features, batches of 32) and the charges, which are left out. Hydrogens are
explicit. Molecules and their order are those of `structdiff train molecules --data qm9`: the same
permutation by seed and epoch, so the same molecules make up update number k.

What is compared is a number of nats for one random variable in both:

    -log p(x, a | n) <= bound, mean over fixed molecules of EDM's validation split,

for a molecule of n atoms with elements a (one of five each, so a probability) and positions x in
Angstrom about their mean (so a density, against the Lebesgue measure of the 3 (n - 1) dimensions
of that subspace). Term by term:

- *positions*: both noise x in the subspace and have Gaussian last steps in it. EDM divides x by
  norm_values[0] = 1, so its log volume, 3 (n - 1) log 1, is zero, and a value is per Angstrom as
  ours is. (At another norm_values[0] = c its bound adds 3 (n - 1) log c itself.)
- *elements*: EDM noises one-hot vectors divided by norm_values[1] = 4 and closes with a law on
  classes given z_0, the Gaussian mass within 1/2 around one-hot 1, normalised over the five: a
  probability, as ours is. No volume is left over from the scaling: z is latent.
- *charges*: with `include_charges` EDM adds a probability of the atomic number as an integer, a
  second time the same information. It is off, so that the variables are the same; then
  norm_values[2] = 10 has no meaning.
- *sizes*: the NLL that EDM prints has -log p(n) in it; `EnVariationalDiffusion.forward` has not,
  nor has our `Run.score`. -log p(n) is listed apart, by EDM's own histogram.
- *steps*: EDM bounds with 1,000 steps, one of them looked at a draw, and the last one apart; ours
  has its own chain. Both are upper bounds on the same -log p(x, a | n), and either may choose.
- *kind of number*: the mean over molecules; its standard error is the deviation over molecules of
  their means over draws, divided by the root of their number, so the Monte-Carlo error is in it.
  For two models the error of the *difference* by molecule is the right one, and much smaller.

The bound is given for the weights as they are ("weights"), for EDM's average with the decay of its
README ("average 0.9999", slow for half an hour) and with the default of its arguments
("average 0.999", kept outside the clock). Bounds are estimated with the same noise each time, from
EDM's own terms, but with steps drawn where they matter (`_one_draw`): for a model of 1,300 updates
the Monte-Carlo error was 6.4 nats of 500 draws, where EDM's own way left 66 of 2,000.

Only updates are on the clock (CPU time of the process, one thread). `pace` is the CPU time of a
fixed piece of work next to each validation, to see how loaded the machine was.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from edm_peer import EDMCode, Padded, quiet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.artifacts import write_json
from structdiff.batch import Batch
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.readers.sources import qm9_split
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.structures import Structures
from structdiff.training import Source

__all__ = ["Settings", "Trainee", "judged_molecules", "standard_error", "train"]

AVERAGES = (0.9999, 0.999)


@dataclass(frozen=True)
class Settings:
    """Of a run; times are CPU seconds."""

    layers: int = 4
    width: int = 64
    batch: int = 32
    rate: float = 1e-4
    seed: int = 0
    molecules: int = 500
    draws: int = 2
    last_draws: int = 10
    save: float = 60.0
    judge: float = 300.0


def judged_molecules(number: int) -> Structures:
    """The first molecules of EDM's validation split, by size; none is trained on."""
    whole = read("qm9").structures
    chosen = whole.select(qm9_split().validation[:number])
    return chosen.select(np.argsort(chosen.count, kind="stable"))


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def pace() -> float:
    """CPU seconds of a fixed piece of work like a layer's."""
    a, w = torch.ones(20_000, 128), torch.ones(64, 128)
    spent = []
    for _ in range(5):
        start = time.process_time()
        F.silu(F.linear(a, w)).sum()
        spent.append(time.process_time() - start)
    return float(np.median(spent))


@dataclass
class Trainee:
    """EDM in training: all that a stopped run needs to go on."""

    code: EDMCode
    settings: Settings
    model: nn.Module
    sizes: Any
    optimiser: torch.optim.Optimizer
    averages: dict[float, nn.Module]
    norms: Any
    updates: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, code: EDMCode, settings: Settings) -> Trainee:
        """An untrained one."""
        torch.manual_seed(settings.seed)
        model, sizes = code.model(layers=settings.layers, width=settings.width)
        averages = {decay: copy.deepcopy(model) for decay in AVERAGES}
        optimiser = code.optimiser(model, settings.rate)
        return cls(code, settings, model, sizes, optimiser, averages, code.norms())

    def update(self, batch: Padded) -> float:
        """One update, as EDM's `train_epoch` has it, on the clock; returns the loss."""
        start = time.process_time()
        self.model.train()
        self.optimiser.zero_grad()
        loss = self.code.loss(self.model, self.sizes, batch)
        loss.backward()
        self.code.clip(self.model, self.norms)
        self.optimiser.step()
        first, *others = AVERAGES
        self._average(first)
        value = loss.item()
        self.seconds += time.process_time() - start
        for decay in others:
            self._average(decay)
        self.updates += 1
        return value

    def _average(self, decay: float) -> None:
        average = self.code.modules["averages"].EMA(decay)
        average.update_model_average(self.averages[decay], self.model)

    def networks(self) -> dict[str, nn.Module]:
        """What is judged."""
        return {"weights": self.model} | {f"average {d}": m for d, m in self.averages.items()}

    def save(self, path: Path) -> None:
        """Write the state, atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averages": {d: m.state_dict() for d, m in self.averages.items()},
            "norms": [float(norm) for norm in self.norms.items],
            "updates": self.updates,
            "seconds": self.seconds,
            "history": self.history,
            "random": torch.get_rng_state(),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Go on from a state."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for decay, model in self.averages.items():
            model.load_state_dict(state["averages"][decay])
        self.norms = self.code.norms(state["norms"])
        self.updates, self.seconds = state["updates"], state["seconds"]
        self.history = state["history"]
        torch.set_rng_state(state["random"])


@torch.no_grad()
def bounds(model: Any, molecules: Structures, draws: int, size: int = 50) -> NDArray[np.float64]:
    """EDM's bound of each molecule given its size in each draw, nats, `(draws, molecules)`."""
    model.eval()
    law = _law_of_steps(model)
    # Even parts: EDM fails on a batch of one molecule.
    cut = np.array_split(np.arange(len(molecules)), -(-len(molecules) // size))
    batches = [Padded.of(molecules, part) for part in cut]
    found = []
    with torch.random.fork_rng(devices=[]):
        for draw in range(draws):
            torch.manual_seed(1_000 + draw)
            steps = _stratified(law, len(molecules)).split([len(part) for part in cut])
            parts = zip(batches, steps, strict=True)
            found.append(torch.cat([_one_draw(model, batch, law, t) for batch, t in parts]))
    return torch.stack(found).double().numpy()


def _step_weights(model: Any) -> Tensor:
    """Weight of the squared error in the divergence of each step 1 to T."""
    gamma = model.gamma.gamma
    return 0.5 * torch.expm1(gamma[1:] - gamma[:-1])


def _law_of_steps(model: Any) -> Tensor:
    """Probability of looking at each step: about that of its divergence in the bound."""
    steps = model.T
    guess = _step_weights(model) * (1.02 - torch.arange(1, steps + 1) / steps)
    return 0.9 * guess / guess.sum() + 0.1 / steps


def _stratified(law: Tensor, number: int) -> Tensor:
    """Steps by this law, one from each of `number` equal parts of it, in random order."""
    place = (torch.randperm(number) + torch.rand(number)) / number
    return torch.searchsorted(law.cumsum(0), place).clamp(max=len(law) - 1) + 1


def _one_draw(model: Any, batch: Padded, law: Tensor, step: Tensor) -> Tensor:
    """EDM's `compute_loss` at given steps, the divergence over its probability of being seen.

    EDM draws steps evenly and multiplies by their number. Most of its bound is in a few steps at
    little noise, so the same terms with the same expectation are known far better this way.
    """
    features = {"categorical": batch.element, "integer": torch.zeros(0)}
    x, h, volume = model.normalize(batch.position, features, batch.atoms)
    with patch.object(torch, "randint", lambda *_, **__: step.unsqueeze(1)):
        loss, seen = model.compute_loss(x, h, batch.atoms, batch.edges, None, t0_always=True)
    divergence = _step_weights(model)[step - 1] * seen["error"]
    return loss + (1 / law[step - 1] - model.T) * divergence - volume


def judge(trainee: Trainee, molecules: Structures, draws: int) -> dict[str, Any]:
    """The bound of all networks, with errors."""
    found: dict[str, Any] = {}
    for name, model in trainee.networks().items():
        values = bounds(model, molecules, draws)
        means = values.mean(0)
        found[name] = {
            "bound": float(means.mean()),
            "standard_error": standard_error(means),
            "monte_carlo_error": standard_error(values.mean(1)),
            "molecules": [round(float(value), 3) for value in means],
        }
    return found


def record(trainee: Trainee, molecules: Structures, draws: int, loss: float) -> None:
    """Judge and append to the history; what is known by molecule is kept for the last one only."""
    for entry in trainee.history:
        for found in entry["bounds"].values():
            found.pop("molecules", None)
    entry = {
        "updates": trainee.updates,
        "seconds": round(trainee.seconds, 1),
        "pace": pace(),
        "load": os.getloadavg()[0],
        "training_loss": loss,
        "draws": draws,
        "bounds": judge(trainee, molecules, draws),
    }
    trainee.history.append(entry)
    shown = ", ".join(
        f"{name} {found['bound']:.2f} +- {found['standard_error']:.2f}"
        for name, found in entry["bounds"].items()
    )
    print(f"{trainee.updates} updates, {trainee.seconds:.0f} s: {shown}", flush=True)


def train(code: EDMCode, settings: Settings, minutes: float, out: Path) -> Mapping[str, Any]:
    """Train until so many CPU minutes have gone into updates; go on where a run was stopped.

    Arguments:
        code: The peer.
        settings: Of the run; a stopped one goes on with its own weights and these settings.
        minutes: CPU time of all updates together.
        out: The JSON; the state lies beside it, with the suffix .pt.
    """
    data = load_data(MoleculesConfig.model_validate({"data": {"path": "qm9"}}))
    source = Source(len(data.train), _no_batch, batch_size=settings.batch, seed=settings.seed)
    molecules = judged_molecules(settings.molecules)
    trainee, state = Trainee.start(code, settings), out.with_suffix(".pt")
    if state.is_file():
        trainee.load(state)
    sizes = trainee.sizes.log_prob(torch.tensor(molecules.count))
    facts = {
        "settings": vars(settings) | {"averages": AVERAGES},
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in trainee.model.parameters() if p.requires_grad),
        "minus_log_p_size": -float(sizes.mean()),
        "units": "nats a molecule given its size, positions per Angstrom about their mean",
    }
    saved = trainee.seconds
    judged = trainee.history[-1]["seconds"] if trainee.history else 0.0

    def keep() -> None:
        trainee.save(state)
        write_json(out, facts | {"history": trainee.history})

    losses = []
    while trainee.seconds < 60 * minutes:
        batch = Padded.of(data.train, source.indices(trainee.updates))
        with quiet():
            losses.append(trainee.update(batch))
        if trainee.seconds - judged > settings.judge:
            record(trainee, molecules, settings.draws, float(np.mean(losses)))
            judged, losses = trainee.seconds, []
            keep()
        if trainee.seconds - saved > settings.save:
            saved = trainee.seconds
            keep()
    last = trainee.history[-1:]
    if not last or (last[0]["updates"], last[0]["draws"]) != (
        trainee.updates,
        settings.last_draws,
    ):
        record(trainee, molecules, settings.last_draws, float(np.mean(losses or [0.0])))
        keep()
    return facts | {"history": trainee.history}


def _no_batch(index: NDArray[np.int64]) -> Batch:
    raise NotImplementedError(f"only the order of {len(index)} samples is asked for")
