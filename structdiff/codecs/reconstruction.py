"""Training a codec: the mean of its own terms over a batch.

The trainer calls this as it calls any objective, with the codec where a denoiser would be:

    Trainer(codec, Reconstruction("image"), source, config, folder=folder).run()
"""

from __future__ import annotations

from structdiff.batch import Batch
from structdiff.codecs.latent import LearnedCodec
from structdiff.objectives import Terms
from structdiff.random import Randomness

__all__ = ["Reconstruction"]


class Reconstruction:
    """What a `LearnedCodec` says of one leaf.

    Arguments:
        leaf: The leaf that is encoded, one row per sample.

    Raises:
        ValueError: On a call, if the batch has no such leaf.

    Example:
        >>> import torch
        >>> from structdiff.codecs.autoencoder import Autoencoder
        >>> from structdiff.random import Generator
        >>> codec = Autoencoder((1, 8, 8), widths=(8, 8))
        >>> sorted(Reconstruction()(codec, Batch.of(torch.zeros(2, 1, 8, 8)), Generator(0)).leaves)
        ['divergence', 'reconstruction']
    """

    def __init__(self, leaf: str = "x") -> None:
        self.leaf = leaf

    def __call__(self, codec: LearnedCodec, batch: Batch, random: Randomness) -> Terms:
        """The codec's terms by name; there is no clock."""
        own = batch.only(self.leaf)
        source = random.scoped(leaf=self.leaf, ids=batch.ids, layout=own.layouts[self.leaf])
        return Terms(codec(own[self.leaf], source), {})
