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


@dataclass(frozen=True)
class HeadResult:
    """A head's label map on its native grid, what its values mean, and where each structure was found."""

    labels: np.ndarray
    affine: np.ndarray
    structures: dict[int, str]
    places: list[dict[str, Any]]


def segment_head(
    runner: CaseRunner, locator: Any, image: Path, folder: Path, structures: Mapping[int, str]
) -> HeadResult:
    """Segment the structures of both sides of a head.

    Args:
        runner: runs the bundle on a crop and writes into ``folder``.
        locator: finds the places; see :class:`neurobundle.prepare.TemplateLocator`.
        image: the head's file.
        folder: for the crops; emptied by whoever made it.
        structures: the name of each label value of a crop.

    Raises:
        PlaceError: if a place is unsure.
    """
    head = nib.load(image)
    array = np.asarray(head.dataobj, dtype=np.float32)
    array = array.reshape(array.shape[:3])
    labels = np.zeros(array.shape, dtype=np.uint8)
    names: dict[int, str] = {}
    places = []
    for number, place in enumerate(locator.locate(array, head.affine)):
        crop = locator.crop_to(array, head.affine, place)
        nib.save(nib.Nifti1Image(crop, place.affine), folder / f"{place.side}.nii.gz")
        runner.predict(folder / f"{place.side}.nii.gz", place.side)
        found = np.asarray(nib.load(folder / f"{place.side}_seg.nii.gz").dataobj)
        offset = number * len(structures)
        part = locator.paste_back(found, place, head.shape[:3], head.affine)
        labels[part > 0] = part[part > 0] + offset
        names |= {value + offset: f"{place.side} {name}" for value, name in structures.items()}
        places.append(place.describe())
    return HeadResult(labels, head.affine, names, places)
