"""The same table of classes as chains, as bits and as embeddings: one argument.

Three columns of 5, 8 and 4 classes with a known law of their 160 rows. A small network is trained
on draws of the law in each way; printed is the total variation between its samples and the law
(beside what as many exact draws would have), and for chains the bound on the likelihood.

    OMP_NUM_THREADS=1 python tests/benchmarks/categories.py [--as absorbing|uniform|bits|embedding]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff import DDPM, Batch, Generator, bound
from structdiff.codecs import Categories, ClassDenoiser
from structdiff.codecs.categories import How
from structdiff.nn import ClockEmbedding
from structdiff.schedules import UniformTime

CLASSES = (5, 8, 4)
WAYS: tuple[How, ...] = ("absorbing", "uniform", "bits", "embedding")


def names(classes: Sequence[int]) -> dict[str, int]:
    """Columns by name."""
    return {f"column {i}": k for i, k in enumerate(classes)}


def law_of(classes: Sequence[int], seed: int = 0, strength: float = 1.5) -> Tensor:
    """A correlated law: log p is a sum of normal numbers for each pair of columns, `(K, ...)`."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.zeros(*classes, dtype=torch.float64)
    for i in range(len(classes)):
        for j in range(i):
            shape = [k if c in (i, j) else 1 for c, k in enumerate(classes)]
            score = score + torch.randn(shape, generator=generator, dtype=torch.float64)
    return (strength * score).flatten().softmax(0).reshape(*classes)


def rows_of(places: Tensor, classes: Sequence[int]) -> Batch:
    """Rows by their place in the flattened law."""
    columns = torch.unravel_index(places, classes)
    return Batch.of(dict(zip(names(classes), columns, strict=True)))


def places_of(batch: Batch, classes: Sequence[int]) -> Tensor:
    """The inverse of `rows_of`."""
    place = torch.zeros(batch.samples, dtype=torch.int64)
    for name, k in names(classes).items():
        place = place * k + batch[name]
    return place


def total_variation(places: Tensor, law: Tensor) -> float:
    """Between the shares of the samples and the law."""
    share = torch.bincount(places, minlength=law.numel()).double() / len(places)
    return float(0.5 * (share - law.flatten()).abs().sum())


def sampling_error(law: Tensor, samples: int) -> float:
    """Mean total variation of as many exact draws, by the normal limit."""
    p = law.flatten()
    return float(0.5 * (2 * p * (1 - p) / (math.pi * samples)).sqrt().sum())


class Columns(nn.Module):
    """A perceptron over all columns, chains as one-hot symbols."""

    def __init__(self, columns: Categories, classes: Mapping[str, int], width: int = 192) -> None:
        super().__init__()
        codes = columns.codes
        self.symbols = {n: k + 1 for n, k in classes.items() if n not in codes}
        self.outputs = dict(columns.outputs)
        self.clock = ClockEmbedding(32)
        seen = sum(self.symbols.values()) + sum(code.width for code in codes.values()) + 32
        self.layers = nn.Sequential(
            nn.Linear(seen, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, sum(self.outputs.values())),
        )  # fmt: skip

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: object
    ) -> dict[str, Tensor]:
        """Outputs by column."""
        parts = [
            F.one_hot(batch[n], self.symbols[n]).float() if n in self.symbols else batch[n]
            for n in self.outputs
        ]
        first = next(iter(clock.values())).float().expand(batch.samples)
        said = self.layers(torch.cat([*parts, self.clock(first)], 1))
        return dict(zip(self.outputs, said.split([*self.outputs.values()], 1), strict=True))


def train(
    how: How, law: Tensor, *, steps: int, batch_size: int = 512, seed: int = 0
) -> tuple[Categories, ClassDenoiser]:
    """A network trained on draws of the law."""
    torch.manual_seed(seed)
    classes = names(law.shape)
    columns = Categories.of(how, classes)
    denoiser = columns.denoiser(Columns(columns, classes))
    objective, random = columns.objective(), Generator(seed)
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        place = torch.multinomial(law.flatten(), batch_size, replacement=True)
        loss = objective(denoiser, rows_of(place, law.shape), random).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    return columns, denoiser.eval()


def draw(columns: Categories, denoiser: nn.Module, samples: int, steps: int, seed: int) -> Batch:
    """Samples as classes."""
    blank = Batch.of(columns.process.empty(samples))
    drawn = DDPM(denoiser, UniformTime(steps)).sample(blank, Generator(seed))
    return columns.decode(drawn)


def bits(denoiser: ClassDenoiser, law: Tensor, steps: int) -> tuple[float, float]:
    """The bound of a chain, mean over the law, and its Monte-Carlo error."""
    rows = rows_of(torch.arange(law.numel()), law.shape)
    report = bound(denoiser, rows, UniformTime(steps), Generator(9), draws=16)
    draws = torch.stack([*report.draws.values()]).sum(0).double() @ law.flatten() / math.log(2)
    total = float(report.total.double() @ law.flatten()) / math.log(2)
    return total, float(draws.std()) / math.sqrt(len(draws))


def main() -> None:
    """Train, draw, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--as", dest="how", choices=WAYS, help="one way; all by default")
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    law = law_of(CLASSES)
    p = law.flatten()
    floor = sampling_error(law, arguments.samples)
    print(f"entropy {float(-(p * p.log2()).sum()):.3f} bits; TV of exact draws {floor:.4f}")
    for how in [arguments.how] if arguments.how else WAYS:
        start = time.process_time()
        columns, denoiser = train(how, law, steps=arguments.updates)
        spent = time.process_time() - start
        drawn = draw(columns, denoiser, arguments.samples, arguments.steps, seed=1)
        distance = total_variation(places_of(drawn, CLASSES), law)
        line = f"{how:10} TV {distance:.4f}, trained in {spent:.0f} s"
        if not columns.codes:
            value, error = bits(denoiser, law, arguments.steps)
            line += f", bound {value:.3f} +- {error:.3f} bits"
        print(line, flush=True)


if __name__ == "__main__":
    main()
