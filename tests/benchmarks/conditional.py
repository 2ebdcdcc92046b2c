"""Do conditional molecules have the property that was asked for?

The protocol of EDM (Hoogeboom et al., 2022, section 5.2): the generator learns from one half of
the training molecules, an independent regressor from the other. Molecules are drawn for values of
the property taken from test molecules; the error is that of the regressor's prediction for them
against what was asked. Beside it stand the regressor's own error on test molecules (no generator
can be expected below) and the error for what is asked of the wrong molecules (shuffled).

    python tests/benchmarks/conditional.py --out runs/conditional

All of QM9 is fetched, or found below $STRUCTDIFF_DATA. Stopped at any time, the same command goes
on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.artifacts import RunFolder, load_tensors, write_atomic, write_json
from structdiff.batch import Batch
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.metrics import evaluate
from structdiff.domains.molecules.readers.sources import qm9_split
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.run import Run, train
from structdiff.domains.molecules.structures import Structures
from structdiff.nn import PairNetwork
from structdiff.objectives import Objective, Terms
from structdiff.random import Randomness
from structdiff.training import Source, Trainer, TrainingConfig


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


def fit_regressor(
    train: Structures, name: str, out: Path, steps: int
) -> tuple[Regressor, MoleculeCodec]:
    """Train on these molecules, or go on."""
    codec = MoleculeCodec.fit(train, [name])
    config = TrainingConfig(
        steps=steps, batch_size=64, learning_rate=1e-3, warm_up=200, ema=0.999, bf16=False
    )
    torch.manual_seed(0)
    regressor = Regressor(len(codec.types), name)
    folder = RunFolder(out)
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


def interval(errors: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % bootstrap interval."""
    random = np.random.default_rng(0)
    means = errors[random.integers(len(errors), size=(1000, len(errors)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(errors.mean()), float(low), float(high)


def settings(arguments: argparse.Namespace, split: Path) -> MoleculesConfig:
    """The generator's config."""
    return MoleculesConfig.model_validate(
        {
            "data": {
                "path": "qm9",
                "split": str(split),
                "conditions": (arguments.condition,),
            },
            "training": {
                "steps": arguments.steps,
                "learning_rate": 1.5e-3,
                "warm_up": 1000,
                "validate_every": 10_000,
                "log_every": 500,
                "save_seconds": 60,
            },
        }
    )


def halves(arguments: argparse.Namespace) -> tuple[Path, np.ndarray, np.ndarray]:
    """The split of the generator, and the molecules of the regressor and of the test."""
    indices, _, test = qm9_split()
    split = arguments.out / "split.npz"
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not split.exists():
        np.savez(split, train=indices[: len(indices) // 2], test=test)
    return split, indices[len(indices) // 2 :], test


def measure(
    run: Run,
    arguments: argparse.Namespace,
    regressor: Regressor,
    codec: MoleculeCodec,
    test: Structures,
) -> dict[str, Mapping[str, object]]:
    """Errors of references and of molecules drawn at several guidance scales."""
    name = arguments.condition
    random = np.random.default_rng(arguments.seed)
    truth = test.properties[name]
    found = predict(regressor, codec, test)
    rows: dict[str, Mapping[str, object]] = {}

    def add(title: str, errors: np.ndarray, stable: float | None = None) -> None:
        mean, low, high = interval(errors)
        rows[title] = {"mae": mean, "low": low, "high": high, "n": len(errors), "valid": stable}
        print(
            f"{title:52} {mean:.3f} [{low:.3f}, {high:.3f}]  {stable if stable else ''}",
            flush=True,
        )

    add("regressor on test molecules", np.abs(found - truth))
    add("test molecules, values shuffled", np.abs(found - random.permutation(truth)))
    slope = np.polyfit(test.count, truth, 1)
    add("a line through the number of atoms", np.abs(np.polyval(slope, test.count) - truth))
    asked = truth[random.permutation(len(truth))[: arguments.n]]
    sizes_only = run.sample(arguments.n, seed=arguments.seed)
    known = test.select(np.arange(2000))

    def valid(structures: Structures) -> float:
        return evaluate(structures, known, resamples=1)["valid and connected"].value

    drawn = sizes_only.structures
    add("unconditional", np.abs(predict(regressor, codec, drawn) - asked), valid(drawn))
    for scale in arguments.guidance:
        drawn = run.sample(
            arguments.n, condition={name: asked}, guidance=scale, seed=arguments.seed
        ).structures
        title = f"guidance {scale:g}" + (" (only the size follows)" if scale == 0 else "")
        add(title, np.abs(predict(regressor, codec, drawn) - asked), valid(drawn))
    return rows


def main() -> None:
    """Train both, draw, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/conditional"))
    parser.add_argument("--condition", default="alpha")
    parser.add_argument("--steps", type=int, default=34_000)
    parser.add_argument("--regressor-steps", type=int, default=6_000)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0, 1.0, 2.0])
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    split, other, test = halves(arguments)
    run = train(settings(arguments, split), arguments.out / "generator")
    structures = read("qm9").structures
    regressor, codec = fit_regressor(
        structures.select(other),
        arguments.condition,
        arguments.out / "regressor",
        arguments.regressor_steps,
    )
    rows = measure(run, arguments, regressor, codec, structures.select(test))
    write_json(arguments.out / "conditional.json", rows)
    lines = ["| molecules | mean absolute error | valid and connected |", "|---|---|---|"]
    for title, row in rows.items():
        rate = "" if row["valid"] is None else f"{100 * float(str(row['valid'])):.1f} %"
        lines.append(
            f"| {title} | {row['mae']:.2f} [{row['low']:.2f}, {row['high']:.2f}] | {rate} |"
        )
    write_atomic(arguments.out / "conditional.md", ("\n".join(lines) + "\n").encode())
    print(json.dumps({"written": str(arguments.out / "conditional.md")}))


if __name__ == "__main__":
    main()
