"""EDM's network and ours with its weights, on the same molecules: one function.

Both get random molecules of 1 to 29 atoms: positions about their mean, noisy one-hot elements and
a time for each molecule; EDM padded, ours packed. Vectors are compared less their mean over the
molecule, which EDM takes off, and features less the last, which EDM drops. An error is the largest
difference over the largest value, that of gradients (of a sum of squares of both) likewise, weight
by weight. EDM's float32 result beside its own in float64 is its rounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from edm_peer import ELEMENTS, EDMCode
from torch import Tensor, nn

from structdiff.layout import Layout
from structdiff.nn.egnn import EGNN

__all__ = ["check", "copied"]

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
LAYERS, WIDTH = 4, 64
_PLACES = (
    (r"embedding\.", "enter."),
    (r"embedding_out\.", "leave."),
    (r"e_block_(\d+)\.gcl_(\d+)\.edge_mlp\.0\.", r"blocks.\1.rounds.\2.edge.first."),
    (r"e_block_(\d+)\.gcl_(\d+)\.edge_mlp\.2\.", r"blocks.\1.rounds.\2.edge.second."),
    (r"e_block_(\d+)\.gcl_(\d+)\.att_mlp\.0\.", r"blocks.\1.rounds.\2.gate."),
    (r"e_block_(\d+)\.gcl_(\d+)\.node_mlp\.0\.", r"blocks.\1.rounds.\2.row."),
    (r"e_block_(\d+)\.gcl_(\d+)\.node_mlp\.2\.", r"blocks.\1.rounds.\2.update."),
    (r"e_block_(\d+)\.gcl_equiv\.coord_mlp\.0\.", r"blocks.\1.edge.first."),
    (r"e_block_(\d+)\.gcl_equiv\.coord_mlp\.2\.", r"blocks.\1.edge.second."),
    (r"e_block_(\d+)\.gcl_equiv\.coord_mlp\.4\.", r"blocks.\1.move."),
)


def _place(name: str) -> str:
    for pattern, ours in _PLACES:
        found = re.match(pattern, name)
        if found:
            return found.expand(ours) + name[found.end() :]
    raise KeyError(f"EDM's weight {name} has no place in ours")


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EDM's weights of its EGNN as a state of ours."""
    return {_place(name): value for name, value in weights.items()}


@dataclass(frozen=True)
class Case:
    """A setting, in their words and in ours."""

    name: str
    theirs: Mapping[str, Any]
    ours: Mapping[str, Any]
    heads: float = 1.0


CASES = (
    Case("untrained", {}, {}),
    Case("heads of moves x 300", {}, {}, heads=300.0),
    Case(
        "two rounds, no tanh, sums / 100, c = 0",
        {"inv_sublayers": 2, "tanh": False, "normalization_factor": 100, "norm_constant": 0},
        {"rounds": 2, "reach": None, "divisor": 100.0, "softness": 0.0},
        heads=300.0,
    ),
)


@dataclass(frozen=True)
class Molecules:
    """Random molecules, packed, and how they lie when padded."""

    position: Tensor
    features: Tensor
    time: Tensor
    layout: Layout

    @classmethod
    def drawn(cls, samples: int = 16) -> Molecules:
        """In float64, that of one atom among them."""
        counts = [1, 2, 29, *torch.randint(3, 30, (samples - 3,)).tolist()]
        layout = Layout.ragged(counts)
        position = 2 * torch.randn(layout.rows, 3, dtype=torch.float64)
        position -= layout.spread(layout.mean(position))
        features = torch.randn(layout.rows, len(ELEMENTS), dtype=torch.float64)
        return cls(position, features, torch.rand(samples, 1, dtype=torch.float64), layout)

    def peer(self, dynamics: nn.Module, dtype: torch.dtype) -> Tensor:
        """EDM's output on the padded molecules, packed."""
        most, samples = max(self.layout.counts), self.layout.samples
        place = self.layout.sample * most + self.layout.row
        both = torch.cat([self.position, self.features], 1).to(dtype)
        padded = both.new_zeros(samples * most, both.shape[1]).index_copy(0, place, both)
        real = both.new_zeros(samples * most, 1).index_fill(0, place, 1.0).view(samples, most)
        edges = real[:, :, None] * real[:, None, :] * (1 - torch.eye(most, dtype=dtype))
        out = dynamics.to(dtype)._forward(
            self.time.to(dtype), padded.view(samples, most, -1), real[..., None], edges, None
        )
        return out.reshape(samples * most, -1)[place]

    def ours(self, network: nn.Module, dtype: torch.dtype) -> Tensor:
        """Ours on the packed ones."""
        features = torch.cat([self.features, self.layout.spread(self.time)], 1).to(dtype)
        out = network.to(dtype)(features, self.position.to(dtype), self.layout)
        vector = out.vector - self.layout.spread(self.layout.mean(out.vector))
        return torch.cat([vector, out.features[:, :-1]], 1)


def difference(a: Tensor, b: Tensor) -> float:
    """The larger of those of vectors and of features, over the largest value."""
    parts = zip((a[:, :3], a[:, 3:]), (b[:, :3], b[:, 3:]), strict=True)
    return max(float((x - y).detach().abs().max() / y.detach().abs().max()) for x, y in parts)


def networks(code: EDMCode, case: Case, trained: Path | None) -> tuple[nn.Module, EGNN]:
    """EDM's and ours with its weights."""
    size = len(ELEMENTS) + 1
    settings = {"attention": True, "tanh": True, "norm_constant": 1, "inv_sublayers": 1}
    settings |= {"normalization_factor": 1} | dict(case.theirs)
    peer = code.modules["dynamics"].EGNN_dynamics_QM9(
        size, 0, 3, hidden_nf=WIDTH, n_layers=LAYERS, **settings
    )
    if trained is not None:
        state = torch.load(trained, weights_only=True)["model"]
        kept = {n.removeprefix("dynamics."): w for n, w in state.items() if "dynamics" in n}
        peer.load_state_dict(kept)
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if name.endswith("coord_mlp.4.weight"):
                weight.mul_(case.heads)
    network = EGNN(size, size, layers=LAYERS, width=WIDTH, hidden=WIDTH, **case.ours)
    network.load_state_dict(copied(peer.egnn.state_dict()))
    return peer, network


def gradients(out: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """Of a sum of squares, by weight; vectors and features count the same."""
    scaled = out[:, :3] / out[:, :3].detach().std(), out[:, 3:] / out[:, 3:].detach().std()
    names, weights = zip(*network.named_parameters(), strict=True)
    loss = torch.cat(scaled, 1).square().mean()
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


def check(code: EDMCode, trained: Path | None = None) -> tuple[str, list[str]]:
    """A table of errors, and those above the limit of their precision.

    Arguments:
        code: The peer.
        trained: A state that `train` wrote, to compare with trained weights too.
    """
    torch.manual_seed(0)
    cases = [(case, None) for case in CASES]
    cases += [(Case("trained", {}, {}), trained)] * (trained is not None)
    lines = [
        "| weights | precision | ours from EDM's | EDM's from float64 | gradients |",
        "|---|---|---|---|---|",
    ]
    missed = []
    for case, path in cases:
        peer, network = networks(code, case, path)
        molecules = Molecules.drawn()
        exact = molecules.peer(peer, torch.float64).detach()
        for dtype, limit in LIMITS.items():
            theirs, found = molecules.peer(peer, dtype), molecules.ours(network, dtype)
            want, have = copied(gradients(theirs, peer.egnn)), gradients(found, network)
            error, own = difference(found, theirs), difference(theirs, exact)
            slope = max(float((have[n] - g).abs().max() / g.abs().max()) for n, g in want.items())
            name = str(dtype).removeprefix("torch.")
            lines.append(f"| {case.name} | {name} | {error:.1e} | {own:.1e} | {slope:.1e} |")
            if not max(error, slope) < limit:
                missed.append(f"{case.name}, {name}: {error:.1e} and {slope:.1e}")
    return "\n".join(lines), missed
