"""The model card of a run."""

from __future__ import annotations

import structdiff
from structdiff.artifacts import write_atomic
from structdiff.domains.text.data import stride_of
from structdiff.domains.text.run import Run

__all__ = ["write_card"]


def write_card(run: Run, measures: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        measures: Tables, Markdown.
    """
    path = run.folder.path
    text = f"""# A model of text

## Data

{_list(_data(run))}

## Model

{_list(_model(run))}

## Training

{_list(_training(run))}

## Use

Meant for drawing text like that of the data, and for studying such models. It knows no facts, and
what it draws may repeat the training text: `structdiff evaluate` says how much. Likelihoods are
bounds, given the number of tokens.

## Measures

{measures or f"Not measured yet: `structdiff evaluate {path}`."}

## Loading

With structdiff {structdiff.__version__} and its extra `text`:

```bash
structdiff sample {path} -n 5 -o out.txt
structdiff score {path} --data text.txt -o scores.csv
```
"""
    write_atomic(path / "README.md", text.encode())


def _list(facts: dict[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _data(run: Run) -> dict[str, object]:
    data, codec = run.config.data, run.codec
    own = "the topics of Python's help() (PSF licence)"
    return {
        "source": own if data.path is None else data.path,
        "tokens": f"{data.tokenizer}, a vocabulary of {codec.vocabulary.size:,}",
        "documents": data.documents,
        "training texts": _texts(run),
    }


def _texts(run: Run) -> str:
    """How many there are; windows of running text overlap, see `data`."""
    total, length = sum(run.codec.sizes.histogram), run.codec.length
    if run.config.data.documents == "lines":
        return f"{total:,}, of at most {length} tokens"
    tokens = sum(run.codec.vocabulary.counts)
    apart = stride_of(tokens, length)
    how = f"overlapping, one every {apart:,} of" if apart < length else "side by side, of"
    return f"{total:,} windows of {length} tokens, {how} {tokens:,} tokens"


def _model(run: Run) -> dict[str, object]:
    noise, network = run.config.noise, run.config.network
    total = sum(weight.numel() for weight in run.denoiser.parameters())
    return {
        "noise": f"{noise.process} chain, {noise.schedule} schedule",
        "network": f"transformer, {network.layers} layers of width {network.width}, "
        f"{network.heads} heads, {total:,} parameters",
    }


def _training(run: Run) -> dict[str, object]:
    config, lines = run.config.training, run.folder.read_metrics()
    facts: dict[str, object] = {
        "updates": f"{config.steps:,} of {config.batch_size} texts",
        "objective": run.config.loss.objective,
        "learning rate": f"{config.learning_rate:g} at its peak",
        "seed": config.seed,
    }
    last = next((line for line in reversed(lines) if "bits_per_character" in line), None)
    if last is not None:
        facts["validation bound"] = (
            f"{last['bits_per_character']:.3f} bits per character after update {last['step']:,}"
        )
    return facts
