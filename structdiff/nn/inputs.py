"""What a network of fields refuses: sizes that cannot be, inputs of another shape."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_inputs", "check_sizes"]


def check_sizes(**sizes: int) -> None:
    """Refuse sizes that are not positive.

    Raises:
        ValueError: If one is not.
    """
    for name, size in sizes.items():
        if size < 1:
            msg = f"{name} must be at least 1, got {size}"
            raise ValueError(msg)


def check_inputs(
    x: Tensor,
    condition: Tensor | None,
    context: Tensor | None,
    mask: Tensor | None,
    *,
    inputs: int,
    features: int,
    tokens: int,
    dimensions: int,
) -> None:
    """Refuse inputs of another shape than a network of fields was made for.

    Arguments:
        x: A field, `(samples, inputs, *places)`.
        condition: Features of each sample, `(samples, features)`; None where there are none.
        context: Tokens, `(samples, tokens, width)`, or None.
        mask: Which tokens count, `(samples, tokens)`, or None.
        inputs: Channels of the field.
        features: Features of a sample; 0 for none.
        tokens: Features of a token; 0 where there are no tokens.
        dimensions: Axes of places.

    Raises:
        ValueError: If one has.
    """
    if x.ndim != 2 + dimensions or x.shape[1] != inputs or not x[:1].numel() * len(x):
        msg = f"x must be (samples, {inputs}, *places) with {dimensions} axes of places"
        raise ValueError(f"{msg}, got {tuple(x.shape)}")
    found = None if condition is None else tuple(condition.shape)
    if found != ((len(x), features) if features else None):
        want = f"shape {(len(x), features)}" if features else "None"
        msg = f"condition must be {want}, got {found}"
        raise ValueError(f"{msg}: give the features that the network was made for")
    if context is not None and (
        context.ndim != 3 or len(context) != len(x) or not tokens or context.shape[2] != tokens
    ):
        want = f"({len(x)}, tokens, {tokens})" if tokens else "None"
        msg = f"context must be {want}, got {tuple(context.shape)}"
        raise ValueError(f"{msg}: give the tokens that the network was made for")
    if mask is not None and (context is None or mask.shape != context.shape[:2]):
        want = "None without a context" if context is None else f"{tuple(context.shape[:2])}"
        msg = f"mask must be {want}, got {tuple(mask.shape)}"
        raise ValueError(msg)
