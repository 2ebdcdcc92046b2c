"""Codecs: objects at the boundary become records and back."""

from typing import TYPE_CHECKING

from structdiff.codecs.base import Codec
from structdiff.codecs.bits import Bits
from structdiff.codecs.categories import Categories
from structdiff.codecs.codebook import Codebook, Quantised
from structdiff.codecs.conditions import Condition, encode_conditions
from structdiff.codecs.embedded import Clamped, ClassDenoiser
from structdiff.codecs.risk import minimum_risk
from structdiff.codecs.sizes import SizeLaw, draw_sizes
from structdiff.later import later

if TYPE_CHECKING:
    from structdiff.codecs.adversarial import Opponent
    from structdiff.codecs.autoencoder import Autoencoder
    from structdiff.codecs.blocks import Blocks
    from structdiff.codecs.chain import Chain
    from structdiff.codecs.codebook import AveragedCodebook, Codewords
    from structdiff.codecs.density import DataBound, DataDensity, ThroughCodec, data_density, pdm
    from structdiff.codecs.flows import Couplings
    from structdiff.codecs.joint import JointLatent, JointObjective, MixedPrior, joint_bound
    from structdiff.codecs.kinds import described, make_codec
    from structdiff.codecs.latent import LatentCodec, LearnedCodec, StochasticCodec
    from structdiff.codecs.mel import Mel, griffin_lim, mel_filters
    from structdiff.codecs.pyramid import Pyramid, ends_by_level
    from structdiff.codecs.quantiser import VectorQuantiser
    from structdiff.codecs.reconstruction import Reconstruction
    from structdiff.codecs.residual_frames import ResidualFrames
    from structdiff.codecs.residual_quantiser import ResidualCodebook, ResidualQuantiser
    from structdiff.codecs.standardise import Identity, Standardise
    from structdiff.codecs.stored import load_codec, save_codec
    from structdiff.codecs.usage import Usage, usage_of
    from structdiff.codecs.wavelet import Wavelet

__all__ = [
    "Autoencoder",
    "AveragedCodebook",
    "Bits",
    "Blocks",
    "Categories",
    "Chain",
    "Clamped",
    "ClassDenoiser",
    "Codebook",
    "Codec",
    "Codewords",
    "Condition",
    "Couplings",
    "DataBound",
    "DataDensity",
    "Identity",
    "JointLatent",
    "JointObjective",
    "LatentCodec",
    "LearnedCodec",
    "Mel",
    "MixedPrior",
    "Opponent",
    "Pyramid",
    "Quantised",
    "Reconstruction",
    "ResidualCodebook",
    "ResidualFrames",
    "ResidualQuantiser",
    "SizeLaw",
    "Standardise",
    "StochasticCodec",
    "ThroughCodec",
    "Usage",
    "VectorQuantiser",
    "Wavelet",
    "data_density",
    "described",
    "draw_sizes",
    "encode_conditions",
    "ends_by_level",
    "griffin_lim",
    "joint_bound",
    "load_codec",
    "make_codec",
    "mel_filters",
    "minimum_risk",
    "pdm",
    "save_codec",
    "usage_of",
]

__getattr__ = later(
    __name__,
    {
        "Autoencoder": "autoencoder",
        "AveragedCodebook": "codebook",
        "Blocks": "blocks",
        "Chain": "chain",
        "Codewords": "codebook",
        "Couplings": "flows",
        "DataBound": "density",
        "DataDensity": "density",
        "Identity": "standardise",
        "JointLatent": "joint",
        "JointObjective": "joint",
        "LatentCodec": "latent",
        "LearnedCodec": "latent",
        "Mel": "mel",
        "MixedPrior": "joint",
        "Opponent": "adversarial",
        "Pyramid": "pyramid",
        "Reconstruction": "reconstruction",
        "ResidualCodebook": "residual_quantiser",
        "ResidualFrames": "residual_frames",
        "ResidualQuantiser": "residual_quantiser",
        "Standardise": "standardise",
        "StochasticCodec": "latent",
        "ThroughCodec": "density",
        "Usage": "usage",
        "VectorQuantiser": "quantiser",
        "Wavelet": "wavelet",
        "data_density": "density",
        "described": "kinds",
        "ends_by_level": "pyramid",
        "griffin_lim": "mel",
        "joint_bound": "joint",
        "load_codec": "stored",
        "make_codec": "kinds",
        "mel_filters": "mel",
        "pdm": "density",
        "save_codec": "stored",
        "usage_of": "usage",
    },
)
