"""The pieces of a run of fields, put together: denoiser, objective, codec."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from structdiff.denoiser import NetworkDenoiser
from structdiff.random import Randomness
from structdiff.runs.fields.centre import Seeing, needed
from structdiff.runs.fields.codec import codec_of
from structdiff.runs.fields.conditions import Making
from structdiff.runs.fields.network import backbone_of
from structdiff.runs.fields.objective import objective_of
from structdiff.runs.fields.process import process_of
from structdiff.runs.fields.record import Fields, Record
from structdiff.runs.fields.settings import FieldConfig

__all__ = ["build", "codec_of", "objective_of"]


def build(config: FieldConfig, fields: Fields, record: Record) -> NetworkDenoiser:
    """The untrained denoiser; its weights follow from the seed.

    Raises:
        ValueError: If conditions are asked for that a model of codes cannot see, or a setting
            needs a field that the model is not shown.
    """
    if record.classes and (fields.conditions or fields.texts):
        names = sorted([*fields.conditions, *fields.texts])
        msg = f"a model of codes cannot see {names}: take another codec.kind than vq"
        raise ValueError(msg)
    needed(config, fields)
    makings = {name: Exemplary(making) for name, making in fields.conditions.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        backbone: nn.Module = backbone_of(config, replace(fields, conditions=makings), record)
    if config.noise.centre:
        backbone = Seeing(backbone, fields.near)
    process = process_of(config, fields, record)
    return NetworkDenoiser(backbone, process, self_conditioning=config.network.self_conditioning)


class Exemplary(Making):
    """Another making, which makes an example of a field even where it is made of something else.

    Arguments:
        making: The other making.
    """

    def __init__(self, making: Making) -> None:
        super().__init__()
        self.making = making

    def forward(self, clean: Tensor, random: Randomness) -> Tensor:
        """The condition, of zeros where it is not made of the field."""
        source = self.making.source
        of = clean if source is None else clean.new_zeros(len(clean), *source)
        made: Tensor = self.making(of, random)
        return made
