"""The text recipe: how data, process, network and training are put together.

A text is a row of tokens, all of which are noised by one chain: they are masked, redrawn, or both.
Training makes the bound on -log p(text) small, or a relative of it; sampling walks the chain back,
or unmasks tokens one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator

from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.data import Documents
from structdiff.domains.text.network import text_network
from structdiff.guidance.sharpened import Sharpened
from structdiff.objectives import (
    ContinuousBound,
    Denoising,
    GivenRows,
    Objective,
    OrderAgnostic,
    PowerTimes,
    StepBound,
    TimeDistribution,
    Uniform,
    UniformTimes,
    random_rows,
)
from structdiff.processes import Categorical, Product, absorbing, marginal, uniform
from structdiff.processes.transitions import Transition
from structdiff.processes.transitions.replace import mask_and_replace
from structdiff.runs import Settings
from structdiff.samplers import DDPM, Ancestral, Walk
from structdiff.samplers.blocks import Blocks
from structdiff.samplers.first_hitting import FirstHitting
from structdiff.samplers.leaping import Leaping
from structdiff.samplers.remasking import Remasking
from structdiff.samplers.routing import Routed
from structdiff.schedules import Flow, Schedule, UniformTime
from structdiff.schedules.chains import LogLinear, MaskCosine, MutualInformation
from structdiff.training import TrainingConfig

__all__ = ["SamplerConfig", "TextConfig", "build", "objective_of", "walk_of"]


class DataConfig(Settings):
    """Which text."""

    path: str | None = None
    """A file of UTF-8 text, plain, .gz or .xz, or a folder of them; without one, the topics of
    Python's help()."""
    tokenizer: str = "bpe"
    """What the text is cut into: characters, bytes, bpe, wordpiece, or the path of a
    tokenizer.json."""
    vocabulary: int = Field(default=1024, ge=2, le=1_000_000)
    """Number of tokens of bpe or wordpiece."""
    documents: Documents = "running"
    """Whether the text is running, or each line is a document."""
    length: int = Field(default=128, ge=1, le=100_000)
    """Tokens of a window of running text, and the most of a document."""


class NoiseConfig(Settings):
    """How tokens are noised."""

    process: Literal["absorbing", "uniform", "marginal", "mask-and-replace"] = "absorbing"
    """Where a token goes that is noised: to a mask, to any token alike, to tokens as often as they
    are in the data, or to a mask and now and then to any token."""
    schedule: Literal["linear", "cosine", "log-linear", "mutual-information"] = "linear"
    """How the share of noised tokens rises with time."""
    replace: float = Field(default=0.1, gt=0, lt=1)
    """Share of redraws among all events of mask-and-replace."""


class NetworkConfig(Settings):
    """The transformer."""

    width: int = Field(default=128, ge=1, le=100_000)
    """Features of a token."""
    layers: int = Field(default=4, ge=1, le=1_000)
    """Number of layers."""
    heads: int = Field(default=4, ge=1, le=1_000)
    """Heads of attention; the width is a multiple of twice as many."""
    self_conditioning: bool = False
    """Whether the network sees its previous estimate; for the objective cross-entropy."""


class LossConfig(Settings):
    """What training makes small."""

    objective: Literal["bound", "cross-entropy", "order-agnostic", "steps"] = "bound"
    """The bound in continuous time, the plain cross-entropy of the clean tokens, the bound over
    all orders of unmasking, or the bound of a chain of so many steps."""
    steps: int = Field(default=1000, ge=1, le=1_000_000)
    """Steps of the chain of the objective steps."""
    auxiliary: float = Field(default=0.0, ge=0)
    """Factor on the cross-entropy that is added to the objective steps."""
    given: float = Field(default=0.0, ge=0, le=1)
    """Share of texts of which tokens are given; above 0, --given is exact. With absorbing noise it
    is exact without: a token that is not masked is clean, whether it was given or not."""


class SamplerConfig(Settings):
    """How texts are drawn."""

    kind: Literal["ancestral", "leaping", "first-hitting", "confidence", "remasking", "blocks"] = (
        "ancestral"
    )
    """The chain walked back; the same with frozen rates; tokens unmasked one by one at random
    times (a call for each); the surest tokens first; ancestral with tokens drawn anew; blocks of
    tokens from left to right, each ancestral."""
    steps: int = Field(default=128, ge=1, le=1_000_000)
    """Calls of the network; of blocks, for each block. First-hitting takes one for each token."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the law of each token: 1 draws from the model, below texts are more typical."""
    nucleus: float = Field(default=1.0, gt=0, le=1)
    """Share of the law of each token that is kept, the likeliest first: 1 keeps all."""
    eta: float = Field(default=1.0, ge=0, le=1)
    """Fresh noise of ancestral steps: 0 none, 1 that of the Bayes kernel."""
    remask: float = Field(default=1.0, ge=0)
    """How often each token is noised anew on its way, on average, by remasking."""
    block: int = Field(default=16, ge=1)
    """Tokens of a block."""
    batch_size: int = Field(default=32, ge=1)
    """Texts drawn together."""
    randomness: Literal["batch", "sample"] = "batch"
    """Noise from one stream per batch, or keyed by text: then the same in every batch."""


class TextConfig(Settings):
    """Everything about a run."""

    data: DataConfig = DataConfig()
    noise: NoiseConfig = NoiseConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    sampler: SamplerConfig = SamplerConfig()
    training: TrainingConfig = TrainingConfig(
        steps=2_000, batch_size=16, learning_rate=2e-3, warm_up=100, validate_every=500
    )

    @model_validator(mode="after")
    def _fits(self) -> TextConfig:
        for wrong, message in _faults(self):
            if wrong:
                raise ValueError(message)
        return self


def _faults(config: TextConfig) -> list[tuple[bool, str]]:
    """What does not go together, and what to do."""
    masked, loss = config.noise.process == "absorbing", config.loss
    return [
        (
            config.network.width % (2 * config.network.heads) > 0,
            "network.width must be a multiple of twice network.heads, "
            f"{2 * config.network.heads}, got {config.network.width}",
        ),
        (
            loss.objective == "order-agnostic" and not masked,
            "loss.objective order-agnostic unmasks tokens: it needs noise.process absorbing, "
            f"got {config.noise.process}",
        ),
        (
            loss.given > 0 and masked,
            "loss.given is not needed with noise.process absorbing, where a known token looks as "
            f"in training: leave it at 0, got {loss.given}",
        ),
        (
            loss.auxiliary > 0 and loss.objective != "steps",
            f"loss.auxiliary is added to loss.objective steps alone, got {loss.auxiliary} with "
            f"{loss.objective}: leave it at 0",
        ),
        (
            config.network.self_conditioning and loss.objective != "cross-entropy",
            "network.self_conditioning needs loss.objective cross-entropy, got "
            f"{loss.objective}: a bound holds for a model that sees x_t alone",
        ),
        (
            config.sampler.kind in ("first-hitting", "blocks") and not masked,
            f"sampler.kind {config.sampler.kind} needs noise.process absorbing, "
            f"got {config.noise.process}",
        ),
    ]


def transition_of(config: TextConfig, codec: TextCodec) -> Transition:
    """Where noised tokens go."""
    classes = codec.vocabulary.size
    make: dict[str, Callable[[], Transition]] = {
        "absorbing": lambda: absorbing(classes),
        "uniform": lambda: uniform(classes),
        "marginal": lambda: marginal(torch.from_numpy(codec.vocabulary.frequencies)),
        "mask-and-replace": lambda: mask_and_replace(classes, config.noise.replace),
    }
    return make[config.noise.process]()


def schedule_of(config: TextConfig, codec: TextCodec, transition: Transition) -> Schedule:
    """How fast they go."""
    frequencies = torch.from_numpy(codec.vocabulary.frequencies)
    make: dict[str, Callable[[], Schedule]] = {
        "linear": Flow,
        "cosine": MaskCosine,
        "log-linear": LogLinear,
        "mutual-information": lambda: MutualInformation(frequencies, transition.stationary),
    }
    return make[config.noise.schedule]()


def build(config: TextConfig, codec: TextCodec) -> NetworkDenoiser:
    """The untrained denoiser; its weights follow from the seed."""
    transition = transition_of(config, codec)
    schedule = schedule_of(config, codec, transition)
    process = Product({"token": Categorical(schedule, transition)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        backbone = text_network(
            transition.symbols,
            codec.vocabulary.size,
            clocked=config.noise.process != "absorbing",
            **config.network.model_dump(),
        )
    return NetworkDenoiser(backbone, process, self_conditioning=config.network.self_conditioning)


def times_of(config: TextConfig) -> TimeDistribution:
    """At which times the bound is looked at.

    With masks alone the network sees no clock, and before t = 1 / length, where a text has less
    than one mask, there is little to learn at a great weight. Other networks must see all times.
    """
    masked = config.noise.process == "absorbing"
    return UniformTimes(1 / (config.data.length + 1)) if masked else PowerTimes()


def objective_of(config: TextConfig) -> Objective:
    """What training makes small, in nats a token."""
    loss = config.loss
    make: dict[str, Callable[[], Objective]] = {
        "bound": lambda: ContinuousBound(times_of(config)),
        "cross-entropy": lambda: Denoising(
            Uniform(), self_conditioning=0.5 if config.network.self_conditioning else 0.0
        ),
        "order-agnostic": OrderAgnostic,
        "steps": lambda: StepBound(UniformTime(loss.steps), loss.auxiliary),
    }
    objective = make[loss.objective]()
    return GivenRows(objective, random_rows, rate=loss.given) if loss.given else objective


def walk_of(config: SamplerConfig, denoiser: Denoiser) -> Walk:
    """The walk from noise to texts."""
    if (config.temperature, config.nucleus) != (1, 1):
        denoiser = Sharpened(denoiser, temperature=config.temperature, nucleus=config.nucleus)
    grid = UniformTime(config.steps)
    share = min(1.0, config.remask / config.steps)
    make: dict[str, Callable[[], Walk]] = {
        "ancestral": lambda: Ancestral(denoiser, grid, eta=config.eta),
        "leaping": lambda: Leaping(denoiser, grid),
        "first-hitting": lambda: FirstHitting(denoiser),
        "confidence": lambda: Routed(denoiser, grid),
        "remasking": lambda: Remasking(DDPM(denoiser, grid), share),
        "blocks": lambda: Blocks(denoiser, lambda inner: DDPM(inner, grid), config.block),
    }
    return make[config.kind]()
