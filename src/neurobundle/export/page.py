"""A one-file HTML page: no script, no request to anywhere, readable on paper and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from neurobundle.files import write_atomic

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; display: block; background: #000; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; opacity: .8; }
table { border-collapse: collapse; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
.note { border-left: .3rem solid #e69f00; padding: .3rem .8rem; background: #e69f0018; }
@media print { body { margin: 0; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """A paragraph that must not be overlooked."""
    return f'<p class="note">{escape(text)}</p>'


def figure(png: bytes, alternative: str, caption: str = "") -> str:
    """A picture inside the page, with a text for those who cannot see it.

    Args:
        png: the picture's bytes.
        alternative: what the picture shows.
        caption: shown below it.
    """
    data = base64.b64encode(png).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alternative)}">{below}</figure>'


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """A table; its cells are shown as text.

    Args:
        columns: keys of a row, and the header.
        rows: one mapping a row.
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(row.get(column, '')))}</td>" for column in columns) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Write the page, atomically.

    Args:
        path: ends in ``.html``.
        title: of the page and its first heading.
        parts: what the functions of this module returned, in order.
    """
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    return write_atomic(path, text.encode())
