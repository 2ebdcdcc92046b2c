"""The model card of a run of fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structdiff
from structdiff.artifacts import write_atomic
from structdiff.runs.fields.run import FieldRun

__all__ = ["write_card"]


def write_card(
    run: FieldRun[Any, Any],
    of: str,
    *,
    data: Mapping[str, object],
    model: Mapping[str, object],
    training: Mapping[str, object],
    use: str,
    options: str,
    measures: str,
) -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run; its domain names the extra that loads it.
        of: What it is a model of, as "images".
        data: What it was trained on: name to words.
        model: What it is.
        training: What else there is to say of its training.
        use: What it is meant for, and what it may do.
        options: What follows `structdiff sample RUN`.
        measures: Tables, Markdown.
    """
    path = run.folder.path
    text = f"""# A model of {of}

## Data

{_list(data)}

## Model

{_list(model)}

## Training

{_list(_training(run, training))}

## Use

{use}

## Measures

{measures or f"Not measured yet: `structdiff evaluate {path}`."}

## Loading

With structdiff {structdiff.__version__} and its extra `{run.domain}`:

```bash
structdiff sample {path} {options}
```
"""
    write_atomic(path / "README.md", text.encode())


def _list(facts: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _training(run: FieldRun[Any, Any], more: Mapping[str, object]) -> dict[str, object]:
    config, lines = run.config.training, run.folder.read_metrics()
    facts: dict[str, object] = {
        "updates": f"{config.steps:,} of {config.batch_size} {run.unit}s",
        "noise": f"{run.config.noise.schedule}; the network predicts {run.config.noise.predict}",
        **more,
        "learning rate": f"{config.learning_rate:g} at its peak",
        "seed": config.seed,
    }
    if lines:
        facts["last line of metrics"] = ", ".join(
            f"{name} {value:.4g}" for name, value in lines[-1].items() if name != "seconds"
        )
    return facts
