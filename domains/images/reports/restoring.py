r"""How well a model of a task restores held-out images that it is shown as in training.

PSNR is 10 log10(4 / mean (x - x_0)^2) for numbers in [-1, 1], in dB, the mean over images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.counter import Counter
from structdiff.domains.images.images import Images
from structdiff.domains.images.recipe import SEEN
from structdiff.domains.images.run import Run
from structdiff.layout import Layout
from structdiff.runs.fields import Given, Request
from structdiff.runs.fields.centre import Centre

__all__ = ["gains", "psnr", "to_restore"]


def psnr(found: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of numbers in [-1, 1], in dB, `(images,)`.

    Example:
        >>> psnr(torch.full((1, 1, 2, 2), 0.2), torch.zeros(1, 1, 2, 2)).round()
        tensor([20.])
    """
    return 10 * torch.log10(4 / (found - clean).square().flatten(1).mean(1).clamp(min=1e-12))


def to_restore(run: Run, held: Images, seed: int) -> Request:
    """A request to restore images, of their classes if the model knows some.

    Arguments:
        run: A model of a task.
        held: The whole images.
        seed: Start of the random numbers, of holes too.
    """
    numbers, layout = torch.arange(len(held)), Layout.regular(len(held))
    random = Counter(seed).scoped(leaf="what is shown", ids=numbers, layout=layout)
    shown = run.model.fields.conditions[SEEN](held.fields(), random)
    known = held.labels if run.model.fields.classes else None
    hole = None if run.model.fields.near else Given(shown[:, :-1], shown[:, -1:] > 0, held=False)
    return run.request(
        len(held),
        label=None if known is None else torch.from_numpy(known),
        fields={SEEN: shown},
        given=hole,
        seed=seed,
    )


def gains(run: Run, asked: Request, drawn: Images, held: Images) -> dict[str, float]:
    """PSNR of what was drawn, and of what the model was shown brought to the size of images."""
    clean, fields = held.fields(), run.model.fields
    found = {"restored": drawn.fields()}
    if fields.near:
        found["as shown, enlarged"] = Centre(SEEN, fields.event)(asked.condition[SEEN])
    return {
        f"PSNR of held-out images {how} (dB)": float(psnr(x, clean).mean())
        for how, x in found.items()
    }
