"""From a whole head to both structures: find them, segment each crop, and put the labels back.

The bundle is used as it is: each crop becomes a file that the inference config reads, and its label map is read
back, so that a head is segmented by the very code that a crop is segmented by.

Where both hippocampi are, a template's *registration* says; where that is not *sure*, and the anatomy bundle's weights
are there, its two labels say it, if they can be believed (docs/concepts/anatomy.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from neurobundle import geometry
from neurobundle.bundle.case_uncertainty import Kept, kept_of_head
from neurobundle.bundle.runner import CaseRunner
from neurobundle.errors import InputError, WeightsError
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import Scan, read_scan
from neurobundle.postprocess.brain import CORTEX, CSF, VENTRICLES, WHITE_MATTER
from neurobundle.postprocess.brain_pose import Hippocampi, hippocampi_of
from neurobundle.prepare.locate import (
    HEAD_LABELS,
    Place,
    PlaceError,
    Side,
    TemplateLocator,
    check_place,
    crop_to,
    paste_back,
)
from neurobundle.prepare.register import register_head

if TYPE_CHECKING:
    from neurobundle.bundle.anatomy import Anatomy

logger = logging.getLogger(__name__)

#: From this agreement with the template on, nothing else is asked. Right fits of real T1 heads without skull have .65
#: (after contrast) to .70; those of synthetic heads with skull, whose boxes were up to 5.5 mm off, begin at .58.
SURE_SIMILARITY = 0.64

#: Gives the anatomy bundle, or None where its weights are not there; called only where it is needed.
Ask = Callable[[], "Anatomy | None"]


@dataclass(frozen=True)
class HeadResult:
    """A head's label map on its native grid, what its values mean, where each was found, and how sure all that is."""

    labels: np.ndarray
    affine: np.ndarray
    structures: dict[int, str]
    places: list[dict[str, Any]]
    uncertainty: Kept | None = None


@dataclass(frozen=True)
class Found:
    """The places of both hippocampi.

    Attributes:
        places: left and right.
        by: ``registration`` or ``anatomy``.
        why: the reason, without a full stop.
    """

    places: list[Place]
    by: str
    why: str


def segment_head(
    runner: CaseRunner,
    locator: TemplateLocator,
    image: Path,
    folder: Path,
    structures: Mapping[int, str],
    anatomy: Ask | None = None,
) -> HeadResult:
    """Segment the structures of both sides of a head.

    Args:
        runner: runs the bundle on a crop and writes into ``folder``.
        locator: finds the places.
        image: the head's file.
        folder: for the crops; emptied by whoever made it.
        structures: the name of each label value of a crop.
        anatomy: gives the anatomy bundle where the registration is not sure; None never asks it.

    Raises:
        PlaceError: if a place is unsure, or what was found in it cannot be a hippocampus.
        InputError: if the file is no 3D volume.
    """
    head = read_scan(image)
    labels = None
    names: dict[int, str] = {}
    plausible = runner.has("plausible")
    found = find_places(head, locator, anatomy)
    for place in found.places:
        crop = folder / f"{place.side}.nii.gz"
        nib.save(nib.Nifti1Image(crop_to(head.data, head.affine, place), place.affine), crop)
        runner.predict([crop], place.side)
        inside = read_scan(folder / f"{place.side}_seg.nii.gz", LABEL).data
        unmirrored = inside[::-1] if place.mirrored else inside
        causes = runner.part("plausible").causes(unmirrored, place.affine, centred=True) if plausible else []
        if causes:
            raise PlaceError(f"what was found is not the {place.side} hippocampus: {'; '.join(causes)}", found.places)
        labels = paste_back(inside, place, head.data.shape, head.affine, onto=labels)
        names |= {HEAD_LABELS[place.side][value]: f"{place.side} {name}" for value, name in structures.items()}
    assert labels is not None
    sure = kept_of_head(folder, found.places, head.data.shape, head.affine, structures)
    return HeadResult(labels, head.affine, names, [_described(place, found) for place in found.places], sure)


def find_places(head: Scan, locator: TemplateLocator, anatomy: Ask | None = None) -> Found:
    """The places of both hippocampi, by the registration, or by the anatomy bundle where that is surer.

    The registration stands if it is accepted and agrees with the template to :data:`SURE_SIMILARITY`. Else the bundle's
    two labels give the places, if they can be believed; if not, an accepted registration still does.

    Args:
        head: a T1 scan of a whole head.
        locator: finds the places by the registration, and says how large a box is, and how it is turned.
        anatomy: gives the anatomy bundle; None never asks it.

    Raises:
        PlaceError: if neither is to be believed.
        InputError: if the scan is empty or not 3D.
    """
    registration = register_head(head.data, head.affine)
    places, refusal = locator.places(registration), None
    try:
        check_place(registration, places, head.data.shape, head.affine)
    except PlaceError as error:
        refusal = error
    agreement = f"the head agrees with the template to {registration.similarity:.2f}"
    if refusal is None and registration.similarity >= SURE_SIMILARITY:
        return Found(places, "registration", agreement)
    found, causes = _by_anatomy(head, locator, anatomy)
    if found is not None:
        why = "the registration was refused" if refusal else f"{agreement}, below {SURE_SIMILARITY}"
        return Found(found, "anatomy", f"{why}; the anatomy bundle's labels lie as in a brain")
    instead = f"by the anatomy bundle: {'; '.join(causes)}"
    if refusal is not None:
        if causes:
            refusal.cause += f"; {instead}"
        raise refusal
    return Found(places, "registration", f"{agreement}; {instead}" if causes else agreement)


def _by_anatomy(head: Scan, locator: TemplateLocator, ask: Ask | None) -> tuple[list[Place] | None, list[str]]:
    """The places by the anatomy bundle's labels, or why they are not; no reason where there is no such bundle."""
    try:
        bundle = ask() if ask is not None else None
        if bundle is None:
            return None, []
        labels = bundle.labels(head)
    except (InputError, WeightsError) as error:
        return None, [error.cause]
    found = hippocampi_of(labels, head.affine)
    causes = [*found.causes, *_no_t1(head.data, labels)]
    return (None, causes) if causes or found.pose is None else (places_of(found, locator), [])


def places_of(found: Hippocampi, locator: TemplateLocator) -> list[Place]:
    """The boxes about two hippocampi whose middles are known, turned as the head is turned.

    Args:
        found: believed.
        locator: says how large a box is, which side is mirrored, and whether boxes are turned.
    """
    assert found.pose is not None
    rotation = found.pose.rotation if locator.turn == "head" else np.eye(3)
    sides: tuple[Side, Side] = ("left", "right")
    return [
        Place(
            side,
            locator.shape,
            geometry.grid_about(found.middles_mm[side], rotation, locator.shape),
            mirrored=side == locator.mirror,
        )
        for side in sides
    ]


def _no_t1(image: np.ndarray, labels: np.ndarray) -> list[str]:
    """Why a head is no T1 scan: the hippocampus bundle knows no other, and the anatomy bundle knows them all."""
    groups = (WHITE_MATTER, CORTEX, (CSF, *VENTRICLES))
    medians = [float(np.median(image[where])) if (where := np.isin(labels, group)).any() else 0.0 for group in groups]
    if medians[0] > medians[1] > medians[2]:
        return []
    return ["white matter is not brighter than cortex, and cortex than CSF, so this is no T1 scan"]


def _described(place: Place, found: Found) -> dict[str, Any]:
    """A place for ``report.json``."""
    return {
        "side": place.side,
        "centre_mm": [round(float(x), 1) for x in place.centre_mm],
        "mirrored": place.mirrored,
        "by": found.by,
        "why": found.why,
    }
