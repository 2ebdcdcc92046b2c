r"""`check_equivariance`: a denoiser or a network of graphs under a group of moves.

A move g acts on a record: x -> R x + b on leaves that are vectors in space, a permutation of the
rows of each sample on all leaves (the ends of edges go with their rows), whole cells of a lattice
on single rows. A model f is equivariant if f(g x) = g f(x), where g turns outputs that are vectors
and leaves others as they are. Whole groups follow from a few random moves of each kind.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 2:
    an invariant prior and equivariant kernels make invariant marginals.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.nn.graph import GraphNetwork
from structdiff.nn.pairs import Pairs

__all__ = ["check_equivariance"]

Answer = Mapping[str, Tensor]
Model = Callable[[Batch], Answer]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def check_equivariance(
    model: Denoiser | GraphNetwork,
    group: str,
    batch: Batch,
    *,
    t: float = 0.5,
    vectors: Sequence[str] = ("position",),
    follow: float = 0.0,
    cell: Tensor | None = None,
    moves: int = 2,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Compare what a model says of moved records with what it says of the records, moved.

    A denoiser is asked twice, the second time with its first estimate, which those with
    self-conditioning see. A network of graphs has a batch of the leaves `features` and `position`
    and, where it sees other edges than all pairs or features of them, `pairs`, an edge leaf
    `(pairs, pair_inputs)`; its outputs go by the same names.

    Arguments:
        model: A denoiser, or a network of graphs (see `structdiff.nn.graph.GraphNetwork`).
        group: `E(3)`, `SE(3)`, `O(3)`, `SO(3)`, `T(3)` (translations), `S_n` (permutations of the
            rows of a sample) or `Z` (rows moved by whole cells). The number of dimensions is that
            of the vectors.
        batch: Records, noisy ones for a denoiser; with an asymmetric one among them.
        t: Time of a denoiser.
        vectors: Leaves that are vectors in space in their last axis; others are invariant.
        follow: The part of a translation that the outputs of these leaves follow: 0 for
            velocities and for positions relative to a centre, 1 for points.
        cell: Periods of `Z`: vectors of the lattice, `(dimensions, dimensions)`.
        moves: Random moves of each kind.
        tolerance: Largest deviation relative to the largest output that passes; by default
            1e-10 in float64, 1e-4 in float32.
        seed: Start of all random numbers.

    Raises:
        AssertionError: If a law does not hold, or holds only because all vectors are zero; it
            names the move, the output and the numbers.
        ValueError: If the group is not known, or something is missing that it needs.

    Example:
        >>> from structdiff.nn import PairNetwork
        >>> layout = Layout.ragged([4, 3])
        >>> leaves = {"features": torch.randn(7, 2), "position": torch.randn(7, 3)}
        >>> batch = Batch(leaves, dict.fromkeys(leaves, layout))
        >>> check_equivariance(PairNetwork(2, 1, layers=2), "E(3)", batch)
    """
    if group not in _GROUPS:
        msg = f"group must be one of {', '.join(_GROUPS)}, got {group!r}"
        raise ValueError(msg)
    function = _ask(model, t) if isinstance(model, Denoiser) else _call(model)
    if not isinstance(model, Denoiser):
        batch = _with_pairs(batch)
    _check_inputs(group, batch, vectors, cell)
    with torch.no_grad():
        answer = function(batch)
        scene = Scene(batch, answer, tuple(vectors), follow, cell)
        random = torch.Generator().manual_seed(seed)
        for kind in _GROUPS[group]:
            _refuse_zero(scene, kind)
            for _ in range(moves):
                moved, expected = _KINDS[kind](scene, random)
                _compare(kind, function(moved), expected, tolerance)


@dataclass(frozen=True)
class Scene:
    """Records, what the model says of them, and what is a vector."""

    batch: Batch
    answer: Answer
    vectors: tuple[str, ...]
    follow: float
    cell: Tensor | None

    @property
    def dimensions(self) -> int:
        """Of the space."""
        return self.batch[self.vectors[0]].shape[-1]

    def affine(self, turn: Tensor, shift: Tensor) -> tuple[Batch, Answer]:
        """Records and answers with R v + b for each vector v."""

        def move(named: Answer, part: float) -> Answer:
            return {
                n: x @ turn.T.to(x) + part * shift.to(x) if n in self.vectors else x
                for n, x in named.items()
            }

        return self.batch.with_leaves(move(self.batch.leaves, 1.0)), move(self.answer, self.follow)


Move = Callable[[Scene, torch.Generator], tuple[Batch, Answer]]


def _orthogonal(scene: Scene, random: torch.Generator, determinant: int) -> tuple[Batch, Answer]:
    """A random rotation, or one with a reflection."""
    d = scene.dimensions
    turn, _ = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64))
    turn[:, 0] *= torch.sign(torch.linalg.det(turn)) * determinant
    return scene.affine(turn, torch.zeros(d))


def _translation(scene: Scene, random: torch.Generator) -> tuple[Batch, Answer]:
    """All rows by one vector."""
    d = scene.dimensions
    shift = 2 * torch.randn(d, generator=random, dtype=torch.float64)
    return scene.affine(torch.eye(d), shift)


def _lattice(scene: Scene, random: torch.Generator) -> tuple[Batch, Answer]:
    """Each row by whole cells of its own, at most two along each vector."""
    leaves = dict(scene.batch.leaves)
    for name in scene.vectors:
        x = leaves[name]
        cells = torch.randint(-2, 3, x.shape, generator=random).to(x)
        assert scene.cell is not None
        leaves[name] = x + cells @ scene.cell.to(x)
    return scene.batch.with_leaves(leaves), scene.answer


def _permutation(scene: Scene, random: torch.Generator) -> tuple[Batch, Answer]:
    """Rows of each sample in another order; leaves of equal counts have the same rows."""
    batch = scene.batch
    orders: dict[tuple[int, ...], Tensor] = {}
    for layout in batch.layouts.values():
        rows = layout if layout.nodes is None else layout.over
        assert rows is not None
        if rows.counts not in orders:
            chance = torch.rand(rows.rows, generator=random)
            orders[rows.counts] = torch.argsort(rows.sample.cpu() + chance)
    placed = {n: _permuted(layout, orders) for n, layout in batch.layouts.items()}
    moved = replace(
        batch,
        leaves={n: x[placed[n][0]] for n, x in batch.leaves.items()},
        layouts={n: layout for n, (_, layout) in placed.items()},
        given={n: mask[placed[n][0]] for n, mask in batch.given.items()},
    )
    return moved, {n: x[placed[n][0]] for n, x in scene.answer.items()}


def _permuted(layout: Layout, orders: Mapping[tuple[int, ...], Tensor]) -> tuple[Tensor, Layout]:
    """The old row of each new one, and the new layout: edges are again i < j, by i and then j."""
    if layout.nodes is None:
        return orders[layout.counts].to(layout.sample.device), layout
    assert layout.over is not None
    order = orders[layout.over.counts].to(layout.nodes.device)
    ends = torch.argsort(order)[layout.nodes].sort(0).values
    edges = torch.argsort(ends[0] * layout.over.rows + ends[1])
    return edges, replace(layout, nodes=ends[:, edges])


_KINDS: Mapping[str, Move] = {
    "rotation": lambda scene, random: _orthogonal(scene, random, 1),
    "reflection": lambda scene, random: _orthogonal(scene, random, -1),
    "translation": _translation,
    "permutation": _permutation,
    "lattice": _lattice,
}

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "E(3)": ("rotation", "reflection", "translation"),
    "SE(3)": ("rotation", "translation"),
    "O(3)": ("rotation", "reflection"),
    "SO(3)": ("rotation",),
    "T(3)": ("translation",),
    "S_n": ("permutation",),
    "Z": ("lattice",),
}


def _ask(denoiser: Denoiser, t: float) -> Model:
    """The values of a denoiser's estimates."""

    def function(batch: Batch) -> Answer:
        time = torch.tensor(t, dtype=torch.float64, device=batch.device)
        times = denoiser.process.bind(batch).times(time)
        estimates = denoiser(batch, times, denoiser(batch, times))
        return {name: estimate.value for name, estimate in estimates.items()}

    return function


def _call(network: GraphNetwork) -> Model:
    """A network's outputs by the names of its inputs."""

    def function(batch: Batch) -> Answer:
        rows, edges = batch.layouts["position"], batch.layouts["pairs"]
        assert edges.nodes is not None
        pairs = None
        if not torch.equal(edges.nodes, _all_pairs(rows)):
            first, second = edges.nodes.cpu().numpy()
            pairs = Pairs.of(first, second, rows.rows, batch.device)
        known = batch["pairs"] if batch["pairs"].shape[1] else None
        out = network(batch["features"], batch["position"], rows, pairs=pairs, pair_features=known)
        found = {"features": out.features, "position": out.vector}
        return found if out.pairs is None else found | {"pairs": out.pairs}

    return function


def _all_pairs(rows: Layout) -> Tensor:
    nodes = Layout.pairs(rows).nodes
    assert nodes is not None
    return nodes


def _with_pairs(batch: Batch) -> Batch:
    """A batch of graphs that has edges."""
    missing = {"features", "position"} - batch.leaves.keys()
    if missing:
        has = f"a network of graphs needs the leaves {sorted(missing)}"
        msg = f"{has}, the batch has {sorted(batch.leaves)}"
        raise ValueError(msg)
    if "pairs" in batch.leaves:
        return batch
    layout = Layout.pairs(batch.layouts["position"])
    leaf = batch["position"].new_zeros(layout.rows, 0)
    return replace(
        batch,
        leaves={**batch.leaves, "pairs": leaf},
        layouts={**batch.layouts, "pairs": layout},
    )


def _check_inputs(group: str, batch: Batch, vectors: Sequence[str], cell: Tensor | None) -> None:
    """Refuse what would test nothing.

    Raises:
        ValueError: If a leaf or the cell is missing.
    """
    unknown = [name for name in vectors if name not in batch.leaves]
    if unknown or (not vectors and group != "S_n"):
        msg = f"vectors must name leaves of {sorted(batch.leaves)}, got {list(vectors)}"
        raise ValueError(f"{msg}: name the leaves that move in space")
    sizes = {batch[name].shape[-1] for name in vectors}
    if len(sizes) > 1:
        msg = f"vectors must be of one space, got leaves of {sorted(sizes)} dimensions"
        raise ValueError(f"{msg}: check them one by one")
    want = (*sizes, *sizes)
    if group == "Z" and (cell is None or cell.shape != want):
        found = None if cell is None else tuple(cell.shape)
        msg = f"cell must be {want} for the group Z, got {found}: give the vectors of the lattice"
        raise ValueError(msg)
    for name, layout in batch.layouts.items():
        if layout.nodes is not None and layout.over is None:
            msg = f"the layout of the edge leaf {name!r} must say which rows its edges join"
            raise ValueError(f"{msg}: make it with `over`")


def _refuse_zero(scene: Scene, kind: str) -> None:
    """Raise an AssertionError if a turn would be seen by no vector."""
    for name in scene.vectors:
        if kind in ("rotation", "reflection") and not scene.answer[name].any():
            msg = f"{kind}: the output {name!r} is zero everywhere, so nothing is tested"
            raise AssertionError(f"{msg}: give records that it is not zero for")


def _compare(kind: str, found: Answer, expected: Answer, tolerance: float | None) -> None:
    """Raise an AssertionError if an answer is another than expected."""
    for name, want in expected.items():
        if not want.numel():
            continue
        limit = _TOLERANCE[want.dtype] if tolerance is None else tolerance
        # Log-probabilities may be -inf on both sides.
        gap = torch.where(found[name] == want, 0.0, found[name] - want).abs().max()
        largest = torch.where(want.isfinite(), want, 0.0).abs().max()
        if not gap <= limit * largest:
            msg = (
                f"{kind}: the output {name!r} is off by {float(gap):.2g} from what it must be, "
                f"expected at most {limit:.2g} of its largest entry {float(largest):.2g}"
            )
            raise AssertionError(msg)
