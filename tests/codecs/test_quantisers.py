"""Autoencoders whose latents are codes: one class per place, or several by residuals."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff.codecs.codebook import AveragedCodebook, Codebook
from structdiff.codecs.kinds import described, make_codec
from structdiff.codecs.quantiser import VectorQuantiser
from structdiff.codecs.residual_quantiser import ResidualCodebook, ResidualQuantiser
from structdiff.random import Generator

SMALL = {"classes": 6, "width": 3, "widths": (8, 8)}
KINDS = {
    "vector, averages": (VectorQuantiser, {}),
    "vector, gradients": (VectorQuantiser, {"follow": "gradient"}),
    "residual": (ResidualQuantiser, {"levels": 3}),
    "residual, gradients": (ResidualQuantiser, {"follow": "gradient"}),
}
kinds = pytest.mark.parametrize("kind", KINDS)
EVENTS = [(2, 24), (1, 8, 12)]


def made(kind, event=(1, 8, 12), **settings):
    torch.manual_seed(0)
    maker, chosen = KINDS[kind]
    return maker(event, **{**SMALL, **chosen, **settings}).double()


def fields(event=(1, 8, 12), count=5):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, *event, generator=draw, dtype=torch.float64)


def books(kind="average", levels=3, width=4):
    torch.manual_seed(0)
    maker = {"average": AveragedCodebook, "gradient": Codebook}[kind]
    return ResidualCodebook([maker(8, width) for _ in range(levels)]).double()


@kinds
@pytest.mark.parametrize("event", EVENTS)
def test_codes_are_classes_of_places(kind, event):
    codec, x = made(kind, event), fields(event)
    codes = codec.encode(x)
    assert codes.dtype == torch.int64
    assert codes.shape == (5, *codec.latent)
    assert codec.latent[-len(event[1:]) :] == tuple(size // 4 for size in event[1:])
    assert 0 <= codes.min() <= codes.max() < codec.classes == 6
    assert codec.decode(codes).shape == x.shape
    assert torch.equal(codec.encode(x[2:4]), codes[2:4])
    assert codec.log_det(x) is None


@kinds
def test_what_is_decoded_from_codes_is_what_training_sees(kind):
    codec, x = made(kind).eval(), fields()
    terms = codec.terms(x, Generator(0))
    error = (x - codec.decode(codec.encode(x))).square().flatten(1).mean(1)
    torch.testing.assert_close(terms["reconstruction"], error)


@kinds
def test_gradients_pass_straight_through(kind):
    """The encoder's last bias moves its vectors alike, so its slope is that of the decoder's
    input, summed over places."""
    codec, x = made(kind, commitment=0.0).eval(), fields()
    terms = codec.terms(x, Generator(0))
    bias = codec.encoder.leave[-1].bias
    (slope,) = torch.autograd.grad(terms["reconstruction"].sum(), bias)
    value = codec.vectors(codec.encode(x)).movedim(-1, 1).detach().requires_grad_()
    error = (x - codec.decoder(value)).square().flatten(1).mean(1)
    (expected,) = torch.autograd.grad(error.sum(), value)
    torch.testing.assert_close(slope, expected.sum((0, 2, 3)))


@kinds
def test_codebooks_follow_in_training_alone(kind):
    codec, x = made(kind, restart=0.0), fields()

    def tables():
        return {n: b.clone() for n, b in codec.named_buffers()}

    before = tables()
    codec.eval().terms(x, Generator(0))
    codec.encode(x)
    codec.fit(x)
    codec.usage(x)
    assert all(torch.equal(b, before[n]) for n, b in tables().items())
    codec.train().terms(x, Generator(0))
    moved = {n for n, b in tables().items() if not torch.equal(b, before[n])}
    assert moved == {n for n in before if n.endswith("usage") or n.endswith("codewords")}


@kinds
def test_usage_is_that_of_the_codes(kind):
    codec, x = made(kind), fields(count=600)
    found, codes = codec.usage(x), codec.encode(x)
    levels = codes.unsqueeze(1) if kind.startswith("vector") else codes
    for level, share in enumerate(found.share.reshape(-1, 6)):
        own = levels[:, level]
        expected = torch.tensor([(own == k).double().mean() for k in range(6)])
        torch.testing.assert_close(share.double(), expected, rtol=1e-5, atol=1e-6)
        entropy = -sum(p * math.log(p) for p in expected.tolist() if p > 0)
        torch.testing.assert_close(
            found.perplexity.reshape(-1)[level].double(),
            torch.tensor(math.exp(entropy)).double(),
            rtol=1e-4,
            atol=0,
        )
        assert found.used.reshape(-1)[level] == (expected > 0).sum()


@kinds
def test_settings_and_tensors_are_the_whole_codec(kind):
    codec, x = made(kind, restart=0.3, decay=0.7, commitment=0.9, adversarial=0.1), fields()
    codec.train().terms(x, Generator(0))
    other = make_codec(described(codec)).double()
    other.load_state_dict(codec.state_dict())
    assert torch.equal(other.encode(x), codec.encode(x))
    assert described(other) == described(codec)
    # And they go on alike: usage and restarts are part of it.
    for one in (codec, other):
        one.train().terms(x, Generator(1))
    ours, theirs = codec.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("follow", ["average", "gradient"])
def test_each_level_takes_the_nearest_to_what_is_left(follow):
    book = books(follow)
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, left = book(z), z
    for level, one in enumerate(book.books):
        table = one.table()
        nearest = torch.cdist(left, table).argmin(1)
        assert torch.equal(found.classes[:, level], nearest)
        left = left - table[nearest]
    torch.testing.assert_close(found.value, z - left)
    torch.testing.assert_close(book.decode(found.classes), z - left)


def test_the_loss_of_levels_is_that_of_each_on_its_residual():
    book = books("gradient")
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z.requires_grad_()
    found = book(z)
    expected, left = 0, z
    for level, one in enumerate(book.books):
        codeword = one.table()[found.classes[:, level]]
        chase = (left.detach() - codeword).square().sum(1)
        expected = expected + chase + 0.25 * (left - codeword.detach()).square().sum(1)
        left = left - codeword.detach()
    torch.testing.assert_close(found.loss, expected)
    weights = [one.codewords for one in book.books]
    ours = torch.autograd.grad(found.loss.sum(), [z, *weights])
    theirs = torch.autograd.grad(expected.sum(), [z, *weights])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_value_of_levels_has_the_gradient_of_the_vector():
    book, weight = books(), torch.randn(20, 4).double()
    z = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    (weight * book(z).value).sum().backward()
    torch.testing.assert_close(z.grad, weight)


def test_further_levels_come_closer():
    """Codebooks that follow normal vectors of unit variance: 8 codewords in 2 entries each."""
    torch.manual_seed(0)
    settings = {"decay": 0.9, "restart": 0.1}
    book = ResidualCodebook([AveragedCodebook(8, 2, **settings) for _ in range(3)]).double()
    draw = torch.Generator().manual_seed(3)
    z = torch.randn(2000, 2, generator=draw, dtype=torch.float64)
    for step in range(60):
        book(z, Generator(step))
    classes = book(z).classes
    errors = [
        (z - book.decode(classes[:, : level + 1])).square().mean().item() for level in range(3)
    ]
    # The best 8 points for a normal law in the plane leave some 0.22 of the variance, and each
    # further level a part of what was left.
    assert 0.15 < errors[0] < 0.3
    assert errors[1] < 0.35 * errors[0]
    assert errors[2] < 0.45 * errors[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: made("vector, averages", follow="mean"),
            "follow must be 'average' or 'gradient'",
        ),
        (lambda: made("residual", levels=0), "levels must be at least 1, got 0"),
        (lambda: made("vector, averages", (1, 8, 9)), "must divide evenly by 4"),
        (lambda: made("residual").fit(fields((1, 8, 8))), r"must have shape \(samples, 1, 8, 12"),
        (lambda: made("residual").usage(fields((1, 8, 8))), r"must have shape \(samples, 1, 8, 1"),
        (lambda: ResidualCodebook([]), "books must be at least one codebook"),
        (
            lambda: ResidualCodebook([Codebook(2, 3), Codebook(3, 3)]),
            r"got \[\(2, 3\), \(3, 3\)\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
