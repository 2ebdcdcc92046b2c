"""Factors of covariances, against dense matrices made by other means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import scipy.fft
import torch
from torch import Tensor

from structdiff import Batch, Layout
from structdiff.processes.covariance import Composed, Factor, FromCondition, Scaling
from structdiff.processes.covariance_bases import CosineBasis, HaarBasis, Rotated
from structdiff.processes.covariance_dense import Cholesky
from structdiff.processes.covariance_rows import Autoregressive, Frames, Shared

COUNTS = [3, 1, 0, 5]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def spread(size: int, seed: int = 0) -> Tensor:
    """A covariance."""
    root = normal(size, size, seed=seed)
    return root @ root.mT + torch.eye(size).double()


def shared(size: int, correlation: float) -> Tensor:
    eye = torch.eye(size).double()
    return (1 - correlation) * eye + correlation


def chained(size: int, correlation: float) -> Tensor:
    place = torch.arange(size)
    return torch.tensor(correlation, dtype=torch.float64) ** (place[:, None] - place[None]).abs()


def rows(covariance: Callable[[int], Tensor], inside: int) -> Tensor:
    """A covariance of the rows of each sample, the same for all their entries."""
    blocks = torch.block_diag(*(covariance(count) for count in COUNTS if count))
    return torch.kron(blocks, torch.eye(inside).double())


def each(covariance: Tensor, count: int) -> Tensor:
    """A covariance of the entries of each row."""
    return torch.kron(torch.eye(count).double(), covariance)


@dataclass(frozen=True)
class Case:
    factor: Factor
    event: tuple[int, ...]
    covariance: Tensor
    ragged: bool = False

    def batch(self) -> Batch:
        layout = Layout.ragged(COUNTS) if self.ragged else Layout.regular(4)
        x = normal(layout.rows, *self.event)
        return Batch({"x": x}, {"x": layout}, {"spread": normal(layout.samples, *self.event)})


SCALES = torch.tensor([0.5, 1.0, 3.0]).double()
CONDITION = normal(4, 2)
CASES = {
    "scaling": Case(Scaling(SCALES), (2, 3), each(torch.diag(SCALES.repeat(2) ** 2), 4)),
    "scaling by the condition": Case(
        Scaling(FromCondition("spread", torch.exp)),
        (2,),
        torch.diag((2 * CONDITION).exp().flatten()),
    ),
    "cholesky": Case(Cholesky(spread(6)), (2, 3), each(spread(6), 4)),
    "cholesky scalar": Case(Cholesky(torch.tensor([[4.0]])), (), 4 * torch.eye(4).double()),
    "cholesky by the condition": Case(
        Cholesky(FromCondition("spread", lambda c: c[:, :, None] * c[:, None] + torch.eye(2))),
        (2,),
        torch.block_diag(*(torch.outer(c, c) + torch.eye(2) for c in CONDITION)),
    ),
    "kronecker": Case(
        Composed(Cholesky(spread(2), axis=0), Cholesky(spread(3, 1), axis=-1)),
        (2, 3),
        each(torch.kron(spread(2), spread(3, 1)), 4),
    ),
    "scaled cholesky": Case(
        Composed(Scaling(SCALES), Cholesky(spread(3))),
        (3,),
        each(torch.diag(SCALES) @ spread(3) @ torch.diag(SCALES), 4),
    ),
    "shared": Case(Shared(0.7), (2,), rows(lambda n: shared(n, 0.7), 2), ragged=True),
    "autoregressive": Case(
        Autoregressive(-0.8), (2,), rows(lambda n: chained(n, -0.8), 2), ragged=True
    ),
    "rows and entries": Case(
        Composed(Autoregressive(0.5), Cholesky(spread(2))),
        (2,),
        torch.block_diag(*(torch.kron(chained(n, 0.5), spread(2)) for n in COUNTS if n)),
        ragged=True,
    ),
    "shared frames": Case(
        Frames(Shared(0.3), 1), (2, 5), each(torch.kron(torch.eye(2), shared(5, 0.3)), 4)
    ),
    "autoregressive frames": Case(
        Frames(Autoregressive(0.9), -2), (5, 2), each(torch.kron(chained(5, 0.9), torch.eye(2)), 4)
    ),
    "cosines": Case(CosineBasis((0, 1)), (4, 5), torch.eye(80).double()),
    "wavelets": Case(HaarBasis(2, (0, -1)), (4, 8), torch.eye(128).double()),
    "rotated": Case(Rotated(torch.linalg.qr(normal(6, 6)).Q), (2, 3), torch.eye(24).double()),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def dense(f: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The matrix of a linear map, column by column."""
    basis = torch.eye(like.numel(), dtype=torch.float64)
    return torch.stack([f(e.reshape(like.shape)).flatten() for e in basis], 1)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b.to(a), rtol=1e-9, atol=1e-9)


def total_log_det(factor: Factor, x: Tensor) -> Tensor:
    return factor.log_det(x).expand_as(x).sum()


@cases
def test_factor_of_the_covariance(case: Case) -> None:
    """A A^T is Sigma; the inverse, the transposes and the determinant are those of A."""
    case.factor.check(case.event)
    factor, x = case.factor.bind(case.batch()), case.batch()["x"]
    matrix = dense(factor.multiply, x)
    close(matrix @ matrix.mT, case.covariance)
    close(dense(factor.solve, x), torch.linalg.inv(matrix))
    close(dense(factor.multiply_transpose, x), matrix.mT)
    close(dense(factor.solve_transpose, x), torch.linalg.inv(matrix).mT)
    close(total_log_det(factor, x), torch.linalg.slogdet(matrix).logabsdet)


def held(x: Tensor, *, entries: bool) -> Tensor:
    mask = torch.rand(len(x), generator=torch.Generator().manual_seed(5)) < 0.4
    if not entries:
        return mask
    generator = torch.Generator().manual_seed(6)
    return torch.rand(x.shape, generator=generator) < 0.4


@cases
@pytest.mark.parametrize("entries", [False, True])
def test_given_entries_leave_the_marginal_of_the_others(case: Case, entries: bool) -> None:
    """A A^T is Sigma_FF there, and given entries stay among themselves; or the mask is refused."""
    batch = case.batch()
    mask = held(batch["x"], entries=entries)
    batch = batch.with_given({"x": mask})
    mixes = case.factor.mixes_entries or case.factor.mixes_rows
    if mask.ndim > 1 and mixes and not isinstance(case.factor, Cholesky):
        with pytest.raises(ValueError, match="hold whole rows"):
            case.factor.bind(batch)
        return
    factor, x = case.factor.bind(batch), batch["x"]
    matrix = dense(factor.multiply, x)
    full = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)).expand_as(x).flatten()
    free = ~full
    product = matrix @ matrix.mT
    close(product[free][:, free], case.covariance[free][:, free])
    assert not matrix[free][:, full].any()
    assert not matrix[full][:, free].any()
    close(dense(factor.solve, x), torch.linalg.inv(matrix))
    close(dense(factor.multiply_transpose, x), matrix.mT)
    close(dense(factor.solve_transpose, x), torch.linalg.inv(matrix).mT)


def test_entries_given_of_frames_with_one_number() -> None:
    """An entry of a row `(frames,)` is a frame: the free frames keep the marginal of the chain."""
    batch = Batch.of(normal(2, 5))
    mask = torch.tensor([[False, True, True, False, False], [True, False, False, True, False]])
    factor = Frames(Autoregressive(0.6)).bind(batch.with_given({"x": mask}))
    matrix = dense(factor.multiply, batch["x"])
    free = ~mask.flatten()
    close((matrix @ matrix.mT)[free][:, free], each(chained(5, 0.6), 2)[free][:, free])
    close(total_log_det(factor, batch["x"]), torch.linalg.slogdet(matrix).logabsdet)


def test_entries_given_along_an_axis() -> None:
    """Each line along the axis has a mask of its own."""
    batch = Batch.of(normal(2, 3, 2))
    mask = held(batch["x"], entries=True)
    factor = Cholesky(spread(3), axis=0).bind(batch.with_given({"x": mask}))
    matrix, free = dense(factor.multiply, batch["x"]), ~mask.flatten()
    whole = each(torch.kron(spread(3), torch.eye(2).double()), 2)
    close((matrix @ matrix.mT)[free][:, free], whole[free][:, free])
    assert not matrix[free][:, ~free].any()


def test_covariance_of_each_sample_along_an_axis() -> None:
    def covariance(c: Tensor) -> Tensor:
        return torch.diag_embed(c**2) + 0.1

    batch = Batch.of(normal(2, 3, 2)).with_condition({"scale": normal(2, 3)})
    factor = Cholesky(FromCondition("scale", covariance), axis=0).bind(batch)
    matrix = dense(factor.multiply, batch["x"])
    blocks = [torch.kron(block, torch.eye(2).double()) for block in covariance(normal(2, 3))]
    close(matrix @ matrix.mT, torch.block_diag(*blocks))


def test_mixed_noise_of_frames_has_its_correlation() -> None:
    """a^2 / (1 + a^2) within 0.01 between any two frames; each frame is standard normal."""
    ratio = 1.5
    factor = Frames(Shared.mixed(ratio), 0).bind(Batch.of(torch.zeros(50_000, 4)))
    noise = factor.multiply(normal(50_000, 4, seed=3))
    correlation = torch.corrcoef(noise.mT)
    expected = ratio**2 / (1 + ratio**2)
    off = ~torch.eye(4, dtype=torch.bool)
    assert float((correlation[off] - expected).abs().max()) < 0.01
    close_to_one = 4 * math.sqrt(2 / 50_000)
    assert float((noise.var(0) - 1).abs().max()) < close_to_one
    assert float(noise.mean(0).abs().max()) < 4 / math.sqrt(50_000)


def test_cosines_are_scipys() -> None:
    for size in (1, 2, 5, 8):
        x = normal(3, size, seed=size)
        expected = torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho"))
        close(CosineBasis().analyse(x), expected)
    x = normal(2, 3, 4)
    expected = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(1, 2), norm="ortho"))
    close(CosineBasis((0, 1)).analyse(x), expected)


def test_cosines_solve_the_heat_equation() -> None:
    """Coefficients that fade as e^{-lambda tau} make a mode of the insulated rod fade so."""
    basis, places = CosineBasis(), torch.arange(64).double()
    mode = torch.cos(math.pi * 3 * (places + 0.5) / 64)[None]
    rates = basis.frequencies((64,))
    tau = 40.0
    faded = basis.synthesise(torch.exp(-rates * tau) * basis.analyse(mode))
    close(faded, math.exp(-((3 * math.pi / 64) ** 2) * tau) * mode)


def test_wavelets_lead_with_the_means_of_blocks() -> None:
    x = normal(2, 4, 8)
    basis = HaarBasis(2, (0, 1))
    u, depth = basis.analyse(x), basis.depth((4, 8))
    means = x.unflatten(1, (1, 4)).unflatten(3, (2, 4)).mean((2, 4))
    close(u[:, :1, :2], 4 * means)
    assert depth.flatten().bincount().tolist() == [32 - 8, 8 - 2, 2]
    coarse = basis.synthesise(torch.where(depth >= 1, u, 0.0))
    halves = x.unflatten(1, (2, 2)).unflatten(3, (4, 2)).mean((2, 4))
    close(coarse, halves.repeat_interleave(2, 1).repeat_interleave(2, 2))


@cases
def test_a_sample_does_not_depend_on_its_batch_mates(case: Case) -> None:
    """To rounding: alone, and in a batch."""
    batch = case.batch()
    factor = case.factor.bind(batch)
    for i in range(batch.samples):
        alone = batch.select([i])
        places = batch.layouts["x"].rows_of(torch.tensor([i]))
        own = case.factor.bind(alone)
        for name in ("multiply", "solve", "multiply_transpose", "solve_transpose"):
            whole = getattr(factor, name)(batch["x"])[places]
            torch.testing.assert_close(
                whole, getattr(own, name)(alone["x"]), rtol=1e-13, atol=1e-13
            )


@cases
def test_single_precision_and_gradients(case: Case) -> None:
    """float32 in, float32 out; the maps are differentiable."""
    batch = case.batch()
    low = Batch({"x": batch["x"].float()}, batch.layouts, batch.condition)
    factor, exact = case.factor.bind(low), case.factor.bind(batch)
    moved = factor.multiply(low["x"])
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved.double(), exact.multiply(batch["x"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(factor.solve(moved), low["x"], rtol=1e-4, atol=1e-3)
    x = batch["x"].requires_grad_()
    probe = normal(*x.shape, seed=9)
    (slope,) = torch.autograd.grad((probe * exact.multiply(x)).sum(), x)
    close(slope, exact.multiply_transpose(probe))
    (slope,) = torch.autograd.grad((probe * exact.solve(x)).sum(), x)
    close(slope, exact.solve_transpose(probe))


def test_what_is_no_covariance_of_a_condition_is_not_a_number() -> None:
    """Only of its own sample."""
    batch = Batch.of(torch.ones(2, 2)).with_condition(
        {"c": torch.stack([torch.eye(2), torch.ones(2, 2) + torch.eye(2) - 2])}
    )
    moved = Cholesky(FromCondition("c")).bind(batch).multiply(batch["x"])
    assert torch.equal(moved[0], torch.ones(2))
    assert moved[1].isnan().all()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="scale must be positive, got -1.0"):
        Scaling(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"covariance must be \(K, K\), got \(2, 3\)"):
        Cholesky(torch.ones(2, 3))
    with pytest.raises(ValueError, match="must be symmetric, but differs from its transpose by 1"):
        Cholesky(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="must be positive definite, but has the eigenvalue -1"):
        Cholesky(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match=r"covariance has 2 entries, but a row \(3,\) has 3"):
        Cholesky(torch.eye(2)).check((3,))
    with pytest.raises(ValueError, match=r"axis must be one of a row \(3,\), got 1"):
        Cholesky(torch.eye(2), axis=1).check((3,))
    with pytest.raises(ValueError, match="factors must be at least one"):
        Composed()
    with pytest.raises(ValueError, match=r"correlation must be in \[0, 1\), got 1"):
        Shared(1.0)
    with pytest.raises(ValueError, match=r"correlation must be in \(-1, 1\), got -1"):
        Autoregressive(-1.0)
    with pytest.raises(ValueError, match="must be orthogonal, but B.T B differs .* by 2"):
        Rotated(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"matrix has 2 rows, but a row \(3,\)"):
        Rotated(torch.eye(2)).check((3,))
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        HaarBasis(0)
    with pytest.raises(ValueError, match=r"6 entries, which must be a multiple of 2\^levels = 4"):
        HaarBasis(2).check((6,))
    with pytest.raises(ValueError, match="needs the condition 'mean', but the batch has"):
        Scaling(FromCondition("mean")).bind(Batch.of(torch.zeros(2)))
    two = Composed(Shared(0.5), Autoregressive(0.5))
    batch = Batch.of(torch.zeros(2)).with_given({"x": torch.tensor([True, False])})
    with pytest.raises(ValueError, match="two factors that mix rows have no marginal"):
        two.bind(batch)
