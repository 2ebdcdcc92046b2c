"""Choosing one of several candidates: the one that disagrees least with the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["minimum_risk"]

Candidate = TypeVar("Candidate")


def minimum_risk(
    candidates: Sequence[Candidate], risk: Callable[[Candidate, Candidate], float]
) -> Candidate:
    """The candidate of least mean risk against all candidates (minimum Bayes risk).

    Candidates that were drawn from a model stand for its law, so the mean over them is the
    expected risk of an answer, up to its Monte-Carlo error. The first of equals is returned.

    References:
        Minimum Bayes-Risk Decoding for Statistical Machine Translation (Kumar and Byrne, 2004).
        DiffuSeq: Sequence to Sequence Text Generation with Diffusion Models (Gong et al., 2022).
        https://arxiv.org/abs/2210.08933

    Arguments:
        candidates: Drawn answers to one question, at least one.
        risk: `risk(answer, truth)`, what it costs to give the answer if the other is the truth
            (e.g. 1 - BLEU, an edit distance).

    Raises:
        ValueError: If there are no candidates.

    Example:
        >>> minimum_risk(["cot", "cat", "car"], lambda a, b: sum(map(str.__ne__, a, b)))
        'cat'
    """
    if not candidates:
        msg = "candidates must hold at least one answer, got none"
        raise ValueError(msg)
    costs = [math.fsum(risk(one, other) for other in candidates) for one in candidates]
    return candidates[costs.index(min(costs))]
