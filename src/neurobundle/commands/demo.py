"""``neurobundle demo``: a painted tumour and both hippocampi of a template head, on a page to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurobundle.bundle.entries import CaseResult
from neurobundle.commands.demo_tumour import BUNDLE as TUMOUR_BUNDLE
from neurobundle.commands.demo_tumour import LABELS, PaintedHead, painted_tumour, region_rows
from neurobundle.commands.run import Run
from neurobundle.commands.run_parts import close_ups
from neurobundle.errors import InputError
from neurobundle.export import page
from neurobundle.export.pictures import View, png_bytes, stack, three_planes
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan
from neurobundle.prepare.register import template_path

BUNDLE = "hippocampus_segmentation"

#: What the template is, and its copyright line, as its authors ask for.
NOTICE = (
    "The head is the ICBM 152 nonlinear symmetric template, version 2009a, as the package nilearn carries it. "
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University. Fonov et al. 2011, NeuroImage 54(1):313-327; Fonov et al. 2009, NeuroImage 47(S1):S102."
)
MEANING = (
    "This head is the average of many people, brain-extracted and made exactly symmetric. It shows that the pipeline "
    "runs and where its results lie; it shows nothing about accuracy, and its volumes are nobody's. The "
    "sides differ by the part of a voxel that the registration leaves. Not for diagnosis."
)

#: Stands above every picture of the tumour.
PAINTED = "Painted tumour: not a patient."
PAINTED_MEANING = (
    f"{PAINTED} The tumour was drawn at random and painted into the template head. Its T1 is the template's; T1c, T2 "
    "and FLAIR are computed from the template's tissue maps. What is drawn so was also what the network learned from: "
    "that it finds this one says nothing about real tumours."
)
NOT_SEGMENTED = (
    f"The bundle {TUMOUR_BUNDLE} has no weights here, so nothing was segmented: the outlines are those that were "
    "painted. Train it, or copy its weights to its models folder, and run the demo again."
)
TUMOUR_FOLDER = "tumour"


def demo(output: Path, debug: bool = False) -> Iterator[str]:
    """Paint a tumour into the template and segment both it and the hippocampi.

    Args:
        output: the folder; gets label maps, volumes, pictures and ``report.html``, and what the tumour is about in
            ``tumour/``.
        debug: let unexpected exceptions through.

    Yields:
        Lines that say what was found, and where the results are.

    Raises:
        InputError: if a head could not be segmented.
    """
    head = template_path()
    painted = painted_tumour(output / TUMOUR_FOLDER, debug)
    yield f"{PAINTED} In the template head, {'segmented' if painted.found else 'not segmented: no weights'}:"
    for row in region_rows(painted):
        yield f"  {row['region']:<17}" + "".join(f" {key} {value:>6}" for key, value in row.items() if key != "region")
    report = Run(BUNDLE, output, input_kind="head", debug=debug)([head])
    result = report.results[0]
    if not result.passed:
        raise InputError(f"the demo failed: {result.error}", "Run it again with --debug to see where.")
    labels = read_scan(output / result.output)
    yield "The template head, segmented (its volumes are nobody's):"
    for row in _rows(result, labels.data, labels.affine):
        yield f"  {row['structure']:<16} {row['ml']:>5} ml around ({row['centre, RAS mm']}) mm"
    written = write_report(output, head, result, painted)
    for label_map in (painted.found, output / result.output):
        if label_map:
            yield f"Label map  {label_map}"
    yield f"Picture    {output / (result.case + '.png')}"
    yield f"Report     {written}"


def write_report(output: Path, head: Path, result: CaseResult, painted: PaintedHead) -> Path:
    """Write the one-page report of the demo.

    Args:
        output: the folder; gets ``report.html``.
        head: the head's file.
        result: of the run.
        painted: the head with the tumour, which comes first.
    """
    parts = [*_tumour_parts(painted), *_hippocampus_parts(output, head, result)]
    parts += [page.heading("The head"), page.paragraph(NOTICE)]
    return page.write_page(output / "report.html", "Neurobundle demo", parts)


def _tumour_parts(painted: PaintedHead) -> list[str]:
    truth = read_scan(painted.truth, LABEL)
    shown = read_scan(painted.found, LABEL).data if painted.found else truth.data
    at = View.of(truth.data, truth.data, truth.affine).centre()
    sheets = {"FLAIR": shown, "T1c": np.zeros_like(truth.data)}
    rows = []
    for sequence, labels in sheets.items():
        view = View.of(read_scan(painted.scan(sequence)).data, labels, truth.affine)
        rows.append(three_planes(view, f"{sequence}: {PAINTED.lower().rstrip('.')}", at, LABELS))
    if painted.found:
        view = View.of(read_scan(painted.scan("FLAIR")).data, truth.data, truth.affine)
        rows.insert(1, three_planes(view, "FLAIR: what was painted", at, LABELS))
    who = "that the network found, and that were painted" if painted.found else "that were painted"
    caption = f"{PAINTED} FLAIR with the outlines {who}; and T1 after contrast agent. {DISPLAY} {TUMOUR_COLOURS}"
    table = region_rows(painted)
    return [
        page.note(PAINTED_MEANING),
        page.heading("A head with a painted tumour"),
        *([] if painted.found else [page.note(NOT_SEGMENTED)]),
        page.figure(png_bytes(stack(rows)), "Three planes of FLAIR and T1c through a painted tumour", caption),
        page.table(list(table[0]), table),
    ]


def _hippocampus_parts(output: Path, head: Path, result: CaseResult) -> list[str]:
    source, written = read_scan(head), read_scan(output / result.output)
    view = View.of(source.data, written.data, written.affine)
    parts = [
        page.heading("Both hippocampi of the template head"),
        page.note(MEANING),
        page.figure(
            png_bytes(three_planes(view)), "Axial, coronal and sagittal slice of the head with outlines", CAPTION
        ),
    ]
    for side, part in zip(("left", "right"), close_ups(view), strict=True):
        picture = png_bytes(three_planes(part))
        parts.append(page.figure(picture, f"Close-up of the {side} hippocampus with its outline", f"The {side} one."))
    rows = _rows(result, written.data, written.affine)
    return [*parts, page.heading("Volumes of the hippocampi"), page.table(list(rows[0]), rows)]


DISPLAY = "Shown in radiological order: the right side is on the left."
CAPTION = f"{DISPLAY} Orange and purple: anterior; blue and green: posterior."
TUMOUR_COLOURS = "Orange: necrotic core; blue: oedema; purple: enhancing tumour."


def _rows(result: CaseResult, labels: np.ndarray, affine: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for value, (name, ml) in enumerate(result.volumes_ml.items(), start=1):
        where = np.argwhere(labels == value)
        centre = nib.affines.apply_affine(affine, where.mean(axis=0)) if len(where) else [np.nan] * 3
        rows.append({"structure": name, "ml": f"{ml:.2f}", "centre, RAS mm": ", ".join(f"{x:.0f}" for x in centre)})
    return rows
