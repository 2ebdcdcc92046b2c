"""A law of two classes and the network that knows it at every time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structdiff import Batch, Cosine, Gaussian, Generator, Product
from structdiff.codecs import ClassDenoiser
from structdiff.parameterisations import Embedding

CLASSES, WIDTH = 3, 2
LAW = torch.tensor([[0.3, 0.0, 0.1], [0.05, 0.25, 0.0], [0.0, 0.1, 0.2]], dtype=torch.float64)
PROCESS = Product({"pair": Gaussian(Cosine(), event=(2, WIDTH))})


class Table(nn.Module):
    """Exact logits of each class of a pair, plus an offset that can be wrong."""

    def __init__(self, code: Embedding) -> None:
        super().__init__()
        self.code = code
        self.offset = nn.Parameter(torch.zeros(2, CLASSES, dtype=torch.float64))

    def forward(self, batch: Batch, clock: dict[str, Tensor], previous: object) -> dict:
        x, words, c = batch["pair"], self.code.table(), clock["pair"]
        # A clock for each row, or each number of a row.
        c = c[:, None, None] if c.ndim == 1 else c[..., :1]
        alpha, variance = torch.sigmoid(2 * c).sqrt(), torch.sigmoid(-2 * c)
        near = x[:, :, None] - alpha[..., None] * words
        near = -near.square().sum(-1) / (2 * variance)
        joint = LAW.log() + near[:, 0, :, None] + near[:, 1, None, :]
        said = torch.stack([joint.logsumexp(2), joint.logsumexp(1)], 1)
        return {"pair": said + self.offset}


def made() -> tuple[Embedding, ClassDenoiser]:
    code = Embedding(CLASSES, WIDTH)
    code.weight = nn.Parameter(Generator(4).normal((CLASSES, WIDTH), torch.float64, "cpu"))
    return code, ClassDenoiser(Table(code), PROCESS, {"pair": code})


def pairs(samples: int, seed: int = 0) -> Batch:
    place = Generator(seed).uniform((samples,), torch.float64, "cpu")
    drawn = torch.searchsorted(LAW.flatten().cumsum(0), place)
    return Batch.of({"pair": torch.stack([drawn // CLASSES, drawn % CLASSES], 1)})
