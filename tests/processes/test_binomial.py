"""The binomial chain: bits that flip, as a categorical chain of two classes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Categorical,
    Discrete,
    Generator,
    Product,
    UniformTime,
    bound,
    uniform,
)
from structdiff.schedules import CLEAN, Survival
from structdiff.testing import ExactDenoiser

BETAS = {
    "rising": torch.linspace(0.05, 0.6, 8, dtype=torch.float64),
    "to the end": 1 / torch.arange(8, 0, -1, dtype=torch.float64),
    "one": torch.tensor([0.3], dtype=torch.float64),
    "thousand": torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64),
}
chains = pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS.keys())

STATES = torch.tensor(list(itertools.product(range(2), repeat=2)))
LAW = torch.tensor([0.45, 0.05, 0.1, 0.4], dtype=torch.float64)
"""Of the states 00, 01, 10, 11: two bits that know of each other."""


def bits(betas: Tensor, *event: int) -> Categorical:
    return Categorical(Survival(Discrete(betas)), uniform(2), event=event)


def one_step(betas: Tensor) -> list[Tensor]:
    """B(x_t; x_s (1 - beta) + beta / 2) as matrices: a bit flips with probability beta / 2."""
    return [torch.stack([1 - b / 2, b / 2, b / 2, 1 - b / 2]).reshape(2, 2) for b in betas]


@chains
def test_product_of_one_step_matrices_is_the_closed_form(betas: Tensor) -> None:
    """A02, C12: and the closed form is a flip with probability (1 - prod(1 - beta)) / 2."""
    steps, x_0, x_t = len(betas), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    process = bits(betas).bind(Batch.of(x_0))
    whole, left = torch.eye(2).double(), 1.0
    for i, (matrix, beta) in enumerate(zip(one_step(betas), betas.tolist(), strict=True), 1):
        whole, left = whole @ matrix, left * (1 - beta)
        t = torch.tensor(i / steps, dtype=torch.float64)
        ours = process.log_prob(x_t, x_0, t).exp().reshape(2, 2)
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)
        flip = (1 - left) / 2
        assert ours[0].tolist() == pytest.approx([1 - flip, flip], abs=1e-12)


def test_many_bits_are_binomial() -> None:
    """The number of flipped ones among n has the binomial law: 20,000 rows of 10 bits."""
    betas, rows, n = BETAS["rising"], 20_000, 10
    x_0 = torch.zeros(rows, n, dtype=torch.int64)
    process = bits(betas, n).bind(Batch.of(x_0))
    x_t = process.diffuse(x_0, torch.tensor(0.5, dtype=torch.float64), Generator(0))
    flip = (1 - math.prod((1 - betas[:4]).tolist())) / 2
    share = torch.bincount(x_t.sum(1), minlength=n + 1) / rows
    for k, found in enumerate(share.tolist()):
        p = math.comb(n, k) * flip**k * (1 - flip) ** (n - k)
        assert abs(found - p) <= 4.5 * math.sqrt(p * (1 - p) / rows) + 1 / rows


def twice(matrix: Tensor) -> Tensor:
    """The matrix of two independent bits, over `STATES`."""
    return torch.kron(matrix, matrix)


class World:
    """Two bits of the law `LAW` and their chain, by enumeration of all four states."""

    def __init__(self, betas: Tensor) -> None:
        ones = one_step(betas)
        self.products = [torch.eye(2).double(), *itertools.accumulate(ones, torch.matmul)]
        self.kernels = [self.reverse(i, ones[i - 1]) for i in range(1, len(betas) + 1)]

    def bayes(self, i: int, matrix: Tensor) -> Tensor:
        """q(x_{i-1} | x_i, x_0) of one bit, `(x_0, x_i, x_{i-1})`."""
        joint = self.products[i - 1][:, None, :] * matrix.T[None]
        return joint / joint.sum(-1, keepdim=True)

    def reverse(self, i: int, matrix: Tensor) -> Tensor:
        """The bits of p(x_{i-1} | x_i) apart, each given all of x_i, `(x_i, x_{i-1})`."""
        posterior = LAW[:, None] * twice(self.products[i])
        posterior = posterior / posterior.sum(0)  # (x_0, x_i)
        bayes = self.bayes(i, matrix)
        kernel = torch.ones(4, 4).double()
        for bit in range(2):
            share = torch.stack([posterior[STATES[:, bit] == k].sum(0) for k in range(2)])
            at = bayes[:, STATES[:, bit]]  # (k, x_i, value of the bit in x_{i-1})
            kernel = kernel * (share[..., None] * at).sum(0)[:, STATES[:, bit]]
        return kernel

    def model(self) -> Tensor:
        """p(x_0) of the whole reverse chain from uniform bits."""
        law = torch.full((4,), 0.25).double()
        for kernel in reversed(self.kernels):
            law = law @ kernel
        return law

    def bound(self, betas: Tensor) -> Tensor:
        """The bound of each x_0, every expectation a sum."""
        end = twice(self.products[-1])
        total = torch.xlogy(end, 4 * end).sum(1)
        for i, matrix in enumerate(one_step(betas), 1):
            single = self.bayes(i, matrix)
            joint = torch.kron(single, single)  # (x_0, x_i, x_{i-1}), bits apart
            terms = (torch.xlogy(joint, joint) - torch.xlogy(joint, self.kernels[i - 1])).sum(-1)
            total = total + (twice(self.products[i]) * terms).sum(1)
        return total


TOYS = {
    "rising": BETAS["rising"],
    "short": torch.tensor([0.3, 0.9], dtype=torch.float64),
    "long": torch.full((64,), 0.06, dtype=torch.float64),
}
toys = pytest.mark.parametrize("betas", TOYS.values(), ids=TOYS.keys())


@toys
def test_bound_of_two_bits_is_never_below(betas: Tensor) -> None:
    """A02: above -log p of the chain at each point, and above the entropy of the data."""
    world = World(betas)
    above = world.bound(betas)
    assert float(world.model().sum()) == pytest.approx(1, abs=1e-12)
    assert bool((above >= -world.model().log() - 1e-12).all())
    entropy = float(-(LAW * LAW.log()).sum())
    assert float((LAW * above).sum()) > entropy
    # The chain's own law is not the data's: its cross-entropy lies between the two.
    cross = float(-(LAW * world.model().log()).sum())
    assert entropy - 1e-12 <= cross <= float((LAW * above).sum()) + 1e-12


def test_bound_falls_to_the_entropy_with_many_steps() -> None:
    entropy = float(-(LAW * LAW.log()).sum())
    gaps = []
    for steps in (8, 16, 32, 64):
        betas = 1 - torch.exp(torch.full((steps,), -6.0 / steps, dtype=torch.float64))
        gaps.append(float((LAW * World(betas).bound(betas)).sum()) - entropy)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-2] / gaps[-1] == pytest.approx(2, abs=0.2)
    assert abs(2 * gaps[-1] - gaps[-2]) < 0.002  # nothing is left in the limit


@toys
def test_our_reverse_kernel_is_that_of_the_enumeration(betas: Tensor) -> None:
    """The exact denoiser of four weighted points, at all pairs of states."""
    steps, world = len(betas), World(betas)
    process = Product({"x": bits(betas, 2)})
    denoiser = ExactDenoiser(process, Batch.of(STATES), LAW)
    x_t, x_s = STATES.repeat_interleave(4, 0), STATES.repeat(4, 1)
    batch = Batch.of(x_t)
    bound_process = process.bind(batch)
    for i in range(1, steps + 1):
        t = torch.tensor(i / steps, dtype=torch.float64)
        s = torch.tensor((i - 1) / steps if i > 1 else CLEAN, dtype=torch.float64)
        estimate = denoiser(batch, bound_process.times(t))
        (plan,) = bound_process.plan(torch.stack([t, s]), 1.0)
        log_p = bound_process.reverse_log_prob({"x": x_s}, batch.leaves, estimate, plan)["x"]
        ours = log_p.exp().reshape(4, 4)
        torch.testing.assert_close(ours, world.kernels[i - 1], rtol=0, atol=1e-10)


@toys
def test_our_bound_is_the_enumerated_one(betas: Tensor) -> None:
    """Within four standard errors of the mean over 1,500 copies of each state."""
    copies = 1500
    denoiser = ExactDenoiser(Product({"x": bits(betas, 2)}), Batch.of(STATES), LAW)
    batch = Batch.of(STATES.repeat(copies, 1))
    report = bound(denoiser, batch, UniformTime(len(betas)), Generator(2))
    each = report.total.reshape(copies, 4).double()
    error = each.std(0) / math.sqrt(copies)
    assert bool(((each.mean(0) - World(betas).bound(betas)).abs() < 4 * error).all())
