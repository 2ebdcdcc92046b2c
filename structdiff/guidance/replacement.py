r"""Holding entries of a sample with a model that was trained without holding any: replacement.

The estimate of the entries that are known is replaced by their oracle, so that a step at eta = 1
noises them by the exact bridge q(x_s | x_t, x_0) and the last step returns them. The network sees
one time for all rows, as in training. The others are drawn as if the noisy known ones were all
that is known of them: right where the model is sure, biased in general (the known entries do not
look ahead), which `given=` with a model trained with masks is not, and `RePaint` is less.

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), appendix I.2.
    https://arxiv.org/abs/2011.13456
    RePaint (Lugmayr et al., 2022). https://arxiv.org/abs/2201.09865
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Tractable

__all__ = ["Replacement"]


class Replacement(Denoiser):
    """A denoiser that knows some entries.

    Arguments:
        denoiser: The denoiser.
        known: A batch of the same rows whose `given` masks, `(rows,)` or `(rows, *event)`, say
            which of its values are known.

    Raises:
        ValueError: If the process has no oracle; on a call, if single entries are known of a
            leaf that is held by rows (a manifold, a zero-centre subspace).
    """

    def __init__(self, denoiser: Denoiser, known: Batch) -> None:
        super().__init__()
        if not denoiser.process.offers(Tractable):
            msg = (
                f"replacement needs an oracle: {type(denoiser.process).__name__} is not Tractable"
            )
            raise ValueError(msg)
        self.denoiser, self.known = denoiser, known
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimate, with the oracle where it is known."""
        estimate = self.denoiser(batch, t, previous)
        process: Any = self.process.bind(batch)
        imposed: Mapping[str, Estimate] = process.impose(
            estimate, self.known.leaves, self.known.given, batch.leaves, t
        )
        return imposed
