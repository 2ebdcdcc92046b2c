r"""A class head on the trunk of any backbone: one network for a field and its class.

The class is one more leaf of the record. With the law of its own that a class leaf has (all of it
masked at late times) its logits are those of p(class | x_t), and the objective is the sum of both
leaves' losses, so that a weight of zero is the network alone. The head never looks at the class.

References:
    Your ViT is Secretly a Hybrid Discriminative-Generative Diffusion Model (Yang et al., 2022),
    section 3. https://arxiv.org/abs/2208.07791
    Learning Data Representations with Joint Diffusion Models (Deja et al., 2023), section 4: the
    features of a U-Net. https://arxiv.org/abs/2301.13622
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.nn.hooks import check_layers, reading
from structdiff.nn.inputs import check_sizes

__all__ = ["ClassHead"]


class ClassHead(nn.Module):
    """A backbone with logits of a class from the mean features of one of its layers.

    Arguments:
        network: A backbone of leaves with one row per sample.
        layer: Name of a layer inside, of `network.named_modules()`.
        width: Features of its output.
        classes: Number of classes.
        leaf: Name of the class leaf.
        axis: Axis of the features: 1 of convolutions, -1 of transformers.

    Raises:
        ValueError: If the layer is unknown, or a size not positive; on a call, if the layer has
            other features.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from structdiff.nn.field import FieldNetwork
        >>> from structdiff.nn.patches import PatchTransformer
        >>> small = partial(PatchTransformer, width=8, layers=2, heads=2)
        >>> network = ClassHead(FieldNetwork(small, 1), "network.transformer.layers.1", 8, 10)
        >>> batch = Batch.of({"x": torch.zeros(3, 1, 4, 4), "label": torch.zeros(3).long()})
        >>> network(batch, {"x": torch.tensor(0.5)}, None)["label"].shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        width: int,
        classes: int,
        *,
        leaf: str = "label",
        axis: int = -1,
    ) -> None:
        super().__init__()
        check_layers(network, [layer])
        check_sizes(width=width, classes=classes)
        self.network, self.layer, self.leaf, self.axis = network, layer, leaf, axis
        self.head = nn.Linear(width, classes)

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """The outputs of the network and the logits, `(samples, classes)`."""
        with reading(self.network, [self.layer]) as seen:
            said = self.network(batch, clock, previous)
        features = seen[self.layer].movedim(self.axis, 1).flatten(2).mean(2)
        if features.shape[1] != self.head.in_features:
            given = f"the layer {self.layer!r} gives {features.shape[1]} features"
            msg = f"{given} on axis {self.axis}, not {self.head.in_features}: set width and axis"
            raise ValueError(msg)
        return {**said, self.leaf: self.head(features)}
