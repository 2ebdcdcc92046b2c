"""The recorder of a walk, against the walk's closed form."""

from __future__ import annotations

import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Linear,
    Product,
    UniformTime,
    absorbing,
)
from structdiff.samplers.trajectory import Trajectory
from structdiff.testing import ExactDenoiser


def test_one_data_point_is_reached_on_a_straight_line():
    """Flow: x_t = (1 - t) x_0 + t z; estimates are x_0, and steps as long as dt |x_0 - z|."""
    point = torch.tensor([[3.0, -4.0]])
    denoiser = ExactDenoiser(Product({"x": Gaussian(Flow(), event=(2,))}), Batch.of(point))
    batch = Batch.of(torch.zeros(5, 2))
    path, sampler = Trajectory(batch), DDIM(denoiser, UniformTime(8))
    z = sampler.bind(batch, Generator(0)).start().x["x"]
    drawn = sampler.sample(batch, Generator(0), path)
    assert len(path.states) == 8
    assert torch.equal(path.states[-1]["x"], drawn["x"])
    for estimate in path.estimates:
        torch.testing.assert_close(estimate["x"], point.expand(5, 2))
    expected = (point - z).norm(dim=1) / 8
    lengths = path.lengths()["x"]
    assert lengths.shape == (7, 5)
    torch.testing.assert_close(lengths, expected.expand(7, 5), rtol=1e-4, atol=1e-5)


def test_ragged_rows_and_classes():
    """Rows of a sample count together; classes by how many entries changed."""
    process = Product(
        {"x": Gaussian(Linear(), event=(2,)), "y": Categorical(Flow(), absorbing(2))}
    )
    layouts = {"x": Layout.ragged([2, 3]), "y": Layout.ragged([4, 1])}
    data = Batch({"x": torch.randn(5, 2), "y": torch.tensor([0, 1, 0, 1, 1])}, layouts)
    denoiser, path = ExactDenoiser(process, data), Trajectory(data)
    start = {"x": torch.zeros(5, 2), "y": torch.full((5,), 2)}
    DDPM(denoiser, UniformTime(6)).sample(data, Generator(1), path)
    states = [dict(state) for state in path.states]
    moved = states[2]["x"] - states[1]["x"]
    expected = torch.stack([moved[:2].norm(), moved[2:].norm()])
    torch.testing.assert_close(path.lengths()["x"][1], expected)
    changed = path.lengths()["y"].square().sum(0) + torch.stack(
        [(states[0]["y"] != start["y"])[:4].sum(), (states[0]["y"] != start["y"])[4:].sum()]
    )
    # Each class is unmasked once.
    assert changed.tolist() == [4, 1]


def test_nothing_watched_has_no_lengths():
    assert Trajectory(Batch.of(torch.zeros(3))).lengths()["x"].shape == (0, 3)
