"""The network of a run of fields, from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from structdiff.nn.field import FieldNetwork, MakeField
from structdiff.nn.tokens import TokenNetwork
from structdiff.random import Generator
from structdiff.runs.fields.conditions import folded
from structdiff.runs.fields.process import transition_of
from structdiff.runs.fields.record import LABEL, Fields, Record
from structdiff.runs.fields.settings import FieldConfig, NetworkConfig

if TYPE_CHECKING:
    from structdiff.nn.unet import UNet

__all__ = ["backbone_of", "inside_of"]


def inside_of(config: NetworkConfig, places: Sequence[int]) -> MakeField:
    """The network inside a backbone of fields.

    Arguments:
        config: Settings of the network.
        places: Places of the fields along each axis.

    Raises:
        ValueError: If the kind is adm, and it was not made for fields of these places.
    """
    # Networks are loaded when they are asked for: a run needs one of them.
    axes = len(places)
    if config.kind == "transformer":
        from structdiff.nn.patches import PatchTransformer

        return partial(
            PatchTransformer,
            dimensions=axes,
            patch=config.patch,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
        )
    if config.kind == "dilated":
        from structdiff.nn.dilated import DilatedStack

        return partial(
            DilatedStack,
            dimensions=axes,
            patch=config.patch,
            width=config.width,
            layers=config.layers,
            cycle=config.cycle,
        )
    if config.kind != "unet":
        return partial(_published(config, max(places)), dimensions=axes, dropout=config.dropout)
    from structdiff.nn.unet import UNet

    return partial(
        UNet,
        dimensions=axes,
        width=config.width,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention=config.attention,
        heads=config.heads,
        dropout=config.dropout,
    )


def _published(config: NetworkConfig, side: int) -> partial[UNet]:
    """The U-Net of a paper."""
    from structdiff.nn.unet_presets import adm, ddpm_plus_plus, ncsn_plus_plus

    if config.kind == "ddpm++":
        return ddpm_plus_plus(config.width, config.blocks)
    if config.kind == "ncsn++":
        return ncsn_plus_plus(config.width, config.blocks)
    try:
        return adm(side, config.width, config.blocks)
    except ValueError as error:
        msg = (
            f"network.kind adm does not fit fields of {side} places a side: take unet, ddpm++ or "
            f"ncsn++ ({error})"
        )
        raise ValueError(msg) from None


def backbone_of(config: FieldConfig, fields: Fields, record: Record) -> nn.Module:
    """The network of the leaf.

    Raises:
        ValueError: If the heads of a transformer do not fit its width and the fields, or adm is
            asked for other sizes than it was made for.
    """
    network = config.network
    if record.classes or network.kind == "transformer":
        _check_heads(network, len(record.latent) - (not record.classes))
    kinds = {LABEL: len(fields.classes)} if fields.classes else {}
    if record.classes:
        return TokenNetwork(
            transition_of(config.noise, record.classes).symbols,
            record.classes,
            width=network.width,
            layers=network.layers,
            heads=network.heads,
            leaf=record.leaf,
            kinds=kinds,
            clocked=config.noise.process != "absorbing",
            self_conditioning=network.self_conditioning,
            grid=record.latent if len(record.latent) > 1 else None,
        )
    clean = torch.zeros(1, *fields.event)
    made = {name: making(clean, Generator(0)) for name, making in fields.conditions.items()}
    return FieldNetwork(
        inside_of(network, record.latent[1:]),
        record.latent[0],
        leaf=record.leaf,
        features=network.features,
        kinds=kinds,
        fields={name: folded(x, record.latent[1:]).shape[1] for name, x in made.items()},
        texts=fields.texts,
        known=config.loss.given > 0,
        self_conditioning=network.self_conditioning,
    )


def _check_heads(network: NetworkConfig, axes: int) -> None:
    """Refuse heads that have not a pair of entries for each axis of the fields."""
    pairs = 2 * network.heads
    if network.width % pairs or network.width < pairs * axes:
        msg = (
            f"network.width must be a multiple of twice network.heads, {pairs}, and at least "
            f"{pairs * axes} for {axes} axes, got {network.width}: take a larger network.width or "
            "fewer network.heads"
        )
        raise ValueError(msg)
