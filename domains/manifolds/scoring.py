"""How likely a model holds points to be: the exact log density by its probability flow.

A model has the density of its points with a little noise on them, p at an early time, and how
little is best is chosen on validation points once (`choose_noise`): with less, the network must
tell finer structure than it has learned; with more, structure is lost that it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.domains.manifolds.codec import ManifoldsCodec
from structdiff.domains.manifolds.data import Points
from structdiff.domains.manifolds.recipe import ManifoldsConfig, route_of, time_of
from structdiff.likelihood.flow import Density, flow_log_prob

__all__ = ["NOISES", "TOLERANCE", "Scores", "choose_noise", "look", "measure_of", "score"]

NOISES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Among which the noise of likelihoods is chosen, down to that of the training."""
TOLERANCE = 1e-4
_LEAST = 1e-6  # time
_TOGETHER = 1024  # points
_CHOSEN_ON = 256
_FEW = 12  # dimensions, beyond which looks take probes of the divergence
_PROBES = 2


@dataclass(frozen=True, eq=False)
class Scores:
    """Log densities of points.

    Arguments:
        total: Of each point, in nats, against the volume of the data, `(N,)`, float64.
        error: Monte-Carlo error of each; zero where the divergence is exact.
        rows: Which row of its source each is.
        noise: The noise at which the density is.
        kind: How it was computed.
        measure: What the density is against.
    """

    total: NDArray[np.float64]
    error: NDArray[np.float64]
    rows: NDArray[np.int64]
    noise: float
    kind: str
    measure: str

    def nll(self) -> tuple[float, float]:
        """Mean of -log p over the points, and its standard error."""
        error = self.total.std(ddof=1) / math.sqrt(len(self.total)) if len(self.total) > 1 else 0.0
        return float(-self.total.mean()), float(error)

    def columns(self) -> dict[str, list[Any]]:
        """A row for each point, for a table."""
        found: dict[str, list[Any]] = {"row": self.rows.tolist()}
        found["log_density"] = self.total.tolist()
        if self.error.any():
            found["monte_carlo_error"] = self.error.tolist()
        return found

    def facts(self) -> dict[str, Any]:
        """What the numbers are, for JSON."""
        value, error = self.nll()
        return {
            "kind": self.kind,
            "measure": self.measure,
            "units": "nats",
            "noise": self.noise,
            "points": len(self.total),
            "mean of -log density": value,
            "standard error": error,
        }

    def summary(self) -> str:
        """All points together."""
        value, error = self.nll()
        return "\n".join(
            [
                f"{len(self.total):,} points scored, at noise {self.noise:.3g}",
                self.kind,
                f"densities are against {self.measure}",
                f"  mean of -log density  {value:.4f} +- {error:.2g} nats",
            ]
        )


def measure_of(codec: ManifoldsCodec) -> str:
    """What densities are against, leaf by leaf."""
    return "; ".join(f"{leaf.name}: {_measure(leaf.space)}" for leaf in codec.leaves)


def _measure(spec: str) -> str:
    family, _, size = spec.partition(":")
    named = {
        "sphere": f"the area of the unit sphere S^{size}",
        "torus": f"the volume of T^{size}, angles in radians",
        "so3": "the Riemannian volume of SO(3), 8 pi^2 in total",
        "euclidean": "Lebesgue, in the units of the data",
    }
    return named.get(family, f"the Riemannian volume of {family}({size})")


def score(
    denoiser: Denoiser,
    codec: ManifoldsCodec,
    config: ManifoldsConfig,
    points: Points,
    noise: float,
    *,
    tolerance: float = TOLERANCE,
    probes: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """The log density of each point.

    Arguments:
        denoiser: The denoiser.
        codec: Spaces and units.
        config: Settings.
        points: The points.
        noise: Noise at which the density is, see `choose_noise`.
        tolerance: Error of a step of the solver.
        probes: Random probes of the divergence; None for its exact value.
        seed: Start of the random numbers of the probes.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there are no points.
    """
    if not len(points):
        msg = "there are no points to score: give some"
        raise ValueError(msg)
    weight, found = next(denoiser.parameters()), list[Density]()
    start = max(_LEAST, time_of(config, codec, noise))
    with tqdm(total=len(points), unit="point", disable=not progress) as bar:
        for part in np.split(np.arange(len(points)), range(_TOGETHER, len(points), _TOGETHER)):
            density = flow_log_prob(
                denoiser,
                points.collate(part, weight.dtype).to(weight.device),
                start=start,
                tolerance=tolerance,
                probes=probes,
                random=None if probes is None else Counter(seed),
            )
            found.append(density)
            bar.update(len(part))
    total = torch.cat([one.total for one in found]).double().cpu().numpy()
    error = torch.cat([one.error for one in found]).double().cpu().numpy()
    what = "sigma" if route_of(config, codec.spaces) == "diffusion" else "time"
    return Scores(
        total + sum(codec.log_scale.values()),
        error,
        points.rows,
        noise,
        f"{found[0].kind} ({what} {noise:.3g})",
        measure_of(codec),
    )


def look(
    denoiser: Denoiser,
    codec: ManifoldsCodec,
    config: ManifoldsConfig,
    points: Points,
    noise: float,
) -> Scores:
    """Log densities that are good enough to choose by; always with the same probes, if any."""
    dimension = sum(space.dimension for space in codec.spaces.values())
    return score(
        denoiser,
        codec,
        config,
        points,
        noise,
        tolerance=1e-2,
        probes=None if dimension <= _FEW else _PROBES,
        progress=False,
    )


def choose_noise(
    denoiser: Denoiser,
    codec: ManifoldsCodec,
    config: ManifoldsConfig,
    validation: Points,
    noises: Sequence[float] = NOISES,
) -> tuple[float, dict[float, float]]:
    """The noise at which validation points are likeliest, and the mean of -log density at each.

    Arguments:
        denoiser: The denoiser.
        codec: Spaces and units.
        config: Settings.
        validation: Points; some of them, evenly spread, are looked at.
        noises: The choices; those below the noise of the training are left out.
    """
    least = config.noise.sigma_min
    allowed = sorted({least, *(noise for noise in noises if noise > least)})
    if not len(validation):
        return allowed[0], {}
    few = min(_CHOSEN_ON, len(validation))
    some = validation.subset(np.unique(np.linspace(0, len(validation) - 1, few).astype(int)))

    def worth(noise: float) -> float:
        try:
            return look(denoiser, codec, config, some, noise).nll()[0]
        except ArithmeticError:  # the equation cannot be solved from there
            return math.inf

    found = {noise: worth(noise) for noise in allowed}
    return min(found, key=lambda noise: found[noise]), found
