r"""`check_process` and `check_sampler`: the laws, for a process or a sampler of one's own.

Each raises an AssertionError that names the law, what was expected and what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import (
    Brownian,
    Categorical,
    Gaussian,
    Markov,
    Process,
    Product,
    Tractable,
    absorbing,
    uniform,
)
from structdiff.random import Generator, Randomness
from structdiff.samplers import Carry, Sampler
from structdiff.samplers.base import Space
from structdiff.schedules import (
    Flow,
    Geometric,
    Grid,
    Linear,
    Schedule,
    UniformLogSNR,
    UniformTime,
)
from structdiff.spaces import Manifold, Torus
from structdiff.testing import laws
from structdiff.testing.exact import ExactDenoiser
from structdiff.testing.noise import Impulses, Silent
from structdiff.testing.normal import NormalDenoiser

__all__ = ["check_process", "check_sampler", "flow_map", "sort_records", "walk"]

Factory = Callable[[Denoiser, Grid], Sampler]
Distance = Callable[[Tensor, Tensor], Tensor]


def check_process(
    process: Process,
    data: Tensor | Batch,
    *,
    times: tuple[float, float] = (0.4, 0.7),
    draws: int = 20_000,
    substeps: int = 1,
    limit: float = 5.0,
    seed: int = 0,
) -> None:
    """Run the laws that a process of one leaf must obey.

    Every one: the given rows stay, states keep their dtype. A Markov one also: semigroup. A
    Tractable one also: independence of batch mates, density, forgetting, undoing, the reverse
    kernel and its divergence, Bayes.

    Arguments:
        process: The process.
        data: A few different clean records, as a tensor of rows or a batch of one leaf.
        times: Two times s < t, in (0, 1), with noise at both.
        draws: Number of samples drawn for a law.
        substeps: Oracle steps from t to s: 1 on R^n and classes, where one is exact; on
            curved spaces some 32, and the reverse kernel is then not compared.
        limit: Largest deviation that passes, in standard errors.
        seed: Start of all random numbers.

    Raises:
        AssertionError: If a law does not hold; it names the law and the numbers.
        ValueError: If the times are not in order or there is but one record.

    Example:
        >>> from structdiff.schedules import Cosine
        >>> check_process(Gaussian(Cosine()), torch.tensor([-1.0, 2.0]), draws=2000)
    """
    s, t = times
    if not 0 < s < t < 1:
        msg = f"times must satisfy 0 < s < t < 1, got {times}"
        raise ValueError(msg)
    batch = Batch.of(data) if isinstance(data, Tensor) else data
    if batch.samples < 2:
        msg = f"data must have at least 2 records, got {batch.samples}: give different ones"
        raise ValueError(msg)
    (name,) = batch.leaves
    copies = -(-draws // batch.samples)
    product = Product({name: process})
    bench = laws.Bench(product, batch, copies, s, t, substeps, limit, seed)
    laws.dtypes(bench)
    laws.holding(bench)
    laws.independence(bench)
    if process.offers(Markov):
        laws.semigroup(bench)
    if process.offers(Tractable):
        laws.density(bench)
        laws.forgetting(bench)
        laws.undoing(bench)
        if substeps == 1:
            laws.kernel(bench)
        laws.bayes(bench)


def walk(sampler: Sampler, x: Mapping[str, Tensor], random: Randomness) -> dict[str, Tensor]:
    """Walk from given states through all times but the last, clean."""
    bound = sampler.bind(Batch.of(x), random)
    carry = Carry(x)
    with torch.no_grad():
        for i in range(bound.steps - 1):
            carry = bound.step(carry, i)
    return dict(carry.x)


def check_sampler(
    factory: Factory, *, steps: int = 16, samples: int = 1500, seed: int = 0
) -> None:
    """Run the laws that a sampler must obey, with exact denoisers.

    Determinism; records of a few joint points return whole and in proportion; the measured order
    on R^n and (for deterministic walks) on manifolds is at least the declared one.

    Arguments:
        factory: Makes the sampler from a denoiser and a grid.
        steps: Steps of the coarser of two walks.
        samples: Records drawn.
        seed: Start of all random numbers.

    Raises:
        AssertionError: If a law does not hold; it names the law and the numbers.

    Example:
        >>> from structdiff.samplers import DDIM
        >>> check_sampler(DDIM, steps=8, samples=200)
    """
    torn = [_returns(factory, n, samples, seed) for n in (steps, 2 * steps)]
    noise = 4 * math.sqrt(max(torn[0], 1 / samples) / samples)
    if torn[1] > 0.5 * torn[0] + noise:
        msg = (
            f"halving: with twice the steps {torn[1]:.4f} of the records are torn, "
            f"expected about half of {torn[0]:.4f}"
        )
        raise AssertionError(msg)
    _order(factory, "euclidean", _moment_error)
    if factory(_world()[0], UniformTime(2)).eta == 0:
        _order(factory, "euclidean", _flow_error)
        _order(factory, "manifold", _turn_error)


def _world() -> tuple[ExactDenoiser, Tensor]:
    """Five joint points on R^2, two classes and an angle; two differ in the classes only."""
    process = Product(
        {
            "place": Gaussian(Linear(), event=(2,)),
            "first": Categorical(Flow(), uniform(3)),
            "second": Categorical(Flow(), absorbing(3)),
            "angle": Brownian(Geometric(0.02, 6.0), Torus(1)),
        }
    )
    place = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5], [1.5, 1.5], [1.5, 1.5]])
    angle = torch.tensor([[0.0], [1.5], [3.0], [-1.5], [-1.5]])
    first, second = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 0, 1, 0, 1])
    data = Batch.of({"place": place, "first": first, "second": second, "angle": angle})
    weights = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15])
    return ExactDenoiser(process, data, weights), weights


def sort_records(
    samples: Batch, data: Batch, distance: Mapping[str, Distance] | None = None
) -> Tensor:
    """The record that each sample is, or -1 where it is none (torn), `(samples,)`.

    Arguments:
        samples: Samples, of regular or ragged leaves.
        data: The records that there are.
        distance: Mapping from leaf to `(x, y) -> distances of rows`, for leaves where that is
            not the Euclidean one.

    Example:
        >>> data = Batch.of(torch.tensor([0.0, 1.0]))
        >>> sort_records(Batch.of(torch.tensor([0.99, 0.5])), data).tolist()
        [1, -1]
    """
    found = torch.full((samples.samples,), -1)
    for k in range(data.samples):
        same = torch.ones(samples.samples, dtype=torch.bool)
        for name, layout in samples.layouts.items():
            point = data.select([k])[name]
            fits = layout.size == len(point)
            place = layout.row.clamp(max=max(len(point) - 1, 0))
            x, y = samples[name], point[place]
            if distance is not None and name in distance:
                apart = distance[name](x, y)
            else:
                apart = (x - y).abs().double().flatten(1).amax(1) if x.ndim > 1 else (x - y).abs()
            same &= fits & (layout.sum((apart > 0.2).long()) == 0)
        found[same] = k
    return found


def _around(x: Tensor, y: Tensor) -> Tensor:
    """Distance of angles."""
    gap: Tensor = torch.remainder(x - y + math.pi, 2 * math.pi) - math.pi
    return gap.abs().amax(1)


def _returns(factory: Factory, steps: int, samples: int, seed: int) -> float:
    """Assert determinism, wholeness and proportions; the torn fraction."""
    denoiser, weights = _world()
    sampler = factory(denoiser, UniformTime(steps))
    batch = Batch.of(denoiser.process.empty(samples))
    drawn = sampler.sample(batch, Generator(seed))
    again = sampler.sample(batch, Generator(seed))
    for name, x in drawn.leaves.items():
        if not torch.equal(x, again[name]):
            gap = float((x.double() - again[name].double()).abs().max())
            msg = f"determinism: two walks from one seed differ by {gap:.2g} in {name}, expected 0"
            raise AssertionError(msg)
    record = sort_records(drawn, denoiser.data, {"angle": _around})
    torn = float((record < 0).double().mean())
    if torn > 2 / steps + 4 * math.sqrt(2 / steps / samples):
        msg = (
            f"wholeness: with {steps} steps {torn:.4f} of the records are torn, "
            f"expected at most {2 / steps:.4f}"
        )
        raise AssertionError(msg)
    for k, weight in enumerate(weights.tolist()):
        share = float((record == k).double().mean())
        error = math.sqrt(weight * (1 - weight) / samples)
        if abs(share - weight) > 4 * error + 2 / steps:
            msg = (
                f"proportions: with {steps} steps point {k} has the share "
                f"{share:.3f}, expected {weight:.3f} within {4 * error + 2 / steps:.3f}"
            )
            raise AssertionError(msg)
    return torn


def _order(factory: Factory, space: Space, error: Callable[[Factory, int], float]) -> None:
    """Assert the order from the errors of two grids."""
    coarse, fine = error(factory, 64), error(factory, 128)
    measured = math.log2(coarse / fine)
    declared = factory(_world()[0], UniformTime(2)).order(space)
    if not measured >= declared - 0.2:
        msg = (
            f"order: on {space} the error falls as steps^-{measured:.2f}, expected"
            f" steps^-{declared} ({coarse:.2g} with 64 steps, {fine:.2g} with 128)"
        )
        raise AssertionError(msg)


def _moment_error(factory: Factory, steps: int) -> float:
    """Error of mean and deviation after a walk on normal data, by impulses."""
    schedule, mean, std = Linear(), 1.5, 0.7
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    sampler = factory(denoiser, UniformLogSNR(schedule, steps + 1, end=0.05))
    ends = schedule(sampler.times[[0, -2]])
    means, stds = ends.alpha * mean, torch.sqrt((ends.alpha * std) ** 2 + ends.sigma**2)
    x = means[0].repeat(4 * steps)
    x[-1] += stds[0]
    x = walk(sampler, {"x": x}, Impulses())["x"]
    deviation = (x[1:] - x[0]).square().sum().sqrt()
    return float((x[0] - means[1]).abs() + (deviation - stds[1]).abs())


@cache
def _flow() -> tuple[NormalDenoiser, Schedule, Tensor, Tensor]:
    """Three normals: denoiser, schedule, and where its probability-flow ODE starts and ends."""
    schedule = Linear()
    mean, std = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.6, 0.5, 0.7])
    denoiser = NormalDenoiser(Gaussian(schedule), mean, std, torch.tensor([0.3, 0.5, 0.2]))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    return denoiser, schedule, x, flow_map(denoiser, schedule, x, 1.0, 0.05)


def _flow_error(factory: Factory, steps: int) -> float:
    """Largest error of an end point."""
    denoiser, schedule, x, truth = _flow()
    grid = UniformLogSNR(schedule, steps + 1, end=0.05)
    end = walk(factory(denoiser, grid), {"x": x}, Silent())
    return float((end["x"] - truth).abs().max())


@cache
def _turn() -> tuple[ExactDenoiser, Schedule, Tensor, Tensor]:
    """Five angles: denoiser, schedule, and where its probability-flow ODE starts and ends."""
    schedule = Geometric(0.3, 6.0)
    process = Product({"x": Brownian(schedule, Torus(1))})
    points = torch.tensor([[-2.5], [-1.0], [0.2], [1.1], [2.6]], dtype=torch.float64)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])
    denoiser = ExactDenoiser(process, Batch.of(points), weights)
    x = torch.linspace(-3, 3, 12, dtype=torch.float64)[:, None]
    return denoiser, schedule, x, flow_map(denoiser, schedule, x, 1.0, 0.0, Torus(1), steps=100)


def _turn_error(factory: Factory, steps: int) -> float:
    """Largest error of an end point."""
    denoiser, schedule, x, truth = _turn()
    grid = UniformLogSNR(schedule, steps + 1, end=0.0)
    end = walk(factory(denoiser, grid), {"x": x}, Silent())
    return float(_around(end["x"], truth).max())


def flow_map(
    denoiser: Denoiser,
    schedule: Schedule,
    x: Tensor,
    start: float,
    end: float,
    manifold: Manifold | None = None,
    steps: int = 200,
) -> Tensor:
    r"""The probability-flow ODE by the classical Runge-Kutta method, a reference for walks.

    In the clock lambda it is d(x / alpha) / d lambda = E[x_0 | x] - x / alpha on R^n, and
    dx / d lambda = the estimate on a manifold, where stages are transported to a step's start.

    Arguments:
        denoiser: A denoiser of one leaf `x`.
        schedule: The schedule of its process.
        x: Where to start.
        start: First time.
        end: Last time.
        manifold: The space, unless R^n.
        steps: Number of steps, uniform in the clock.
    """
    clocks = schedule(torch.tensor([start, end], dtype=torch.float64)).clock
    h = (clocks[1] - clocks[0]) / steps
    halves = torch.lerp(clocks[0], clocks[1], torch.linspace(0, 1, 2 * steps + 1).double())
    times = schedule.time(halves)
    scale = schedule.alpha(times)

    def rate(y: Tensor, place: int) -> Tensor:
        t, point = times[place], y * scale[place]
        with torch.no_grad():
            value: Tensor = denoiser(Batch.of(point), {"x": t})["x"].value
        return value if manifold else value - y

    def move(y: Tensor, v: Tensor) -> Tensor:
        return manifold.exp(y, v) if manifold else y + v

    def pull(y: Tensor, z: Tensor, v: Tensor) -> Tensor:
        return manifold.transport(z, y, v) if manifold else v

    y = x / scale[0]
    for i in range(0, 2 * steps, 2):
        first = rate(y, i)
        place = move(y, h / 2 * first)
        second = pull(y, place, rate(place, i + 1))
        place = move(y, h / 2 * second)
        third = pull(y, place, rate(place, i + 1))
        place = move(y, h * third)
        fourth = pull(y, place, rate(place, i + 2))
        y = move(y, h / 6 * (first + 2 * second + 2 * third + fourth))
    return y * scale[-1]
