"""Clips as the fields that a run is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.forms import Form

__all__ = ["ClipFields"]

_CHUNK = 256  # clips that are transformed together


class ClipFields:
    """The fields of clips, made once; a `FieldSet`.

    Arguments:
        clips: The clips.
        form: What a field is.
        waves: Name of a condition that is made of waves, not of fields; empty for none.

    Example:
        >>> from structdiff.domains.audio.forms import Waves
        >>> from structdiff.domains.audio.sounds import Sound
        >>> clips = Clips.of([Sound(np.ones(3, np.float32), 8)], 4, 8)
        >>> ClipFields(clips, Waves(4)).fields([0])
        tensor([[[1., 1., 1., 0.]]])
    """

    def __init__(self, clips: Clips, form: Form, waves: str = "") -> None:
        self.clips, self.form, self.waves = clips, form, waves

    def __len__(self) -> int:
        return len(self.clips)

    @cached_property
    def _all(self) -> Tensor:
        waves = torch.from_numpy(self.clips.wave).unsqueeze(1)
        return torch.cat([self.form.fields(part) for part in torch.split(waves, _CHUNK)])

    def fields(self, index: ArrayLike, /) -> Tensor:
        """These clips, `(samples, *event)`."""
        return self._all[torch.from_numpy(np.asarray(index, np.int64))]

    def conditions(self, index: ArrayLike, /) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Their classes, where there are any, known of all; and what another one is made of."""
        chosen, found = np.asarray(index, np.int64), dict[str, Tensor]()
        if self.clips.label is not None:
            found["label"] = torch.from_numpy(self.clips.label[chosen])
        if self.waves:
            found[self.waves] = torch.from_numpy(self.clips.wave[chosen]).unsqueeze(1)
        return found, {}

    def identity(self) -> dict[str, Any]:
        """What tells the clips from others."""
        return self.clips.identity()
