r"""A transformer over frames: attention within each frame, and along time at each place.

A video `(samples, channels, frames, height, width)` is a batch of frames for a transformer over
patches; after each of its layers, a layer along time lets each row see the same row of the other
frames. Attention over F frames of S rows costs F S (F + S) instead of (F S)^2. A single frame has
no other to see: then the network is the one over patches, exactly.

References:
    VDT: General-purpose Video Diffusion Transformers via Mask Modeling (Lu et al., 2023), section
    3.2: temporal and spatial attention. https://arxiv.org/abs/2305.13311
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from structdiff.nn.attention import angles, grid
from structdiff.nn.inputs import check_inputs
from structdiff.nn.patches import PatchTransformer
from structdiff.nn.transformer import Layer

__all__ = ["FrameTransformer"]


class FrameTransformer(nn.Module):
    """A video to a video of the same size, any size.

    Arguments:
        inputs: Channels.
        outputs: Channels of the output.
        condition: Features of what is known of a sample; 0 for none.
        context: Features of a token; 0 where there are none.
        dimensions: Axes of the field, time first: 3 for a video, 2 for a moving line.
        width: Features of a patch.
        layers: Number of layers, of each kind.
        heads: Heads of attention.
        settings: Others of `PatchTransformer`.

    Raises:
        ValueError: If there is one axis; as `PatchTransformer` does.

    Example:
        >>> import torch
        >>> network = FrameTransformer(3, 3, condition=8, width=16, layers=2, heads=2)
        >>> network(torch.randn(2, 3, 5, 6, 6), torch.randn(2, 8)).shape
        torch.Size([2, 3, 5, 6, 6])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        condition: int = 0,
        context: int = 0,
        dimensions: int = 3,
        width: int = 256,
        layers: int = 8,
        heads: int = 4,
        **settings: Any,
    ) -> None:
        super().__init__()
        if dimensions < 2:
            msg = f"dimensions must be at least 2, time and places, got {dimensions}"
            raise ValueError(msg)
        self.frame = PatchTransformer(
            inputs,
            outputs,
            condition=condition,
            context=context,
            dimensions=dimensions - 1,
            width=width,
            layers=layers,
            heads=heads,
            **settings,
        )
        self.entries, modulated = width // heads, self.frame.transformer.condition
        self.times = nn.ModuleList(
            Layer(
                width,
                heads,
                depth=2 * layers,
                condition=modulated,
                causal=False,
                expand=1,
                neighbours=0,
                zero=modulated > 0,
            )
            for _ in range(layers)
        )

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`(samples, outputs, frames, *places)`.

        Arguments:
            x: A video, `(samples, inputs, frames, *places)`.
            condition: What is known of each sample, `(samples, condition)`, or None.
            context: Tokens, `(samples, tokens, context)`, or None.
            mask: Which tokens count, `(samples, tokens)`; None where all do.
        """
        check_inputs(
            x,
            condition,
            context,
            mask,
            inputs=self.frame.inputs,
            features=self.frame.condition,
            tokens=self.frame.context,
            dimensions=self.frame.dimensions + 1,
        )
        samples, frames = len(x), x.shape[2]
        known = [
            None if value is None else value.repeat_interleave(frames, 0)
            for value in (condition, context, mask)
        ]

        def along_time(k: int, h: Tensor) -> Tensor:
            length = h.shape[1]
            rows = h.reshape(samples, frames, length, -1).transpose(1, 2).flatten(0, 1)
            shown = None
            if condition is not None and self.frame.modulation is not None:
                shown = condition.repeat_interleave(length, 0).unsqueeze(1)
            angle = angles(grid((frames,), h.device), self.entries, h)
            seen: Tensor = self.times[k](rows, shown, angle, None)
            return seen.reshape(samples, length, frames, -1).transpose(1, 2).reshape(h.shape)

        after = along_time if frames > 1 else None
        out: Tensor = self.frame(x.transpose(1, 2).flatten(0, 1), *known, after=after)
        return out.reshape(samples, frames, *out.shape[1:]).transpose(1, 2)
