"""Drawing molecules at the command line: into a file, a folder of shards, or a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from structdiff.artifacts import Job, Made, Part, piecewise, write_atomic, write_json
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.order import Order, TooFewValid
from structdiff.domains.molecules.output import check_free, encode, write
from structdiff.domains.molecules.regressor import Regressor
from structdiff.domains.molecules.request import condition_of
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.sampling import Samples
from structdiff.domains.molecules.structures import Structures
from structdiff.domains.molecules.tally import Tally
from structdiff.runs import Progress, circumstances, stoppable

__all__ = ["collect", "fill", "sample"]


def sample(
    run: Path,
    molecules: int,
    out: Path | None,
    *,
    folder: bool,
    condition: Mapping[str, str],
    guidance: float | Mapping[str, float] | None,
    sizes: tuple[int, ...],
    given: str | None,
    only_valid: int | None,
    settings: Mapping[str, Any],
    seed: int,
    overwrite: bool,
    regressor: Path | None = None,
) -> None:
    """Draw molecules and write or list them; a path without a suffix is a folder of shards."""
    shards = out is not None and (folder or out.is_dir() or not out.suffix)
    if out is not None and not shards:
        check_free(out, overwrite=overwrite)
    core = None if given is None else _core(Path(given))
    loaded = Run.load(run).drawing(**settings)
    guide = None if regressor is None else Regressor.load(regressor)
    values = loaded.parse(condition, guide)
    asked = {
        "sizes": list(sizes) or None,
        "condition": values,
        "guidance": guidance,
        "given": core,
        "regressor": guide,
        "seed": seed,
    }
    wanted = molecules if only_valid is None else only_valid
    order = Order(loaded, wanted, only_valid is not None, asked)
    for line in _beyond(loaded, guide, sizes, values, condition):
        print(line)
    if out is None:
        _list(*collect(order))
    elif shards:
        fill(order, out, overwrite=overwrite)
    else:
        drawn, tally = collect(order)
        print("\n".join(tally.lines()))
        print(write(out, drawn.structures, drawn.verdicts, overwrite=overwrite).report())


def collect(order: Order) -> tuple[Samples, Tally]:
    """Draw in one go.

    Raises:
        ValueError: If memory runs out for one molecule alone, or valid ones do not come.
        Stopped: If a signal asked to stop.
    """
    drawn: list[tuple[Samples, Tally]] = []

    def tally() -> Tally:
        return sum((counted for _, counted in drawn), Tally())

    def word() -> str:
        done = tally().drawn
        return f"stopped after {done:,} molecules, nothing is written; only a folder can go on"

    with stoppable(word), _progress(order, 0) as bar:

        def make(part: Part) -> tuple[Samples, Tally]:
            return order.draw(part, tally().kept, None if order.only_valid else bar.walk(part))

        for _, made in piecewise(order.parts(tally), make):
            drawn.append(made)
            bar.settle(made[1].kept)
    filled = [samples for samples, _ in drawn if len(samples)]
    verdicts = [verdict for samples in filled for verdict in samples.verdicts]
    structures = Structures.concatenate([samples.structures for samples in filled])
    return Samples(structures, verdicts), tally()


def fill(order: Order, path: Path, *, overwrite: bool) -> Job:
    """Draw into a folder: an SDF file per batch, and a summary at the end.

    A folder in which the same was begun is gone on with; it ends as it would have without a stop.
    Where valid molecules do not come, the summary tells the rate.

    Raises:
        ValueError: If the folder holds something else, memory runs out for one molecule alone, or
            valid ones do not come.
        Stopped: If a signal asked to stop.
        OSError: If a file cannot be written.
    """
    about = circumstances(order.run.folder, order.run.device)
    job = Job(path, order.describe(), stem="molecules", about=about, overwrite=overwrite)
    if job.lost:
        print(f"missing or changed, drawn again: {', '.join(job.lost)}")
    if job.done:
        print(f"{path} goes on after {_tally(job).drawn:,} molecules drawn")
    try:
        _run(order, job)
    except TooFewValid as error:
        _summarise(order, job)
        msg = f"{error}. The rates are in {job.path / 'summary.md'}"
        raise TooFewValid(msg) from None
    _summarise(order, job)
    return job


def _run(order: Order, job: Job) -> None:
    """Make the parts that are not done."""

    def word() -> str:
        done = _tally(job).drawn
        return f"stopped after {done:,} molecules; run the same command to go on in {job.path}"

    with stoppable(word), _progress(order, _tally(job).kept) as bar:

        def make(part: Part) -> Made:
            kept, done = _tally(job).kept, None if order.only_valid else bar.walk(part)
            samples, tally = order.draw(part, kept, done)
            content, written = _sdf(samples)
            bar.settle(tally.kept)
            return Made({".sdf": content}, {**tally.counts(), "written": written})

        job.run(order.parts(lambda: _tally(job)), make)


def _progress(order: Order, settled: int) -> Progress:
    unit = "valid molecule" if order.only_valid else "molecule"
    return Progress(order.wanted, settled=settled, unit=unit)


def _tally(job: Job) -> Tally:
    """What was drawn so far."""
    return Tally.total(record.counts for record in job.records())


def _sdf(samples: Samples) -> tuple[bytes, int]:
    """The molecules as an SDF file, and how many it holds."""
    content, kept = encode(".sdf", samples.structures, samples.verdicts)
    return content, len(kept)


def _summarise(order: Order, job: Job) -> None:
    """Print the rates and write them beside the shards."""
    tally, records = _tally(job), job.records()
    source = "generated bonds" if order.run.codec.bond_counts else "EDM bond table"
    report = tally.report(_smiles(job), source=source)
    seconds = sum(record.seconds for record in records)
    written = sum(record.counts["written"] for record in records)
    numbers = {
        **report.to_dict(),
        "written": written,
        "reasons": tally.counts()["reasons"],
        "seconds": round(seconds, 3),
        "molecules_per_second": round(tally.drawn / seconds, 3),
    }
    pace = f"{tally.drawn / seconds:.3g} drawn a second"
    last = f"{written:,} molecules written to {job.path}, {len(records):,} shards, {pace}"
    if written < tally.kept:
        last += f", {tally.kept - written:,} left out (coordinates not finite)"
    reasons = [f"- {count:,} x {reason}" for reason, count in tally.counts()["reasons"].items()]
    page = ["# Summary", "", report.table(), "", "Why the others are not:", "", *reasons]
    write_json(job.path / "summary.json", numbers)
    write_atomic(job.path / "summary.md", ("\n".join([*page, "", last]) + "\n").encode())
    print("\n".join([*tally.lines(), last]))


def _smiles(job: Job) -> Iterator[str]:
    """The SMILES fields of all shards, line by line."""
    for path in job.files():
        with path.open() as lines:
            for line in lines:
                if line.startswith(">  <SMILES>"):
                    yield next(lines).strip()


def _core(path: Path) -> Structures:
    """The molecule that is given; of several, the first."""
    found = read(path).structures
    if len(found) > 1:
        print(f"{path} has {len(found):,} molecules, the first one is given")
    return found.select([0]).with_properties({})


def _beyond(
    run: Run,
    guide: Regressor | None,
    sizes: tuple[int, ...],
    values: Mapping[str, ArrayLike],
    words: Mapping[str, str],
) -> Iterator[str]:
    """What is asked beyond that on which the model, or what guides it, was trained."""
    trained = [size for size, count in enumerate(run.codec.sizes.histogram) if count]
    far = sorted({size for size in sizes if not trained[0] <= size <= trained[-1]})
    if far:
        yield f"sizes {far} are outside the training data ({trained[0]} to {trained[-1]} atoms)"
    for name, value in values.items():
        source = run if guide is None or name not in guide.columns else guide
        known = condition_of(source.codec, name)
        if known.outside(value):
            ends = f"{list(known.low)} to {list(known.high)}"
            yield f"{name} = {words[name]} is outside the training data ({ends})"


def _list(drawn: Samples, tally: Tally) -> None:
    print("\n".join(tally.lines()))
    for verdict in drawn.verdicts:
        good = verdict.smiles and verdict.connected
        print(verdict.smiles if good else f"invalid: {verdict.reasons[0]}")
