"""The model card of a run."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import structdiff
from structdiff.artifacts import write_atomic
from structdiff.codecs import Condition
from structdiff.domains.molecules.data import EMBEDDED
from structdiff.domains.molecules.readers.sources import NAMES
from structdiff.domains.molecules.run import Run

__all__ = ["write_card"]

COUNT = 2_000
_BLOCK = 1 << 20


def write_card(run: Run, table: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        table: Measures, Markdown.
    """
    sections = {
        "Data": _data(run),
        "Model": _model(run),
        "Training": _training(run),
        "Sampling": _sampling(run),
        "Use": _USE,
        "Measures": table or f"Not measured yet: `structdiff evaluate {run.folder.path}`.",
        "Loading": _loading(run),
    }
    text = "\n\n".join(
        ["# A model of molecules", *(f"## {name}\n\n{body}" for name, body in sections.items())]
    )
    write_atomic(run.folder.path / "README.md", f"{text}\n".encode())


_USE = """Meant for drawing molecules like those of the data, and for studying such models.
What is drawn is not checked for synthesis, stability in reality, toxicity or strain, and is not
minimised. Elements, charges and sizes beyond those of the data cannot be drawn; conditions beyond
their range are guesses. Likelihoods are bounds in nats, given the number of atoms."""


def _list(facts: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _data(run: Run) -> str:
    config, codec = run.config.data, run.codec
    sizes = codec.sizes.histogram
    seen = [size for size, count in enumerate(sizes) if count]
    return _list(
        {
            **_origin(run),
            **({"split": config.split} if config.split else {}),
            "training molecules": f"{sum(sizes):,}, of {seen[0]} to {seen[-1]} atoms",
            "hydrogens": config.hydrogens,
            "atom types": ", ".join(codec.symbols()),
        }
    )


def _origin(run: Run) -> dict[str, str]:
    name = run.config.data.path
    if name is not None:
        who = "to be filled in by who trained it"
        return {"source": name, "SHA-256": _digest(name, Path(name)), "licence": who}
    if sum(run.codec.sizes.histogram) > COUNT:
        return {"source": "not named by the config, and not what comes with structdiff"}
    source = f"{COUNT:,} molecules of QM9 that come with structdiff"
    return {"source": source, "SHA-256": _digest("", EMBEDDED), "licence": "MIT (qm9pack)"}


def _digest(name: str, path: Path) -> str:
    """Of the file of the data, as it is when the card is written."""
    if name in NAMES and not path.exists():
        return "a named data set, which structdiff checks when it makes it"
    if not path.is_file():
        return "none, it is a folder" if path.is_dir() else "none, it was not there any more"
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _model(run: Run) -> str:
    config = run.config
    noise, network, given = config.noise, config.network, config.loss.given
    bonds = config.data.bonds
    parameters = sum(p.numel() for p in run.denoiser.parameters())
    asked = "; ".join(_condition(one) for one in run.codec.conditions)
    return _list(
        {
            "positions": f"centred Gaussian, geometric noise from {noise.sigma_min:g} to "
            f"{noise.sigma_max:g} Angstrom",
            "atom types": _chain(noise.element, noise.element_from, noise.element_to),
            "bonds": f"{bonds}; {_chain(noise.bond, noise.bond_from, noise.bond_to)}"
            if bonds != "none" else "none, they follow from distances",
            "network": f"equivariant graph network ({network.kind}), {network.layers} layers, "
            f"{network.width} features a pair, {network.hidden} an atom, "
            f"{parameters:,} parameters",
            "self-conditioning": "yes" if network.self_conditioning else "no",
            "conditions": asked or "none",
            "given parts": f"trained with, for {given:.0%} of the molecules" if given else
            "not trained with; held by replacement or RePaint, which is approximate",
        }
    )  # fmt: skip


def _chain(kind: str, first: float, last: float) -> str:
    return f"{kind} chain, noised while the positions' noise is {first:g} to {last:g} Angstrom"


def _condition(condition: Condition) -> str:
    if condition.classes:
        shown = ", ".join(condition.classes[:10])
        more = len(condition.classes) - 10
        return f"{condition.name} ({shown}{f' and {more} more' if more > 0 else ''})"
    ranges = ", ".join(
        f"{low:.4g} to {high:.4g}" for low, high in zip(condition.low, condition.high, strict=True)
    )
    return f"{condition.name} ({f'{ranges} {condition.unit}'.strip()})"


def _training(run: Run) -> str:
    config, lines = run.config.training, run.folder.read_metrics()
    facts: dict[str, Any] = {
        "updates": f"{config.steps:,} of {config.batch_size} molecules"
        + (f" x {config.accumulate}" if config.accumulate > 1 else ""),
        "learning rate": f"{config.learning_rate:g} at its peak",
        "average of weights": f"decay {config.ema:g}",
        "precision": "bfloat16 with weights in float32" if config.bf16 else "float32",
        "seed": config.seed,
    }
    rates = [line["steps_per_second"] for line in lines if "steps_per_second" in line]
    if rates:
        facts["pace"] = f"{rates[-1]:g} updates a second, by the last line of metrics.jsonl"
    bounds = [line for line in lines if "bound" in line]
    if bounds:
        facts["validation bound"] = (
            f"{bounds[-1]['bound']:.1f} nats per molecule after update {bounds[-1]['step']:,} "
            "(upper bound on -log p given the size; positions in Angstrom)"
        )
    return _list(facts)


def _sampling(run: Run) -> str:
    sampler = run.config.sampler
    return _list(
        {
            "calls of the network": sampler.steps,
            "eta": f"{sampler.eta:g} (fresh noise: 0 none, 1 that of the Bayes kernel)",
            "temperature": f"{sampler.temperature:g} (1 draws from the model)",
            "temperature of elements and bonds": f"{sampler.class_temperature:g}",
            "elements and bonds noised anew": f"{sampler.remask_share:.0%} of them a step",
            "last noise": f"{sampler.sigma_last:g} Angstrom",
        }
    )


def _loading(run: Run) -> str:
    path = run.folder.path
    return f"""With structdiff {structdiff.__version__} and its extra `molecules`:

```python
from structdiff.domains.molecules import Run

samples = Run.load({str(path)!r}).sample(10)
```

```bash
structdiff sample {path} -n 10 -o out.sdf
structdiff score {path} --data molecules.sdf -o scores.csv
```"""
