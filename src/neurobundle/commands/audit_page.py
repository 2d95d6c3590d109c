"""The page of an audit: what was found, with the pictures that show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from neurobundle.commands.audit import AuditReport
from neurobundle.errors import InputError
from neurobundle.export.page import (
    REPORT_STYLE,
    contents,
    grid,
    html,
    many,
    note,
    number,
    paragraph,
    picture,
    said,
    section,
    write_page,
)
from neurobundle.export.pictures import View, grey_levels, png_bytes, three_planes
from neurobundle.load.labels import read_volume
from neurobundle.train.leaks import LEAKS, Leak

#: Leaks of a kind that are shown with their pictures; the others stand in the list alone.
MOST_PICTURED = 30

#: Leaks of a kind that are listed; audit.json has all.
MOST_LISTED = 500

#: Height of a picture, pixels.
HEIGHT = 180

STYLE = """
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); gap: 1rem 1.2rem; }
.pairs figure { margin: 0; } .pair { display: flex; gap: .4rem; } .pair img { max-width: 49%; object-fit: contain; }
"""

TITLES = {
    "case": "Cases in training and test",
    "copy": "The same content on two sides",
    "near-duplicate": "Nearly the same image on two sides",
    "person": "One person on two sides",
    "person-suffix": "Ids that differ by a suffix alone, on two sides",
}


def write_audit_page(report: AuditReport, path: Path) -> Path:
    """Write the page.

    Args:
        report: what was found.
        path: ends in ``.html``.

    Raises:
        EnvironmentFault: if it cannot be written.
    """
    parts = [_leaks(report, kind) for kind in LEAKS]
    sections = [part for part in [*parts, _confounds(report), _rest(report)] if part]
    head = note(_verdict(report)) if report.exit_code else paragraph(_verdict(report))
    return write_page(path, "Leakage audit", [head, contents(sections), *sections], style=REPORT_STYLE + STYLE)


def _verdict(report: AuditReport) -> str:
    sides = len({case.side for case in report.cases})
    persons = len({case.subject for case in report.cases})
    what = f"{many(len(report.cases), 'case')} of {many(persons, 'person')} on {many(sides, 'side')}"
    found = len(report.leaks)
    if not found:
        return f"{what}: nothing stands on two sides."
    return f"{what}: {many(found, 'leak')} found. Scores over such sides are too good."


def _leaks(report: AuditReport, kind: str) -> str:
    leaks = [leak for leak in report.leaks if leak.kind == kind]
    if not leaks:
        return ""
    parts: list[str] = [said("It was allowed, and does not count.")] if kind in report.allowed else []
    pictured = [leak for leak in leaks if leak.pictures][:MOST_PICTURED]
    if pictured:
        parts.append(f'<div class="pairs">{"".join(_figure(leak) for leak in pictured)}</div>')
    shown = {id(leak) for leak in pictured}
    listed = [leak for leak in leaks if id(leak) not in shown]
    if listed:
        lines = "".join(f"<li>{html(leak.text)}</li>" for leak in listed[:MOST_LISTED])
        parts.append(f"<ul>{lines}</ul>")
    if len(listed) > MOST_LISTED:
        parts.append(said(f"{len(listed) - MOST_LISTED} more are in audit.json."))
    return section(kind, f"{TITLES[kind]}: {len(leaks)}", *parts)


def _figure(leak: Leak) -> str:
    pictures = "".join(picture(_thumbnail(look.path), look.path.stem, lazy=True) for look in leak.pictures)
    return f'<figure><div class="pair">{pictures}</div><figcaption>{html(leak.text)}</figcaption></figure>'


def _thumbnail(path: Path) -> bytes:
    """A slice as it is, a volume's three planes; grey if the file is gone since it was read."""
    try:
        volume = read_volume(path)
    except InputError:
        return png_bytes(Image.new("L", (HEIGHT, HEIGHT), 128))
    if volume.affine is not None and volume.data.ndim == 3:
        image = three_planes(View.of(volume.data, np.zeros(volume.data.shape, np.int16), volume.affine))
    else:
        data = volume.data.astype(np.float32)
        low, high = float(data.min()), float(np.percentile(data, 99.5))
        image = Image.fromarray(grey_levels(data, low, high).astype(np.uint8))
    return png_bytes(image.resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT)))


def _confounds(report: AuditReport) -> str:
    if not report.confounds:
        return ""
    columns = ["class", "trait", "balanced accuracy", "95 % interval", "in the class", "in the others"]
    rows = [
        [
            report.classes[row.label],
            row.trait + (" (found)" if row.found else ""),
            number(row.accuracy),
            f"{number(row.low)} to {number(row.high)}",
            f"{row.typical:g}" if isinstance(row.typical, float) else row.typical,
            f"{row.typical_of_others:g}" if isinstance(row.typical_of_others, float) else row.typical_of_others,
        ]
        for row in report.confounds
    ]
    how = said(
        "How well one trait alone tells a class from all others, asked of persons that the rule was not learned on;"
        " 0.5 is chance. Numbers are medians."
    )
    return section("confounds", "Can a class be told without looking?", grid("traits", columns, rows), how)


def _rest(report: AuditReport) -> str:
    lines = [*report.gaps, *report.notes, *(error.brief() for error in report.failed)]
    if not lines:
        return ""
    return section("rest", "Besides", f"<ul>{''.join(f'<li>{html(line)}</li>' for line in lines)}</ul>")
