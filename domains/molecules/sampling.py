"""Drawing molecules: sizes, batches, atoms that are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.domains.molecules.chemistry import Verdict, judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.recipe import MoleculesConfig, grid_of
from structdiff.domains.molecules.structures import Structures
from structdiff.guidance import Replacement
from structdiff.layout import Layout
from structdiff.random import Generator, Randomness, Tempered
from structdiff.samplers import Ancestral, Carry

__all__ = ["Samples", "Watch", "draw", "draw_sizes"]

Watch = Callable[[int, Structures], None]


@dataclass(frozen=True)
class Samples:
    """Drawn molecules, all of them, each with its verdict."""

    structures: Structures
    verdicts: Sequence[Verdict]

    def __len__(self) -> int:
        return len(self.verdicts)

    def mols(self) -> list[object]:
        """RDKit molecules with bonds inferred from distances; not sanitised."""
        from structdiff.domains.molecules.chemistry import bonds, to_mol

        found = bonds(self.structures).split(self.structures)
        return [to_mol(*pair, bond) for pair, bond in zip(self.structures, found, strict=True)]


def draw_sizes(
    codec: MoleculeCodec, molecules: int, sizes: Sequence[int] | None, seed: int, least: int
) -> list[int]:
    """Numbers of atoms, from the training data's histogram or from a list.

    Raises:
        ValueError: If a number is out of range, or no size is above `least`.
    """
    if molecules < 1:
        msg = f"the number of molecules must be at least 1, got {molecules}"
        raise ValueError(msg)
    if sizes is not None and (not sizes or min(sizes) < 2):
        msg = f"sizes must be numbers of atoms, each at least 2, got {list(sizes)}"
        raise ValueError(msg)
    weights = np.asarray(codec.sizes, np.float64)
    if sizes is not None:
        weights = np.bincount(np.asarray(sizes)).astype(np.float64)
    weights[: min(least, len(weights))] = 0
    if weights.sum() == 0:
        has = f"the given part has {least - 1} atoms"
        msg = f"no size is left: {has}, a molecule needs more. Pass larger --sizes"
        raise ValueError(msg)
    chosen = np.random.default_rng(seed).choice(len(weights), molecules, p=weights / weights.sum())
    return [int(count) for count in chosen]


def draw(
    denoiser: Denoiser,
    codec: MoleculeCodec,
    config: MoleculesConfig,
    counts: Sequence[int],
    *,
    seed: int,
    given: Structures | None,
    progress: bool,
    watch: Watch | None,
) -> Samples:
    """Draw molecules of these sizes, batch by batch; nothing is rejected or corrected.

    Arguments:
        denoiser: The denoiser.
        codec: Vocabulary.
        config: Settings; `sampler` says how.
        counts: Number of atoms of each molecule.
        seed: Start of the random numbers.
        given: One molecule whose atoms every drawn one contains, where they are.
        progress: Whether to show a bar.
        watch: Called with the steps done and the noisy molecules of the first batch.
    """
    settings = config.sampler
    device = next(denoiser.parameters()).device
    parts = []
    bar = tqdm(total=len(counts) * settings.steps, unit="step", disable=not progress)
    for number, low in enumerate(range(0, len(counts), settings.batch_size)):
        chosen = counts[low : low + settings.batch_size]
        blank = _blank(denoiser, chosen, device)
        known = None if given is None else _known(blank, codec, given)
        aware = denoiser if known is None else Replacement(denoiser, known)
        sampler = Ancestral(aware, grid_of(config), eta=settings.eta)
        show = watch if low == 0 else None

        def done(
            step: int, carry: Carry, chosen: Sequence[int] = chosen, show: Watch | None = show
        ) -> None:
            bar.update(len(chosen))
            if show is not None:
                show(step, _noisy(codec, carry.x, chosen))

        drawn = sampler.sample(blank, _random(seed, number, settings.temperature), done)
        parts.append(codec.decode(drawn if known is None else _at_home(drawn, known)))
    bar.close()
    structures = Structures.concatenate(parts)
    implicit = config.data.hydrogens == "implicit"
    return Samples(structures, judge(structures, implicit=implicit))


def _random(seed: int, number: int, temperature: float) -> Randomness:
    """Random numbers of a batch: they depend on the seed and the batch's number alone."""
    source = Generator(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    return source if temperature == 1 else Tempered(source, temperature)


def _blank(denoiser: Denoiser, counts: Sequence[int], device: torch.device) -> Batch:
    layout = Layout.ragged(counts, device)
    leaves = denoiser.process.empty(layout.rows, device)
    return Batch(leaves, {name: layout for name in leaves})


def _known(blank: Batch, codec: MoleculeCodec, given: Structures) -> Batch:
    """The given atoms as the first of each molecule."""
    core = codec.encode(given.select([0])).to(blank.device)
    row = blank.layouts["position"].row
    held = row < core.layouts["position"].rows
    index = row.clamp(max=core.layouts["position"].rows - 1)
    home = torch.from_numpy(given.molecule(0)[1].astype(np.float32)).to(blank.device)
    leaves = {"position": home[index], "element": core["element"][index]}
    return replace(blank, leaves=leaves, given={"position": held, "element": held})


def _at_home(drawn: Batch, known: Batch) -> Batch:
    """Molecules moved so that the given atoms are where they were given, exactly."""
    layout, held = drawn.layouts["position"], known.given["position"]
    gap = (known["position"] - drawn["position"]) * held.unsqueeze(1)
    count = layout.sum(held.to(gap.dtype)).unsqueeze(1)
    moved = drawn["position"] + layout.spread(layout.sum(gap) / count)
    position = torch.where(held.unsqueeze(1), known["position"], moved)
    return drawn.with_leaves({**drawn.leaves, "position": position})


def _noisy(codec: MoleculeCodec, x: Mapping[str, Tensor], counts: Sequence[int]) -> Structures:
    """Noisy leaves as molecules; a masked atom is the unknown element."""
    numbers = np.array([*codec.elements, 0], np.uint8)
    symbols = x["element"].clamp(max=len(codec.elements)).cpu().numpy()
    return Structures(x["position"].cpu().numpy(), numbers[symbols], np.asarray(counts))
