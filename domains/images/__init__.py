"""Images: pictures of one size, drawn from noise, as pixels or as latents of a codec."""

from structdiff.domains.images import commands
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.data import Data, read
from structdiff.domains.images.images import Images
from structdiff.domains.images.recipe import ImagesConfig
from structdiff.domains.images.run import Run, train

__all__ = ["Data", "ImageCodec", "Images", "ImagesConfig", "Run", "commands", "read", "train"]
