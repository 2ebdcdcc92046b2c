r"""Training molecules per second and memory of our networks beside EDM's, at equal size.

A step is loss, gradients and optimiser for a batch of molecules of QM9, hydrogens explicit. EDM
does its own, on molecules padded to the largest of the batch, with its own AdamW. Ours do the same
task on packed atoms: noise on centred positions and on one-hot elements by the same schedule,
squared errors of the noise estimated, AdamW with the same settings; their edges are made inside
the clock, anew for each batch, while those of EDM, which it keeps by size, are made before.

Memory is the most that a step holds at once beyond weights and the state of the optimiser, as the
profiler of torch counts it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from edm_peer import ELEMENTS, EDMCode, Padded, quiet
from timing import Contestant, Ratio, ratios
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.domains.molecules.data import embedded
from structdiff.domains.molecules.structures import Structures
from structdiff.layout import Layout

__all__ = ["BARS", "INPUTS", "KINDS", "Kind", "compare", "table"]

INPUTS = len(ELEMENTS) + 1  # and the time, which EDM's network has among its outputs too
FLOOR = "EDM"
Step = Callable[[Any], None]


@dataclass(frozen=True)
class Kind:
    """A network of `structdiff.nn`, and what its constructor gets beside sizes."""

    module: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: str = "torch"

    def here(self) -> bool:
        """Whether it can be imported."""
        return bool(find_spec(f"structdiff.nn.{self.module}") and find_spec(self.extra))

    def make(self, layers: int, width: int) -> nn.Module:
        """One of this size."""
        network = getattr(import_module(f"structdiff.nn.{self.module}"), self.name)
        sizes = {"layers": layers, "width": width, "hidden": width}
        return network(INPUTS, INPUTS, **sizes | dict(self.options))


KINDS = {
    "EGNN": Kind("egnn", "EGNN"),
    "PaiNN": Kind("painn", "PaiNN"),
    "PairNetwork": Kind("pair_network", "PairNetwork"),
    "e3nn, l_max 1": Kind("tensor_product", "TensorProductNetwork", {"degree": 1}, "e3nn"),
    "e3nn, l_max 2": Kind("tensor_product", "TensorProductNetwork", {"degree": 2}, "e3nn"),
    "graph transformer": Kind("graph_transformer", "GraphTransformer"),
}
BARS = {"EGNN": 3.4, "PaiNN": 3.4}  # times EDM's molecules per second, for the faster precision
SLACK = 1.15


@dataclass(frozen=True)
class Packed:
    """Molecules as rows."""

    element: Tensor
    position: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, molecules: Structures, index: np.ndarray) -> Packed:
        """Some molecules."""
        part = molecules.select(index)
        element = torch.from_numpy(np.searchsorted(ELEMENTS, part.number))
        position = torch.from_numpy(np.asarray(part.position, np.float32).copy())
        return cls(F.one_hot(element, len(ELEMENTS)).float(), position, tuple(part.count.tolist()))


def packed_loss(network: nn.Module, batch: Packed) -> Tensor:
    """EDM's training loss on rows: squared error of the noise, by dimensions of the padded batch.

    With alpha^2 = (1 - 2s) (1 - t^2)^2 + s, s = 1e-5, the schedule polynomial_2.
    """
    layout = Layout.ragged(batch.counts)
    clean = torch.cat(
        [batch.position - layout.spread(layout.mean(batch.position)), batch.element / 4], 1
    )
    noise = torch.randn_like(clean)
    noise[:, :3] -= layout.spread(layout.mean(noise[:, :3]))
    time = torch.randint(0, 1001, (layout.samples, 1)) / 1000
    square = (1 - 2e-5) * (1 - time.square()).square() + 1e-5
    alpha, sigma = layout.spread(square.sqrt()), layout.spread((1 - square).sqrt())
    noisy = alpha * clean + sigma * noise
    features = torch.cat([noisy[:, 3:], layout.spread(time)], 1)
    out = network(features, noisy[:, :3], layout)
    vector = out[1] - layout.spread(layout.mean(out[1]))
    guess = torch.cat([vector.float(), out[0][:, : len(ELEMENTS)].float()], 1)
    errors = layout.sum((guess - noise).square().sum(1))
    return 0.5 * errors.mean() / (clean.shape[1] * max(batch.counts))


def packed_step(kind: Kind, layers: int, width: int, *, low: bool) -> Step:
    """A step of one of our networks."""
    network = kind.make(layers, width).train()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=1e-4, amsgrad=True, weight_decay=1e-12, fused=True
    )

    def step(batch: Packed) -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            loss = packed_loss(network, batch)
        loss.backward()
        optimiser.step()

    return step


def peer_step(code: EDMCode, layers: int, width: int) -> Step:
    """A step of EDM."""
    model, sizes = code.model(layers=layers, width=width)
    optimiser = code.optimiser(model.train())

    def step(batch: Padded) -> None:
        optimiser.zero_grad()
        code.loss(model, sizes, batch).backward()
        optimiser.step()

    for atoms in range(3, 30):
        model.dynamics.get_adj_matrix(atoms, 32, torch.device("cpu"))
    return step


def stream(of: Callable[[Structures, np.ndarray], Any], size: int) -> Callable[[], Any]:
    """Batches of QM9 in turn, the same in the same order for everybody."""
    molecules, random = embedded(), np.random.default_rng(0)
    return lambda: of(molecules, random.choice(len(molecules), size, replace=False))


def peak(step: Step, batch: Any) -> float:
    """The most that a step holds at once, MB."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler talks of its phases
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step(batch)
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return float(np.cumsum([size for _, size in changes]).max(initial=0)) / 1e6


def contestants(
    code: EDMCode, layers: int, width: int, chosen: list[str]
) -> tuple[dict[str, Step], dict[str, Callable[[Structures, np.ndarray], Any]]]:
    """Steps and what makes their batches, by name."""
    steps: dict[str, Step] = {FLOOR: peer_step(code, layers, width)}
    makers: dict[str, Any] = {FLOOR: Padded.of}
    for name in chosen:
        for precision in ("float32", "bfloat16"):
            label = f"{name}, {precision}"
            steps[label] = packed_step(KINDS[name], layers, width, low=precision == "bfloat16")
            makers[label] = Packed.of
    return steps, makers


def compare(
    code: EDMCode,
    layers: int,
    width: int,
    *,
    chosen: list[str],
    rounds: int,
    seconds: float,
    size: int = 32,
) -> tuple[dict[str, Ratio], dict[str, float]]:
    """Times over EDM's, and MB at the peak, of each at one size."""
    steps, makers = contestants(code, layers, width, chosen)
    peaks = {}
    for name, step in steps.items():
        batch = stream(makers[name], size)()
        step(batch)  # makes the state of the optimiser and the gradients
        peaks[name] = peak(step, batch)
    with quiet():
        times = ratios(
            {
                name: Contestant(step, size, stream(makers[name], size))
                for name, step in steps.items()
            },
            FLOOR,
            rounds=rounds,
            seconds=seconds,
            grad=True,
        )
    return times, peaks


def table(times: Mapping[str, Ratio], peaks: Mapping[str, float]) -> str:
    """Markdown."""
    lines = [
        "| network | molecules/s | times EDM | lowest to highest round | peak, MB | of EDM |",
        "|---|---|---|---|---|---|",
    ]
    for name, ratio in times.items():
        lines.append(
            f"| {name} | {1 / ratio.seconds:,.0f} | {1 / ratio.median:.2f} "
            f"| {1 / ratio.high:.2f} to {1 / ratio.low:.2f} "
            f"| {peaks[name]:,.0f} | {peaks[name] / peaks[FLOOR]:.2f} |"
        )
    return "\n".join(lines)


def misses(times: Mapping[str, Ratio], peaks: Mapping[str, float]) -> list[str]:
    """What is slower than its bar, or takes more memory than EDM, by more than 15 %."""
    found = []
    for kind, bar in BARS.items():
        rows = [name for name in times if name.startswith(f"{kind},")]
        if not rows:
            continue
        best = min(rows, key=lambda name: times[name].median)
        speed, memory = 1 / times[best].median, peaks[best] / peaks[FLOOR]
        if speed < bar / SLACK:
            found.append(f"{best}: {speed:.2f} times EDM's molecules per second, bar {bar}")
        if memory > SLACK:
            found.append(f"{best}: {memory:.2f} times EDM's memory, bar 1")
    return found
