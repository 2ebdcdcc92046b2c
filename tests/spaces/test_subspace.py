"""Linear subspaces."""

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Gaussian, Generator, Layout, Linear, Product
from structdiff.samplers import DDIM
from structdiff.schedules import Cosine, UniformTime
from structdiff.spaces import Subspace, Whole, ZeroCentre
from structdiff.spaces.subspace import Span
from structdiff.testing import ExactDenoiser, check_process

COUNTS = [1, 4, 0, 2]
LAYOUT = Layout.ragged(COUNTS)
HELD = torch.tensor([False, True, False, False, True, False, False])  # two rows of sample 1

VECTORS = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])
SPACES = [Whole(), ZeroCentre(), Span(VECTORS)]
spaces = pytest.mark.parametrize("space", SPACES, ids=["euclidean", "zero centre", "span"])
masks = pytest.mark.parametrize("held", [None, HELD], ids=["free", "held"])


def normal(seed: int = 0) -> Tensor:
    return torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix(space: Subspace, held: Tensor | None) -> Tensor:
    """The projection as a matrix on all 21 numbers."""
    basis = torch.eye(21, dtype=torch.float64).reshape(21, 7, 3)
    return torch.stack([space.project(e, LAYOUT, held).flatten() for e in basis])


@spaces
@masks
def test_projection_is_orthogonal(space: Subspace, held: Tensor | None) -> None:
    p = matrix(space, held)
    torch.testing.assert_close(p @ p, p)
    torch.testing.assert_close(p, p.T)


@spaces
@masks
def test_dimensions_are_the_rank_of_the_noise(space: Subspace, held: Tensor | None) -> None:
    """Per sample: the trace of the projection, less the held rows."""
    p = matrix(space, held).diagonal().reshape(7, 3)
    if held is not None:
        p = p * ~held[:, None]
    rank = LAYOUT.sum(p).sum(-1)
    torch.testing.assert_close(LAYOUT.sum(space.dimensions(normal(), LAYOUT, held)), rank)


def test_zero_centre_has_zero_mean_and_3_n_minus_3_dimensions() -> None:
    x = ZeroCentre().project(normal(), LAYOUT, None)
    torch.testing.assert_close(LAYOUT.sum(x), torch.zeros(4, 3).double(), rtol=0, atol=1e-14)
    share = LAYOUT.sum(ZeroCentre().dimensions(x, LAYOUT, None))
    torch.testing.assert_close(share, torch.tensor([0, 9, 0, 3]).double())


def test_held_rows_fix_the_frame() -> None:
    x = normal()
    moved = ZeroCentre().project(x, LAYOUT, HELD)
    assert torch.equal(moved[1:5], x[1:5])  # the anchored sample
    torch.testing.assert_close(moved[5:].sum(0), torch.zeros(3).double(), rtol=0, atol=1e-14)


@spaces
def test_a_sample_does_not_depend_on_its_batch_mates(space: Subspace) -> None:
    x = normal()
    alone = space.project(x[1:5], Layout.ragged([4]), None)
    torch.testing.assert_close(space.project(x, LAYOUT, None)[1:5], alone, rtol=0, atol=1e-15)


def test_place_moves_known_rows_to_the_frame_of_the_others() -> None:
    """Held rows of the result have the mean that held rows of x have; R^n has one frame only."""
    x, known = normal(1), normal(2)
    assert torch.equal(Whole().place(known, x, LAYOUT, HELD, None), known)
    placed = ZeroCentre().place(known, x, LAYOUT, HELD, None)
    torch.testing.assert_close(placed[HELD].mean(0), x[HELD].mean(0))
    shift = placed[HELD] - known[HELD]
    torch.testing.assert_close(shift[0], shift[1])


def test_place_leaves_known_rows_where_others_fix_the_frame() -> None:
    """A fixed frame is the known rows' own; what is not known may be NaN."""
    x, known = normal(1), normal(2)
    fixed = torch.zeros_like(HELD)
    fixed[LAYOUT.sample == LAYOUT.sample[HELD][0]] = True
    assert torch.equal(ZeroCentre().place(known, x, LAYOUT, HELD, fixed)[HELD], known[HELD])
    holes = torch.where(HELD[:, None], known, torch.nan)
    placed = ZeroCentre().place(holes, x, LAYOUT, HELD, None)
    expected = ZeroCentre().place(known, x, LAYOUT, HELD, None)
    assert torch.equal(placed[HELD], expected[HELD])


def test_lengths_do_not_make_vectors_dependent() -> None:
    space = Span(torch.tensor([[1e10, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    x = torch.tensor([[3.0, 4.0, 5.0]]).double()
    expected = torch.tensor([[3.0, 4.0, 0.0]]).double()
    torch.testing.assert_close(space.project(x, Layout.regular(1), None), expected)


def test_span_projects_by_the_normal_equations() -> None:
    x = normal()
    v = VECTORS.double()
    expected = x @ v.T @ torch.linalg.inv(v @ v.T) @ v
    torch.testing.assert_close(Span(VECTORS).project(x, LAYOUT, None), expected)
    rest = Span(VECTORS).complement((3,)).project(x, LAYOUT, None)
    torch.testing.assert_close(rest, x - expected)
    assert torch.equal(Span(VECTORS).place(x, 0 * x, LAYOUT, HELD, None), x)
    with pytest.raises(ValueError, match=r"held must be \(rows,\) in the span .*hold whole rows"):
        Span(VECTORS).place(x, x, LAYOUT, torch.ones(7, 3, dtype=torch.bool), None)
    with pytest.raises(ValueError, match=r"linearly independent, got \(2, 3\) that are not"):
        Span(torch.ones(2, 3))


def test_two_orthogonal_parts_of_data_have_walks_of_their_own() -> None:
    """What is common and what is not, each noised in its own subspace, add up to the data."""
    common = Span(VECTORS)
    own = common.complement((3,))
    process = Product(
        {
            "common": Gaussian(Linear(), event=(3,), space=common),
            "own": Gaussian(Cosine(), event=(3,), space=own),
        }
    )
    x = normal()[:5]
    layout = Layout.regular(5)
    parts = Batch.of(
        {"common": common.project(x, layout, None), "own": own.project(x, layout, None)}
    )
    torch.testing.assert_close(parts["common"] + parts["own"], x, rtol=1e-6, atol=1e-6)
    sampler = DDIM(ExactDenoiser(process, parts), UniformTime(60))
    drawn = sampler.sample(
        Batch.of({n: 0 * parts[n].repeat(8, 1) for n in parts.leaves}), Generator(0)
    )
    whole = drawn["common"] + drawn["own"]
    gaps = torch.cdist(whole, x).min(1).values
    assert float(gaps.max()) < 1e-3
    assert float((drawn["common"] * drawn["own"]).sum(1).abs().max()) < 1e-9


def test_laws_in_a_span() -> None:
    """Density, undoing and Bayes of `check_process`, in two of three dimensions."""
    space = Span(VECTORS)
    x = space.project(normal()[:3], Layout.regular(3), None)
    check_process(Gaussian(Cosine(), event=(3,), space=space), x, draws=4000)
