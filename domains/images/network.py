"""The network of images: a U-Net, a transformer over patches, or one over codes.

All are made by `structdiff.runs.fields.build`; here one can look at what settings give before
anything is trained.
"""

from __future__ import annotations

from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.recipe import ImagesConfig, fields_of
from structdiff.runs.fields.build import build, codec_of
from structdiff.runs.fields.record import Record

__all__ = ["image_network"]


def image_network(config: ImagesConfig, codec: ImageCodec) -> NetworkDenoiser:
    """The untrained denoiser of settings, on random weights that follow from the seed.

    Arguments:
        config: Settings.
        codec: Shape and classes of the images.

    Raises:
        ValueError: If the settings do not fit the images.

    Example:
        >>> codec = ImageCodec((1, 8, 8), ("zero", "one"))
        >>> small = {"width": 8, "multipliers": (1,), "attention": (0,), "features": 8}
        >>> denoiser = image_network(ImagesConfig(network=small), codec)
        >>> sum(weight.numel() for weight in denoiser.parameters()) < 100_000
        True
    """
    fields = fields_of(config, codec)
    return build(config, fields, Record(fields, codec_of(config, fields)))
