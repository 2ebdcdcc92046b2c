r"""Objectives that hide or reveal a part of the record before another objective looks at it.

`ConditionDropout` hides each condition of a sample with a probability of its own, so that one
network learns every conditional and unconditional law that guidance combines. `GivenRows` reveals
rows, or whole leaves: a chosen part of each record is held clean, so that the network learns to
fill in the rest given it.

Choices are made at addresses of their own: under a source that follows addresses the objective
draws what it would draw without them, and a sample's choices do not depend on its batch mates.

References:
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), algorithm 1.
    https://arxiv.org/abs/2207.12598
    Palette: Image-to-Image Diffusion Models (Saharia et al., 2022), section 3.
    https://arxiv.org/abs/2111.05826
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.objectives.denoising import Objective, Terms
from structdiff.processes.leaf import expand
from structdiff.random import Randomness

__all__ = ["ConditionDropout", "GivenRows", "random_leaves", "random_rows"]


def per_sample(batch: Batch, random: Randomness, name: str) -> Tensor:
    """A uniform number for each sample, `(samples,)`, float64."""
    layout = Layout.regular(batch.samples, batch.device)
    scoped = random.scoped(leaf=name, ids=batch.ids, layout=layout)
    return scoped.uniform((batch.samples,), torch.float64, batch.device)


class ConditionDropout(Objective):
    """Another objective with conditions dropped.

    Arguments:
        objective: What looks at the batch.
        rate: Probability that a condition of a sample is absent, in [0, 1]: one for all, or by
            name. Conditions are dropped independently of each other.
        together: Probability, in [0, 1], that a sample loses all its conditions at once.

    Raises:
        ValueError: If a rate is not a probability; on a call, if the rates that are given by name
            are not those of the batch's conditions.

    Example:
        >>> from structdiff.objectives import Denoising
        >>> from structdiff.random import Generator
        >>> batch = Batch.of(torch.zeros(4)).with_condition({"label": torch.arange(4)})
        >>> objective = ConditionDropout(Denoising(), {"label": 0.5})
        >>> objective.dropped(batch, Generator(0)).present["label"]
        tensor([ True,  True, False, False])
    """

    def __init__(
        self,
        objective: Objective,
        rate: float | Mapping[str, float] = 0.1,
        *,
        together: float = 0.0,
    ) -> None:
        rates = list(rate.values()) if isinstance(rate, Mapping) else [rate]
        if not all(0 <= one <= 1 for one in (*rates, together)):
            msg = f"rate and together must be in [0, 1], got {rate} and {together}"
            raise ValueError(msg)
        self.objective, self.rate, self.together = objective, rate, together

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the batch with some conditions absent."""
        return self.objective(denoiser, self.dropped(batch, random), random)

    def dropped(self, batch: Batch, random: Randomness) -> Batch:
        """The batch with some conditions absent.

        Raises:
            ValueError: If the rates that are given by name are not those of its conditions.
        """
        if isinstance(self.rate, Mapping) and batch.condition.keys() != self.rate.keys():
            msg = f"rate has {sorted(self.rate)}, the batch has {sorted(batch.condition)}"
            raise ValueError(f"{msg}: give a rate for each condition")
        everything = per_sample(batch, random, "presence of any condition") >= self.together
        present = {}
        for name in batch.condition:
            rate = self.rate[name] if isinstance(self.rate, Mapping) else self.rate
            kept = (
                per_sample(batch, random, f"presence of the condition {name}") >= rate
            ) & everything
            known = batch.present.get(name)
            present[name] = kept if known is None else kept & known
        return batch.with_present(present)


class GivenRows(Objective):
    """Another objective on records of which a part is given.

    Arguments:
        objective: What looks at the batch; given rows are clean and count nothing in its loss.
        choose: From a clean batch and noise to the batch with `given` masks; it may also move
            the record into the frame that the given rows fix. See `random_rows` and
            `random_leaves`.
        rate: Probability that a sample has a given part, in [0, 1].

    Raises:
        ValueError: If the rate is not a probability.
    """

    def __init__(
        self,
        objective: Objective,
        choose: Callable[[Batch, Randomness, Tensor], Batch],
        *,
        rate: float = 0.5,
    ) -> None:
        if not 0 <= rate <= 1:
            msg = f"rate must be in [0, 1], got {rate}"
            raise ValueError(msg)
        self.objective, self.choose, self.rate = objective, choose, rate

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the batch with a part given."""
        chosen = per_sample(batch, random, "presence of given rows") < self.rate
        return self.objective(denoiser, self.choose(batch, random, chosen), random)


def random_rows(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """Rows given at random, from none to all but one of a sample, in each leaf on its own.

    How many they are is uniform, and so is which. What is given already stays so. A leaf of one
    row a sample is never given: `random_leaves` is for that. A leaf of zero
    centre needs a choice of its own, which also moves the record to the frame that it will be
    sampled in: in that of all its rows, the given ones tell where the mean of the others is.

    Arguments:
        batch: Clean samples.
        random: Where the choice comes from.
        chosen: Samples that have given rows, `(samples,)`.
    """
    given = {}
    for name, layout in batch.layouts.items():
        share = per_sample(batch, random, f"share of {name}")
        scoped = random.scoped(leaf=f"rows of {name}", ids=batch.ids, layout=layout)
        place = scoped.uniform((layout.rows,), torch.float64, batch.device)
        count = torch.floor(share * layout.size) * chosen
        held = layout.rank(place) < layout.spread(count)
        known = batch.given.get(name)
        given[name] = held if known is None else expand(held, known) | known
    return batch.with_given(given)


def random_leaves(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """Whole leaves given at random, at least one and all but one of a record.

    How many they are is uniform, and so is which. A network then sees given leaves at clean time,
    as in sampling; with independent times alone it sees them nearly clean at best.

    Arguments:
        batch: Clean samples.
        random: Where the choice comes from.
        chosen: Samples that have given leaves, `(samples,)`.
    """
    names = list(batch.leaves)
    place = torch.stack([per_sample(batch, random, f"place of {name}") for name in names])
    rank = place.argsort(0).argsort(0)
    count = 1 + (per_sample(batch, random, "given leaves") * (len(names) - 1)).long()
    count = count.clamp(max=len(names) - 1) * chosen
    given = {}
    for name, here in zip(names, rank < count, strict=True):
        held, known = batch.layouts[name].spread(here), batch.given.get(name)
        given[name] = held if known is None else expand(held, known) | known
    return batch.with_given(given)
