"""``neurobundle demo``: both hippocampi of a template head, from the file to a page that a person can look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurobundle.bundle.entries import CaseResult
from neurobundle.commands.run import Run, close_ups
from neurobundle.errors import InputError
from neurobundle.export import page
from neurobundle.export.pictures import View, png_bytes, three_planes
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


def demo(output: Path, debug: bool = False) -> Iterator[str]:
    """Segment the template, and write a label map, volumes, a picture and ``report.html``.

    Args:
        output: the folder.
        debug: let unexpected exceptions through.

    Yields:
        Lines that say what was found, and where the results are.

    Raises:
        InputError: if the template could not be segmented.
    """
    head = template_path()
    report = Run(BUNDLE, output, input_kind="head", debug=debug)([head])
    result = report.results[0]
    if not result.passed:
        raise InputError(f"the demo failed: {result.error}", "Run it again with --debug to see where.")
    labels = read_scan(output / result.output)
    yield "The template head, segmented (its volumes are nobody's):"
    for row in _rows(result, labels.data, labels.affine):
        yield f"  {row['structure']:<16} {row['ml']:>5} ml around ({row['centre, RAS mm']}) mm"
    written = write_report(output, head, result)
    yield f"Label map  {output / result.output}"
    yield f"Picture    {output / (result.case + '.png')}"
    yield f"Report     {written}"


def write_report(output: Path, head: Path, result: CaseResult) -> Path:
    """Write the one-page report of the demo.

    Args:
        output: the folder; gets ``report.html``.
        head: the head's file.
        result: of the run.
    """
    source, written = read_scan(head), read_scan(output / result.output)
    labels = written.data
    view = View.of(source.data, labels, written.affine)
    parts = [
        page.note(MEANING),
        page.heading("Where they are"),
        page.figure(
            png_bytes(three_planes(view)), "Axial, coronal and sagittal slice of the head with outlines", CAPTION
        ),
    ]
    for side, part in zip(("left", "right"), close_ups(view), strict=True):
        picture = png_bytes(three_planes(part))
        parts.append(page.figure(picture, f"Close-up of the {side} hippocampus with its outline", f"The {side} one."))
    rows = _rows(result, labels, written.affine)
    parts += [
        page.heading("Volumes"),
        page.table(list(rows[0]), rows),
        page.heading("The head"),
        page.paragraph(NOTICE),
    ]
    return page.write_page(output / "report.html", "Neurobundle demo: both hippocampi of a template head", parts)


CAPTION = (
    "Shown in radiological order: the right side is on the left. "
    "Orange and purple: anterior; blue and green: posterior."
)


def _rows(result: CaseResult, labels: np.ndarray, affine: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for value, (name, ml) in enumerate(result.volumes_ml.items(), start=1):
        where = np.argwhere(labels == value)
        centre = nib.affines.apply_affine(affine, where.mean(axis=0)) if len(where) else [np.nan] * 3
        rows.append({"structure": name, "ml": f"{ml:.2f}", "centre, RAS mm": ", ".join(f"{x:.0f}" for x in centre)})
    return rows
