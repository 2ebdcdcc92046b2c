"""How good generated molecules are: rates of all drawn, each with a 95 % bootstrap interval.

Nothing is filtered away. Every row is a function of sums over the molecules: a rate is
sum a_m / sum b_m, a histogram distance is half the L1 distance of summed and normalised
histograms. So one matrix of per-molecule columns and one matrix of multinomial weights give all
bootstrap intervals in one product. A rate of exactly 0 or 1 has an interval of width 0: of n
drawn, read it as "within 3/n".

The distance between two molecules with the same formula is the root mean square difference of
their sorted interatomic distances, sorted within each pair of elements (C-C, C-H, ...). It is
unchanged by rotation, reflection, translation and the order of the atoms, and 0 for a copy.
Where no training molecule has the formula, elements are ignored and it is taken to those of the
same size.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022)
    https://arxiv.org/abs/2203.17003
    Bootstrap Methods: Another Look at the Jackknife (Efron, 1979)
    https://doi.org/10.1214/aos/1176344552
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from structdiff.domains.molecules.chemistry import (
    Verdict,
    bonds,
    implied,
    judge,
    stable_atoms,
)
from structdiff.domains.molecules.reports.report import Report, Row, comparison
from structdiff.domains.molecules.structures import Integers, Structures

__all__ = ["Report", "Row", "baselines", "comparison", "evaluate", "known_smiles"]

Columns: TypeAlias = NDArray[np.float64]
_BLOCK = 4_000_000  # numbers held at a time
_EDM = "EDM bond table, all drawn"
_UNDEFINED = "not defined without hydrogens"
_KNOWN: WeakKeyDictionary[Structures, frozenset[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Metric:
    """A row before it has an interval: columns `(molecules, k)` and a function of their sums."""

    name: str
    columns: Columns
    value: Callable[[Columns], Columns]
    protocol: str
    unit: str = "%"


def evaluate(
    generated: Structures,
    train: Structures,
    *,
    reference: Structures | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Report:
    """Measures generated molecules.

    Arguments:
        generated: All that was drawn.
        train: The training molecules, for novelty and the nearest distance; if they have no
            hydrogens, neither are any expected of the generated ones.
        reference: Real molecules for the histograms of sizes and elements; `train` if None.
        resamples: The number of bootstrap resamples.
        seed: Where the resampling starts.

    Raises:
        ValueError: If a set of molecules is empty or `resamples` is not positive.

    Example:
        >>> from structdiff.domains.molecules.data import embedded
        >>> qm9 = embedded()
        >>> report = evaluate(qm9.select(range(100)), qm9.select(range(100, 1100)))
        >>> round(report["validity"].value, 2)
        0.99
    """
    reference = train if reference is None else reference
    for name, structures in (("generated", generated), ("train", train), ("reference", reference)):
        if not len(structures):
            raise ValueError(f"{name} must hold at least one molecule, it holds none")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}; 1000 is usual")
    implicit = implied(train)
    metrics = [
        *_stability(generated, implicit=implicit),
        *_graphs(judge(generated, implicit=implicit), known_smiles(train)),
        *_histograms(generated, reference),
    ]
    nearest, protocol = nearest_distance(generated, train)
    return _bootstrap(metrics, nearest, protocol, resamples, seed)


def _ratio(name: str, above: NDArray[np.generic], below: object, protocol: str) -> _Metric:
    columns = np.stack(np.broadcast_arrays(above, np.asarray(below)), axis=1).astype(np.float64)

    def value(sums: Columns) -> Columns:
        empty = sums[..., 1] == 0
        return np.asarray(np.where(empty, np.nan, sums[..., 0] / np.where(empty, 1, sums[..., 1])))

    return _Metric(name, columns, value, protocol)


def _stability(structures: Structures, *, implicit: bool) -> list[_Metric]:
    owner, count = structures.owner, structures.count
    good = np.bincount(owner[stable_atoms(structures, bonds(structures))], minlength=len(count))
    there, protocol = (0, _UNDEFINED) if implicit else (1, _EDM)
    return [
        _ratio("atom stability", good, count * there, protocol),
        _ratio("molecule stability", good == count, there, protocol),
    ]


def _graphs(verdicts: list[Verdict], known: frozenset[str]) -> list[_Metric]:
    """Validity, uniqueness and novelty; a SMILES drawn k times counts 1/k each time."""
    valid = np.array([verdict.valid for verdict in verdicts])
    whole = np.array([verdict.connected for verdict in verdicts])
    drawn = Counter(verdict.smiles for verdict in verdicts if verdict.smiles is not None)
    share = np.array([1 / drawn[v.smiles] if v.smiles else 0.0 for v in verdicts])
    fresh = np.array([v.smiles is not None and v.smiles not in known for v in verdicts])
    return [
        _ratio("validity", valid, 1, "RDKit sanitises, EDM bond table, all drawn"),
        _ratio("valid and connected", valid & whole, 1, "one fragment, all drawn"),
        _ratio("unique", share, valid, "distinct SMILES of valid; interval at fixed repeats"),
        _ratio("novel", share * fresh, share, "not among train SMILES, of unique valid"),
    ]


def known_smiles(structures: Structures) -> frozenset[str]:
    """Returns the SMILES of the valid molecules; remembered as long as `structures` lives."""
    if structures not in _KNOWN:
        _KNOWN[structures] = frozenset(v.smiles for v in judge(structures) if v.smiles is not None)
    return _KNOWN[structures]


def _histograms(generated: Structures, reference: Structures) -> list[_Metric]:
    sizes = np.arange(1, max(generated.count.max(), reference.count.max()) + 1)
    elements = np.union1d(generated.elements, reference.elements)
    return [
        _variation("size histogram", *(_sizes(s, sizes) for s in (generated, reference))),
        _variation("element histogram", *(_elements(s, elements) for s in (generated, reference))),
    ]


def _sizes(structures: Structures, sizes: Integers) -> Columns:
    return np.asarray(structures.count[:, None] == sizes, dtype=np.float64)


def _elements(structures: Structures, elements: NDArray[np.generic]) -> Columns:
    column = np.searchsorted(elements, structures.number)
    table = np.zeros((len(structures), len(elements)))
    np.add.at(table, (structures.owner, column), 1)
    return table


def _variation(name: str, columns: Columns, reference: Columns) -> _Metric:
    target = reference.sum(0) / reference.sum()

    def value(sums: Columns) -> Columns:
        return np.asarray(np.abs(sums / sums.sum(-1, keepdims=True) - target).sum(-1) / 2)

    fresh = np.random.default_rng(0).integers(len(reference), size=(50, len(columns)))
    floor = float(np.mean([value(reference[index].sum(0)) for index in fresh]))
    protocol = f"total variation to the reference; {floor:.3f} for {len(columns):,} real ones"
    return _Metric(name, columns, value, protocol, "TV")


def nearest_distance(generated: Structures, train: Structures) -> tuple[Columns, str]:
    """Returns each molecule's distance in Angstrom to the nearest of train, and a protocol.

    It is infinite where train has nothing of the same size, or coordinates are not finite.
    """
    nearest = np.full(len(generated), np.inf)
    open_ = generated.finite
    usable = train.select(np.flatnonzero(train.finite))
    counts = []
    for typed in (True, False):
        theirs = _groups(usable, typed=typed)
        reached = 0
        for key, mine in _groups(generated, typed=typed).items():
            rows = mine[open_[mine]]
            if key in theirs and len(rows):
                nearest[rows] = _closest(generated, rows, usable, theirs[key], typed=typed)
                open_[rows] = False
                reached += len(rows)
        counts.append(reached)
    none = len(generated) - sum(counts)
    protocol = f"median; {counts[0]:,} by formula, {counts[1]:,} by size, {none:,} alone"
    return nearest, protocol


def _sorted_atoms(structures: Structures) -> Integers:
    """The atoms of each molecule by atomic number."""
    return np.asarray(np.lexsort((structures.number, structures.owner)))


def _groups(structures: Structures, *, typed: bool) -> dict[bytes | int, Integers]:
    """Molecules by formula or by size."""
    keys: list[bytes | int] = structures.count.tolist()
    if typed:
        numbers = structures.number[_sorted_atoms(structures)].tobytes()
        cuts = structures.offsets.tolist()
        keys = [numbers[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    groups: dict[bytes | int, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return {key: np.array(rows) for key, rows in groups.items()}


def _closest(
    generated: Structures, rows: Integers, train: Structures, others: Integers, *, typed: bool
) -> Columns:
    mine = _descriptors(generated.select(rows), typed=typed)
    if not mine.shape[1]:
        return np.zeros(len(rows))
    step = max(1, _BLOCK // (3 * mine.shape[1]))
    best = np.full(len(rows), np.inf)
    for start in range(0, len(others), step):
        theirs = _descriptors(train.select(others[start : start + step]), typed=typed)
        best = np.minimum(best, cdist(mine, theirs).min(1))
    return np.asarray(best / np.sqrt(mine.shape[1]))


def _descriptors(structures: Structures, *, typed: bool) -> Columns:
    """Sorted interatomic distances of molecules of one size, `(molecules, pairs)`."""
    n = int(structures.count[0])
    atoms = _sorted_atoms(structures).reshape(len(structures), n)
    i, j = np.triu_indices(n, 1)
    position = structures.position.astype(np.float64)[atoms]
    length = np.sqrt(((position[:, i] - position[:, j]) ** 2).sum(-1))
    number = structures.number[atoms[0]].astype(np.int64)
    kind = 256 * number[i] + number[j] if typed else np.zeros_like(i)
    return np.concatenate(
        [np.sort(length[:, kind == k], axis=1) for k in np.unique(kind)] or [length], axis=1
    )


def _bootstrap(
    metrics: list[_Metric], nearest: Columns, protocol: str, resamples: int, seed: int
) -> Report:
    """Intervals between the 2.5 % and 97.5 % quantiles over resampled molecules."""
    n = len(nearest)
    columns = np.concatenate([metric.columns for metric in metrics], axis=1)
    rng = np.random.default_rng(seed)
    sums, medians = [], []
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        index = rng.integers(n, size=(min(block, resamples - start), n))
        row = np.arange(len(index))[:, None]
        weights = np.bincount((index + n * row).ravel(), minlength=index.size).reshape(index.shape)
        sums.append(weights.astype(np.float64) @ columns)
        medians.append(_median(nearest[index]))
    cuts = np.cumsum([0] + [metric.columns.shape[1] for metric in metrics])
    drawn = np.concatenate(sums)
    rows = [_row(m, drawn[:, a:b]) for m, a, b in zip(metrics, cuts[:-1], cuts[1:], strict=True)]
    low, high = _quantiles(np.concatenate(medians))
    median = float(_median(nearest[None])[0])
    rows.append(Row("nearest train distance", median, low, high, protocol, "A"))
    return Report(tuple(rows), n)


def _row(metric: _Metric, sums: Columns) -> Row:
    value = float(metric.value(metric.columns.sum(0)))
    values = metric.value(sums)
    if metric.unit == "TV":  # resampling inflates a distance: keep the spread, not the bias
        values = np.clip(values - values.mean() + value, 0, 1)
    return Row(metric.name, value, *_quantiles(values), metric.protocol, metric.unit)


def _median(values: Columns) -> Columns:
    return np.asarray(np.quantile(values, 0.5, axis=1, method="inverted_cdf"))


def _quantiles(values: Columns) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf").tolist()
    return low, high


def baselines(structures: Structures, seed: int = 0) -> dict[str, Structures]:
    """Returns the real molecules, noisy copies, and copies with shuffled elements and charges."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(structures.position.shape)
    shuffled = np.lexsort((rng.random(len(structures.number)), structures.owner))

    def noisy(size: float) -> Structures:
        return replace(structures, position=structures.position + size * noise)

    return {
        "real": structures,
        "real + 0.02 A": noisy(0.02),
        "real + 0.05 A": noisy(0.05),
        "shuffled elements": replace(
            structures, number=structures.number[shuffled], charge=structures.charge[shuffled]
        ),
    }
