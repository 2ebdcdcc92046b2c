"""The pieces of a run of fields, put together: denoiser, objective, codec."""

from __future__ import annotations

import torch

from structdiff.denoiser import NetworkDenoiser
from structdiff.runs.fields.codec import codec_of
from structdiff.runs.fields.network import backbone_of
from structdiff.runs.fields.objective import objective_of
from structdiff.runs.fields.process import process_of
from structdiff.runs.fields.record import Fields, Record
from structdiff.runs.fields.settings import FieldConfig

__all__ = ["build", "codec_of", "objective_of"]


def build(config: FieldConfig, fields: Fields, record: Record) -> NetworkDenoiser:
    """The untrained denoiser; its weights follow from the seed.

    Raises:
        ValueError: If conditions are asked for that a model of codes cannot see.
    """
    if record.classes and (fields.conditions or fields.texts):
        names = sorted([*fields.conditions, *fields.texts])
        msg = f"a model of codes cannot see {names}: take another codec.kind than vq"
        raise ValueError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        backbone = backbone_of(config, fields, record)
    process = process_of(config, record)
    return NetworkDenoiser(backbone, process, self_conditioning=config.network.self_conditioning)
