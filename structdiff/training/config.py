"""Settings of training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TrainingConfig"]


class TrainingConfig(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(default=10_000, ge=1)
    """Number of updates."""
    batch_size: int = Field(default=16, ge=1)
    """Samples per update, over all processes."""
    batch_cost: int | None = Field(default=None, ge=1)
    """Instead of a fixed number of samples: the cost (edges, for molecules) of a batch. Batches
    weigh equally, so samples of small batches, the large ones, weigh more."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per update."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of the learning rate, reached after the warm-up; it falls to zero as a cosine."""
    warm_up: int = Field(default=500, ge=0)
    """Updates over which the learning rate rises."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay of AdamW."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Second-moment decay of AdamW."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights."""
    bf16: bool = True
    """Whether heavy parts run in bfloat16 (autocast); weights stay in float32."""
    compile: bool = False
    """Whether the network goes through torch.compile."""
    threads: int = Field(default=1, ge=1)
    """Threads of each process on the CPU; results are bit-identical for the same number."""
    device: str = "auto"
    """Device to train on; auto takes a GPU if there is one."""
    save_seconds: float = Field(default=30.0, gt=0)
    """Time between two saves."""
    log_every: int = Field(default=100, ge=1)
    """Updates between two lines of metrics."""
    validate_every: int = Field(default=5_000, ge=1)
    """Updates between two validations."""
    seed: int = Field(default=0, ge=0)
    """Start of all random numbers."""
    randomness: Literal["process", "sample"] = "process"
    """What noise is drawn by: a stream in each process (fastest), or the id of each sample; then
    the numbers, and the weights up to rounding, are the same for any number of processes."""
    sharding: Literal["replicate", "shard"] = Field(default="replicate", exclude=True)
    """Where weights are with several processes: all in each, or a part in each (FSDP2), which
    brings noise by sample with it. The result is the same up to rounding, so this may change in
    the middle of a run and is not kept with it."""

    @property
    def by_sample(self) -> bool:
        """Whether noise is drawn by the id of each sample.

        Where a part of the weights is in each process, all must call the network equally often,
        also where chance decides on a call.
        """
        return self.randomness == "sample" or self.sharding == "shard"
