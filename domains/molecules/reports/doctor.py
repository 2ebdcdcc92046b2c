"""A look at data before training: what is there, what looks wrong, what training would do.

Costly checks look at a sample of the molecules, and say so. Nothing is changed or left out; what
`data.read` skips is skipped here too. As the default recipe does, chemistry is judged by
distances, also where molecules have bonds of their own; how good those are is said apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import VALENCIES, Verdict, implied, judge
from structdiff.domains.molecules.codec import MoleculeCodec, type_symbol
from structdiff.domains.molecules.data import Loaded, read
from structdiff.domains.molecules.readers.sources import is_named, qm9_split
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.reports.inspection import UNITS, contacts, flat, twins, unit_of
from structdiff.domains.molecules.reports.properties import describe, usable
from structdiff.domains.molecules.structures import SYMBOLS, Integers, Structures
from structdiff.domains.molecules.tally import Tally, interval

__all__ = ["Diagnosis", "Section", "examine"]

SAMPLE = 5_000
PAIR_BYTES = 900  # of a pair of atoms and a layer of the default width, in training in bfloat16
_CHUNK = 250
_BONDED = 500  # molecules whose bonds are looked at
_RARE = 10  # molecules
_BINS = 10
_SHOWN = 8  # reasons


@dataclass(frozen=True)
class Section:
    """What was looked at, what is there, and what looks wrong."""

    title: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """All sections."""

    path: str
    sections: tuple[Section, ...] = field(default_factory=tuple)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of all sections."""
        return tuple(text for section in self.sections for text in section.warnings)

    def text(self) -> str:
        """Plain text, the warnings first."""
        many = len(self.warnings)
        lines = [f"{self.path}: {many or 'no'} warning{'s' * (many != 1)}"]
        lines += [f"  ! {text}" for text in self.warnings]
        for section in self.sections:
            lines += ["", section.title, *(f"  {line}" for line in section.lines)]
        return "\n".join(lines)


def examine(path: Path | str, *, sample: int = SAMPLE, progress: bool = True) -> Diagnosis:
    """Look at data as training would read it.

    Arguments:
        path: What training would be given as data.path.
        sample: How many molecules the costly checks look at.
        progress: Whether to show a bar.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If nothing in it can be trained on.
    """
    config = MoleculesConfig.model_validate({"data": {"path": str(path)}})
    loaded = read(path, max_atoms=config.data.max_atoms)
    structures = loaded.structures
    if len(structures) < 2:
        msg = f"{path} has 1 molecule that can be used, training needs at least 2: give more data"
        raise ValueError(msg)
    order = np.random.default_rng(0).permutation(len(structures))[:sample]
    few = structures.select(np.sort(order))
    verdicts = _judged(replace(few, bond=None), implied(structures), progress)
    seen = "" if len(few) == len(structures) else f" (a sample of {len(few):,} molecules)"
    return Diagnosis(
        str(path),
        (
            _reading(loaded),
            _sizes(structures),
            _elements(structures),
            _coordinates(few, seen),
            _copies(few, verdicts, seen),
            _chemistry(structures, verdicts, seen),
            _bonds(structures, order[:_BONDED]),
            _properties(loaded),
            _training(structures, config),
        ),
    )


def _judged(structures: Structures, implicit: bool, progress: bool) -> list[Verdict]:
    verdicts = list[Verdict]()
    with tqdm(total=len(structures), unit="molecule", disable=not progress, leave=False) as bar:
        for low in range(0, len(structures), _CHUNK):
            part = structures.select(np.arange(low, min(low + _CHUNK, len(structures))))
            verdicts += judge(part, implicit=implicit)
            bar.update(len(part))
    return verdicts


def _reading(loaded: Loaded) -> Section:
    total, warnings = len(loaded.structures) + len(loaded.skipped), list[str]()
    if loaded.skipped:
        reason, _ = Counter(s.reason for s in loaded.skipped).most_common(1)[0]
        share = _share(len(loaded.skipped), total)
        warnings.append(f"{share} of the records are skipped, mostly: {reason}")
    return Section("what is read", tuple(loaded.report().splitlines()), tuple(warnings))


def _sizes(structures: Structures) -> Section:
    count = structures.count
    low, middle, high = int(count.min()), float(np.median(count)), int(count.max())
    lines = [f"{low} to {high} atoms, median {middle:g}, mean {count.mean():.1f}"]
    width = -(-(high - low + 1) // _BINS)
    bins = np.bincount((count - low) // width)
    ends = [(low + i * width, min(low + (i + 1) * width - 1, high)) for i in range(len(bins))]
    words = [
        f"{a}-{b}: {n}" if a < b else f"{a}: {n}"
        for (a, b), n in zip(ends, bins.tolist(), strict=True)
    ]
    warnings = []
    if high > 4 * middle:
        cost = (high / middle) ** 2
        warnings.append(
            f"the largest molecule has {high} atoms, the median {middle:g}: it costs {cost:.0f} "
            "times as much; data.max_atoms leaves such out"
        )
    return Section("atoms per molecule", (*lines, "  ".join(words)), tuple(warnings))


def _elements(structures: Structures) -> Section:
    lines, rare = list[str](), list[str]()
    number, charge = structures.number.astype(np.int64), structures.charge.astype(np.int64)
    for z, q in np.unique(np.stack([number, charge], 1), axis=0).tolist():
        mask = (number == z) & (charge == q)
        atoms, molecules = int(mask.sum()), len(np.unique(structures.owner[mask]))
        lines.append(f"{type_symbol(z, q):5}{atoms:>12,} atoms in {molecules:,} molecules")
        if molecules < min(_RARE, len(structures) / 2):
            rare.append(f"{type_symbol(z, q)} in {molecules}")
    warnings = []
    if rare:
        warnings.append(f"rare atom types, hard to learn: {', '.join(rare)} molecule(s)")
    unknown = [SYMBOLS[z] for z in structures.elements if SYMBOLS[z] not in VALENCIES]
    if unknown:
        warnings.append(
            f"EDM's table has no valency of {', '.join(unknown)}: such atoms are never stable "
            "where bonds follow from distances"
        )
    return Section("atom types", tuple(lines), tuple(warnings))


def _coordinates(structures: Structures, seen: str) -> Section:
    found, thin = contacts(structures), flat(structures)
    lines = [
        f"nearest atom at {found.nearest:.3g} (median), {found.scale:.2f} of the covalent radii",
        f"{int(thin.sum()):,} of {len(thin):,} molecules are flat",
    ]
    warnings, unit = [], unit_of(found.scale)
    says = f"nearest atoms are {found.nearest:.3g} apart, {found.scale:.2f} of a bond in Angstrom"
    if unit is None and np.isfinite(found.scale):
        warnings.append(f"the coordinates are hardly in Angstrom: {says}")
    elif unit not in (None, "Angstrom"):
        factor = 1 / UNITS[str(unit)]
        warnings.append(f"the coordinates look like {unit}: {says}; multiply them by {factor:.4g}")
    if found.close.any():
        lines.append(f"{int(found.close.sum()):,} molecules have atoms far nearer than a bond")
        warnings.append(
            f"{_share(found.close.sum(), len(thin))} have atoms far nearer than a bond"
        )
    large = structures.count >= 8
    if large.any() and thin[large].mean() > 0.3:
        share = _share(thin[large].sum(), int(large.sum()))
        warnings.append(f"{share} of those with 8 or more atoms are flat: are they 2-D drawings?")
    return Section(f"coordinates{seen}", tuple(lines), tuple(warnings))


def _copies(structures: Structures, verdicts: list[Verdict], seen: str) -> Section:
    smiles = [v.smiles for v in verdicts if v.smiles is not None]
    repeated, same = len(smiles) - len(set(smiles)), int(twins(structures).sum())
    lines = (
        f"{repeated:,} of {len(smiles):,} have the SMILES of an earlier one",
        f"{same:,} of {len(structures):,} have the geometry of an earlier one (within 0.01 A)",
    )
    warnings = []
    if same > 0.01 * len(structures):
        warnings.append(
            f"{_share(same, len(structures))} are copies of earlier molecules: they weigh more, "
            "and validation sees molecules of the training"
        )
    return Section(f"duplicates{seen}", lines, tuple(warnings))


def _chemistry(structures: Structures, verdicts: list[Verdict], seen: str) -> Section:
    tally, total = Tally.of(verdicts, len(verdicts)), len(verdicts)
    lines = [next(tally.lines()).replace(" drawn:", " molecules:")]
    pieces, warnings = sum(not v.connected for v in verdicts), list[str]()
    lines.append(f"{pieces:,} in several pieces")
    if implied(structures):
        lines.append("there are no hydrogens: RDKit adds them where it judges")
        warnings.append("there are no hydrogens: train with --data.hydrogens implicit")
    else:
        stable = sum(bool(v.stable) for v in verdicts)
        lines.append(f"{stable:,} stable ({_rate(stable, total)}): each atom has its valency")
        if stable < 0.8 * total:
            warnings.append(
                f"only {_share(stable, total)} are stable under the bond table: "
                "the stability of samples is to be compared with that, not with 100 %"
            )
        with_any = np.bincount(structures.owner[structures.number == 1], minlength=len(structures))
        bare = int((with_any == 0).sum())
        lines.append(f"{bare:,} without any hydrogen")
        if bare > 0.1 * len(structures):
            share = _share(bare, len(structures))
            warnings.append(f"{share} have no hydrogen while others do: are they missing?")
    if tally.valid < 0.9 * total:
        reason = next(iter(tally.counts()["reasons"]), "RDKit refuses them")
        warnings.append(
            f"only {_share(tally.valid, total)} are valid under the judge, mostly: {reason}; "
            "samples can hardly score higher"
        )
    reasons = tally.counts()["reasons"]
    lines += [f"{count:,} x {reason}" for reason, count in [*reasons.items()][:_SHOWN]]
    if pieces > 0.01 * total:
        warnings.append(f"{_share(pieces, total)} are in several pieces under the bond table")
    return Section(f"chemistry, bonds from distances{seen}", tuple(lines), tuple(warnings))


def _bonds(structures: Structures, order: Integers) -> Section:
    """Whether there are bonds, and how many molecules could be used with data.bonds."""
    few, total = structures.select(np.sort(order)), len(order)
    lines = ["none are known, distances give them"]
    if structures.bond is not None:
        valid = sum(v.valid for v in judge(few, implicit=implied(structures)))
        lines = [f"all {len(structures):,} molecules have bonds of their own"]
        lines.append(f"{valid:,} of {total:,} are valid by these ({_rate(valid, total)})")
    found, reasons = assigned(few)
    ringed, faults = assigned(found, aromatic=True)
    lines += [
        f"{len(part):,} of {total:,} can be used with --data.bonds {kind}"
        for part, kind in ((found, "kekulized"), (ringed, "aromatic"))
    ]
    counted = Counter(reason for reason in (*reasons, *faults) if reason)
    lines += [f"{count:,} x {reason}" for reason, count in counted.most_common(_SHOWN)]
    seen = "" if total == len(structures) else f" (a sample of {total:,} molecules)"
    return Section(f"bonds{seen}", tuple(lines))


def _properties(loaded: Loaded) -> Section:
    lines, warnings = list[str](), list[str]()
    for name, values in loaded.structures.properties.items():
        unit = loaded.units.get(name, "")
        line, warning = describe(values)
        lines.append(f"{name}{f' ({unit})' if unit else ''}: {line}")
        if warning:
            warnings.append(f"property {name!r} {warning}")
    return Section("properties", tuple(lines or ["none"]), tuple(warnings))


def _training(structures: Structures, config: MoleculesConfig) -> Section:
    """What the default settings make of it."""
    if is_named(config.data.path or ""):
        structures = structures.select(qm9_split().train)
    held = min(config.data.validation, len(structures) // 5)
    codec = MoleculeCodec.fit(structures)
    cost = structures.count * (structures.count - 1) / 2
    batch, network = config.training.batch_size, config.network
    memory = PAIR_BYTES * network.layers * network.width / 64
    typical, most = batch * cost.mean(), batch * cost.max()
    lines = [
        f"{len(structures) - held:,} molecules for training, {held:,} for validation",
        f"{len(codec.types)} atom types: {', '.join(codec.symbols())}",
        f"positions spread by {codec.position_std:.3g} Angstrom (root mean square coordinate)",
        f"{typical:,.0f} pairs of atoms in a batch of {batch}, at most {most:,.0f}",
        f"about {_size(typical * memory)} of activations a batch, at most {_size(most * memory)}",
        *_asked(structures),
    ]
    return Section(
        "training with default settings", tuple(lines), tuple(_noise(codec, structures, config))
    )


def _asked(structures: Structures) -> Iterator[str]:
    names = [name for name, values in structures.properties.items() if usable(name, values)]
    if names:
        yield f"can be conditions (--data.conditions): {', '.join(names[:20])}"


def _noise(codec: MoleculeCodec, structures: Structures, config: MoleculesConfig) -> Iterator[str]:
    """Whether the most noise hides the molecules."""
    most = config.noise.sigma_max
    left = 1.5 * structures.count.mean() * (codec.position_std / most) ** 2
    if left > 5:
        better = most * float(np.sqrt(left))
        yield (
            f"noise.sigma_max = {most:g} leaves {left:.0f} nats of each molecule in the noise: "
            f"set --noise.sigma-max {better:.0f}"
        )


def _share(count: int | np.integer[Any], total: int) -> str:
    return f"{int(count) / total:.1%}"


def _rate(count: int, total: int) -> str:
    low, high = interval(count, total)
    return f"{_share(count, total)} [{100 * low:.1f}, {100 * high:.1f}]"


def _size(number: float) -> str:
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 1000:
            return f"{number:.3g} {unit}"
    return f"{number / 1000:.3g} TB"
