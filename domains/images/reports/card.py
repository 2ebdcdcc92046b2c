"""The model card of a run."""

from __future__ import annotations

import structdiff
from structdiff.artifacts import write_atomic
from structdiff.domains.images.run import Run

__all__ = ["write_card"]


def write_card(run: Run, measures: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        measures: Tables, Markdown.
    """
    path = run.folder.path
    text = f"""# A model of images

## Data

{_list(_data(run))}

## Model

{_list(run.facts())}

## Training

{_list(_training(run))}

## Use

Meant for drawing images like those of the data, and for studying such models. What it draws may
repeat training images: `structdiff evaluate` says how near they are, and shows pairs.

## Measures

{measures or f"Not measured yet: `structdiff evaluate {path}`."}

## Loading

With structdiff {structdiff.__version__} and its extra `images`:

```bash
structdiff sample {path} -n 16 -o images.png
```
"""
    write_atomic(path / "README.md", text.encode())


def _list(facts: dict[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _data(run: Run) -> dict[str, object]:
    codec, path = run.codec, run.config.data.path
    channels, height, width = codec.event
    own = "handwritten digits of scikit-learn (Alpaydin and Kaynak, 1998; CC BY 4.0)"
    classes = f"{len(codec.classes)}: {', '.join(codec.classes[:20])}" if codec.classes else "none"
    return {
        "source": own if path is None else path,
        "images": f"{'grey' if channels == 1 else 'colour'}, {height} x {width}",
        "classes": classes,
    }


def _training(run: Run) -> dict[str, object]:
    config, lines = run.config.training, run.folder.read_metrics()
    facts: dict[str, object] = {
        "updates": f"{config.steps:,} of {config.batch_size} images",
        "noise": f"{run.config.noise.schedule}; the network predicts {run.config.noise.predict}",
        "task": run.config.task.kind,
        "learning rate": f"{config.learning_rate:g} at its peak",
        "seed": config.seed,
    }
    if lines:
        facts["last line of metrics"] = ", ".join(
            f"{name} {value:.4g}" for name, value in lines[-1].items() if name != "seconds"
        )
    return facts
