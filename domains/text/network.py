"""The network of text: a transformer over noisy tokens, see `structdiff.nn.TokenNetwork`.

Where all noise is a mask, the masked tokens say how late it is, and the network needs no clock.
"""

from __future__ import annotations

from structdiff.nn import TokenNetwork

__all__ = ["text_network"]


def text_network(
    symbols: int,
    classes: int,
    *,
    width: int,
    layers: int,
    heads: int,
    clocked: bool,
    self_conditioning: bool = False,
) -> TokenNetwork:
    """From the leaf `token` to logits of its classes.

    Arguments:
        symbols: Number of symbols of the chain, the mask included.
        classes: Number of tokens of the vocabulary.
        width: Features of a token.
        layers: Number of layers.
        heads: Heads of attention.
        clocked: Whether the network sees the time.
        self_conditioning: Whether it sees the previous estimate.
    """
    return TokenNetwork(
        symbols,
        classes,
        width=width,
        layers=layers,
        heads=heads,
        leaf="token",
        clocked=clocked,
        self_conditioning=self_conditioning,
    )
