"""A trained model of text: training it, keeping it in a folder, drawing from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from structdiff.artifacts import Part, RunFolder, partition, piecewise
from structdiff.counter import Counter
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.data import Corpus, Data, read
from structdiff.domains.text.recipe import TextConfig, build, objective_of
from structdiff.domains.text.request import Request, request
from structdiff.domains.text.sampling import Watch, draw
from structdiff.domains.text.scoring import DRAWS, Scores, encoded, estimate, score
from structdiff.domains.text.vocabulary import Vocabulary
from structdiff.runs import (
    Progress,
    averaged,
    fit,
    load_together,
    model_of,
    stored_codec,
    stored_config,
    with_sampler,
)

__all__ = ["Run", "load_data", "train"]

_LOOKED_AT = 1 << 13  # tokens of a validation
_LOOKS = 4  # draws of each of them


def load_data(
    config: TextConfig, path: Path | str | None = None, vocabulary: Vocabulary | None = None
) -> Data:
    """The text of a config.

    Arguments:
        config: Settings.
        path: Where it lies, if not where the config says.
        vocabulary: That of a trained model, if there is one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the text cannot be used.
    """
    data = config.data
    return read(
        data.path if path is None else path,
        tokens=data.tokenizer,
        vocabulary_size=data.vocabulary,
        documents=data.documents,
        length=data.length,
        vocabulary=vocabulary,
    )


def train(
    config: TextConfig | None = None,
    out: Path | str = "runs/text",
    *,
    say: Callable[[str], None] = print,
) -> Run:
    """Train on text, or go on with a run that was stopped.

    Arguments:
        config: Settings; the defaults train on the topics of Python's help().
        out: Folder of the run.
        say: Where to report.

    Raises:
        ValueError: If the text cannot be used, or the folder has another config.
        FileNotFoundError: If the text is missing.
    """
    config = config or TextConfig()
    folder = RunFolder(out)
    data = load_together(lambda: load_data(config), config.training)
    codec = TextCodec.of(data)
    denoiser = model_of(lambda: build(config, codec), "the settings")
    run = Run(folder, config, codec, denoiser)
    check = data.validation
    fit(
        folder,
        "text",
        config,
        config.training,
        denoiser,
        objective_of(config),
        samples=len(data.train),
        collate=data.train.collate,
        identity=data.train.identity(),
        codec=codec.state(),
        costs=_costs(data.train, config),
        validate=(lambda _: run.nats(check)) if len(check) else None,
        words=[data.report],
        say=say,
    )
    return Run.load(folder.path)


def _costs(corpus: Corpus, config: TextConfig) -> list[float] | None:
    """Tokens of each sample, where batches are cut by them."""
    if config.training.batch_cost is None:
        return None
    return [float(len(corpus.window(i))) for i in range(len(corpus))]


class Run:
    """A model of text in a folder.

    Arguments:
        folder: The folder.
        config: Settings of the run.
        codec: Vocabulary and lengths.
        denoiser: The denoiser.
    """

    def __init__(
        self, folder: RunFolder, config: TextConfig, codec: TextCodec, denoiser: NetworkDenoiser
    ) -> None:
        self.folder, self.config, self.codec, self.denoiser = folder, config, codec, denoiser

    @classmethod
    def load(cls, path: Path | str) -> Run:
        """The model with averaged weights.

        Raises:
            FileNotFoundError: If the folder is not a finished run's.
            ValueError: If a file is damaged, or does not fit this version.
        """
        folder = RunFolder(path)
        config = stored_config(folder, "text", TextConfig)
        codec = stored_codec(folder, TextCodec.from_state)
        denoiser = averaged(folder, lambda: build(config, codec), config.training.device)
        return cls(folder, config, codec, denoiser)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def drawing(self, **changes: float | str | None) -> Run:
        """The same run with other settings of the sampler; None leaves one as it is.

        Raises:
            ValueError: If a setting is not known or out of range.
        """
        config = TextConfig.model_validate(with_sampler(self.config, changes).model_dump())
        return Run(self.folder, config, self.codec, self.denoiser)

    def request(
        self,
        texts: int,
        *,
        sizes: Sequence[int] | None = None,
        given: str | None = None,
        seed: int = 0,
    ) -> Request:
        """What to draw, see `request.request`."""
        running = self.config.data.documents == "running"
        return request(self.codec, texts, running=running, sizes=sizes, given=given, seed=seed)

    def draw(
        self,
        asked: Request,
        part: Part,
        *,
        done: Callable[[float], None] | None = None,
        watch: Watch | None = None,
    ) -> list[str]:
        """Texts of a part of a request, see `sampling.draw`."""
        return draw(self.denoiser, self.codec, self.config, asked, part, done=done, watch=watch)

    def sample(
        self,
        texts: int,
        *,
        sizes: Sequence[int] | None = None,
        given: str | None = None,
        seed: int = 0,
        progress: bool = True,
        watch: Watch | None = None,
        **settings: float | str | None,
    ) -> list[str]:
        """Draw texts; nothing is rejected or corrected.

        Arguments:
            texts: How many.
            sizes: Numbers of tokens to choose from; as in the training texts by default.
            given: What is known of each text, with `{6}` for six unknown tokens.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
            watch: Called with the steps done and the noisy texts of the first batch.
            settings: Fields of `SamplerConfig`: kind, steps, temperature, nucleus, ...

        Raises:
            ValueError: If a number is out of range, or the pattern does not fit.
        """
        run = self.drawing(**settings)
        asked = run.request(texts, sizes=sizes, given=given, seed=seed)
        drawn = list[str]()
        with Progress(texts, unit="text", show=progress) as bar:

            def make(part: Part) -> list[str]:
                show = watch if part.low == 0 else None
                return run.draw(asked, part, done=bar.walk(part), watch=show)

            for part, made in piecewise(partition(texts, run.config.sampler.batch_size), make):
                bar.settle(part.high - part.low)
                drawn += made
        return drawn

    def score(
        self,
        texts: Sequence[str],
        *,
        draws: int = DRAWS,
        steps: int | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> Scores:
        """Bound of each text with its Monte-Carlo error; see `scoring.score`.

        Arguments:
            texts: The texts, each of at most as many tokens as the model's.
            draws: Monte-Carlo repetitions, at least 2.
            steps: Steps of the chain whose bound it is; infinitely many by default.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
        """
        return score(
            self.denoiser,
            encoded(self.codec, texts),
            draws=draws,
            steps=steps,
            seed=seed,
            progress=progress,
        )

    def nats(self, corpus: Corpus) -> dict[str, float]:
        """Validation numbers: the bound of some samples, evenly spread, per token."""
        few = max(1, min(len(corpus), _LOOKED_AT // max(1, self.config.data.length)))
        chosen = np.unique(np.linspace(0, len(corpus) - 1, few).astype(int))
        batch = corpus.collate(chosen).to(self.device)
        report = estimate(self.denoiser, batch, Counter(0), _LOOKS, None)
        ids = batch["token"].cpu().numpy()
        total = float(report.total.double().sum())
        characters = self.codec.vocabulary.characters(ids)
        return {
            "bound": total / len(ids),
            "bits_per_character": total / math.log(2) / max(1, characters),
        }
