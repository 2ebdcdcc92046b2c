"""One `fit` and one `sample` for every kind of record, and every part of them replaced in turn.

Each kind has two records; what is trained for seconds must bring samples near them, and near the
one whose label is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDIM,
    Batch,
    Brownian,
    Categorical,
    ClassifierFree,
    Cosine,
    Denoiser,
    Denoising,
    Flow,
    Gaussian,
    GeodesicFlow,
    Geometric,
    Heun,
    Linear,
    Multistep,
    Product,
    UniformTime,
    absorbing,
    fit,
    sample,
    uniform,
)
from structdiff.nn import ConditionFeatures
from structdiff.objectives import P2, MinSNR, UniformTimes, Weight
from structdiff.parameterisations import CleanPoint, Data, Preconditioned, Velocity
from structdiff.processes import Markov
from structdiff.samplers import PredictorCorrector
from structdiff.schedules import Survival
from structdiff.spaces import Euclidean, Torus

RECORDS: dict[str, dict[str, Tensor]] = {
    "points": {"x": torch.tensor([[-1.0, 0.5], [1.0, -0.5]])},
    "classes": {"c": torch.tensor([[0, 0, 1], [2, 1, 1]])},
    "angles": {"a": torch.tensor([[0.5, -2.0], [-2.5, 1.0]])},
    "molecules": {
        "position": torch.tensor(
            [
                [[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]],
                [[0, 1, 0], [0, 0, 0], [1, 0, 0]],
            ]
        ),
        "element": torch.tensor([[0, 1, 0], [2, 1, 2]]),
    },
}
POSITION = {"event": (3, 3)}
ELEMENT: Any = {"event": (3,)}
PROCESSES: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {
    "points": {
        "usual": lambda: {"x": Gaussian(Linear(), Preconditioned(), event=(2,))},
        "schedule": lambda: {"x": Gaussian(Cosine(), Preconditioned(), event=(2,))},
        "parameterisation": lambda: {"x": Gaussian(Linear(), Velocity(), event=(2,))},
        "process": lambda: {"x": GeodesicFlow(Euclidean(2))},
    },
    "classes": {
        "usual": lambda: {"c": Categorical(Flow(), absorbing(3), event=(3,))},
        "schedule": lambda: {"c": Categorical(Survival(Cosine()), absorbing(3), event=(3,))},
        "process": lambda: {"c": Categorical(Flow(), uniform(3), event=(3,))},
    },
    "angles": {
        "usual": lambda: {"a": Brownian(Geometric(0.05, 3.0), Torus(2))},
        "schedule": lambda: {"a": Brownian(Geometric(0.1, 4.0), Torus(2))},
        "parameterisation": lambda: {"a": Brownian(Geometric(0.05, 3.0), Torus(2), CleanPoint())},
        "process": lambda: {"a": GeodesicFlow(Torus(2))},
    },
    "molecules": {
        "usual": lambda: {
            "position": Gaussian(Cosine(), Preconditioned(), **POSITION),
            "element": Categorical(Flow(), absorbing(3), **ELEMENT),
        },
        "schedule": lambda: {
            "position": Gaussian(Linear(), Preconditioned(), **POSITION),
            "element": Categorical(Survival(Cosine()), absorbing(3), **ELEMENT),
        },
        "parameterisation": lambda: {
            "position": Gaussian(Cosine(), Data(), **POSITION),
            "element": Categorical(Flow(), absorbing(3), **ELEMENT),
        },
        "process": lambda: {
            "position": Gaussian(Geometric(0.01, 20.0), Preconditioned(), **POSITION),
            "element": Categorical(Flow(), uniform(3), **ELEMENT),
        },
    },
}
WEIGHTS: dict[str, Weight] = {"usual": MinSNR(), "weight": P2()}
SAMPLERS: dict[str, Callable[[Denoiser], Any]] = {
    "usual": lambda d: DDIM(d, UniformTime(30)),
    "sampler": lambda d: Multistep(d, UniformTime(30), order=2),
    "another sampler": lambda d: Heun(d, UniformTime(30)),
    "a third sampler": lambda d: (
        PredictorCorrector(DDIM(d, UniformTime(30)))
        if d.process.offers(Markov)
        else DDIM(d, UniformTime(30))
    ),
}
PARTS = [
    (kind, part)
    for kind in RECORDS
    for part in (*PROCESSES[kind], "weight", "network", "guidance", *list(SAMPLERS)[1:])
]


class Network(nn.Module):
    """All leaves, clocks and the label to all leaves."""

    def __init__(self, kind: str, hidden: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.shapes = {n: tuple(x.shape[1:]) for n, x in RECORDS[kind].items()}
        self.whole = {n: not x.is_floating_point() for n, x in RECORDS[kind].items()}
        self.conditions = ConditionFeatures({}, {"which": 2})
        sizes = {n: x[0].numel() for n, x in RECORDS[kind].items()}
        seen = sum((4 if self.whole[n] else 3) * size + 1 for n, size in sizes.items())
        self.said = {n: (3 if self.whole[n] else 1) * size for n, size in sizes.items()}
        self.layers = nn.Sequential(
            nn.Linear(seen + self.conditions.width, hidden),
            activation(),
            nn.Linear(hidden, hidden),
            activation(),
            nn.Linear(hidden, sum(self.said.values())),
        )

    def look(self, name: str, x: Tensor) -> Tensor:
        if self.whole[name]:
            return nn.functional.one_hot(x, 4).flatten(1).float()
        return torch.cat([x, x.sin(), x.cos()], -1).flatten(1)

    def forward(self, batch: Batch, clock: Any, previous: Any) -> Mapping[str, Tensor]:
        rows = batch.samples
        seen = [self.look(name, batch[name]) for name in self.shapes]
        seen += [clock[n].float().expand(rows)[:, None] / 4 for n in self.shapes]
        out = self.layers(torch.cat([*seen, self.conditions(batch)], 1))
        parts = torch.split(out, list(self.said.values()), 1)
        return {
            name: part.reshape(rows, *self.shapes[name], *((3,) if self.whole[name] else ()))
            for name, part in zip(self.shapes, parts, strict=True)
        }


def distance(drawn: Mapping[str, Tensor], kind: str, which: Tensor) -> Tensor:
    """Mean over leaves of how far samples are from the records that they should be."""
    parts = []
    for name, x in RECORDS[kind].items():
        gap = drawn[name] - x[which]
        if not x.is_floating_point():
            gap = (gap != 0).float()
        if kind == "angles":
            gap = torch.remainder(gap + torch.pi, 2 * torch.pi) - torch.pi
        parts.append(gap.abs().flatten(1).mean(1))
    return torch.stack(parts).mean(0)


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_each_part_is_replaced_alone(kind: str, part: str) -> None:
    torch.manual_seed(0)
    leaves = PROCESSES[kind].get(part, PROCESSES[kind]["usual"])()
    process = Product(leaves)
    wide = part == "network"
    network = Network(kind, 48 if wide else 96, nn.ReLU if wide else nn.SiLU)
    which = torch.arange(2).repeat(100)
    denoiser = fit(
        {name: x[which] for name, x in RECORDS[kind].items()},
        process,
        network,
        steps=400,
        condition_dropout=0.4,
        batch_size=64,
        learning_rate=5e-3,
        objective=Denoising(WEIGHTS.get(part, WEIGHTS["usual"]), UniformTimes(0.01)),
        condition={"which": which},
    )
    asked = torch.arange(2).repeat(32)
    walked = ClassifierFree(denoiser, 1.5) if part == "guidance" else denoiser
    sampler = SAMPLERS.get(part, SAMPLERS["usual"])(walked)
    drawn = sample(denoiser, 64, sampler=sampler, condition={"which": asked})
    drawn = drawn if isinstance(drawn, Mapping) else {"x": drawn}
    near, far = distance(drawn, kind, asked), distance(drawn, kind, 1 - asked)
    assert float(near.median()) < 0.3
    assert float((near < far).float().mean()) > 0.75
    free = sample(denoiser, 64, sampler=SAMPLERS["usual"](denoiser))
    free = free if isinstance(free, Mapping) else {"x": free}
    nearest = torch.stack([distance(free, kind, asked * 0 + i) for i in range(2)])
    assert float(nearest.min(0).values.median()) < 0.5
    assert 8 < int(nearest.argmin(0).sum()) < 56  # both records are drawn
