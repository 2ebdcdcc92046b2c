r"""How likely a model holds texts to be.

A text's score is an upper bound on -log p(tokens | number of tokens). In nats it depends on the
vocabulary alone; divided by the characters it compares models of different vocabularies.

The noise that the bound is estimated with follows from the seed and from the text itself. With a
chain of steps a text has one score in whatever file it stands; in continuous time the times of a
draw are spread over the texts that are scored together, which changes a score by its error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from structdiff.artifacts.table import Cell
from structdiff.batch import Batch
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.metrics import bits_per
from structdiff.layout import Layout
from structdiff.likelihood import Bound, Interval, bound, ratio
from structdiff.likelihood.continuous import continuous_bound
from structdiff.runs import whole
from structdiff.schedules import UniformTime

__all__ = ["DRAWS", "Encoded", "Scores", "encoded", "estimate", "score", "windows"]

DRAWS = 16
_TERMS = 20  # of a chain of steps that are looked at in a draw
_TOGETHER = 1 << 13  # tokens
_LOGITS = 1 << 26  # numbers


@dataclass(frozen=True)
class Scores:
    """The bound of each text, or why it has none.

    Arguments:
        bound: Of the texts that have one, in nats.
        rows: Which texts those are.
        reasons: Why each text has none, or "".
        tokens: Number of tokens of each text; 0 where it has none.
        characters: Number of characters of each text.
        draws: Monte-Carlo repetitions.
        seed: Start of the random numbers.
        lines: Which line of its file each text is; none where texts are not lines.
    """

    bound: Bound
    rows: NDArray[np.int64]
    reasons: tuple[str, ...]
    tokens: NDArray[np.int64]
    characters: NDArray[np.int64]
    draws: int
    seed: int
    lines: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def nats(self) -> NDArray[np.float64]:
        """Nats of each text, `(texts,)`; NaN where it has none."""
        return self._spread(self.bound.total)

    @property
    def errors(self) -> NDArray[np.float64]:
        """Monte-Carlo standard error of each, `(texts,)`."""
        return self._spread(self.bound.error)

    def _spread(self, values: torch.Tensor) -> NDArray[np.float64]:
        found = np.full(len(self), np.nan)
        found[self.rows] = values.numpy()
        return found

    def per_character(self) -> tuple[Interval, float]:
        """Bits per character of all texts together, with a 95 % interval, and its error."""
        return self._ratio(self.characters)

    def per_token(self) -> tuple[Interval, float]:
        """Bits per token of all texts together, with a 95 % interval, and its error."""
        return self._ratio(self.tokens)

    def perplexity(self) -> float:
        """2 to the bits per token: an upper bound too; infinite beyond the range of floats."""
        with np.errstate(over="ignore"):
            return float(np.exp2(self.per_token()[0].value))

    def _ratio(self, counts: NDArray[np.int64]) -> tuple[Interval, float]:
        units = counts[self.rows].astype(np.float64)
        bits = self.bound.total.numpy() / math.log(2)
        error = self.bound.mean_error() * len(units)
        return ratio(bits, units), bits_per(error, float(units.sum()))

    def columns(self) -> dict[str, list[Cell]]:
        """A row for each text."""
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = self.nats / math.log(2)
            per_character, per_token = bits / self.characters, bits / self.tokens
        return {
            "text": [*range(1, len(self) + 1)],
            **({"line": [*self.lines]} if self.lines else {}),
            "characters": self.characters.tolist(),
            "tokens": self.tokens.tolist(),
            "nats": self.nats.tolist(),
            "nats_error": self.errors.tolist(),
            "bits_per_character": per_character.tolist(),
            "bits_per_token": per_token.tolist(),
            "reason": [*self.reasons],
        }

    def facts(self) -> dict[str, str | int | float]:
        """What the numbers are, and those of all texts together."""
        character, error = self.per_character()
        token, token_error = self.per_token()
        facts: dict[str, str | int | float] = {
            "kind": self.bound.kind,
            "units": f"{self.bound.units} per text",
            "given": "the number of tokens",
            "error": f"standard error over {self.draws} draws",
            "draws": self.draws,
            "seed": self.seed,
            "texts": len(self),
            "scored": len(self.rows),
            "characters": int(self.characters[self.rows].sum()),
            "tokens": int(self.tokens[self.rows].sum()),
            "bits per character": character.value,
            "bits per character, low": character.low,
            "bits per character, high": character.high,
            "bits per character, Monte-Carlo error": error,
            "bits per token": token.value,
            "bits per token, Monte-Carlo error": token_error,
            "perplexity": self.perplexity(),
            "perplexity, Monte-Carlo error": self.perplexity() * math.log(2) * token_error,
        }
        # One text has no interval.
        return {k: v for k, v in facts.items() if not (isinstance(v, float) and math.isnan(v))}

    def summary(self) -> str:
        """All texts together, and why some were not scored."""
        lines = [f"{len(self.rows):,} of {len(self):,} texts scored, {self.draws} draws of each"]
        missed = [reason for reason in self.reasons if reason]
        lines += [f"  not: {reason}" for reason in missed[:3]]
        lines += [f"  and {len(missed) - 3:,} more"] * (len(missed) > 3)
        lines.append(f"{self.bound.kind}, given the number of tokens")
        for name, (value, error) in {
            "bits per character": self.per_character(),
            "bits per token": self.per_token(),
        }.items():
            ends = f"[{value.low:.4f}, {value.high:.4f}] 95 % over texts, "
            ends = "" if math.isnan(value.low) else ends
            lines.append(f"  {name:<20}{value.value:.4f}  {ends}+- {error:.2g} Monte Carlo")
        perplexity = self.perplexity()
        spread = perplexity * math.log(2) * self.per_token()[1]
        lines.append(f"  {'perplexity':<20}{perplexity:.4g}  a token, +- {spread:.2g} Monte Carlo")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as tokens.

    Arguments:
        ids: The tokens of each text.
        characters: Number of characters of each.
        reasons: Why a text cannot be scored, or "".
        lines: Which line of its file each is; none where texts are not lines.
    """

    ids: tuple[NDArray[np.int64], ...]
    characters: NDArray[np.int64]
    reasons: tuple[str, ...]
    lines: tuple[int, ...] = ()


def encoded(codec: TextCodec, texts: Sequence[str], lines: Sequence[int] = ()) -> Encoded:
    """Texts as tokens, each by itself; what is wrong with one is its reason."""
    ids, reasons = list[NDArray[np.int64]](), list[str]()
    for text in texts:
        try:
            found, reason = codec.vocabulary.encode(text), ""
        except ValueError as error:
            found, reason = np.zeros(0, np.int64), str(error)
        if not reason and not len(found):
            reason = "it is empty"
        if len(found) > codec.length:
            most = f"the model's texts have at most {codec.length}"
            reason = f"it has {len(found)} tokens, {most}: cut it"
        ids.append(found)
        reasons.append(reason)
    characters = np.array([len(text) for text in texts], np.int64)
    return Encoded(tuple(ids), characters, tuple(reasons), tuple(lines))


def windows(codec: TextCodec, windows: Sequence[NDArray[np.int64]]) -> Encoded:
    """Windows of running text, whose tokens are known."""
    characters = np.array([codec.vocabulary.characters(ids) for ids in windows], np.int64)
    return Encoded(tuple(windows), characters, ("",) * len(windows))


def score(
    denoiser: Denoiser,
    texts: Encoded,
    *,
    draws: int = DRAWS,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """The bound of each text that has no reason against it.

    Arguments:
        denoiser: The denoiser.
        texts: The texts.
        draws: Monte-Carlo repetitions, at least 2, for the error.
        steps: Steps of the chain whose bound it is; infinitely many by default.
        seed: Start of the random numbers.
        progress: Whether to show a bar.

    Raises:
        ValueError: If no text can be scored, or a number is out of range.
    """
    if whole("draws", draws, 1) < 2:
        msg = f"draws must be at least 2, for the error, got {draws}"
        raise ValueError(msg)
    whole("seed", seed, 0)
    whole("steps", 1 if steps is None else steps, 1)
    rows = np.flatnonzero([not reason for reason in texts.reasons])
    if not len(rows):
        why = texts.reasons[0] if texts.reasons else "there is none"
        msg = f"no text can be scored, the first: {why}"
        raise ValueError(msg)
    sizes = np.array([len(one) for one in texts.ids], np.int64)
    process: Any = denoiser.process
    device, bounds = next(denoiser.parameters()).device, list[Bound]()
    with tqdm(total=len(rows), unit="text", disable=not progress) as bar:
        for part in _parts(rows, sizes[rows], process["token"].classes):
            batch = _batch([texts.ids[i] for i in part.tolist()]).to(device)
            bounds.append(_kept(estimate(denoiser, batch, Counter(seed), draws, steps)))
            bar.update(len(part))
    return Scores(
        Bound.concatenate(bounds),
        rows,
        texts.reasons,
        sizes,
        texts.characters,
        draws,
        seed,
        texts.lines,
    )


def _batch(ids: Sequence[NDArray[np.int64]]) -> Batch:
    """Texts whose numbers follow from their tokens."""
    layout = Layout.ragged([len(one) for one in ids])
    leaf = torch.from_numpy(np.concatenate(ids))
    named = torch.tensor([_name(one) for one in ids])
    return Batch({"token": leaf}, {"token": layout}, ids=named)


def estimate(
    denoiser: Denoiser, batch: Batch, random: Counter, draws: int, steps: int | None
) -> Bound:
    """The bound of a batch, for so many steps or, with None, for infinitely many."""
    if steps is None:
        return continuous_bound(denoiser, batch, random, draws=draws)
    return bound(denoiser, batch, UniformTime(steps), random, draws=draws, terms=_TERMS)


def _kept(found: Bound) -> Bound:
    """The bound in float64 on the CPU."""

    def kept(terms: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.double().cpu() for name, value in terms.items()}

    return replace(
        found,
        prior=kept(found.prior),
        divergence=kept(found.divergence),
        reconstruction=kept(found.reconstruction),
        draws=kept(found.draws),
    )


def _parts(
    rows: NDArray[np.int64], sizes: NDArray[np.int64], classes: int
) -> Iterator[NDArray[np.int64]]:
    """Texts in their order, about so many tokens together."""
    budget = max(1, min(_TOGETHER, _LOGITS // classes))
    block = (np.cumsum(sizes) - sizes) // budget
    yield from np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def _name(ids: NDArray[np.int64]) -> int:
    """A number of a text that follows from its tokens."""
    digest = blake2b(ids.astype("<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
