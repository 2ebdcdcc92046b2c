"""Drawing molecules: a part of a request at a time, with conditions and given atoms.

The noise of a part follows from the seed and the part's key (one stream per batch), or from the
seed and the molecule's number (the same in every batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from structdiff.artifacts import Part
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.domains.molecules.chemistry import Verdict
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.fragments import anchored, at_home, with_core
from structdiff.domains.molecules.recipe import MoleculesConfig, grid_of
from structdiff.domains.molecules.request import Request
from structdiff.domains.molecules.structures import Structures
from structdiff.guidance import (
    ClassifierFree,
    Guided,
    Linearised,
    RePaint,
    Replacement,
    Sharpened,
)
from structdiff.random import Tempered
from structdiff.runs import noise_of
from structdiff.samplers import Ancestral, Carry, Remasking, Walk

__all__ = ["Samples", "Watch", "draw"]

Watch = Callable[[int, Structures], None]


@dataclass(frozen=True)
class Samples:
    """Drawn molecules, all of them, each with its verdict."""

    structures: Structures
    verdicts: Sequence[Verdict]

    def __len__(self) -> int:
        return len(self.verdicts)

    def mols(self) -> list[object]:
        """RDKit molecules with the generated bonds, else those of distances; not sanitised."""
        from structdiff.domains.molecules.chemistry import bonds, to_mol

        whole = self.structures
        return [
            to_mol(*whole.molecule(m), bond, whole.charges(m).tolist())
            for m, bond in enumerate(bonds(whole).split(whole))
        ]


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    codec: MoleculeCodec,
    config: MoleculesConfig,
    asked: Request,
    part: Part,
    *,
    done: Callable[[float], None] | None = None,
    watch: Watch | None = None,
) -> Structures:
    """Draw a part of a request; nothing is rejected or corrected.

    Arguments:
        denoiser: The denoiser.
        codec: Vocabulary.
        config: Settings; `sampler` says how.
        asked: What to draw.
        part: Which molecules of it.
        done: Called after each step with the share of the steps that are done.
        watch: Called with the steps done and the noisy molecules.
    """
    device = next(denoiser.parameters()).device
    blank = _blank(denoiser, codec, asked, part, device)
    known = None if asked.given is None else with_core(blank, codec, asked.given)
    if asked.condition and asked.guidance != 1:
        denoiser = ClassifierFree(denoiser, asked.guidance)
    if asked.aim is not None:
        denoiser = Guided(denoiser, asked.aim, 1.0, Linearised())
    walk, start = _walk(denoiser, config, blank, known)

    def seen(step: int, carry: Carry) -> None:
        if done is not None:
            done(step / walk.steps)
        if watch is not None:
            x = carry.x
            watch(step, codec.structures(x, blank.layouts))

    random = noise_of(asked.seed, part, config.sampler.randomness)
    temperature = config.sampler.temperature
    # RePaint adds noise again and again: at another temperature it would not be the time's.
    if temperature != 1 and not isinstance(walk, RePaint):
        random = Tempered(random, temperature)
    drawn = walk.sample(start, random, seen)
    return codec.decode(drawn if known is None else at_home(drawn, known))


def _walk(
    denoiser: Denoiser, config: MoleculesConfig, blank: Batch, known: Batch | None
) -> tuple[Walk, Batch]:
    """The sampler, and the batch that it starts from."""
    settings, trained = config.sampler, config.loss.given > 0
    if known is None or trained:
        walk = _drawing(denoiser, config)
        return walk, blank if known is None else anchored(known)
    if settings.repaint > 1:
        plain = Ancestral(denoiser, grid_of(config), eta=settings.eta)
        return RePaint(plain, known, repeats=settings.repaint), blank
    return _drawing(Replacement(denoiser, known), config), blank


def _drawing(denoiser: Denoiser, config: MoleculesConfig) -> Walk:
    """Ancestral steps whose elements and bonds are sharpened and noised anew as settings say."""
    settings = config.sampler
    if settings.class_temperature != 1:
        denoiser = Sharpened(denoiser, temperature=settings.class_temperature)
    walk = Ancestral(denoiser, grid_of(config), eta=settings.eta)
    return Remasking(walk, settings.remask_share) if settings.remask_share else walk


def _blank(
    denoiser: Denoiser, codec: MoleculeCodec, asked: Request, part: Part, device: torch.device
) -> Batch:
    """Molecules that are to be drawn: their sizes, numbers and conditions."""
    rows = slice(part.low, part.high)
    layouts = codec.layouts(asked.counts[rows], device)
    leaves = denoiser.process.empty({name: one.rows for name, one in layouts.items()}, device)
    return Batch(
        leaves,
        layouts,
        {name: value[rows].to(device) for name, value in asked.condition.items()},
        {name: value[rows].to(device) for name, value in asked.present.items()},
        ids=torch.arange(part.low, part.high, device=device),
    )
