"""What to draw: how many molecules, of which sizes, with which conditions and given atoms.

The molecules of a request are numbered from 0; sizes follow p(size | condition) of the data. What
a regressor knows is asked by its gradient, the model itself is not told of it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from structdiff.codecs import Condition, SizeLaw, draw_sizes, encode_conditions
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.fragments import part_of
from structdiff.domains.molecules.regression import Aim
from structdiff.domains.molecules.regressor import Regressor
from structdiff.domains.molecules.structures import Structures
from structdiff.runs import whole

__all__ = ["Request", "condition_of", "request"]

_BLOCK = 4096  # sizes drawn at a time
_LARGEST = 100_000  # atoms


@dataclass(frozen=True)
class Request:
    """What to draw.

    Arguments:
        counts: Number of atoms of each molecule.
        condition: Encoded conditions by name, one row per molecule.
        present: Where they are known, `(molecules,)`.
        guidance: Guidance scale, one for all conditions or one for each.
        aim: What a regressor's gradient follows, None without one or at scale 0.
        given: A molecule whose atoms every drawn one contains, where they are.
        seed: Start of the random numbers.
    """

    counts: tuple[int, ...]
    condition: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    guidance: float | Mapping[str, float]
    given: Structures | None
    seed: int
    aim: Aim | None = None


def request(
    codec: MoleculeCodec,
    molecules: int,
    *,
    sizes: Sequence[int] | None = None,
    condition: Mapping[str, ArrayLike] | None = None,
    guidance: float | Mapping[str, float] = 1.0,
    given: Structures | None = None,
    implicit: bool = False,
    regressor: Regressor | None = None,
    seed: int = 0,
) -> Request:
    """A request, with sizes drawn from p(size | condition), or from a list.

    The first molecules of a longer request are those of a shorter one.

    Arguments:
        codec: Vocabulary, sizes and conditions.
        molecules: How many.
        sizes: Numbers of atoms to choose from, at least 2, or 1 if the training data has such.
        condition: Value of each condition, one for all molecules or one for each; a condition
            whose value is not known is left out.
        guidance: Guidance scale.
        given: A part that every molecule has, in one piece or in several.
        implicit: Whether hydrogens are no atoms of the record, so that those of the given part
            are left out.
        regressor: What follows the conditions that it knows, by its gradient with the scale
            `guidance`; the model is told the others.
        seed: Start of the random numbers.

    Raises:
        ValueError: If a number is out of range, a condition is not known, or the sizes leave no
            room for the given part.
    """
    molecules = whole("the number of molecules", molecules, 1)
    seed = whole("seed", seed, 0)
    sizes = None if sizes is None else _sizes(codec, sizes)
    asked = condition or {}
    _check_guidance(codec, asked, guidance)
    guided = [] if regressor is None else [n for n in asked if n in regressor.columns]
    encoded, present = _encoded(codec, {n: asked[n] for n in asked if n not in guided}, molecules)
    scales = dict(guidance) if isinstance(guidance, Mapping) else dict.fromkeys(asked, guidance)
    aim, likely = None, None
    if regressor is not None:
        _check_follows(regressor, asked)
        values, known = _encoded(regressor.codec, {n: asked[n] for n in guided}, molecules)
        aim = regressor.aim(values, {n: scales[n] for n in guided})
        likely = _Likely(regressor.codec.sizes, values, known)
    if isinstance(guidance, Mapping):
        guidance = {n: scale for n, scale in scales.items() if n not in guided}
    if given is not None:
        _check_given(given)
        given = part_of(given, codec)
        given = given.without_hydrogens() if implicit else given
        _check_given(given)
        codec.encode(given)
    least = 0 if given is None else int(given.count[0]) + 1
    random, counts = np.random.default_rng(seed), list[int]()
    for low in range(0, molecules, _BLOCK):
        rows = slice(low, min(low + _BLOCK, molecules))
        parts = ({n: x[rows] for n, x in part.items()} for part in (encoded, present))
        weights = codec.sizes.weights(rows.stop - low, *parts)
        if likely is not None:
            weights *= likely.of(rows, weights.shape[1])
        counts += draw_sizes(_allowed(weights, sizes, least), random).tolist()
    return Request(tuple(counts), encoded, present, guidance, given, seed, aim)


def _encoded(
    codec: MoleculeCodec, asked: Mapping[str, ArrayLike], molecules: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is asked of each molecule, as a model sees it.

    Raises:
        ValueError: If a condition is not one of the codec's, or a value is not known.
    """
    values = {n: _per_molecule(condition_of(codec, n), x, molecules) for n, x in asked.items()}
    encoded, present = encode_conditions(codec.conditions, values)
    missing = [name for name, known in present.items() if not known.all()]
    if missing:
        msg = (
            f"condition {missing[0]!r} has values that are not known (NaN, infinite or empty): "
            "leave out a condition that is not known"
        )
        raise ValueError(msg)
    return encoded, present


def _check_follows(regressor: Regressor, asked: Mapping[str, ArrayLike]) -> None:
    """Refuse a regressor that nothing is asked of."""
    if not asked.keys() & regressor.columns.keys():
        knows = f"the regressor knows {sorted(regressor.columns)}"
        msg = (
            f"{knows}, but the conditions that are asked are {sorted(asked)}: ask for one of them"
        )
        raise ValueError(msg)


@dataclass(frozen=True)
class _Likely:
    """How likely what is asked of a regressor is at each size.

    Arguments:
        law: The law of sizes of the regressor's data.
        condition: What is asked of each molecule.
        present: Where it is known.
    """

    law: SizeLaw
    condition: Mapping[str, Tensor]
    present: Mapping[str, Tensor]

    def of(self, rows: slice, sizes: int) -> NDArray[np.float64]:
        """p(c | n) of these molecules, `(molecules, sizes)`."""
        most = max(sizes, len(self.law.histogram))
        tables = {
            name: (edges, (*counts, *[(0,) * (len(edges) + 1)] * (most - len(counts))))
            for name, (edges, counts) in self.law.tables.items()
        }
        parts = ({n: x[rows] for n, x in part.items()} for part in (self.condition, self.present))
        flat = SizeLaw((1,) * most, tables)
        return flat.weights(rows.stop - rows.start, *parts)[:, :sizes]


def _sizes(codec: MoleculeCodec, sizes: Sequence[int]) -> list[int]:
    """Numbers of atoms; 1 only if the training data has molecules of one atom."""
    least = 1 if len(codec.sizes.histogram) > 1 and codec.sizes.histogram[1] else 2
    try:
        found = [operator.index(size) for size in sizes]
    except TypeError:
        found = []
    if not found or min(found) < least or max(found) > _LARGEST:
        most = f" and at most {_LARGEST:,}" if max(found, default=0) > _LARGEST else ""
        got = f"got {found or sizes!r}"
        msg = f"sizes must be a list of numbers of atoms, each at least {least}{most}, {got}"
        raise ValueError(msg)
    return found


def _check_given(given: Structures) -> None:
    if not isinstance(given, Structures) or not len(given):
        has = f"{len(given)} molecules" if isinstance(given, Structures) else type(given).__name__
        msg = f"given must be Structures with a molecule, as read(path).structures, got {has}"
        raise ValueError(msg)


def condition_of(codec: MoleculeCodec, name: str) -> Condition:
    """A condition by name.

    Raises:
        ValueError: If the model was not trained with it.
    """
    known = {one.name: one for one in codec.conditions}
    if name not in known:
        has = f"the run knows the conditions {sorted(known)}" if known else "the run knows none"
        msg = f"there is no condition {name!r}, {has}: train with --condition {name} to add it"
        raise ValueError(msg)
    return known[name]


def _check_guidance(
    codec: MoleculeCodec, condition: Mapping[str, ArrayLike], guidance: float | Mapping[str, float]
) -> None:
    """Refuse a scale that has nothing to act on."""
    scales = dict(guidance) if isinstance(guidance, Mapping) else {"": guidance}
    real = all(isinstance(scale, Real) and math.isfinite(scale) for scale in scales.values())
    if not scales or not real:
        msg = f"guidance must be a finite number, or one for each condition, got {guidance!r}"
        raise ValueError(msg)
    if not condition and guidance != 1:
        known = [one.name for one in codec.conditions]
        has = f"give one of {known}" if known else "but the run was trained without any"
        msg = f"guidance = {guidance} needs a condition: {has}, or leave guidance at 1"
        raise ValueError(msg)
    unknown = sorted(scales.keys() - condition.keys() - {""})
    if unknown:
        msg = (
            f"guidance names {unknown}, but the conditions that are asked are {sorted(condition)}"
        )
        raise ValueError(msg)
    left = sorted(condition.keys() - scales.keys()) if isinstance(guidance, Mapping) else []
    if left:
        msg = f"guidance has no scale for {left}: name one for each condition that is asked"
        raise ValueError(msg)


def _per_molecule(condition: Condition, value: ArrayLike, molecules: int) -> ArrayLike:
    """One value for each molecule; a single one (or one vector) is repeated."""
    array = np.asarray(value)
    one = (condition.entries,) if condition.entries > 1 else ()
    if array.shape == one:
        return np.broadcast_to(array, (molecules, *one))
    if array.shape != (molecules, *one):
        must = f"{one} for all molecules or {(molecules, *one)}, one for each"
        msg = f"condition {condition.name!r} must have the shape {must}, got {array.shape}"
        raise ValueError(msg)
    return array


def _allowed(
    weights: NDArray[np.float64], sizes: Sequence[int] | None, least: int
) -> NDArray[np.float64]:
    """Weights of the sizes that were asked for, at least that of the given part and an atom.

    Raises:
        ValueError: If none is left.
    """
    if sizes is not None:
        weights = np.tile(np.bincount(np.asarray(sizes)).astype(np.float64), (len(weights), 1))
    weights[:, :least] = 0
    if (weights.sum(1) == 0).any():
        has = f"the given part has {least - 1} atoms"
        msg = f"no size is left: {has}, a molecule needs more. Pass larger --sizes"
        raise ValueError(msg)
    return weights
