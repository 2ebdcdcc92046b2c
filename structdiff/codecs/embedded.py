r"""Denoisers of class leaves that a Gaussian process noises as codewords.

`ClassDenoiser` is score interpolation: the network says log-probabilities of the classes, and the
estimate is their expected codeword. `Clamped` is the clamping trick: the estimate is moved to the
nearest codeword, so that each step commits to classes.

References:
    Continuous Diffusion for Categorical Data (Dieleman et al., 2022), section 3.
    https://arxiv.org/abs/2211.15089
    Diffusion-LM Improves Controllable Text Generation (Li et al., 2022), section 4.2.
    https://arxiv.org/abs/2205.14217
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import nn

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser, ask
from structdiff.parameterisations.embedded import LOG_P, Code, Embedding
from structdiff.processes import Estimate, Process
from structdiff.processes.leaf import expand

__all__ = ["Clamped", "ClassDenoiser"]


class ClassDenoiser(Denoiser):
    """A network that says classes, as a denoiser of their embeddings.

    For leaves with an embedding the network's output is logits `(rows, *event, K)`; estimates
    are expected embeddings with the log-probabilities beside them (`extras[LOG_P]`). Other leaves
    are as in `NetworkDenoiser`.

    Arguments:
        backbone: The network, see `Backbone`.
        process: The process of the record; Gaussian on all of R^n at leaves with an embedding,
            of event `(*event, width)`. What it says of a network's output is not asked there.
        embeddings: The embedding of each class leaf.
        self_conditioning: Whether the network sees the previous estimate.

    Raises:
        ValueError: If a leaf with an embedding is missing or of another event.

    Example:
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Cosine
        >>> class Undecided(nn.Module):
        ...     def forward(self, batch, clock, previous):
        ...         return {"x": torch.zeros(len(batch["x"]), 5)}
        >>> code = Embedding(5, 3)
        >>> process = Product({"x": Gaussian(Cosine(), event=(3,))})
        >>> denoiser = ClassDenoiser(Undecided(), process, {"x": code})
        >>> batch = Batch.of(torch.zeros(1, 3))
        >>> said = denoiser(batch, process.bind(batch).times(torch.tensor(0.5)))["x"].value
        >>> torch.allclose(said, code.table().mean(0))
        True
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: Process,
        embeddings: Mapping[str, Embedding],
        *,
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.process, self.self_conditioning = backbone, process, self_conditioning
        # A list: a ModuleDict refuses names such as "type" or "a.b".
        self.tables = nn.ModuleList(embeddings.values())
        self._embeddings = dict(embeddings)
        empty = process.empty(1)
        for name, embedding in embeddings.items():
            shape = tuple(empty[name].shape[1:]) if name in empty else None
            if shape is None or shape[-1:] != (embedding.width,):
                must = f"a Gaussian leaf {name!r} of event (*event, {embedding.width})"
                has = f"leaves {sorted(empty)}" if shape is None else f"event {shape} there"
                raise ValueError(f"process must have {must}, it has {has}")

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """Encode, call the network, take the mean embedding, decode."""
        process = self.process.bind(batch)
        shown = previous if self.self_conditioning else None
        output = dict(ask(self.backbone, process, batch, t, shown))
        log_p = {name: torch.log_softmax(output[name], -1) for name in self._embeddings}
        output |= {n: table.expected(log_p[n]) for n, table in self._embeddings.items()}
        said = dict(process.decode(output, batch.leaves, t))
        for name, value in log_p.items():
            # A mean needs no parameterisation; what is given is in x_t.
            x_t = batch[name]
            mean = torch.where(expand(t[name] < 0, x_t), x_t, output[name])
            said[name] = Estimate(mean, {LOG_P: value})
        return said


class Clamped(Denoiser):
    """Another denoiser whose estimates are moved to the nearest codeword.

    Not the posterior mean, so not the score either: it buys sure samples for diversity.

    Arguments:
        denoiser: A denoiser of codewords.
        codes: The code of each leaf that is clamped; the others stay.

    Raises:
        ValueError: If codes is empty.
    """

    def __init__(self, denoiser: Denoiser, codes: Mapping[str, Code]) -> None:
        super().__init__()
        if not codes:
            msg = "codes must name at least one leaf: Clamped(denoiser, {'token': code})"
            raise ValueError(msg)
        self.denoiser, self.process, self.codes = denoiser, denoiser.process, dict(codes)

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimate, clamped."""
        estimates = self.denoiser(batch, t, previous)
        moved = {
            name: replace(
                estimates[name],
                value=code.encode(code.decode(estimates[name].value)).to(estimates[name].value),
            )
            for name, code in self.codes.items()
        }
        return {**estimates, **moved}
