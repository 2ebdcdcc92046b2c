"""Networks; nothing about diffusion in here."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.nn.conditioning import ConditionFeatures
from structdiff.nn.embedding import ClockEmbedding, per_row
from structdiff.nn.graph import GraphNetwork, GraphOutput
from structdiff.nn.pair_network import PairNetwork
from structdiff.nn.pairs import Pairs
from structdiff.nn.tokens import TokenNetwork
from structdiff.nn.transformer import Transformer

if TYPE_CHECKING:
    from structdiff.nn.adapters import Adapted, TrainableCopy, zeroed
    from structdiff.nn.class_head import ClassHead
    from structdiff.nn.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
    from structdiff.nn.dilated import DilatedStack
    from structdiff.nn.egnn import EGNN
    from structdiff.nn.encoders import EncodedConditions, GraphEncoder, SequenceEncoder, SetEncoder
    from structdiff.nn.energy import EnergyGradient
    from structdiff.nn.experts import Experts
    from structdiff.nn.field import FieldNetwork, MakeField
    from structdiff.nn.frames import FrameTransformer
    from structdiff.nn.graph_networks import graph_network
    from structdiff.nn.graph_transformer import GraphTransformer
    from structdiff.nn.group_norm import AdaptiveGroupNorm
    from structdiff.nn.hooks import editing, reading
    from structdiff.nn.interface import InterfaceNetwork
    from structdiff.nn.painn import PaiNN
    from structdiff.nn.pair_head import PairHead
    from structdiff.nn.patches import PatchTransformer
    from structdiff.nn.point_attention import FrameUpdate, InvariantPointAttention
    from structdiff.nn.resampling import Double, Halve
    from structdiff.nn.state_space import StateSpace
    from structdiff.nn.tensor_product import TensorProductNetwork
    from structdiff.nn.unet import UNet
    from structdiff.nn.unet_presets import adm, ddpm_plus_plus, ncsn_plus_plus

__all__ = [
    "Adapted",
    "AdaptiveGroupNorm",
    "ClassHead",
    "ClockEmbedding",
    "ConditionFeatures",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "DilatedStack",
    "Double",
    "EGNN",
    "EncodedConditions",
    "EnergyGradient",
    "Experts",
    "FieldNetwork",
    "FrameTransformer",
    "FrameUpdate",
    "GraphEncoder",
    "GraphNetwork",
    "GraphOutput",
    "GraphTransformer",
    "Halve",
    "InterfaceNetwork",
    "InvariantPointAttention",
    "MakeField",
    "PaiNN",
    "PairHead",
    "PairNetwork",
    "Pairs",
    "PatchTransformer",
    "SequenceEncoder",
    "SetEncoder",
    "StateSpace",
    "TensorProductNetwork",
    "TokenNetwork",
    "TrainableCopy",
    "Transformer",
    "UNet",
    "adm",
    "ddpm_plus_plus",
    "editing",
    "graph_network",
    "ncsn_plus_plus",
    "per_row",
    "reading",
    "zeroed",
]

__getattr__ = later(
    __name__,
    {
        "Adapted": "adapters",
        "AdaptiveGroupNorm": "group_norm",
        "ClassHead": "class_head",
        "ConvolutionalDecoder": "convolutional",
        "ConvolutionalEncoder": "convolutional",
        "DilatedStack": "dilated",
        "Double": "resampling",
        "EGNN": "egnn",
        "EncodedConditions": "encoders",
        "EnergyGradient": "energy",
        "Experts": "experts",
        "FieldNetwork": "field",
        "FrameTransformer": "frames",
        "FrameUpdate": "point_attention",
        "GraphEncoder": "encoders",
        "GraphTransformer": "graph_transformer",
        "Halve": "resampling",
        "InterfaceNetwork": "interface",
        "InvariantPointAttention": "point_attention",
        "MakeField": "field",
        "PaiNN": "painn",
        "PairHead": "pair_head",
        "PatchTransformer": "patches",
        "SequenceEncoder": "encoders",
        "SetEncoder": "encoders",
        "StateSpace": "state_space",
        "TensorProductNetwork": "tensor_product",
        "TrainableCopy": "adapters",
        "UNet": "unet",
        "adm": "unet_presets",
        "ddpm_plus_plus": "unet_presets",
        "editing": "hooks",
        "graph_network": "graph_networks",
        "ncsn_plus_plus": "unet_presets",
        "reading": "hooks",
        "zeroed": "adapters",
    },
)
