"""The model card of a run."""

from __future__ import annotations

from structdiff.domains.audio.run import Run
from structdiff.runs.fields import card

__all__ = ["write_card"]

_USE = """\
Meant for drawing sounds like those of the data, and for studying such models. What it draws may
sound like the people who were recorded, and may repeat training sounds: `structdiff evaluate`
says how near they are."""


def write_card(run: Run, measures: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        measures: Tables, Markdown.
    """
    card.write_card(
        run,
        "sounds",
        data=_data(run),
        model={**_sound(run), **run.facts()},
        training={},
        use=_USE,
        options="-n 1 -o out.wav --given own.wav" if run.config.shown else "-n 8 -o out.wav",
        measures=measures,
    )


def _data(run: Run) -> dict[str, object]:
    codec, path = run.codec, run.config.data.path
    classes = f"{len(codec.classes)}: {', '.join(codec.classes[:20])}" if codec.classes else "none"
    return {
        "source": "synthesised tones" if path is None else path,
        "clips": f"{codec.length:,} samples at {codec.rate:,} Hz",
        "classes": classes,
    }


def _sound(run: Run) -> dict[str, object]:
    sound, task = run.config.sound, run.config.task
    told = {"task": f"takes white noise off, trained at {task.snr:g} dB"}
    shown = told if task.kind == "enhance" else {}
    if sound.model == "wave":
        return {"of": "waves", **shown}
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
    return {"of": f"log-mel spectrograms of {spectra}", "waves": how, **shown}
