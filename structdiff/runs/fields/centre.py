r"""The field that the clean one is sought around: one that the model is shown and that is near it.

A noisy recording is near the clean one, an enlarged small image near the large one, a grey one
near the coloured. With such a field y, brought to the places of the leaf,

- `noise.centre` makes the noise end around it, x_t = y + alpha_t (x_0 - y) + sigma_t z, of mean
  alpha_t x_0 + (1 - alpha_t) y, so that a walk begins at N(y, sigma_1^2) and has less far to go;
- `sampler.start` = t begins the walk at y noised to t, and leaves out what lies before it.

They are independent of each other and of the sampler. The network sees y in any case; where the
noise lies around y it is never hidden, in training or by guidance.

References:
    Grad-TTS (Popov et al., 2021), eqs. 1-5. https://arxiv.org/abs/2105.06337
    A Study on Speech Enhancement Based on Diffusion Probabilistic Model (Lu, Tsao and Watanabe,
    2021). https://arxiv.org/abs/2107.11876
    DiffSinger (Liu et al., 2022), section 3.2: shallow diffusion. https://arxiv.org/abs/2105.02446
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.runs.fields.record import Fields
from structdiff.runs.fields.settings import FieldConfig

__all__ = ["Centre", "Seeing", "centre_of", "needed"]

_MODES = ("linear", "bilinear", "trilinear")


@dataclass(frozen=True)
class Centre:
    """A condition brought to the places and channels of a field.

    Arguments:
        name: Name of the condition.
        event: Channels and places of a field.

    Example:
        >>> import torch
        >>> Centre("seen", (1, 4))(torch.tensor([[[0.0, 1.0]]])).tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """

    name: str
    event: tuple[int, ...]

    def __call__(self, shown: Tensor) -> Tensor:
        """Fields `(samples, *event)` of conditions `(samples, channels or 1, *places)`."""
        places = self.event[1:]
        if tuple(shown.shape[2:]) != places:
            mode = _MODES[len(places) - 1]
            shown = F.interpolate(shown, size=places, mode=mode, align_corners=False)
        return shown.expand(-1, *self.event)


def centre_of(setting: str, fields: Fields) -> Centre:
    """The condition that a setting needs.

    Arguments:
        setting: The setting and its value, in words.
        fields: What the fields are.

    Raises:
        ValueError: If the model is shown no field near the clean one.
    """
    if fields.near:
        return Centre(fields.near, fields.event)
    has = f"it is shown {sorted(fields.conditions)}" if fields.conditions else "it is shown none"
    msg = (
        f"{setting} needs a model that is shown a field near the clean one, of its own shape "
        f"{fields.event} or brought to it, and {has}: choose a task.kind that shows one, or leave "
        f"{setting.split(' ')[0]} out"
    )
    raise ValueError(msg)


def needed(config: FieldConfig, fields: Fields) -> Mapping[str, Centre]:
    """The settings that need a field near the clean one, with that field.

    Raises:
        ValueError: If there is none.
    """
    start = config.sampler.start
    asked = {
        "noise.centre = true": config.noise.centre,
        f"sampler.start = {start:g}": start < 1,
    }
    return {setting: centre_of(setting, fields) for setting, is_set in asked.items() if is_set}


class Seeing(nn.Module):
    """A backbone that sees one condition even where it is said to be absent.

    Arguments:
        backbone: The backbone.
        name: The condition.
    """

    def __init__(self, backbone: nn.Module, name: str) -> None:
        super().__init__()
        self.backbone, self.name = backbone, name

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """What the backbone says."""
        present = {name: mask for name, mask in batch.present.items() if name != self.name}
        said: Mapping[str, Tensor] = self.backbone(batch.with_present(present), clock, previous)
        return said
