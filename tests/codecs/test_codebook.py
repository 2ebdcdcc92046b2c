"""The nearest-codeword quantiser (D14)."""

from __future__ import annotations

import pytest
import torch

from structdiff.codecs import Codebook


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
        (lambda: Codebook(4, 3).encode(torch.zeros(2, 5)), r"shape \(2, 5\), codewords 3 entries"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
