"""Pages of words, tables and pictures, as one HTML file that needs nothing else, and as Markdown.

The HTML holds its pictures and its style; it has no script and asks nothing of a network. All
text is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from structdiff.artifacts import write_atomic
from structdiff.reports.tables import markdown_table

__all__ = [
    "Block",
    "Heading",
    "Picture",
    "Table",
    "Words",
    "html_page",
    "markdown_page",
    "write_page",
]


@dataclass(frozen=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a head, all of one length."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    path: Path
    caption: str


Block = Heading | Words | Table | Picture

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #2b2f36; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #d8dce2; }
table { border-collapse: collapse; font-size: .87rem; margin: .6rem 0; }
th, td { text-align: left; padding: .22rem .7rem .22rem 0; border-bottom: 1px solid #eceef2;
         vertical-align: top; font-variant-numeric: tabular-nums; }
th { border-bottom: 1px solid #9aa1ac; }
figure { margin: 1rem 0; break-inside: avoid; }
img { max-width: 100%; height: auto; }
figcaption { font-size: .87rem; color: #5c6470; }
@media print { body { max-width: none; margin: 0; } h2, table { break-inside: avoid; }
               h2 { break-after: avoid; } }
"""


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """The page as HTML.

    Raises:
        FileNotFoundError: If a picture is missing.

    Example:
        >>> page = html_page("1 < 2", [Words("so it is")])
        >>> "<h1>1 &lt; 2</h1>" in page, "<script" in page
        (True, False)
    """
    body = "\n".join(_html(block) for block in blocks)
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Words(text):
            return f"<p>{html.escape(text)}</p>"
        case Table(head, rows):
            lines = [_row("th", head), *(_row("td", row) for row in rows)]
            return "<table>\n" + "\n".join(lines) + "\n</table>"
        case Picture(path, caption):
            data, words = base64.b64encode(path.read_bytes()).decode(), html.escape(caption)
            image = f'<img alt="{words}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def markdown_page(title: str, blocks: Sequence[Block]) -> str:
    """The page as Markdown, with pictures by their names in the same folder."""
    return "\n\n".join([f"# {title}", *(_markdown(block) for block in blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Words(text):
            return text
        case Table(head, rows):
            return markdown_table([head, *rows])
        case Picture(path, caption):
            return f"![{caption}]({path.name})"


def write_page(folder: Path, title: str, blocks: Sequence[Block]) -> list[Path]:
    """Write `evaluation.html` and `evaluation.md` beside the pictures, and say where."""
    pages = {
        "evaluation.html": html_page(title, blocks),
        "evaluation.md": markdown_page(title, blocks),
    }
    for name, text in pages.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in pages]
