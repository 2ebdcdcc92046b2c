"""How good generated molecules are: rates of all drawn, each with a 95 % bootstrap interval.

Nothing is filtered away. Every row is a function of sums over the molecules: a rate is
sum a_m / sum b_m, a histogram distance is half the L1 distance of summed and normalised
histograms. So one matrix of per-molecule columns and one matrix of multinomial weights give all
bootstrap intervals in one product. A rate of exactly 0 or 1 has an interval of width 0: of n
drawn, read it as "within 3/n".

Molecules that came with bonds (a model that draws them) are judged by those, others by the bonds
that follow from their distances; the protocols say which. Where bonds were drawn, two more rows
say how many of them the table of distances finds too.

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

from structdiff.domains.molecules.aromaticity import kekulised
from structdiff.domains.molecules.bonding import bonds, inferred
from structdiff.domains.molecules.chemistry import Verdict, implied, judge, stable_atoms
from structdiff.domains.molecules.measures.nearest import nearest_distance
from structdiff.domains.molecules.reports.report import Report, Row, comparison
from structdiff.domains.molecules.structures import AROMATIC, Bonds, Integers, Structures

__all__ = [
    "Report",
    "Row",
    "baselines",
    "comparison",
    "evaluate",
    "known_smiles",
    "nearest_distance",
]

Columns: TypeAlias = NDArray[np.float64]
_BLOCK = 4_000_000  # numbers held at a time
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
    source = "EDM bond table" if generated.bond is None else "generated bonds"
    drawn = _written(generated)
    metrics = [
        *_stability(drawn, f"{source}, all drawn", implicit=implicit),
        *_graphs(judge(drawn, implicit=implicit), known_smiles(train), source),
        *_histograms(generated, reference),
        *_confirmed(generated),
    ]
    nearest, protocol = nearest_distance(generated, train)
    return _bootstrap(metrics, nearest, protocol, resamples, seed)


def _ratio(name: str, above: NDArray[np.generic], below: object, protocol: str) -> _Metric:
    columns = np.stack(np.broadcast_arrays(above, np.asarray(below)), axis=1).astype(np.float64)

    def value(sums: Columns) -> Columns:
        empty = sums[..., 1] == 0
        return np.asarray(np.where(empty, np.nan, sums[..., 0] / np.where(empty, 1, sums[..., 1])))

    return _Metric(name, columns, value, protocol)


def _written(structures: Structures) -> Structures:
    """The molecules with aromatic bonds as single and double ones, as valencies are counted."""
    bond = structures.bond
    ringed = bond is not None and (bond.order == AROMATIC).any()
    return kekulised(structures)[0] if ringed else structures


def _stability(structures: Structures, bonded: str, *, implicit: bool) -> list[_Metric]:
    owner, count = structures.owner, structures.count
    good = np.bincount(owner[stable_atoms(structures, bonds(structures))], minlength=len(count))
    there, protocol = (0, _UNDEFINED) if implicit else (1, bonded)
    return [
        _ratio("atom stability", good, count * there, protocol),
        _ratio("molecule stability", good == count, there, protocol),
    ]


def _graphs(verdicts: list[Verdict], known: frozenset[str], source: str) -> list[_Metric]:
    """Validity, uniqueness and novelty; a SMILES drawn k times counts 1/k each time."""
    valid = np.array([verdict.valid for verdict in verdicts])
    whole = np.array([verdict.connected for verdict in verdicts])
    drawn = Counter(verdict.smiles for verdict in verdicts if verdict.smiles is not None)
    share = np.array([1 / drawn[v.smiles] if v.smiles else 0.0 for v in verdicts])
    fresh = np.array([v.smiles is not None and v.smiles not in known for v in verdicts])
    return [
        _ratio("validity", valid, 1, f"RDKit sanitises, {source}, all drawn"),
        _ratio("valid and connected", valid & whole, 1, "one fragment, all drawn"),
        _ratio("unique", share, valid, "distinct SMILES of valid; interval at fixed repeats"),
        _ratio("novel", share * fresh, share, "not among train SMILES, of unique valid"),
    ]


def _confirmed(structures: Structures) -> list[_Metric]:
    """How many of the bonds that were drawn follow from distances too."""
    if structures.bond is None:
        return []
    drawn, found = structures.bond, inferred(replace(structures, bond=None))
    order = _orders_of(drawn, found, len(structures.number))
    same = (order == drawn.order) | ((drawn.order == AROMATIC) & ((order == 1) | (order == 2)))
    each, near, right = (
        np.bincount(drawn.molecule[chosen], minlength=len(structures))
        for chosen in (np.ones(len(drawn), np.bool_), order > 0, same)
    )
    return [
        _ratio("bonds confirmed", near, each, "also bonds by the EDM table, of generated bonds"),
        _ratio(
            "bond orders confirmed", right, each,
            "of the same order by the EDM table (aromatic: 1 or 2), of generated bonds",
        ),
    ]  # fmt: skip


def _orders_of(bond: Bonds, table: Bonds, atoms: int) -> Integers:
    """The orders that other bonds give to the same pairs of atoms, 0 where they have none."""
    mine, theirs = (one.pair[0] * atoms + one.pair[1] for one in (bond, table))
    by_pair = np.argsort(theirs)
    keys, orders = np.append(theirs[by_pair], -1), np.append(table.order[by_pair], 0)
    place = np.searchsorted(keys[:-1], mine)
    return np.asarray(np.where(keys[place] == mine, orders[place], 0))


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
    """Returns the real molecules, noisy copies, and copies with shuffled elements and charges.

    Real molecules keep the bonds that they came with, and so do those with shuffled elements,
    whose bonds are those of the places; of noisy ones bonds follow from their distances.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(structures.position.shape)
    shuffled = np.lexsort((rng.random(len(structures.number)), structures.owner))

    def noisy(size: float) -> Structures:
        return replace(structures, position=structures.position + size * noise, bond=None)

    return {
        "real": structures,
        "real + 0.02 A": noisy(0.02),
        "real + 0.05 A": noisy(0.05),
        "shuffled elements": replace(
            structures, number=structures.number[shuffled], charge=structures.charge[shuffled]
        ),
    }
