"""The nearest-codeword quantiser: codewords come back, and follow what is quantised."""

from __future__ import annotations

import pytest
import torch

from structdiff.codecs.codebook import AveragedCodebook, Codebook, Codewords
from structdiff.codecs.usage import usage_of
from structdiff.counter import Counter
from structdiff.layout import Layout
from structdiff.random import Generator


def book(classes: int = 7, width: int = 3) -> Codebook:
    torch.manual_seed(0)
    return Codebook(classes, width, commitment=0.3).double()


def test_codewords_come_back() -> None:
    codes = book(64, 5)
    classes = torch.arange(64).reshape(4, 16)
    assert torch.equal(codes.encode(codes.decode(classes)), classes)


def test_the_nearest_is_found() -> None:
    codes = book()
    z = torch.randn(50, 2, 3, dtype=torch.float64)
    distance = (z.unsqueeze(-2) - codes.codewords).norm(dim=-1)
    assert torch.equal(codes.encode(z), distance.argmin(-1))


def test_the_straight_through_value_is_the_codeword_with_the_gradient_of_the_vector() -> None:
    codes = book()
    z = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    found = codes(z)
    torch.testing.assert_close(found.value, codes.decode(found.classes), rtol=0, atol=1e-15)
    weight = torch.randn(10, 3, dtype=torch.float64)
    (weight * found.value).sum().backward()
    assert torch.equal(z.grad, weight)
    assert codes.codewords.grad is None


def test_the_loss_moves_codewords_to_vectors_and_vectors_to_codewords() -> None:
    """Gradients by hand: 2 (e - z) at the chosen codewords, 2 beta (z - e) at the vectors."""
    codes = book()
    z = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    found = codes(z)
    found.loss.sum().backward()
    gap = (codes.decode(found.classes) - z).detach()
    torch.testing.assert_close(z.grad, -2 * 0.3 * gap)
    expected = torch.zeros(7, 3, dtype=torch.float64).index_add(0, found.classes, 2 * gap)
    torch.testing.assert_close(codes.codewords.grad, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Codebook(0, 3), "classes and width must be at least 1, got 0 and 3"),
        (lambda: Codebook(4, 3, commitment=-1.0), "commitment must be at least 0 and finite"),
        (lambda: Codebook(4, 3, decay=1.0), "decay and restart must be in"),
        (lambda: AveragedCodebook(4, 3, restart=-0.1), "got 0.99 and -0.1"),
        (lambda: Codebook(4, 3).encode(torch.zeros(2, 5)), r"shape \(2, 5\), codewords 3 entries"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


BOOKS = pytest.mark.parametrize("kind", [Codebook, AveragedCodebook])


def vectors(count: int, width: int = 3, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw, dtype=torch.float64)


def test_averaged_codewords_are_quotients_of_two_averages() -> None:
    """Appendix A.1: N <- d N + (1 - d) n and m <- d m + (1 - d) sum z, from zero; e = m / N."""
    torch.manual_seed(0)
    codes = AveragedCodebook(5, 3, decay=0.8).double()
    numbers, sums = torch.zeros(5).double(), torch.zeros(5, 3).double()
    first = codes.table().clone()
    for step in range(6):
        z, table = vectors(30, seed=step), codes.table().clone()
        codes(z, Generator(step))
        nearest = torch.cdist(z, table).argmin(1)
        for k in range(5):
            numbers[k] = 0.8 * numbers[k] + 0.2 * (nearest == k).sum()
            sums[k] = 0.8 * sums[k] + 0.2 * z[nearest == k].sum(0)
    seen = numbers > 0
    assert seen.sum() >= 3
    torch.testing.assert_close(codes.table()[seen], (sums / numbers.unsqueeze(1))[seen])
    assert torch.equal(codes.table()[~seen], first[~seen])
    torch.testing.assert_close(codes.usage, numbers / 30)


def test_no_gradient_reaches_averaged_codewords_and_vectors_are_committed() -> None:
    codes = AveragedCodebook(7, 3, commitment=0.3).double()
    z = vectors(10).requires_grad_()
    found = codes(z)
    found.loss.sum().backward()
    torch.testing.assert_close(z.grad, 2 * 0.3 * (z.detach() - codes.decode(found.classes)))
    assert list(codes.parameters()) == []


@BOOKS
def test_nothing_follows_where_there_is_nothing_to_draw_from(kind: type[Codewords]) -> None:
    codes = kind(7, 3, restart=0.5).double()
    before = {name: x.clone() for name, x in codes.state_dict().items()}
    codes(vectors(10))
    assert all(torch.equal(x, before[name]) for name, x in codes.state_dict().items())


@BOOKS
def test_the_first_batch_places_all_codewords(kind: type[Codewords]) -> None:
    codes, z = kind(7, 3, restart=0.1).double(), vectors(50)
    codes(z + 100, Generator(0))
    distance = torch.cdist(codes.table(), z + 100)
    assert (distance < 1e-9).any(1).all()
    assert len(distance.argmin(1).unique()) > 3


@BOOKS
def test_a_codeword_that_nobody_uses_moves_when_its_usage_is_too_small(
    kind: type[Codewords],
) -> None:
    """It falls by the decay, from 1 / K: below a tenth of that after log 0.1 / log 0.8 = 10.3."""
    codes, z = kind(3, 1, decay=0.8, restart=0.1).double(), vectors(40, 1)
    codes(z, Generator(0))
    far = torch.tensor([[-1.0], [1.0], [1e4]], dtype=torch.float64)
    codes.replace(torch.ones(3, dtype=torch.bool), far)
    weight = codes.codewords.detach().clone()
    for step in range(10):
        codes(z, Generator(step))
        assert codes.table()[2].item() == 1e4
    codes(z, Generator(11))
    assert (codes.table()[2] - z).abs().min() < 1e-9
    torch.testing.assert_close(codes.usage[2].item(), 1 / 3)
    if kind is Codebook:  # what the optimiser and the moving average know is left to them
        assert torch.equal(codes.codewords, weight)


@BOOKS
def test_a_codeword_in_use_is_not_restarted(kind: type[Codewords]) -> None:
    codes = kind(2, 1, decay=0.5, restart=0.2).double()
    codes(vectors(5, 1), Generator(0))
    codes.replace(torch.ones(2, dtype=torch.bool), torch.tensor([[-1.0], [1.0]]).double())
    z = torch.tensor([[-1.0]] * 4 + [[1.0]]).double()  # a share of 1/5, more than 0.2 / 2
    for step in range(30):
        codes(z, Generator(step))
    assert codes.usage[1] < 0.21
    torch.testing.assert_close(codes.table(), torch.tensor([[-1.0], [1.0]]).double())


@BOOKS
def test_restarts_draw_from_what_they_are_handed(kind: type[Codewords]) -> None:
    def table(seed: int, world: int) -> torch.Tensor:
        codes = kind(4, 3, restart=0.1).double()
        with torch.no_grad():
            codes.codewords.zero_()
        torch.manual_seed(world)
        codes(vectors(50), Generator(seed))
        return codes.table()

    assert torch.equal(table(0, 1), table(0, 2))
    assert not torch.equal(table(0, 1), table(1, 1))


def test_noise_by_address_restarts_each_step_anew() -> None:
    def table(step: int) -> torch.Tensor:
        codes = AveragedCodebook(4, 3, restart=0.1).double()
        source = Counter(0).scoped(step=step, layout=Layout.regular(5), ids=torch.arange(5))
        codes(vectors(50), source)
        return codes.table()

    assert torch.equal(table(1), table(1))
    assert not torch.equal(table(1), table(2))


@BOOKS
def test_codewords_come_back_far_from_the_origin(kind: type[Codewords]) -> None:
    codes, classes = kind(512, 4), torch.arange(512)
    with torch.no_grad():
        codes.codewords += 1000.0
    assert torch.equal(codes.encode(codes.decode(classes)), classes)


@BOOKS
def test_codewords_come_back_in_low_precision(kind: type[Codewords]) -> None:
    codes, classes = kind(512, 4), torch.arange(512)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codes.encode(codes.decode(classes)), classes)


def test_usage_is_counted() -> None:
    found = usage_of(torch.tensor([[0, 1, 1], [3, 3, 3]]), 5)
    share = torch.tensor([1, 2, 0, 3, 0]) / 6
    assert torch.equal(found.share, share)
    assert found.used == 3
    entropy = torch.distributions.Categorical(share).entropy()
    torch.testing.assert_close(found.perplexity, entropy.exp())
