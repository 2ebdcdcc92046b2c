r"""Functions of what a network makes of noisy records inside.

The denoiser is called, and the outputs of some of its layers are handed to a function: an energy
(self-guidance), or a head that gives logits of classes. Either is a function of noisy records that
`Guided` differentiates through the network: no other network, and none of noisy records.

References:
    Diffusion Self-Guidance for Controllable Image Generation (Epstein et al., 2023), section 3:
    energies of activations. https://arxiv.org/abs/2306.00986
    Conditional Generation from Unconditional Diffusion Models using Denoiser Representations
    (Graikos, Yellapragada and Samaras, 2023). https://arxiv.org/abs/2306.01900
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.nn.hooks import check_layers, reading

__all__ = ["Activations"]


class Activations(nn.Module):
    """A function of the outputs of layers, as one of noisy records.

    Arguments:
        denoiser: The denoiser.
        layers: Names of its layers, as `denoiser.named_modules()` has them.
        function: From the outputs by name, and the batch, to one number a sample (for `Guided`)
            or logits `(samples, classes)` (for `Classifier`); a module is trained with this one.

    Raises:
        ValueError: If a layer is unknown.

    Example:
        >>> import torch
        >>> from structdiff import Flow, Gaussian, NetworkDenoiser, Product
        >>> class Network(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.middle = nn.Tanh()
        ...     def forward(self, batch, clock, previous):
        ...         return {"x": self.middle(batch["x"])}
        >>> denoiser = NetworkDenoiser(Network(), Product({"x": Gaussian(Flow())}))
        >>> energy = Activations(denoiser, ["backbone.middle"], lambda seen, batch: (
        ...     -(seen["backbone.middle"] - 0.5) ** 2))
        >>> energy(Batch.of(torch.zeros(2)), {"x": torch.tensor(0.5)})
        tensor([-0.2500, -0.2500])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        layers: Sequence[str],
        function: Callable[[Mapping[str, Tensor], Batch], Tensor],
    ) -> None:
        super().__init__()
        check_layers(denoiser, layers)
        self.denoiser, self.layers, self.function = denoiser, tuple(layers), function

    def forward(self, batch: Batch, t: Mapping[str, Tensor]) -> Tensor:
        """The function of the layers' outputs."""
        with reading(self.denoiser, self.layers) as seen:
            self.denoiser(batch, t)
        return self.function(seen, batch)
