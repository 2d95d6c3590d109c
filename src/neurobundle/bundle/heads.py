"""From a whole head to both structures: find them, segment each crop, and put the labels back.

The bundle is used as it is: each crop becomes a file that the inference config reads, and its label map is read
back, so that a head is segmented by the very code that a crop is segmented by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurobundle.bundle.runner import CaseRunner
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan
from neurobundle.prepare.locate import HEAD_LABELS, Place, PlaceError, TemplateLocator, crop_to, paste_back


@dataclass(frozen=True)
class HeadResult:
    """A head's label map on its native grid, what its values mean, and where each structure was found."""

    labels: np.ndarray
    affine: np.ndarray
    structures: dict[int, str]
    places: list[dict[str, Any]]


def segment_head(
    runner: CaseRunner, locator: TemplateLocator, image: Path, folder: Path, structures: Mapping[int, str]
) -> HeadResult:
    """Segment the structures of both sides of a head.

    Args:
        runner: runs the bundle on a crop and writes into ``folder``.
        locator: finds the places.
        image: the head's file.
        folder: for the crops; emptied by whoever made it.
        structures: the name of each label value of a crop.

    Raises:
        PlaceError: if a place is unsure, or what was found in it cannot be a hippocampus.
        InputError: if the file is no 3D volume.
    """
    head = read_scan(image)
    labels = None
    names: dict[int, str] = {}
    plausible = runner.has("plausible")
    places = locator.locate(head.data, head.affine)
    for place in places:
        crop = folder / f"{place.side}.nii.gz"
        nib.save(nib.Nifti1Image(crop_to(head.data, head.affine, place), place.affine), crop)
        runner.predict([crop], place.side)
        found = read_scan(folder / f"{place.side}_seg.nii.gz", LABEL).data
        unmirrored = found[::-1] if place.mirrored else found
        causes = runner.part("plausible").causes(unmirrored, place.affine, centred=True) if plausible else []
        if causes:
            raise PlaceError(f"what was found is not the {place.side} hippocampus: {'; '.join(causes)}", places)
        labels = paste_back(found, place, head.data.shape, head.affine, onto=labels)
        names |= {HEAD_LABELS[place.side][value]: f"{place.side} {name}" for value, name in structures.items()}
    assert labels is not None
    return HeadResult(labels, head.affine, names, [_described(place) for place in places])


def _described(place: Place) -> dict[str, Any]:
    """A place for ``report.json``."""
    return {
        "side": place.side,
        "centre_mm": [round(float(x), 1) for x in place.centre_mm],
        "mirrored": place.mirrored,
    }
