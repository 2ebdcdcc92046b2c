"""How good a model of text is: a page beside real text and n-gram models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import structdiff
from structdiff.artifacts import write_atomic, write_json
from structdiff.domains.text.metrics import Distance
from structdiff.domains.text.output import encode, escape
from structdiff.domains.text.reports.charts import measures
from structdiff.domains.text.reports.measuring import beside, distances, held_out, reference_bits
from structdiff.domains.text.run import Run, load_data
from structdiff.domains.text.scoring import Scores
from structdiff.reports.charts import curves
from structdiff.reports.page import Block, Heading, Picture, Table, Words, write_page
from structdiff.reports.tables import markdown_table

__all__ = ["Evaluation", "evaluate_run"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Arguments:
        likelihood: Scores of held-out text; None where there is none.
        references: Bits per character of that text under n-gram models of the training text.
        distances: Of n-grams of drawn text from real text.
        rows: Name, value of the drawn texts and of as many real ones.
        texts: What was drawn.
        files: What was written.
    """

    likelihood: Scores | None
    references: dict[str, float]
    distances: dict[int, Distance]
    rows: list[tuple[str, float, float]]
    texts: list[str]
    files: list[Path] = field(default_factory=list)

    def bits(self) -> list[list[str]]:
        """Bits of held-out text, the head first."""
        if self.likelihood is None:
            return [["model", "bits per character"], ["none", "there is no held-out text"]]
        token, token_error = self.likelihood.per_token()
        character, error = self.likelihood.per_character()
        rows = [["model", "bits per character", "95 % over texts", "Monte Carlo", "per token"]]
        rows += [[f"{name}s", f"{bits:.3f}", "", "", ""] for name, bits in self.references.items()]
        known = math.isfinite(character.low)  # not of one text
        ends = f"[{character.low:.3f}, {character.high:.3f}]" if known else ""
        mine = [f"{character.value:.3f}", ends, f"+- {error:.2g}"]
        return [*rows, ["the run (upper bound)", *mine, f"{token.value:.3f} +- {token_error:.2g}"]]

    def apart(self) -> list[list[str]]:
        """Distances of n-grams, the head first."""
        head = ["n", "total variation", "of real text", "Jensen-Shannon (bits)", "of real text"]
        rows = [
            [
                str(n),
                f"{one.total_variation:.3f}",
                f"{one.baseline_total_variation:.3f}",
                f"{one.jensen_shannon:.3f}",
                f"{one.baseline_jensen_shannon:.3f}",
            ]
            for n, one in self.distances.items()
        ]
        return [head, *rows]

    def others(self) -> list[list[str]]:
        """The other measures, the head first."""
        rows = [[name, _shown(drawn), _shown(real)] for name, drawn, real in self.rows]
        return [["measure", f"drawn ({len(self.texts):,})", "real"], *rows]

    def table(self) -> str:
        """All of it, Markdown."""
        tables = [self.bits(), *([self.apart()] if self.distances else []), self.others()]
        return "\n\n".join(markdown_table(rows) for rows in tables)

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "held-out text": None if self.likelihood is None else self.likelihood.facts(),
            "n-gram models, bits per character": self.references,
            "distances of n-grams": {str(n): one._asdict() for n, one in self.distances.items()},
            "drawn and real": {
                name: {"drawn": _plain(drawn), "real": _plain(real)}
                for name, drawn, real in self.rows
            },
        }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


@dataclass(frozen=True)
class _Film:
    """A noisy text on its way."""

    frames: dict[int, str] = field(default_factory=dict)

    def watch(self, step: int, texts: list[str]) -> None:
        """Keep the first text."""
        self.frames[step] = texts[0]

    def chosen(self) -> list[tuple[str, str]]:
        """Six of the frames, from noise to text."""
        steps = sorted(self.frames)
        places = np.unique(np.linspace(0, len(steps) - 1, 6).astype(int)).tolist()
        return [(str(steps[i]), escape(self.frames[steps[i]])) for i in places]


def evaluate_run(
    run: Run,
    texts: int = 200,
    *,
    seed: int = 0,
    out: Path | None = None,
    source: Path | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Evaluation:
    """Draw texts, measure them beside real ones, and write a page, files and a picture.

    Arguments:
        run: The model.
        texts: How many to draw.
        seed: Start of the random numbers.
        out: Folder for what is written, `samples/` of the run by default.
        source: Where the run's text lies, if not where its config says.
        say: Where to report.
        progress: Whether to show bars.
    """
    folder, film = out or run.folder.samples, _Film()
    data = load_data(run.config, source, run.codec.vocabulary)
    say(f"drawing {texts} texts, {run.config.sampler.kind}")
    drawn = run.sample(texts, seed=seed, watch=film.watch, progress=progress)
    say("how likely held-out text is")
    held = data.test if len(data.test) else data.validation
    likelihood = held_out(run, held, seed, progress=progress) if len(held) else None
    say("measuring what was drawn beside real text")
    evaluation = Evaluation(
        likelihood,
        reference_bits(data, held) if len(held) else {},
        distances(data, drawn),
        beside(run.codec, data, drawn),
        drawn,
    )
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder, run, evaluation, film, seed)
    return evaluation


def _keep(folder: Path, run: Run, evaluation: Evaluation, film: _Film, seed: int) -> None:
    """Write texts, pictures, page and numbers."""
    files = evaluation.files
    write_atomic(folder / "texts.txt", encode(".txt", evaluation.texts))
    files.append(folder / "texts.txt")
    pictures = list[Block]()
    if evaluation.likelihood is not None and evaluation.distances:
        path = folder / "measures.png"
        bits = {**evaluation.references, "run": evaluation.likelihood.per_character()[0].value}
        measures(bits, evaluation.distances, path)
        pictures.append(Picture(path, "Held-out text, and n-grams of what was drawn."))
        files.append(path)
    path = folder / "training.png"
    if curves(run.folder.read_metrics(), path, unit="nats a token"):
        pictures.append(Picture(path, "How training went."))
        files.append(path)
    settings = _settings(run, evaluation, seed)
    title = f"Evaluation of {run.folder.path.resolve().name}"
    files += write_page(folder, title, _blocks(evaluation, settings, pictures, film))
    write_json(folder / "evaluation.json", {**evaluation.numbers(), "settings": dict(settings)})
    files.append(folder / "evaluation.json")


def _settings(run: Run, evaluation: Evaluation, seed: int) -> list[tuple[str, str]]:
    """What was drawn, and how."""
    sampler = run.config.sampler.model_dump()
    found = {
        "run": run.folder.path,
        "texts": f"{len(evaluation.texts)}, none rejected or corrected",
        **{name.replace("_", " "): value for name, value in sampler.items()},
        "noise": run.config.noise.process,
        "seed": seed,
        "structdiff": structdiff.__version__,
    }
    return [(name, str(value)) for name, value in found.items()]


def _blocks(
    evaluation: Evaluation,
    settings: list[tuple[str, str]],
    pictures: list[Block],
    film: _Film,
) -> list[Block]:
    """The page."""
    bits, apart, others = evaluation.bits(), evaluation.apart(), evaluation.others()
    shown = [(str(i + 1), escape(text)) for i, text in enumerate(evaluation.texts[:10])]
    return [
        Table(("setting", "value"), settings),
        Heading("Held-out text"),
        Words(
            "The run's number is an upper bound on -log p of texts given their lengths; n-gram "
            "models see the characters before a character, and add 0.1 to every count."
        ),
        Table(bits[0], bits[1:]),
        Heading("Drawn beside real"),
        Table(apart[0], apart[1:]),
        Table(others[0], others[1:]),
        Heading("Drawn texts"),
        Words("The first ones; \\n is a line end."),
        Table(("number", "text"), shown),
        Heading("A text on its way"),
        Table(("step", "text"), film.chosen()),
        Heading("Pictures"),
        *pictures,
    ]
