"""Linear subspaces."""

import pytest
import torch
from torch import Tensor

from structdiff import Layout
from structdiff.spaces import Subspace, Whole, ZeroCentre

COUNTS = [1, 4, 0, 2]
LAYOUT = Layout.ragged(COUNTS)
HELD = torch.tensor([False, True, False, False, True, False, False])  # two rows of sample 1

SPACES = [Whole(), ZeroCentre()]
spaces = pytest.mark.parametrize("space", SPACES, ids=["euclidean", "zero centre"])
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
