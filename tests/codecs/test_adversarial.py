"""An opponent: the gradients of a game of two, by one sum."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.codecs.adversarial import Opponent, opponent_of
from structdiff.codecs.autoencoder import Autoencoder
from structdiff.codecs.quantiser import VectorQuantiser
from structdiff.codecs.reconstruction import Reconstruction
from structdiff.random import Generator

EVENTS = [(1, 16), (2, 16, 8)]


def game(event, weight=0.3):
    torch.manual_seed(0)
    opponent = Opponent(event, weight, widths=(8, 8)).double()
    decoder = torch.nn.Linear(3, torch.Size(event).numel()).double()
    x, z = torch.randn(5, *event).double(), torch.randn(5, 3).double()
    return opponent, decoder, x, z


@pytest.mark.parametrize("event", EVENTS)
def test_one_sum_has_the_gradients_of_both_players(event):
    """Each player's loss written out and differentiated by that player's weights alone."""
    opponent, decoder, x, z = game(event)
    made = decoder(z).reshape(x.shape)
    judge = 0.5 * (F.relu(1 - opponent(x)) + F.relu(1 + opponent(made)))
    judged = torch.autograd.grad(2 * judge.mean(), opponent.parameters(), retain_graph=True)
    fooling = -0.3 * opponent(made).mean()
    fooled = torch.autograd.grad(fooling, decoder.parameters())
    terms = opponent.terms(x, decoder(z).reshape(x.shape))
    sum(term.mean() for term in terms.values()).backward()
    for weight, expected in zip(opponent.parameters(), judged, strict=True):
        torch.testing.assert_close(weight.grad, expected)
    for weight, expected in zip(decoder.parameters(), fooled, strict=True):
        torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("event", EVENTS)
def test_each_term_teaches_one_player(event):
    opponent, decoder, x, z = game(event)
    terms = opponent.terms(x, decoder(z).reshape(x.shape))
    terms["adversarial"].sum().backward(retain_graph=True)
    assert all(weight.grad is None for weight in opponent.parameters())
    assert decoder.weight.grad.abs().max() > 0
    decoder.zero_grad()
    terms["opponent"].sum().backward()
    assert decoder.weight.grad is None
    kernels = [weight for weight in opponent.parameters() if weight.ndim > 1]
    assert all(weight.grad.abs().max() > 0 for weight in kernels)


def test_one_optimiser_moves_what_is_made_to_what_is_real():
    """Two points on a line of fields: the codec's constant is drawn to the data's."""
    torch.manual_seed(0)
    opponent = Opponent((1, 8), 1.0, widths=(8,))
    made = torch.nn.Parameter(torch.full((1, 1, 8), -1.0))
    optimiser = torch.optim.Adam([made, *opponent.parameters()], lr=0.02, betas=(0.5, 0.9))
    x, gaps = torch.full((4, 1, 8), 0.5), []
    for _ in range(150):
        optimiser.zero_grad()
        terms = opponent.terms(x, made.expand(4, 1, 8))
        sum(term.mean() for term in terms.values()).backward()
        optimiser.step()
        gaps.append((made - 0.5).abs().mean().item())
    assert gaps[0] > 1.4
    assert sum(gaps[-50:]) / 50 < 0.5


@pytest.mark.parametrize("kind", [Autoencoder, VectorQuantiser])
def test_codecs_take_an_opponent_and_have_none_by_default(kind):
    torch.manual_seed(0)
    x = Batch.of(torch.randn(3, 1, 8, 8))
    small = {"widths": (8,), "factors": (2,)}
    plain, played = kind((1, 8, 8), **small), kind((1, 8, 8), **small, adversarial=0.1)
    alone = Reconstruction()(plain, x, Generator(0)).leaves
    both = Reconstruction()(played, x, Generator(0)).leaves
    assert plain.opponent is None
    assert set(both) - set(alone) == {"adversarial", "opponent"}
    assert set(alone) <= set(both)
    (slope,) = torch.autograd.grad(
        both["adversarial"].sum(), played.encoder.layers[0].weight, retain_graph=True
    )
    assert slope.abs().max() > 0


def test_a_weight_of_none_makes_none():
    assert opponent_of((1, 8), 0.0) is None


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"weight": float("inf")}, {"widths": ()}])
def test_what_makes_no_opponent_is_refused(settings):
    chosen = {"event": (1, 8), "weight": 1.0, **settings}
    with pytest.raises(ValueError, match="weight must be positive and finite and widths"):
        Opponent(**chosen)


def test_places_too_few_to_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"at least 4, to be halved 2 times, got \(8, 3\)"):
        Opponent((1, 8, 3), 0.1)
    assert Opponent((1, 4, 5), 0.1)(torch.zeros(1, 1, 4, 5)).shape == (1, 1, 1, 1)
