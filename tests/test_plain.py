"""`fit`, `sample` and `log_prob` on simple laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from structdiff import (
    Categorical,
    Flow,
    Gaussian,
    GeodesicFlow,
    Heun,
    Linear,
    Product,
    UniformTime,
    absorbing,
    fit,
    log_prob,
    sample,
)
from structdiff.batch import Batch
from structdiff.nn import ConditionFeatures
from structdiff.objectives import EDM, Denoising, InverseSigma, LogUniformTimes, MinSNR
from structdiff.parameterisations import Preconditioned
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1)
        )

    def forward(self, x, clock):
        return self.layers(torch.stack([x, clock / 4], -1)).squeeze(-1)


class Pair(nn.Module):
    """A class and a number whose sign it sets."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 48), nn.SiLU(), nn.Linear(48, 3))

    def forward(self, batch, clock, previous):
        del previous
        x, one_hot = batch["x"], nn.functional.one_hot(batch["y"], 3)
        times = [clock[n].float().expand(len(x)) / 4 for n in ("x", "y")]
        seen = torch.cat([x[:, None], one_hot, torch.stack(times, -1)], 1)
        out = self.layers(seen)
        return {"x": out[:, 0], "y": out[:, 1:]}


def test_a_bare_tensor():
    """Two clusters, 0.3 at -1 and 0.7 at 1.5, deviation 0.2."""
    torch.manual_seed(0)
    source = torch.Generator().manual_seed(0)
    right = torch.rand(4000, generator=source) < 0.7
    data = torch.where(right, 1.5, -1.0) + 0.2 * torch.randn(4000, generator=source)
    denoiser = fit(
        data,
        Gaussian(Linear()),
        Scalar(),
        steps=500,
        learning_rate=5e-3,
        objective=Denoising(MinSNR()),
    )
    drawn = sample(denoiser, 2000, steps=40)
    assert drawn.shape == (2000,)
    assert abs(float((drawn > 0.25).float().mean()) - 0.7) < 0.08
    assert abs(float(drawn[drawn > 0.25].mean()) - 1.5) < 0.1
    assert abs(float(drawn[drawn < 0.25].mean()) + 1.0) < 0.12
    assert float(drawn[drawn > 0.25].std()) < 0.4
    assert torch.equal(drawn, sample(denoiser, 2000, steps=40))
    assert not torch.equal(drawn, sample(denoiser, 2000, steps=40, seed=1))
    other = sample(denoiser, 500, sampler=Heun(denoiser, UniformTime(20)))
    assert abs(float((other > 0.25).float().mean()) - 0.7) < 0.12


def test_a_mapping():
    torch.manual_seed(0)
    source = torch.Generator().manual_seed(0)
    y = (torch.rand(3000, generator=source) < 0.4).long()
    x = (2.0 * y - 1) + 0.1 * torch.randn(3000, generator=source)
    process = Product({"x": Gaussian(Linear()), "y": Categorical(Flow(), absorbing(2))})
    settings = {"learning_rate": 5e-3, "objective": Denoising(MinSNR())}
    denoiser = fit({"x": x, "y": y}, process, Pair(), steps=400, **settings)
    drawn = sample(denoiser, 1500, steps=40)
    assert sorted(drawn) == ["x", "y"]
    assert abs(float((drawn["y"] == 1).float().mean()) - 0.4) < 0.08
    agree = (drawn["x"] > 0) == (drawn["y"] == 1)
    assert float(agree.float().mean()) > 0.9


def test_a_denoiser_without_weights_can_be_sampled():
    denoiser = ExactDenoiser(Product({"x": Gaussian(Linear())}), Batch.of(torch.tensor([2.0])))
    torch.testing.assert_close(sample(denoiser, 3, steps=4), torch.full((3,), 2.0))


def test_refusals():
    with pytest.raises(ValueError, match="no samples"):
        fit(torch.zeros(0), Gaussian(Linear()), Scalar(), steps=1)
    with pytest.raises(ValueError, match=r"event"):
        fit(torch.zeros(4, 2), Gaussian(Linear()), Scalar(), steps=1)
    with pytest.raises(ValueError, match="leaf|leaves"):
        fit({"a": torch.zeros(4), "b": torch.zeros(4)}, Gaussian(Linear()), Scalar(), steps=1)


class Labelled(nn.Module):
    """A number whose law depends on a class."""

    def __init__(self):
        super().__init__()
        self.conditions = ConditionFeatures({}, {"side": 2})
        self.layers = nn.Sequential(
            nn.Linear(2 + self.conditions.width, 48), nn.SiLU(), nn.Linear(48, 1)
        )

    def forward(self, batch, clock, previous):
        del previous
        time = clock["x"].float().expand(len(batch["x"])) / 4
        seen = [batch["x"][:, None], time[:, None], self.conditions(batch)]
        return {"x": self.layers(torch.cat(seen, 1)).squeeze(1)}


def test_conditions_and_guidance():
    """The side of a number is asked for, left open, or asked for strongly."""
    torch.manual_seed(0)
    source = torch.Generator().manual_seed(0)
    side = (torch.rand(4000, generator=source) < 0.5).long()
    data = {"x": 2.0 * side - 1 + 0.6 * torch.randn(4000, generator=source)}
    denoiser = fit(
        data,
        Product({"x": Gaussian(Linear(), Preconditioned(1.2))}),
        Labelled(),
        steps=600,
        learning_rate=5e-3,
        objective=Denoising(EDM(1.2)),
        condition={"side": side},
        condition_dropout=0.3,
    )
    right = sample(denoiser, 1500, steps=40, condition={"side": 1})
    assert abs(float(right.mean()) - 1) < 0.15
    each = sample(denoiser, 1500, steps=40, condition={"side": torch.arange(1500) % 2})
    assert abs(float(each[::2].mean()) + 1) < 0.15
    free = sample(denoiser, 1500, steps=40)
    assert abs(float((free > 0).float().mean()) - 0.5) < 0.1
    off = sample(denoiser, 1500, steps=40, condition={"side": 1}, guidance=0.0)
    assert torch.equal(off, free)
    strong = sample(denoiser, 1500, steps=40, condition={"side": 1}, guidance=3.0)
    assert float(strong.mean()) > float(right.mean()) + 0.1
    with pytest.raises(ValueError, match="goes with the default sampler"):
        sample(denoiser, 2, sampler=Heun(denoiser, UniformTime(4)), guidance=2.0)


def test_a_given_leaf():
    """Leaves are known for all samples at once, or one by one; what does not fit is refused."""
    process = Product({"x": Gaussian(Linear()), "y": Categorical(Flow(), absorbing(3))})
    data = Batch.of({"x": torch.tensor([-1.0, 0.0, 1.0]), "y": torch.tensor([0, 1, 2])})
    exact = ExactDenoiser(process, data)
    drawn = sample(exact, 50, steps=10, given={"y": torch.tensor(2)})
    assert torch.equal(drawn["y"], torch.full((50,), 2))
    assert torch.allclose(drawn["x"], torch.ones(50), atol=1e-4)
    both = sample(exact, 4, steps=10, given={"y": torch.tensor([0, 1, 2, 0])})
    assert torch.allclose(both["x"], torch.tensor([-1.0, 0.0, 1.0, -1.0]), atol=1e-4)
    with pytest.raises(ValueError, match=r"leaves \['z'\], the process has"):
        sample(exact, 4, given={"z": torch.tensor(0)})
    with pytest.raises(ValueError, match="given 'y' must have shape"):
        sample(exact, 4, given={"y": torch.tensor([0, 1])})


def test_arrays_lists_and_other_precisions_are_the_same_data():
    values = [0.5 * i - 2 for i in range(8)]
    half = torch.tensor(values)
    fixed = np.array(values)
    fixed.flags.writeable = False
    drawn = []
    for data in (half, half.double(), fixed, values, fixed.astype(np.float32)):
        torch.manual_seed(0)
        denoiser = fit(data, Gaussian(Linear()), Scalar(), steps=3, batch_size=4)
        drawn.append(sample(denoiser, 3, steps=4))
    assert all(torch.equal(one, drawn[0]) for one in drawn)
    one, x, side = np.int32([0, 1] * 4), np.array(values), np.uint8([0, 1] * 4)
    process = Product({"x": Gaussian(Linear()), "y": Categorical(Flow(), absorbing(2))})
    fit({"x": x, "y": one}, process, Pair(), steps=1, batch_size=4)
    labelled = fit(
        {"x": x}, Product({"x": Gaussian(Linear())}), Labelled(), condition={"side": side}, steps=1
    )
    same = [
        sample(labelled, 2, steps=3, condition={"side": c}) for c in ([0, 1], np.uint8([0, 1]))
    ]
    assert torch.equal(*same)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (["a", "b"], "data 'x' must be numbers, as a tensor, an array or lists, got list"),
        ([[1.0], [1.0, 2.0]], "data 'x' must be numbers"),
        ({"x": None}, "data 'x' must be numbers"),
        (3.0, r"data must be \(samples, \*event\)"),
        ({}, "data must be .* at least one"),
    ],
)
def test_data_that_are_no_numbers_are_refused(data, why):
    with pytest.raises(ValueError, match=why):
        fit(data, Gaussian(Linear()), Scalar(), steps=1)


def test_what_is_asked_may_be_an_array_or_a_list():
    process = Product({"x": Gaussian(Linear()), "y": Categorical(Flow(), absorbing(3))})
    data = Batch.of({"x": torch.tensor([-1.0, 0.0, 1.0]), "y": torch.tensor([0, 1, 2])})
    exact = ExactDenoiser(process, data)
    for given in ([0, 2], np.int32([0, 2]), torch.tensor([0, 2])):
        drawn = sample(exact, 2, steps=10, given={"y": given})
        torch.testing.assert_close(drawn["x"], torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    drawn = sample(exact, 2, steps=10, given={"x": np.array([-1.0, 1.0])})
    assert drawn["x"].dtype == torch.float32
    assert drawn["y"].tolist() == [0, 2]
    for asked, why in (
        ({"given": {"y": 0.5}}, "given 'y' must be whole numbers, got torch.float32"),
        ({"given": {"y": "two"}}, "given 'y' must be numbers"),
        ({"given": [1]}, "given must be a mapping from names to values, got list"),
        ({"condition": {"c": "two"}}, "condition 'c' must be numbers"),
        ({"condition": 1.0}, "condition must be a mapping from names to values, got float"),
    ):
        with pytest.raises(ValueError, match=why):
            sample(exact, 2, steps=2, **asked)


def test_a_bare_network_sees_no_condition():
    with pytest.raises(ValueError, match="sees no condition"):
        fit(torch.randn(8), Gaussian(Linear()), Scalar(), condition={"c": torch.zeros(8)})


def test_the_log_density_of_plain_tensors():
    """A normal's, and beside a given leaf that of the other one."""
    one = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.full((1,), 2.0))
    x = torch.tensor([0.5, -3.0])
    spread = float(Linear()(torch.tensor(1e-3)).sigma)
    truth = torch.distributions.Normal(0.0, math.hypot(2, spread)).log_prob(x)
    for data in (x, x.tolist(), {"x": x}):
        report = log_prob(one, data, tolerance=1e-6)
        torch.testing.assert_close(report.total.float(), truth, rtol=0, atol=2e-3)
    guess = log_prob(one, x, tolerance=1e-6, probes=3)
    torch.testing.assert_close(guess.total, report.total)  # in one dimension a probe is exact


def test_a_density_needs_all_leaves():
    one = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"data has the leaves \['y'\], the process \['x'\]"):
        log_prob(one, {"y": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"given names the leaves \['y'\], the data have \['x'\]"):
        log_prob(one, torch.zeros(2), given=["y"])
    assert float(log_prob(one, torch.zeros(2), given=["x"]).total.abs().max()) == 0


def test_a_flow_on_the_circle_is_fitted_and_drawn():
    """The default sampler of a process without fresh noise is deterministic."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 1))

        def forward(self, x, clock):
            return self.layers(torch.cat([torch.cos(x), torch.sin(x), clock[:, None] / 4], 1))

    generator = torch.Generator().manual_seed(0)
    data = 1.0 + 0.3 * torch.randn(500, 1, generator=generator)
    aim = Denoising(InverseSigma(2), LogUniformTimes(0.02))
    process = GeodesicFlow(Torus(1))
    denoiser = fit(data, process, Network(), steps=600, learning_rate=1e-2, objective=aim)
    drawn = sample(denoiser, 1000, steps=20)
    low, middle, high = drawn.flatten().quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert abs(middle - 1.0) < 0.1
    assert 0.3 < high - low < 0.6  # of the data 0.4
    near, far = log_prob(denoiser, torch.tensor([[1.0], [-2.0]])).total.tolist()
    assert near > far + 3
