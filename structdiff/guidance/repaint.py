r"""RePaint: known entries put into the noisy state, with steps back up to noise in between.

A walk of a sampler in which the known entries of x_s are, after each step from t to s, a draw
of q(x_s | x_0),

    x_s = graft(step(x_t), q(x_s | known)).

The rest was drawn before it saw them, and fits them ill. So the walk is cut into blocks of `jump`
steps; from the end b of a block it goes back to its start a by a draw of q(x_a | x_b), the noised
known entries and the rest together, and takes the block again, `repeats` times in all. The rest
comes to agree with what is known, the better the more repeats; for finitely many the law is not
the conditional one. The last step, to clean data, is taken once (so, with jump 1, algorithm 1).

With `repeats` 1 this is replacement in the noisy state (Song et al.): the known part of x_s has
the law q(x_s | x_0), as it has under `Replacement` at eta = 1, but noise of its own at every step
in place of a bridge, and no oracle is needed.

References:
    RePaint: Inpainting using Denoising Diffusion Probabilistic Models (Lugmayr et al., 2022),
    algorithm 1 and section 4.2. https://arxiv.org/abs/2201.09865
    Score-Based Generative Modeling through SDEs (Song et al., 2021), appendix I.2.
    https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, Self

from structdiff.batch import Batch
from structdiff.processes import Markov
from structdiff.random import Displaced, Randomness
from structdiff.samplers import Carry, Sampler, Walk
from structdiff.samplers.wrapped import check_sampler

__all__ = ["RePaint"]


class Visit(NamedTuple):
    """One step of the grid in one pass of its block; a later `start` asks to go back first."""

    step: int
    turn: int
    start: int


def visits(steps: int, jump: int, repeats: int) -> Iterator[Visit]:
    """The order in which the steps of a grid are taken."""
    for low in range(0, steps - 1, jump):
        high = min(low + jump, steps - 1)
        for turn in range(repeats):
            yield Visit(low, turn, high if turn > 0 else low)
            yield from (Visit(i, turn, i) for i in range(low + 1, high))
    yield Visit(steps - 1, 0, steps - 1)


class RePaint(Walk):
    """A sampler that holds known entries with a model trained without holding any.

    Of N steps of the sampler N - 1 are taken `repeats` times and the last once: where a walk of
    the sampler costs C calls of the denoiser, this costs `repeats (C - 1) + 1`.

    Known entries are returned exactly, on a leaf of zero centre up to one translation of each
    sample: their place in the centred frame is the model's.

    Arguments:
        sampler: Any sampler of a Markov process whose steps use present estimates alone.
        known: A batch of the same rows whose `given` masks, `(rows,)` or `(rows, *event)`, say
            which of its values are known.
        jump: Number of steps of a block, at least 1.
        repeats: How often a block is taken, at least 1.

    Raises:
        ValueError: If the walk is no Sampler, the process is not Markov, a number is out of range,
            or the leaves or masks do not fit the process; on a call, if the rows are not those of
            the batch or the sampler uses estimates of earlier steps.

    Example:
        >>> import torch
        >>> from structdiff import DDPM, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Cosine(), event=(2,))
        >>> denoiser = NormalDenoiser(process, torch.zeros(1, 2), torch.ones(1))
        >>> blank = Batch.of(torch.zeros(3, 2))
        >>> mask = torch.tensor([True, False]).expand(3, 2)
        >>> known = Batch.of(torch.full((3, 2), 5.0)).with_given({"x": mask})
        >>> sampler = RePaint(DDPM(denoiser, UniformTime(8)), known, jump=4, repeats=2)
        >>> sampler.sample(blank, Generator(0))["x"][:, 0]
        tensor([5., 5., 5.])
    """

    batch: Batch
    random: Randomness
    walks: tuple[Sampler, ...]

    def __init__(
        self, sampler: Sampler, known: Batch, *, jump: int = 10, repeats: int = 10
    ) -> None:
        check_sampler(sampler)
        if jump < 1 or repeats < 1:
            msg = f"jump and repeats must be at least 1, got {jump} and {repeats}"
            raise ValueError(msg)
        process: Any = sampler.denoiser.process
        if not process.offers(Markov):
            name = type(process).__name__
            msg = (
                f"the process must be Markov to go back to noise between two times, {name} is not"
            )
            raise ValueError(msg)
        process.bind(known).graft(known.leaves, known.leaves, known.given)
        self.sampler, self.known, self.repeats = sampler, known, repeats
        self.route = tuple(visits(sampler.steps, jump, repeats))

    @property
    def steps(self) -> int:
        """Number of steps of the whole walk, `repeats (N - 1) + 1`."""
        return len(self.route)

    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the noise comes from.
        """
        batch.with_leaves(self.known.leaves)
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        lanes = [Displaced(random, j, self.repeats + 1) for j in range(self.repeats + 1)]
        bound.batch, bound.random = batch, lanes[-1]
        bound.walks = tuple(self.sampler.bind(batch, lane) for lane in lanes[:-1])
        return bound

    def start(self) -> Carry:
        """A draw from the prior with the noised known entries."""
        carry = self.walks[0].start()
        return replace(carry, x=self.graft(carry.x, 0, 0))

    def graft(self, x: Any, i: int, place: int) -> Any:
        """Leaves at the i-th time with the known entries, noised at that place of the walk."""
        walk, known = self.walks[0], self.known
        process: Any = walk.process
        noisy = known.leaves
        if i < walk.steps:
            random = self.random.scoped(step=2 * place)
            noisy = process.diffuse(known.leaves, walk.leaf_times[i], random)
        return process.graft(x, noisy, known.given)

    def back(self, carry: Carry, visit: Visit, place: int) -> Carry:
        """The carry at the start of a block that is taken again, without an estimate."""
        walk = self.walks[0]
        process: Any = walk.process
        times = walk.leaf_times[visit.start], walk.leaf_times[visit.step]
        x = process.corrupt(carry.x, *times, self.random.scoped(step=2 * place + 1))
        return replace(carry, x=x, previous=None)

    def step(self, carry: Carry, k: int) -> Carry:
        """The carry after the k-th step of the whole walk.

        Raises:
            ValueError: If the sampler keeps a history: the state jumps between its entries.
        """
        visit = self.route[k]
        if visit.start > visit.step:
            carry = self.back(carry, visit, k)
        carry = self.walks[visit.turn].step(carry, visit.step)
        if carry.history:
            name = type(self.sampler).__name__
            msg = f"the sampler must not use estimates of earlier steps, {name} keeps a history"
            raise ValueError(f"{msg}: the state jumps between them, use DDPM, DDIM or Heun")
        return replace(carry, x=self.graft(carry.x, visit.step + 1, k + 1))
