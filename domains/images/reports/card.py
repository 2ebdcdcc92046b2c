"""The model card of a run."""

from __future__ import annotations

from structdiff.domains.images.run import Run
from structdiff.runs.fields import card

__all__ = ["write_card"]

_USE = """\
Meant for drawing images like those of the data, and for studying such models. What it draws may
repeat training images: `structdiff evaluate` says how near they are, and shows pairs."""


def write_card(run: Run, measures: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        measures: Tables, Markdown.
    """
    card.write_card(
        run,
        "images",
        data=_data(run),
        model=run.facts(),
        training={"task": run.config.task.kind},
        use=_USE,
        options="-n 16 -o images.png",
        measures=measures,
    )


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
