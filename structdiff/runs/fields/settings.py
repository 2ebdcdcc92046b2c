"""Settings that all runs of fields share; a domain adds its data and its own defaults."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from structdiff.runs.settings import Settings
from structdiff.training import TrainingConfig

__all__ = [
    "CodecConfig",
    "FieldConfig",
    "LossConfig",
    "NetworkConfig",
    "NoiseConfig",
    "SamplerConfig",
]


class CodecConfig(Settings):
    """What the model is a model of: fields, or latents of them."""

    kind: Literal["none", "standardise", "wavelet", "kl", "vq", "residual-vq"] = "none"
    """The fields themselves; shifted and scaled; their wavelets; latents of an autoencoder that is
    trained first: real ones near the normal law, codes, or several codes for each place."""
    channels: int = Field(default=4, ge=1, le=1_000)
    """Channels of a real latent, or entries of the vectors that codes stand for."""
    halvings: int = Field(default=2, ge=1, le=10)
    """How often an autoencoder or the wavelets halve each side."""
    width: int = Field(default=32, ge=1, le=10_000)
    """Channels of the autoencoder at full size."""
    codes: int = Field(default=256, ge=2, le=1_000_000)
    """Number of codes of vq and residual-vq."""
    books: int = Field(default=4, ge=1, le=64)
    """Codes for each place of residual-vq."""
    deviation: float = Field(default=0.03, gt=0)
    """Of kl: deviation of the fields around what is decoded; a larger one smooths the latents."""
    joint: bool = False
    """Whether the autoencoder of kl is trained together with the model of its latents."""
    training: TrainingConfig = TrainingConfig(
        steps=2_000, batch_size=32, learning_rate=1e-3, warm_up=100, validate_every=500
    )
    """Training of a learned codec."""

    @property
    def learned(self) -> bool:
        """Whether it is trained."""
        return self.kind in ("kl", "vq", "residual-vq")

    @property
    def discrete(self) -> bool:
        """Whether latents are codes."""
        return self.kind in ("vq", "residual-vq")


class NoiseConfig(Settings):
    """How fields or latents are noised, and what the network says of them."""

    schedule: Literal["cosine", "linear", "sigmoid", "flow", "edm"] = "cosine"
    """How the noise level rises with time."""
    shift: float = Field(default=1.0, gt=0)
    """Factor on the noise-to-signal ratio at each time: above 1 for large fields."""
    predict: Literal["velocity", "noise", "data", "straight", "edm"] = "velocity"
    """What the network predicts."""
    sigma_data: float = Field(default=0.5, gt=0)
    """Standard deviation of the data's entries, for edm."""
    process: Literal["absorbing", "mask-and-replace", "uniform"] = "absorbing"
    """Where a code goes that is noised: to a mask, to a mask and now and then to any code, or to
    any code alike."""
    replace: float = Field(default=0.1, gt=0, lt=1)
    """Share of redraws among all events of mask-and-replace."""
    centre: bool = False
    """Whether noised fields end around a field that the model is shown and that is near the clean
    one (the noisy sound, the enlarged image), and not around 0; it is then always known."""


class NetworkConfig(Settings):
    """The network."""

    kind: Literal["unet", "ddpm++", "ncsn++", "adm", "transformer", "dilated"] = "unet"
    """A U-Net; that of DDPM++, NCSN++ or ADM, whose sizes, attention and heads are the paper's;
    a transformer over patches, or a stack of dilated convolutions; of codes always a transformer
    over them."""
    width: int = Field(default=64, ge=1, le=100_000)
    """Channels at full size; of a transformer, features of a patch or of a code; of adm a multiple
    of 64."""
    layers: int = Field(default=6, ge=1, le=1_000)
    """Layers of a transformer or of the stack."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Of the U-Net: channels at each size over the width; each size is half the one before."""
    blocks: int = Field(default=2, ge=1, le=100)
    """Of every U-Net: blocks at each size."""
    attention: tuple[int, ...] = (2,)
    """Of the U-Net: at which sizes there is attention, from 0, the full one."""
    heads: int = Field(default=4, ge=1, le=1_000)
    """Heads of attention."""
    patch: int = Field(default=2, ge=1, le=1_000)
    """Side of a patch of the transformer or the stack: places that are taken together."""
    cycle: int = Field(default=10, ge=1, le=30)
    """Of the stack: after how many layers the dilations 1, 2, 4, ... begin anew."""
    features: int = Field(default=128, ge=1, le=100_000)
    """Features of the clock and the conditions."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of every U-Net: share of features that is dropped in training; 0.1 in the papers."""
    self_conditioning: bool = False
    """Whether the network sees its previous estimate."""


class LossConfig(Settings):
    """What training makes small."""

    weight: Literal["min-snr", "snr", "velocity", "sigmoid", "truncated-snr", "uniform", "p2"] = (
        "velocity"
    )
    """Weight of the error of the clean field at each signal-to-noise ratio (SNR): the smaller of
    SNR and 5; SNR, the error of the noise; SNR + 1, the error of the velocity (of edm, the weight
    of its paper); SNR that saturates; the larger of SNR and 1; 1; SNR damped at low noise."""
    bias: float = 0.0
    """Log-SNR at which sigmoid saturates."""
    times: Literal["uniform", "normal", "clock"] = "uniform"
    """Law of the times of training: uniform, or log(sigma / alpha) normal or uniform."""
    dropout: float = Field(default=0.1, ge=0, le=1)
    """Share of samples that lose their conditions in training; above 0 for guidance."""
    given: float = Field(default=0.0, ge=0, le=1)
    """Share of samples of which all but a random box is given; above 0, what is given in drawing
    is known to the network, and the law is its own."""


class SamplerConfig(Settings):
    """How fields are drawn."""

    kind: Literal["ddim", "ancestral", "multistep", "heun", "confidence"] = "ddim"
    """The walk: DDIM; with fresh noise; DPM-Solver++ of order 2; Heun's method, of two calls a
    step; of codes ancestral, or the surest first."""
    steps: int = Field(default=50, ge=1, le=1_000_000)
    """Steps of the walk."""
    grid: Literal["time", "quadratic", "log-snr", "karras"] = "time"
    """How the steps lie: evenly in time, denser near the data, evenly in log-SNR, as in edm."""
    start: float = Field(default=1.0, gt=0, le=1)
    """Time at which the walk begins: below 1, at a field that the model is shown and that is near
    the clean one, noised to that time; of the steps those before it are left out."""
    eta: float | None = Field(default=None, ge=0, le=1)
    """Fresh noise of a step: 0 none, 1 that of the Bayes kernel; by default 1 of ancestral and of
    codes, and 0 else."""
    guidance: float = 1.0
    """Scale of the conditions that are asked for: 0 unconditional, 1 conditional, above 1
    guided."""
    guide_from: float = Field(default=0.0, ge=0, le=1)
    """First time, towards the data, at which the scale holds; before it is 1."""
    guide_to: float = Field(default=1.0, ge=0, le=1)
    """Last time, towards noise."""
    threshold: Literal["clip", "dynamic", "none"] = "clip"
    """How estimates of fields are kept in [-1, 1]: cut, cut and scaled by their quantiles, or not
    at all. Latents have no bounds."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the law of each code: 1 draws from the model, below samples are more typical."""
    nucleus: float = Field(default=1.0, gt=0, le=1)
    """Share of the law of each code that is kept, the likeliest first."""
    inverse: Literal["ddrm", "replacement", "projection", "pigdm", "dps"] = "ddrm"
    """How a measurement is followed by a model that was not trained for it."""
    zeta: float = Field(default=1.0, ge=0)
    """Length of the steps of dps."""
    repaint: int = Field(default=1, ge=1, le=1_000)
    """How often stretches of steps are repeated for a given part that was not trained."""
    jump: int = Field(default=10, ge=1)
    """Steps of such a stretch."""
    batch_size: int = Field(default=64, ge=1)
    """Samples drawn together."""
    randomness: Literal["batch", "sample"] = "batch"
    """Noise from one stream per batch, or keyed by sample: then the same in every batch."""


class FieldConfig(Settings):
    """Everything about a run of fields but its data."""

    codec: CodecConfig = CodecConfig()
    noise: NoiseConfig = NoiseConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    sampler: SamplerConfig = SamplerConfig()
    training: TrainingConfig = TrainingConfig(
        steps=5_000, batch_size=32, learning_rate=1e-3, warm_up=200, validate_every=1_000
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for wrong, message in faults(self):
            if wrong:
                raise ValueError(message)
        return self


def faults(config: FieldConfig) -> list[tuple[bool, str]]:
    """What does not go together, and what to do."""
    codec, noise, network, sampler = config.codec, config.noise, config.network, config.sampler
    ends = ("cosine", "sigmoid", "flow")
    return [
        (
            noise.predict == "noise" and noise.schedule in ends and not codec.discrete,
            f"noise.predict noise has no meaning at t = 1, where noise.schedule {noise.schedule} "
            "leaves no data: predict velocity, or take the schedule linear or edm",
        ),
        (
            codec.joint and codec.kind != "kl",
            f"codec.joint trains an autoencoder with real latents, got codec.kind {codec.kind}: "
            "take kl",
        ),
        (
            codec.joint and noise.schedule in ("flow", "edm"),
            "codec.joint needs a schedule that keeps the variance, got noise.schedule "
            f"{noise.schedule}: take cosine, linear or sigmoid",
        ),
        (
            codec.joint and config.loss.given > 0,
            f"loss.given = {config.loss.given:g} is not of codec.joint: leave one of them out",
        ),
        (
            codec.discrete and sampler.kind in ("multistep", "heun"),
            f"sampler.kind {sampler.kind} is of real latents, got codec.kind {codec.kind}: take "
            "ancestral or confidence",
        ),
        (
            sampler.kind == "confidence" and not codec.discrete,
            "sampler.kind confidence is of codes: take ddim, ancestral, multistep or heun, or "
            "codec.kind vq",
        ),
        (
            (sampler.temperature, sampler.nucleus) != (1, 1) and not codec.discrete,
            "sampler.temperature and sampler.nucleus are of codes: leave them at 1, got "
            f"{sampler.temperature:g} and {sampler.nucleus:g}",
        ),
        (
            codec.discrete
            and noise.process == "mask-and-replace"
            and sampler.eta not in (None, 1),
            f"sampler.eta of noise.process mask-and-replace is 1, got {sampler.eta}: leave it out",
        ),
        (
            sampler.threshold == "dynamic" and codec.kind != "none",
            f"sampler.threshold dynamic needs the bounds of the data, which latents of codec.kind "
            f"{codec.kind} do not have: take none",
        ),
        (
            noise.centre and codec.kind != "none",
            f"noise.centre is of fields themselves, got latents of codec.kind {codec.kind}: take "
            "codec.kind none, or sampler.start alone",
        ),
        (
            sampler.start < 1 and sampler.repaint > 1,
            f"sampler.start = {sampler.start:g} leaves out what sampler.repaint = "
            f"{sampler.repaint} repeats: leave one of them at 1",
        ),
        (
            sampler.guide_from > sampler.guide_to,
            "sampler.guide_from must be at most sampler.guide_to, got "
            f"{sampler.guide_from:g} and {sampler.guide_to:g}",
        ),
        (
            network.kind == "transformer" and network.width % (2 * network.heads) > 0,
            "network.width must be a multiple of twice network.heads, "
            f"{2 * network.heads}, got {network.width}",
        ),
        (
            network.kind == "adm" and network.width % 64 > 0,
            "network.width must be a multiple of 64 for network.kind adm, whose heads have 64 "
            f"features each, got {network.width}: take 64, or another network.kind",
        ),
        (
            min(network.multipliers, default=0) < 1,
            "network.multipliers must be one or more positive numbers, got "
            f"{list(network.multipliers)}",
        ),
        (
            any(place >= len(network.multipliers) for place in network.attention),
            f"network.attention must name sizes below {len(network.multipliers)}, the number of "
            f"network.multipliers, got {list(network.attention)}",
        ),
        (
            config.loss.given > 0 and codec.discrete and noise.process == "absorbing",
            "loss.given is not needed with noise.process absorbing, where a known code looks as "
            f"in training: leave it at 0, got {config.loss.given:g}",
        ),
    ]
