"""The model card of a run."""

from __future__ import annotations

import structdiff
from structdiff.artifacts import write_atomic
from structdiff.domains.manifolds.run import Run
from structdiff.domains.manifolds.scoring import measure_of

__all__ = ["write_card"]


def write_card(run: Run, measures: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        measures: Tables, Markdown.
    """
    path = run.folder.path
    text = f"""# A model of points on manifolds

## Data

{_list(_data(run))}

## Model

{_list(run.facts())}

## Training

{_list(_training(run))}

## Use

Meant for drawing points like those of the data, for densities, and for studying such models. What
it draws may repeat training points: `structdiff evaluate` says how near they are. Densities are
against {measure_of(run.codec)}, and of points with the noise that is said above.

## Measures

{measures or f"Not measured yet: `structdiff evaluate {path}`."}

## Loading

With structdiff {structdiff.__version__} and its extra `manifolds`:

```bash
structdiff sample {path} -n 1000 -o points.csv
structdiff score {path} --data points.csv -o scores.csv
```
"""
    write_atomic(path / "README.md", text.encode())


def _list(facts: dict[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _data(run: Run) -> dict[str, object]:
    data = run.config.data
    return {
        "source": "covariances of geomstats' EMG (MIT)" if data.path is None else data.path,
        "split": f"seed {data.split_seed}" + (f", by {data.split_by}" if data.split_by else ""),
    }


def _training(run: Run) -> dict[str, object]:
    config = run.config.training
    facts: dict[str, object] = {
        "updates": f"{config.steps:,} of {config.batch_size} points",
        "learning rate": f"{config.learning_rate:g} at its peak",
        "seed": config.seed,
    }
    lines = [line for line in run.folder.read_metrics() if "bound" in line]
    if lines:
        best = min(lines, key=lambda line: float(line["bound"]))
        facts["kept weights"] = f"after update {best['step']:,}, best on validation"
    return facts
