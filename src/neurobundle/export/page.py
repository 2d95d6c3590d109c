"""A one-file HTML page: no script, no request to anywhere, readable on paper and on a phone.

A *part* is a piece of a page's HTML. Whatever else a function here is given is text, and is escaped; what is a
:class:`Markup` has been.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from numbers import Real
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
.scroll { overflow-x: auto; }
@media print { body { margin: 0; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""

#: What a report of many numbers adds: grids, charts side by side, a page inside the page for each case.
REPORT_STYLE = """
body { max-width: 76rem; line-height: 1.45; }
h1 { margin-bottom: .5rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
a { color: #0067b0; text-underline-offset: .15em; }
nav { margin: .8rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .9rem; }
.said { font-size: .85rem; opacity: .75; max-width: 60rem; margin: .5rem 0 0; }
.scroll { margin: .6rem 0; } .note p, .note ul { margin: .2rem 0; overflow-wrap: anywhere; }
table { font-size: .875rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
th, td { padding: .3rem .5rem; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; } thead th { vertical-align: bottom; } thead tr:last-child th { border-bottom: 2px solid #8888; }
thead .over th { text-align: center; border-bottom: 1px solid #8886; }
tbody th { position: sticky; left: 0; background: Canvas; white-space: normal; }
tbody th span { display: inline-block; width: max-content; max-width: min(16rem, 40vw); overflow-wrap: anywhere; }
td small { display: block; opacity: .75; font-size: .86em; }
tbody tr:target > * { background: #e69f0030; }
.mark { display: inline-block; width: .8em; height: .8em; border-radius: .2em; }
.bad { color: #b34700; font-weight: 600; }
.cases tbody th { font-weight: 400; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem;
  align-items: start; margin: .8rem 0; }
.charts figure { margin: 0; }
.charts figcaption { font-weight: 600; opacity: 1; margin-bottom: .3rem; overflow-wrap: anywhere; }
.chart { display: block; width: 100%; max-width: 30rem; height: auto; background: #fff; border-radius: .3rem; }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1rem 1.2rem; }
.rows figure { margin: 0; min-width: 0; } .rows figcaption { opacity: 1; margin-top: .3rem; overflow-wrap: anywhere; }
.rows figcaption span { opacity: .75; }
.case { display: none; } .case:target { display: block; }
.case h2 { margin: .8rem 0 .2rem; overflow-wrap: anywhere; }
.case .scroll img { max-width: none; width: max(100%, 40rem); } .case figure { max-width: 56rem; }
body:has(.case:target) main { display: none; }
details { margin: .8rem 0; } summary { cursor: pointer; }
@media (prefers-color-scheme: dark) { a { color: #7cc4ff; } .bad { color: #ffab66; } }
@media print {
  body { max-width: none; font-size: 10pt; } nav { display: none; } a { color: inherit; text-decoration: none; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .35rem; } .scroll { overflow: visible; }
  tr { break-inside: avoid; } h3 { break-after: avoid; } details:not([open]) { display: none; }
  tbody th { position: static; } tbody th span { max-width: 9rem; }
  .charts { grid-template-columns: repeat(3, 1fr); } .rows { grid-template-columns: 1fr 1fr; }
  .case .scroll img { width: 100%; }
}
"""

#: Stands for a number that is not defined.
DASH = "–"

#: A page may use its own style and the pictures inside it; a browser refuses everything else, whatever is in a page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

#: How files of each type begin (RFC 9649, ISO/IEC 10918-1, RFC 2083).
SIGNATURES = {b"RIFF": "image/webp", b"\xff\xd8": "image/jpeg", b"\x89PNG": "image/png"}


class Markup(str):
    """HTML that is used as it is: its texts have been escaped."""


def html(value: object) -> Markup:
    """A value as HTML: a :class:`Markup` as it is, anything else as escaped text.

    >>> html("a < b"), html(Markup("<b>a</b>"))
    ('a &lt; b', '<b>a</b>')
    """
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{html(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html(text)}</p>"


def note(text: str) -> str:
    """A paragraph that must not be overlooked."""
    return f'<p class="note">{html(text)}</p>'


def picture(data: bytes, alternative: str, lazy: bool = False) -> Markup:
    """A picture inside the page, with a text for those who cannot see it.

    Args:
        data: a file's bytes: PNG, WebP or JPEG.
        alternative: what the picture shows.
        lazy: let the browser wait until it is looked at.
    """
    media = next((name for start, name in SIGNATURES.items() if data.startswith(start)), "image/png")
    later = ' loading="lazy"' if lazy else ""
    return Markup(
        f'<img src="data:{media};base64,{base64.b64encode(data).decode()}" alt="{escape(alternative)}"{later}>'
    )


def figure(data: bytes, alternative: str, caption: str = "") -> str:
    """A picture with a caption.

    Args:
        data: a file's bytes: PNG, WebP or JPEG.
        alternative: what the picture shows.
        caption: shown below it.
    """
    below = f"<figcaption>{html(caption)}</figcaption>" if caption else ""
    return f"<figure>{picture(data, alternative)}{below}</figure>"


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """A table, which on a narrow page scrolls in a box of its own.

    Args:
        columns: keys of a row, and the header.
        rows: one mapping a row.
    """
    head = "".join(f'<th scope="col">{html(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html(row.get(column, ''))}</td>" for column in columns) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: object, digits: int = 3) -> str:
    """A number as text; a dash for what is undefined, and for what is no number.

    >>> number(0.98765), number(None), number(float("nan")), number(-0.5, 1), number(12, 0)
    ('0.988', '–', '–', '−0.5', '12')
    """
    if not isinstance(value, Real) or not math.isfinite(value):
        return DASH
    return f"{value:.{digits}f}".replace("-", "−")


def plain(value: object) -> str:
    """A number with as many decimals as it needs.

    >>> plain(1.0), plain(0.125), plain(None)
    ('1', '0.125', '–')
    """
    return f"{value:g}" if isinstance(value, Real) and math.isfinite(value) else DASH


def count(value: object) -> str:
    """A whole number with thin spaces between thousands.

    >>> count(1234567).split("\N{THIN SPACE}"), count(None)
    (['1', '234', '567'], '–')
    """
    known = isinstance(value, Real) and math.isfinite(value)
    return f"{value:,.0f}".replace(",", "\N{THIN SPACE}") if known else DASH


def many(n: object, one: str, more: str = "") -> str:
    """A count with its noun.

    >>> many(1, "case"), many(3, "case"), many(2, "box", "boxes")
    ('1 case', '3 cases', '2 boxes')
    """
    return f"{count(n)} {one if n == 1 else more or one + 's'}"


def grid(
    label: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    over: Sequence[tuple[str, int]] = (),
    ids: Sequence[str] = (),
    kind: str = "",
) -> Markup:
    """A table whose first column names the rows.

    Args:
        label: what it holds, for those who cannot see it.
        columns: the header.
        rows: cells of each row; what is no :class:`Markup` is escaped.
        over: a line over the header: names, and how many columns each spans.
        ids: an id for each row, if others point to it.
        kind: the table's class.
    """
    above = "".join(f'<th colspan="{span}" scope="colgroup">{html(name)}</th>' for name, span in over)
    above = f'<tr class="over">{above}</tr>' if above else ""
    head = "".join(f'<th scope="col">{html(column)}</th>' for column in columns)
    lines = []
    for n, (name, *cells) in enumerate(rows):
        start = f'<tr id="{ids[n]}">' if ids else "<tr>"
        lines.append(
            f'{start}<th scope="row"><span>{html(name)}</span></th>'
            + "".join(f"<td>{html(c)}</td>" for c in cells)
            + "</tr>"
        )
    top = f"<thead>{above}<tr>{head}</tr></thead>" if columns else ""
    return Markup(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table class="{kind}">'
        f"{top}<tbody>" + "\n".join(lines) + "</tbody></table></div>"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page that can be jumped to.

    Args:
        name: its id.
        title: its heading.
        parts: HTML.
    """
    return f'<section id="{name}"><h2>{html(title)}</h2>\n' + "\n".join(part for part in parts if part) + "</section>"


def contents(sections: Sequence[str]) -> str:
    """Links to sections, named by their headings."""
    found = [re.match(r'<section id="([^"]+)"><h2>(.*?)</h2>', text) for text in sections]
    return "<nav>" + "".join(f'<a href="#{m[1]}">{m[2]}</a>' for m in found if m) + "</nav>"


def said(text: str) -> str:
    """What one has to know to read what stands above."""
    return f'<p class="said">{html(text)}</p>'


def anchors(names: Iterable[str]) -> dict[str, str]:
    """An id for each case: letters, digits, dots, dashes and underscores of its name, and a number where two are alike.

    >>> anchors(["a b", "a/b", "c"])
    {'a b': 'case-a-b', 'a/b': 'case-a-b-2', 'c': 'case-c'}
    """
    result: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = "case-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "x")
        anchor, n = base, 2
        while anchor in taken:
            anchor, n = f"{base}-{n}", n + 1
        taken.add(anchor)
        result[name] = anchor
    return result


def write_page(path: Path, title: str, parts: Sequence[str], style: str = "", after: Sequence[str] = ()) -> Path:
    """Write the page, atomically.

    Args:
        path: ends in ``.html``.
        title: of the page and its first heading.
        parts: what the functions of this module returned, in order.
        style: CSS that is added to :data:`STYLE`.
        after: parts that stand outside the page's ``main``.
    """
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</main>\n"
        + "\n".join(after)
        + "</body></html>\n"
    )
    # A file name that is no valid UTF-8 reaches Python as lone surrogates; they are written as escapes.
    return write_atomic(path, text.encode(errors="backslashreplace"))
