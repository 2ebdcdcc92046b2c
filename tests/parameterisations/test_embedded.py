"""Codewords of classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Generator
from structdiff.parameterisations import Embedding, embed, unembed

both = pytest.mark.parametrize("normalised", [True, False])


def made(classes: int, width: int, *, normalised: bool = True, seed: int = 0) -> Embedding:
    code = Embedding(classes, width, normalised=normalised)
    drawn = Generator(seed).normal((classes, width), torch.float64, "cpu")
    code.weight = torch.nn.Parameter(drawn * 3)
    return code


@both
@pytest.mark.parametrize(("classes", "width"), [(2, 1), (3, 2), (40, 3), (2000, 16)])
def test_clean_embeddings_are_rounded_to_their_classes(
    classes: int, width: int, normalised: bool
) -> None:
    """D11; for a normalised table of one number there are two codewords at most."""
    code = made(classes, width, normalised=normalised, seed=2)
    if width == 1:
        code.weight = torch.nn.Parameter(torch.tensor([[-0.3], [2.0]]))
    index = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    assert torch.equal(code.decode(code.encode(index)), index)


@both
def test_rounding_is_to_the_nearest_and_a_softmax_of_distances(normalised: bool) -> None:
    code = made(30, 4, normalised=normalised)
    x = Generator(1).normal((5, 7, 4), torch.float64, "cpu")
    squares = (x[..., None, :] - code.table()).square().sum(-1)
    assert torch.equal(code.decode(x), squares.argmin(-1))
    torch.testing.assert_close(code.logits(x).softmax(-1), (-squares / 2).softmax(-1))


def test_normalised_codewords_have_unit_mean_square_and_cannot_grow() -> None:
    code = made(6, 5)
    torch.testing.assert_close(code.table().square().mean(1), torch.ones(6, dtype=torch.float64))
    index = torch.tensor([3, 3, 1])
    (code.encode(index) * Generator(0).normal((3, 5), torch.float64, "cpu")).sum().backward()
    radial = (code.weight.grad * code.weight).sum(1)
    torch.testing.assert_close(radial, torch.zeros(6, dtype=torch.float64))
    assert code.weight.grad[[1, 3]].abs().min() > 1e-3
    assert not code.weight.grad[[0, 2, 4, 5]].any()


@both
def test_encoding_is_differentiable_in_the_table(normalised: bool) -> None:
    code = made(4, 3, normalised=normalised)
    index = torch.tensor([[0, 2], [3, 2]])

    def through(weight: Tensor) -> Tensor:
        words = torch.func.functional_call(code, {"weight": weight}, (index,))
        return torch.tanh(words)

    code.forward = code.encode  # type: ignore[method-assign]
    assert torch.autograd.gradcheck(through, code.weight)


def test_the_expected_codeword_is_a_sum_over_classes() -> None:
    code = made(3, 2)
    p = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    table = code.table()
    by_hand = [0.2 * table[0] + 0.5 * table[1] + 0.3 * table[2], table[0]]
    torch.testing.assert_close(code.expected(p.log()), torch.stack(by_hand))


def test_other_leaves_and_conditions_stay() -> None:
    batch = Batch.of({"k": torch.tensor([1, 0]), "x": torch.zeros(2, 3)})
    batch = batch.with_condition({"c": torch.ones(2)})
    words = embed(batch, {"k": made(2, 4)})
    assert words["x"] is batch["x"]
    assert words.condition["c"] is batch.condition["c"]
    assert torch.equal(unembed(words, {"k": made(2, 4)})["k"], batch["k"])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Embedding(0, 2), "classes must be at least 1, got 0"),
        (lambda: Embedding(2, 0), "width must be at least 1, got 0"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
