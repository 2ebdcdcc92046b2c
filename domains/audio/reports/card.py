"""The model card of a run."""

from __future__ import annotations

import structdiff
from structdiff.artifacts import write_atomic
from structdiff.domains.audio.run import Run

__all__ = ["write_card"]


def write_card(run: Run, measures: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        measures: Tables, Markdown.
    """
    path = run.folder.path
    text = f"""# A model of sounds

## Data

{_list(_data(run))}

## Model

{_list({**_sound(run), **run.facts()})}

## Training

{_list(_training(run))}

## Use

Meant for drawing sounds like those of the data, and for studying such models. What it draws may
sound like the people who were recorded, and may repeat training sounds: `structdiff evaluate`
says how near they are.

## Measures

{measures or f"Not measured yet: `structdiff evaluate {path}`."}

## Loading

With structdiff {structdiff.__version__} and its extra `audio`:

```bash
structdiff sample {path} -n 8 -o out.wav
```
"""
    write_atomic(path / "README.md", text.encode())


def _list(facts: dict[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _data(run: Run) -> dict[str, object]:
    codec, path = run.codec, run.config.data.path
    classes = f"{len(codec.classes)}: {', '.join(codec.classes[:20])}" if codec.classes else "none"
    return {
        "source": "synthesised tones" if path is None else path,
        "clips": f"{codec.length:,} samples at {codec.rate:,} Hz",
        "classes": classes,
    }


def _sound(run: Run) -> dict[str, object]:
    sound = run.config.sound
    if sound.model == "wave":
        return {"of": "waves"}
    spectra = (
        f"{sound.bands} bands, windows of {1000 * sound.window:g} ms every {1000 * sound.hop:g} ms"
    )
    if sound.model == "vocoder":
        return {"of": f"waves, given their log-mel spectrogram of {spectra}"}
    how = (
        f"by phases of {sound.iterations} iterations"
        if sound.vocoder is None
        else f"by the vocoder {sound.vocoder}"
    )
    return {"of": f"log-mel spectrograms of {spectra}", "waves": how}


def _training(run: Run) -> dict[str, object]:
    config, lines = run.config.training, run.folder.read_metrics()
    facts: dict[str, object] = {
        "updates": f"{config.steps:,} of {config.batch_size} clips",
        "noise": f"{run.config.noise.schedule}; the network predicts {run.config.noise.predict}",
        "learning rate": f"{config.learning_rate:g} at its peak",
        "seed": config.seed,
    }
    if lines:
        facts["last line of metrics"] = ", ".join(
            f"{name} {value:.4g}" for name, value in lines[-1].items() if name != "seconds"
        )
    return facts
