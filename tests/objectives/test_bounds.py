"""Objectives that are bounds: in continuous time, and of a chain of steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Layout,
    NetworkDenoiser,
    Product,
    absorbing,
    marginal,
    uniform,
)
from structdiff.batch import Part
from structdiff.objectives import (
    ContinuousBound,
    NormalClock,
    Objective,
    OrderAgnostic,
    StepBound,
    TimeDistribution,
    UniformTimes,
)
from structdiff.objectives.bounds import Look
from structdiff.processes import Estimate
from structdiff.schedules import UniformTime
from structdiff.testing import ExactDenoiser
from structdiff.training import Source, Trainer, TrainingConfig
from tests.enumerable import World

LAW = torch.tensor([0.5, 0.3, 0.2])
TRANSITIONS = {"uniform": uniform(3), "absorbing": absorbing(3), "marginal": marginal(LAW)}
WORLD = World.random(3, 2)
GRID = UniformTime(6)


def chain(name: str) -> Any:
    return WORLD.process(Categorical(Flow(), TRANSITIONS[name]))


def exact_steps(denoiser: Any) -> Tensor:
    """T times the term of each step for each record, in nats, `(T, K^D)`."""
    times, terms = GRID.times(), []
    plans = denoiser.process.bind(WORLD.data_batch).plan(times, 1.0)
    for i, plan in enumerate(plans):

        def term(
            leaf: Any,
            estimate: Estimate,
            x_0: Tensor,
            x_t: Tensor,
            t: Tensor,
            step: Any = plan["x"],
            last: bool = i == len(plans) - 1,
        ) -> Tensor:
            if last:
                return leaf.reconstruction(estimate, x_0, x_t, t)
            return leaf.divergence(leaf.oracle(x_0, x_t, t), estimate, x_t, step)

        terms.append(WORLD.expectation(denoiser, float(times[i]), term))
    return len(plans) * torch.stack(terms)


@pytest.mark.parametrize("name", TRANSITIONS)
def test_step_bound_is_unbiased(name: str) -> None:
    """D01: the mean over steps and noise, for each record, is that of all steps by enumeration."""
    denoiser = WORLD.denoiser(chain(name))
    copies = 2000
    order = torch.randperm(9 * copies, generator=torch.Generator().manual_seed(0))
    batch = WORLD.data_batch.select(torch.arange(9 * copies)[order] % 9)
    drawn = StepBound(GRID)(denoiser, batch, Generator(0)).leaves["x"] * 2
    each = drawn[order.argsort()].reshape(copies, 9)
    truth = exact_steps(denoiser).mean(0)
    error = each.std(0) / math.sqrt(copies)
    assert ((each.mean(0) - truth).abs() < 4.5 * error).all()
    assert float(truth @ WORLD.probability) > WORLD.entropy
    assert (error < 0.1 * truth).all()


@pytest.mark.parametrize("looks", [1, 4, 16])
def test_steps_are_uniform_and_few(looks: int) -> None:
    objective, random = StepBound(UniformTime(7), looks=looks), Generator(0)
    batch = Batch.of(torch.zeros(8))
    counts = torch.zeros(7)
    for _ in range(2000):
        steps = objective.draw_steps(batch, random)
        assert len(set(steps)) <= looks
        counts += torch.tensor(steps).bincount(minlength=7)
    # Samples that share a step are one draw of it.
    groups = min(looks, 8)
    spread = math.sqrt(2000 * groups * (1 / 7) * (6 / 7)) * 8 / groups
    assert ((counts - 16000 / 7).abs() < 4 * spread).all()
    # Parts of a batch look at the steps that the whole would.
    whole = objective.draw_steps(batch, Generator(3))
    for first in (0, 1):
        part = Batch({"x": torch.zeros(4)}, {"x": Layout.regular(4)}, part=Part(first, 2, 8))
        assert objective.draw_steps(part, Generator(3)) == whole[first::2]


def test_auxiliary_term_is_the_cross_entropy() -> None:
    """D01: L_vb + lambda CE at the same x_t."""
    denoiser = WORLD.denoiser(chain("uniform"))
    batch = WORLD.data_batch
    plain = StepBound(GRID, looks=1)(denoiser, batch, Generator(4)).leaves["x"]
    hybrid = StepBound(GRID, 0.25, looks=1)(denoiser, batch, Generator(4)).leaves["x"]
    random = Generator(4)
    (i,) = set(StepBound(GRID, looks=1).draw_steps(batch, random))
    time = GRID.times()[i].expand(18)
    x_t = denoiser.process.bind(batch).diffuse(batch.leaves, {"x": time}, random)
    said = denoiser(batch.with_leaves(x_t), {"x": time})["x"].value
    entropy = -said.gather(-1, batch["x"].unsqueeze(-1)).reshape(9, 2).mean(1)
    torch.testing.assert_close(hybrid - plain, 0.25 * entropy)


@pytest.mark.parametrize("law", [UniformTimes(0.05), UniformTimes(0.2, 0.7), NormalClock(Flow())])
def test_continuous_bound_weighs_by_the_density(law: TimeDistribution) -> None:
    """Draw by draw: rate / density, with the rate of the process at the time that was drawn."""
    denoiser = WORLD.denoiser(chain("marginal"))
    batch = WORLD.data_batch
    terms = ContinuousBound(law)(denoiser, batch, Generator(1))
    random = Generator(1)
    times = law.draw(9, random)
    time = times.repeat_interleave(2)
    process = denoiser.process.bind(batch)
    x_t = process.diffuse(batch.leaves, {"x": time}, random)
    said = denoiser(batch.with_leaves(x_t), {"x": time})
    rate = process.divergence_rate(said, batch.leaves, x_t, {"x": time})["x"]
    h = 1e-3  # the density by differences of the distribution function
    places = torch.linspace(0, 1, 200001, dtype=torch.float64)
    share = torch.searchsorted(law.quantile(places), torch.stack([times - h, times + h])) / 2e5
    width = (share[1] - share[0]) / (2 * h)
    expected = rate.reshape(9, 2).mean(1) / width
    torch.testing.assert_close(terms.leaves["x"], expected, rtol=0.05, atol=0)
    torch.testing.assert_close(terms.leaves["x"], rate.reshape(9, 2).mean(1) / law.density(times))
    torch.testing.assert_close(terms.clock["x"], torch.log((1 - time) / time))


def test_expectation_does_not_depend_on_the_law_of_times() -> None:
    """Two laws with the same ends estimate one integral."""
    denoiser = WORLD.denoiser(chain("absorbing"))
    index = torch.multinomial(
        WORLD.probability, 20000, True, generator=torch.Generator().manual_seed(0)
    )
    batch = WORLD.data_batch.select(index)

    class Late(TimeDistribution):
        """t = sqrt(u): density 2 t."""

        def quantile(self, u: Tensor) -> Tensor:
            return u.sqrt()

        def density(self, t: Tensor) -> Tensor:
            return 2 * t

    for law in (UniformTimes(0.0), Late()):
        drawn = ContinuousBound(law)(denoiser, batch, Generator(2)).leaves["x"] * 2
        error = float(drawn.std()) / math.sqrt(len(drawn))
        assert abs(float(drawn.mean()) - WORLD.entropy) < 4 * error < 0.2


class Table(nn.Module):
    """A network of all kinds of leaves."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows = nn.Parameter(torch.randn(5, 4, generator=generator))
        self.matrix = nn.Parameter(torch.randn(2, 2, generator=generator))

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        said = {n: self.rows[x] for n, x in batch.leaves.items() if n in ("k", "m")}
        if "x" in batch.leaves:
            said["x"] = batch["x"] @ self.matrix
        return said


def mixed(given: bool) -> tuple[Product, Batch]:
    process = Product(
        {
            "k": Categorical(Flow(), uniform(4)),
            "m": Categorical(Flow(), absorbing(4)),
            "x": Gaussian(Cosine(), event=(2,)),
        }
    )
    layout = Layout.ragged([3, 0, 5])
    classes = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    leaves = {"k": classes, "m": classes.flip(0), "x": torch.sin(torch.arange(16.0)).view(8, 2)}
    held = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0]).bool()
    masks = dict.fromkeys(leaves, held) if given else {}
    return process, Batch(leaves, dict.fromkeys(leaves, layout), given=masks)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "objective",
    [ContinuousBound(UniformTimes(0.01, 0.95)), StepBound(UniformTime(5), 0.1), OrderAgnostic()],
    ids=["continuous", "steps", "orders"],
)
def test_gradients_are_finite_and_given_rows_have_none(objective: Objective, given: bool) -> None:
    """In float32, on ragged leaves, with an empty sample; what is given cannot be learned."""
    process, batch = mixed(given)
    if isinstance(objective, OrderAgnostic):
        process, batch = Product({"m": process["m"]}), batch.only("m")
    output: list[Tensor] = []

    class Watched(Table):
        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            said = super().forward(batch, clock, previous)
            for value in said.values():
                value.retain_grad()
            output.extend(said.values())
            return said

    for seed in range(8):
        network = Watched()
        terms = objective(NetworkDenoiser(network, process), batch, Generator(seed))
        assert all(float(term[1].detach()) == 0 for term in terms.leaves.values())
        terms.total.backward()
        for weight in network.parameters():
            assert weight.grad is None or bool(weight.grad.isfinite().all())
    for value in output:
        assert value.grad is not None
        if given:
            assert (value.grad[[0, 3, 6]] == 0).all()
    assert any(bool(value.grad.any()) for value in output)


def test_one_step_bound_with_edges_and_events() -> None:
    """Rows that join others are looked at by sample like all rows."""
    nodes, edges = Layout.ragged([2, 3]), Layout.ragged([1, 2])
    edges = Layout(edges.counts, edges.sample, torch.tensor([[0, 2, 3], [1, 3, 4]]))
    process = Product(
        {
            "k": Categorical(Flow(), uniform(4), event=(2,)),
            "m": Categorical(Flow(), absorbing(4)),
        }
    )
    leaves = {"k": torch.zeros(5, 2).long(), "m": torch.zeros(3).long()}
    batch = Batch(leaves, {"k": nodes, "m": edges})
    seen: list[Tensor] = []

    class Seen(Table):
        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            seen.append(batch["k"])
            return super().forward(batch, clock, previous)

    terms = StepBound(UniformTime(1))(NetworkDenoiser(Seen(), process), batch, Generator(0))
    log_p = torch.log_softmax(Table().rows, -1)[:, 0]
    torch.testing.assert_close(terms.leaves["m"], -log_p[4].expand(2))
    torch.testing.assert_close(terms.leaves["k"], nodes.mean(-log_p[seen[0]].mean(1)))


def test_bound_of_one_step_is_the_cross_entropy_per_entry() -> None:
    """At pure noise the estimate alone is left, a mean over rows and entries."""
    process = Product({"m": Categorical(Flow(), absorbing(4), event=(3,))})
    classes = torch.tensor([[0, 1, 2], [3, 0, 0]])
    terms = StepBound(UniformTime(1), 0.5)(
        NetworkDenoiser(Table(), process), Batch.of({"m": classes}), Generator(0)
    )
    expected = -torch.log_softmax(Table().rows, -1)[4][classes].mean(1)
    torch.testing.assert_close(terms.leaves["m"], 1.5 * expected)


@pytest.mark.parametrize(
    "objective",
    [ContinuousBound(UniformTimes(0.01, 0.95)), StepBound(UniformTime(5), 0.1), OrderAgnostic()],
    ids=["continuous", "steps", "orders"],
)
def test_objectives_train(objective: Objective) -> None:
    """A row of a table learns the frequencies of its classes, which have the least bound."""
    process = Product({"m": Categorical(Flow(), absorbing(4))})
    classes = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [3] * 2).repeat(16)
    network = Table()
    network.matrix.requires_grad_(False)
    config = TrainingConfig(
        steps=80,
        batch_size=256,
        learning_rate=0.3,
        warm_up=5,
        clip=100,
        weight_decay=0,
        bf16=False,
        device="cpu",
    )
    source = Source(
        256, lambda i: Batch.of({"m": classes[torch.from_numpy(i)]}), batch_size=256, seed=0
    )
    Trainer(NetworkDenoiser(network, process), objective, source, config).run()
    learned = torch.softmax(network.rows.detach()[4], -1)
    expected = torch.tensor([0.5, 0.25, 0.125, 0.125])
    torch.testing.assert_close(learned, expected, rtol=0, atol=0.04)


def test_doors() -> None:
    class Untractable(Product):
        def offers(self, contract: type[Any]) -> bool:
            return False

    data = Batch.of({"m": torch.arange(3)})
    leaf = {"m": Categorical(Flow(), absorbing(4))}
    denoiser = ExactDenoiser(Product(leaf), data)
    denoiser.process = Untractable(leaf)
    for objective in (ContinuousBound(), StepBound(GRID)):
        with pytest.raises(ValueError, match="the bound needs densities: .* is not Tractable"):
            objective(denoiser, data, Generator(0))
    for auxiliary in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"auxiliary must be at least 0 .*, got {auxiliary}"):
            StepBound(GRID, auxiliary)
    with pytest.raises(ValueError, match="looks must be at least 1, got 0"):
        StepBound(GRID, looks=0)


@pytest.mark.parametrize("transition", [uniform(4), absorbing(4)], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("gap", [10.0, 30.0, 150.0])
@pytest.mark.parametrize(
    "objective", [ContinuousBound(UniformTimes(0.1)), StepBound(UniformTime(8))]
)
def test_a_network_that_is_sure_and_wrong_learns_in_float32_as_in_float64(
    transition: Any, gap: float, objective: Objective
) -> None:
    """Also where log p rounds to 0 at the wrong class, and p to 0 at the right one."""
    data = Batch.of(torch.ones(256, dtype=torch.long))
    process, found = Product({"x": Categorical(Flow(), transition)}), []
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([gap, 0.0, 0.0, 0.0], dtype=dtype).requires_grad_()

        class Sure(nn.Module):
            def forward(
                self, batch: Batch, clock: Any, previous: Any, logits: Tensor = logits
            ) -> dict[str, Tensor]:
                return {"x": logits.expand(len(batch["x"]), -1)}

        loss = objective(NetworkDenoiser(Sure(), process), data, Generator(0)).total
        loss.backward()
        found.append(torch.cat([loss.detach().reshape(1).double(), logits.grad.double()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_forbidden_classes_leave_gradients_finite() -> None:
    logits = torch.tensor([0.3, -torch.inf, 0.1]).requires_grad_()
    data = Batch.of(torch.tensor([0, 2, 2, 0] * 8))

    class Some(nn.Module):
        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            return {"x": logits.expand(len(batch["x"]), -1)}

    for transition in (absorbing(3), marginal(torch.tensor([0.5, 0.0, 0.5]))):
        logits.grad = None
        process = Product({"x": Categorical(Flow(), transition)})
        denoiser = NetworkDenoiser(Some(), process)
        StepBound(UniformTime(4))(denoiser, data, Generator(0)).total.backward()
        assert bool(logits.grad.isfinite().all())
        assert bool((logits.grad[[0, 2]] != 0).all())


def test_conditions_and_numbers_for_all_rows_stay_with_their_samples() -> None:
    """When the samples of a batch are parted by their steps."""
    layout = Layout.ragged([2, 1, 3])
    x = torch.arange(6.0).double()
    batch = Batch({"x": x}, {"x": layout}).with_condition({"y": torch.tensor([5, 6, 7])})
    batch = batch.with_present({"y": torch.tensor([True, False, True])})
    extras = {"each": 10 * x, "all": torch.tensor(0.5)}
    look = Look(batch, batch, {"x": Estimate(x + 1, extras)}, {"x": x / 6})
    part = look.select([2, 0])
    rows = [3, 4, 5, 0, 1]
    assert part.clean.condition["y"].tolist() == [7, 5]
    assert part.clean.present["y"].tolist() == [True, True]
    assert part.noisy["x"].tolist() == rows
    assert part.estimate["x"].extras["each"].tolist() == [10.0 * row for row in rows]
    assert part.estimate["x"].extras["all"].item() == 0.5
