r"""Frames as what the frames before do not say: a prediction, and a residual in its scale.

    r_k = (x_k - mu(x_{<k})) / sigma(x_{<k}),    x_k = mu(x_{<k}) + sigma(x_{<k}) r_k.

The map is one-to-one whatever the network, and triangular in time, so
log |det dr/dx| = -sum log sigma. The network sees some frames before and predicts the change from
the last one; at first mu is that frame (zero before the first) and sigma is one. Trained by the
likelihood of a standard normal r, it leaves to a diffusion model what is random.

References:
    Diffusion Probabilistic Modeling for Video Generation (Yang, Srivastava and Mandt, 2022),
    section 3.2. https://arxiv.org/abs/2203.09481
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.codecs.checks import check_finite, check_shape, shape_of
from structdiff.codecs.latent import LearnedCodec
from structdiff.random import Randomness

__all__ = ["ResidualFrames"]

_CONVOLUTIONS = {0: nn.Conv1d, 1: nn.Conv1d, 2: nn.Conv2d}


class ResidualFrames(LearnedCodec):
    """Films or series to residuals of a prediction from the frames before.

    Arguments:
        event: Shape of one x, `(channels, frames)` of a series, `(channels, frames, length)` or
            `(channels, frames, height, width)` of a film.
        past: How many frames the prediction sees, at least 1.
        width: Channels of its network.
        bound: Largest |log sigma|, positive.

    Raises:
        ValueError: If a number is out of range, or the event has other axes.

    Example:
        >>> codec = ResidualFrames((1, 3))
        >>> codec.encode(torch.tensor([[[1.0, 4.0, 6.0]]]))
        tensor([[[1., 3., 2.]]], grad_fn=...)
    """

    def __init__(
        self, event: Sequence[int], *, past: int = 2, width: int = 32, bound: float = 5.0
    ) -> None:
        super().__init__()
        self.event = self.latent = shape_of("event", event, axes=2)
        self.classes, self.past, self.width, self.bound = 0, past, width, bound
        places = len(self.event) - 2
        if places not in _CONVOLUTIONS:
            msg = f"event must be a series or a film of at most two axes, got {self.event}"
            raise ValueError(msg)
        if past < 1 or width < 1 or not 0 < bound < math.inf:
            msg = f"past, width and bound must be positive, got {past}, {width} and {bound}"
            raise ValueError(msg)
        kernel = 3 if places else 1
        make = _CONVOLUTIONS[places]
        self.says = nn.Sequential(
            make((self.event[0] + 1) * past, width, kernel, padding=kernel // 2),
            nn.SiLU(),
            make(width, 2 * self.event[0], kernel, padding=kernel // 2),
        )
        nn.init.zeros_(self.says[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.says[-1].bias)  # type: ignore[arg-type]

    def fit(self, x: Tensor) -> None:
        """Nothing is measured.

        Raises:
            ValueError: If there are no samples, or they have another shape or are not finite.
        """
        check_finite("x", x, self.event)

    def predicted(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma of a frame.

        Arguments:
            before: The frames before, the last one last, `(n, channels + 1, past, *places)`; the
                further channel is one where there is such a frame, and zero before the first.
        """
        last = before[:, :-1, -1]
        seen = before.flatten(1, 2)
        seen = seen.reshape(*seen.shape[:2], *(seen.shape[2:] or (1,)))
        said = self.says(seen).to(before.dtype)  # before exp, under autocast
        change, log_scale = said.chunk(2, 1)
        log_scale = self.bound * torch.tanh(log_scale / self.bound)
        return last + change.reshape(last.shape), log_scale.reshape(last.shape)

    def _all_predicted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma of all frames, from the true ones before."""
        check_shape("x", x, self.event)
        count = x.shape[2]
        whole = torch.cat([self._start(x), _marked(x)], 2)
        before = torch.stack([whole[:, :, k : k + count] for k in range(self.past)], 3)
        mean, log_scale = self.predicted(before.movedim(2, 1).flatten(0, 1))
        shape = (len(x), count, x.shape[1], *x.shape[3:])
        return mean.reshape(shape).movedim(1, 2), log_scale.reshape(shape).movedim(1, 2)

    def _start(self, x: Tensor) -> Tensor:
        """Frames that are not there."""
        return x.new_zeros(len(x), x.shape[1] + 1, self.past, *x.shape[3:])

    def encode(self, x: Tensor) -> Tensor:
        """The residuals.

        Raises:
            ValueError: If x has another shape.
        """
        mean, log_scale = self._all_predicted(x)
        return (x - mean) * (-log_scale).exp()

    def decode(self, z: Tensor) -> Tensor:
        """Frame by frame, each from those that are there.

        Raises:
            ValueError: If z has another shape.
        """
        check_shape("z", z, self.latent)
        seen, frames = self._start(z), []
        for residual in z.unbind(2):
            mean, log_scale = self.predicted(seen)
            frames.append(mean + log_scale.exp() * residual)
            seen = torch.cat([seen[:, :, 1:], _marked(frames[-1].unsqueeze(2))], 2)
        return torch.stack(frames, 2)

    def log_det(self, x: Tensor) -> Tensor:
        """Minus the sum of all log sigma."""
        return -self._all_predicted(x)[1].flatten(1).sum(1)

    def terms(self, x: Tensor, random: Randomness) -> Mapping[str, Tensor]:
        """The `surprise` -log p(x) where residuals are standard normal, in nats per entry."""
        del random
        mean, log_scale = self._all_predicted(x)
        residual = (x - mean) * (-log_scale).exp()
        nats = 0.5 * (residual.square() + math.log(2 * math.pi)) + log_scale
        return {"surprise": nats.flatten(1).mean(1)}

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "event": list(self.event),
            "past": self.past,
            "width": self.width,
            "bound": self.bound,
        }


def _marked(x: Tensor) -> Tensor:
    """Frames with a channel of ones."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)
