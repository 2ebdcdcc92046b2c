"""Do conditional molecules have the property that was asked for?

The protocol of EDM (Hoogeboom et al., 2022, section 5.2): the generator learns from one half of
the training molecules, an independent regressor from the other. Molecules are drawn for values of
the property taken from test molecules; the error is that of the regressor's prediction for them
against what was asked. Beside it stand the regressor's own error on test molecules (no generator
can be expected below) and the error for what is asked of the wrong molecules (shuffled). The
property is the polarisability alpha, Bohr^3.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from molecules_budget import REPORTING, Plan
from molecules_training import train_on_the_clock
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.artifacts import RunFolder, load_tensors, write_atomic
from structdiff.batch import Batch
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.readers.sources import qm9_split
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.sampling import Samples
from structdiff.domains.molecules.structures import Structures
from structdiff.nn import PairNetwork
from structdiff.objectives import Objective, Terms
from structdiff.random import Randomness
from structdiff.reports.charts import COLOURS, DATA, framed, keep
from structdiff.reports.tables import markdown_table
from structdiff.training import Source, Trainer, TrainingConfig

__all__ = ["picture", "report", "work_asked", "work_generator", "work_regressor"]

PROPERTY = "alpha"
GUIDANCE = (0.0, 1.0, 2.0)


class Regressor(nn.Module):
    """A property of a clean molecule, in standard deviations."""

    def __init__(self, classes: int, name: str) -> None:
        super().__init__()
        self.classes, self.name = classes, name
        self.network = PairNetwork(classes, 64, layers=4, width=64, hidden=96, basis=48)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, batch: Batch) -> Tensor:
        layout = batch.layouts["position"]
        kinds = F.one_hot(batch["element"], self.classes).float()
        features, *_ = self.network(kinds, batch["position"], layout)
        return layout.sum(self.head(features.float())).squeeze(1) / 18


class Regression(Objective):
    """Absolute error of the regressor."""

    def __call__(self, denoiser: nn.Module, batch: Batch, random: Randomness) -> Terms:  # type: ignore[override]
        name = denoiser.name
        error = (denoiser(batch) - batch.condition[name].squeeze(1)).abs()
        return Terms({name: error}, {name: torch.zeros(())})


def halves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The molecules of the generator, of the regressor and of the test."""
    indices, _, test = qm9_split()
    return indices[: len(indices) // 2], indices[len(indices) // 2 :], test


def fitted(plan: Plan, molecules: Structures) -> tuple[Regressor, MoleculeCodec]:
    """The regressor trained on its half, or as it is kept."""
    train = molecules.select(halves()[1])
    codec = MoleculeCodec.fit(train, [PROPERTY])
    steps = plan.budget.regressor
    config = TrainingConfig(
        steps=steps, batch_size=64, learning_rate=1e-3, warm_up=min(200, steps // 10),
        ema=0.999, bf16=False, device="cpu",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        regressor = Regressor(len(codec.types), PROPERTY)
    folder = RunFolder(plan.out / "regressor" / "run")
    folder.open("regressor", {"training": config.model_dump(mode="json")})
    if not folder.ema.exists():
        records = codec.encode(train)
        source = Source(
            len(train), lambda i: records.select(torch.from_numpy(i)), batch_size=64, seed=1
        )
        Trainer(regressor, Regression(), source, config, folder=folder).run()  # type: ignore[arg-type]
    regressor.load_state_dict(load_tensors(folder.ema)[0])
    return regressor.eval(), codec


@torch.no_grad()
def predict(regressor: Regressor, codec: MoleculeCodec, molecules: Structures) -> np.ndarray:
    """The property of each molecule, in its own units."""
    (condition,) = codec.conditions
    batch = codec.encode(molecules.with_properties({}))
    parts = [
        regressor(batch.select(range(low, min(low + 200, len(molecules)))))
        for low in range(0, len(molecules), 200)
    ]
    return torch.cat(parts).double().numpy() * condition.std[0] + condition.mean[0]


def work_regressor(plan: Plan) -> dict[str, Any]:
    """The judge of the property."""
    fitted(plan, read("qm9").structures)
    return {"updates": plan.budget.regressor}


def work_generator(plan: Plan) -> dict[str, Any]:
    """The generator, of the other half."""
    path = plan.out / "generator" / "split.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    train, _, test = halves()
    if not path.exists():
        file = io.BytesIO()
        np.savez(file, train=train, test=test)
        write_atomic(path, file.getvalue())
    return {"looks": train_on_the_clock(settings(plan, path), path.parent / "run")}


def settings(plan: Plan, split: Path) -> MoleculesConfig:
    """The generator's config."""
    steps = plan.budget.generator
    return MoleculesConfig.model_validate(
        {
            "data": {"path": "qm9", "split": str(split), "conditions": (PROPERTY,)},
            "training": {
                "steps": steps,
                "learning_rate": 1.5e-3,
                "warm_up": min(1000, steps // 10),
                "validate_every": max(1, steps // 3),
                "log_every": max(1, steps // 30),
                "save_seconds": 60.0,
                "device": "cpu",
            },
        }
    )


def interval(errors: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % bootstrap interval."""
    random = np.random.default_rng(0)
    means = errors[random.integers(len(errors), size=(1000, len(errors)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(errors.mean()), float(low), float(high)


def work_asked(plan: Plan) -> dict[str, Any]:
    """Errors of references, and of molecules drawn at several scales of guidance."""
    molecules = read("qm9").structures
    regressor, codec = fitted(plan, molecules)
    test = molecules.select(halves()[2][: plan.budget.known])
    run = Run.load(plan.out / "generator" / "run")
    random, number = np.random.default_rng(REPORTING), plan.budget.asked
    truth = test.properties[PROPERTY]
    found = predict(regressor, codec, test)
    rows: dict[str, Any] = {}

    def add(title: str, errors: np.ndarray, drawn: Samples | None = None) -> None:
        mean, low, high = interval(errors)
        good = [v.valid and v.connected for v in drawn.verdicts] if drawn else None
        valid = None if good is None else float(np.mean(good))
        rows[title] = {"mae": mean, "low": low, "high": high, "n": len(errors), "valid": valid}
        print(title, rows[title], flush=True)

    add("regressor on test molecules", np.abs(found - truth))
    add("test molecules, values shuffled", np.abs(found - random.permutation(truth)))
    slope = np.polyfit(test.count, truth, 1)
    add("a line through the number of atoms", np.abs(np.polyval(slope, test.count) - truth))
    asked = truth[random.permutation(len(truth))[:number]]
    drawn = run.sample(number, seed=REPORTING, progress=False)
    add("unconditional", np.abs(predict(regressor, codec, drawn.structures) - asked), drawn)
    for scale in GUIDANCE:
        drawn = run.sample(
            number, condition={PROPERTY: asked}, guidance=scale, seed=REPORTING, progress=False
        )
        title = f"guidance {scale:g}" + (" (only the size follows)" if scale == 0 else "")
        add(title, np.abs(predict(regressor, codec, drawn.structures) - asked), drawn)
    return rows


def report(found: Mapping[str, Any]) -> str:
    """Errors of what was asked for."""
    if "asked" not in found:
        return ""
    rows = [["molecules", "mean absolute error, Bohr^3", "number", "valid and connected"]]
    for title, row in found["asked"].items():
        rate = "" if row["valid"] is None else f"{100 * row['valid']:.1f} %"
        error = f"{row['mae']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        rows.append([title, error, f"{row['n']:,}", rate])
    about = (
        f"Polarisability; {found['generator']['looks'][-1]['updates']:,} updates of the "
        f"generator, {found['regressor']['updates']:,} of the regressor; seed {REPORTING}."
    )
    return f"{about}\n\n{markdown_table(rows)}"


def picture(found: Mapping[str, Any], folder: Path) -> None:
    """The errors in a row, references in grey."""
    if "asked" not in found:
        return
    rows = found["asked"]
    figure, (ax,) = framed(1)
    for place, row in enumerate(rows.values()):
        ends = [[row["mae"] - row["low"]], [row["high"] - row["mae"]]]
        kind, colour = ("real", DATA) if row["valid"] is None else ("drawn", COLOURS[0])
        known = kind in ax.get_legend_handles_labels()[1]
        label = None if known else kind
        ax.barh(place, row["mae"], color=colour, xerr=ends, error_kw={"lw": 1.0}, label=label)
    ax.set_yticks(range(len(rows)), [*rows])
    ax.invert_yaxis()
    ax.set(xlabel="error of alpha, Bohr^3")
    keep(figure, folder / "conditional.png")
