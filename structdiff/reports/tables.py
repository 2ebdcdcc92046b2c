"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_table"]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    r"""Returns an aligned Markdown table; the first line is its head, | is escaped.

    Example:
        >>> print(markdown_table([["a", "b"], ["1", "|x|"]]))
        | a | b     |
        |---|-------|
        | 1 | \|x\| |
    """
    safe = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(cell) for cell in column) for column in zip(*safe, strict=True)]
    rows = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in safe
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])
