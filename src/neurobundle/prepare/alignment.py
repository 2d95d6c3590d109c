"""Whether two scans of one head lie on top of each other, as their headers say they do.

The *agreement* of two scans is their normalised mutual information, (H(A) + H(B)) / H(A, B): 1 if neither tells
anything about the other, 2 if either follows from the other; contrasts may differ. It is measured at places in the
*compared head*: the reference's, or the other scan's where that one shows less than half as much of it; and there in
the *overlap*: what of the compared head lies inside the other field of view. The *share* is how much head, by volume,
the one scan shows of what the other shows; below a half the pair is *partial*. A *rigid matrix* takes the reference's
millimetres to the other scan's, RAS+; the identity is what the headers say. The *head's box* is the box around the
compared head; a matrix *moves* the head by the longest way that a corner of this box goes.

Numpy and scipy only: no ITK, no torch.

Sources: Studholme, Hill & Hawkes, *An overlap invariant entropy measure of 3D medical image alignment*, Pattern
Recognition 32 (1999) 71, for the measure; Pluim, Maintz & Viergever, *Interpolation artefacts in mutual
information-based image registration*, Comput Vis Image Underst 77 (2000) 211, for why places are not voxel centres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from neurobundle import geometry
from neurobundle.errors import InputError
from neurobundle.load.scan import Scan as LoadedScan
from neurobundle.load.study import Placement
from neurobundle.prepare.itk_helpers import Grid, average_blocks

#: A scan and its affine: ``(array (i, j, k), affine (4, 4))``, RAS+ mm, as nibabel gives them.
Scan = tuple[npt.NDArray[Any], npt.ArrayLike]

#: Voxels of the check, mm; in-plane means of such size, thick slices as they are.
CHECK_MM = 4.0
#: Places in the reference's head at which two scans are compared. Empty joint bins raise the figure of independent
#: scans to about 1.002 (32 x 32 bins, Miller's bias of entropies).
PLACES = 40_000
#: Bins of the joint histogram along each axis.
BINS = 32
#: What is above this share of the 98th percentile of the signal is bright: head, not air.
BRIGHT = 0.15
#: So much air around the head counts as well, mm: the edge of the scalp, or of a cut-out brain, places it.
RIM_MM = 8.0
#: Below this share a pair is partial, and compared in the lesser head. In the whole head a partial scan would hold few
#: of the places: where its own head lies says little then, and any corner of the whole head may agree with its air.
PARTIAL = 0.5
#: Below this share nothing can be told: slivers agree in wrong places too. Measured: a corner with .2 % of the head,
#: right to .7 mm, agreed 1.2 times as well 6 mm away, one with .9 % 1.05 times as well 3 mm away.
LEAST_SHARE = 0.03
#: Another place for a partial pair is believed where its agreement above 1 is so many times the header's. Measured:
#: headers right to .5 mm at most 1.09, from .9 % of the head on; thirds and slabs 10 mm wrong at least 2.3.
PARTIAL_GAIN = 1.15
#: Scans that share less of the compared head than this are not compared.
LEAST_OVERLAP = 0.1
#: An axis with fewer voxels than this has no depth to align.
LEAST_VOXELS = 4

#: The search's steps, mm and degrees. Millimetres at the surface of a head are about 1.4 times as many as degrees.
STEPS = (4.0, 2.0, 1.0)
#: The search stops after this many rounds of one step, so that it always ends.
MOST_ROUNDS = 30

#: A search that moves the head less than this, mm, has found nothing: its steps of 1 mm and 1 degree move a corner by
#: up to 2.1 mm. Measured on untouched studies: at most 2.1 mm.
SUSPICIOUS_MM = 3.0
#: ... and so has one whose agreement above 1 is less than this many times the header's. Measured: untouched studies
#: at most 1.03; 2 mm and 2 degrees at least 1.24; 5 mm and 5 degrees at least 1.86.
SUSPICIOUS_GAIN = 1.05
#: Two scans that agree less than this even at their best have nothing in common. Measured: noise 1.001, two contrasts
#: of one head at least 1.10.
LEAST_NMI = 1.02


class Agreement(NamedTuple):
    """How well two scans agree under one matrix.

    Attributes:
        nmi: normalised mutual information in the overlap, 1 to 2; 1 below :data:`LEAST_OVERLAP`.
        overlap: share of the compared head that lies in the other field of view, 0 to 1.
    """

    nmi: float
    overlap: float


class Alignment(NamedTuple):
    """What a search around the header's geometry found.

    Attributes:
        agreement: of the two scans as their headers place them.
        best: of the best place that was found.
        best_shift_mm: how far the head moves to that place; 0 if the header's is the best.
        matrix: (4, 4), that place: the reference's mm -> the other scan's, to about 2 mm.
        suspicious: whether the scans look misaligned.
        reason: why, or why not, as a sentence without its full stop.
    """

    agreement: Agreement
    best: Agreement
    best_shift_mm: float
    matrix: geometry.Array
    suspicious: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """All figures as plain numbers, for reports."""
        plain = self._asdict() | {"matrix": np.asarray(self.matrix).tolist()}
        return plain | {name: getattr(self, name)._asdict() for name in ("agreement", "best")}


class Reference(NamedTuple):
    """The scan with the compared head, as the agreement sees it.

    Attributes:
        places_mm: (n, 3), where it is compared.
        levels: (n,), the bin of its intensity there.
        box_mm: (8, 3), the corners of the head's box.
    """

    places_mm: geometry.Array
    levels: npt.NDArray[np.int64]
    box_mm: geometry.Array

    @property
    def centre_mm(self) -> geometry.Array:
        """The middle of the head's box, (3,)."""
        return np.asarray(self.box_mm.mean(axis=0))


class Pair(NamedTuple):
    """A reference and another scan, looked at from the compared head. Matrices: the reference's mm -> the other's.

    Attributes:
        compared, image: the scan with the compared head, and the one that it is compared with.
        head_ratio: the other scan's head by the reference's, by volume.
    """

    compared: Reference
    image: Grid
    head_ratio: float

    @property
    def turned(self) -> bool:
        """Whether the compared head is the other scan's."""
        return self.head_ratio < PARTIAL

    @property
    def share(self) -> float:
        """How much head the one scan shows of what the other shows, 0 to 1."""
        return min(self.head_ratio, 1 / self.head_ratio)

    def agreement(self, matrix: npt.ArrayLike) -> Agreement:
        """How well they agree under a matrix."""
        return agreement(self.compared, self.image, self._seen(matrix))

    def search(self, start: npt.ArrayLike) -> geometry.Array:
        """The best matrix around a start; see :func:`search`."""
        return self._seen(search(self.compared, self.image, self._seen(start)))

    def moved_mm(self, matrix: npt.ArrayLike) -> float:
        """How far a matrix moves the head."""
        return moved_mm(self._seen(matrix), self.compared.box_mm)

    def _seen(self, matrix: npt.ArrayLike) -> geometry.Array:
        here = np.asarray(matrix, float)
        return np.asarray(np.linalg.inv(here)) if self.turned else here


def pair_of(fixed: Grid, moving: Grid, spacing_mm: float = CHECK_MM) -> Pair:
    """Two checked images as a pair, in means of about a spacing; which head is compared does not depend on it."""
    here, there = (average_blocks(image, CHECK_MM) for image in (fixed, moving))
    one, other = (float(head_of(small).sum() * abs(np.linalg.det(small.affine[:3, :3]))) for small in (here, there))
    compared, image = (moving, fixed) if other < PARTIAL * one else (fixed, moving)
    return Pair(reference_of(compared, spacing_mm), average_blocks(image, spacing_mm), other / one)


def check_alignment(fixed: Scan, moving: Scan) -> Alignment:
    """Whether a small search around the header's geometry finds a clearly better place.

    It takes a fraction of a second on one core, and mends nothing: see
    :func:`neurobundle.prepare.study_registration.register_study`.

    Args:
        fixed: the reference and its affine.
        moving: the other scan and its affine; any grid, any contrast.

    Raises:
        InputError: if either cannot be compared (see :func:`checked`), or they share too little of the head.
    """
    image, other = checked(fixed, "the reference"), checked(moving, "the other scan")
    pair = pair_of(image, other)
    before = pair.agreement(np.eye(4))
    if before.overlap < LEAST_OVERLAP:
        cause = f"the scans share {before.overlap:.0%} of the head, so that nothing can be compared"
        raise InputError(
            cause, "Check that both are of one head; if an origin was lost, register_study finds it again."
        )
    matrix = pair.search(np.eye(4))
    best, shift_mm = pair.agreement(matrix), pair.moved_mm(matrix)
    gain = (best.nmi - 1) / max(before.nmi - 1, 1e-6)
    figures = f"agreement {before.nmi:.3f} as the headers say, {best.nmi:.3f} with the head moved by {shift_mm:.1f} mm"
    if best.nmi < LEAST_NMI:
        suspicious, verdict = True, "the scans have nothing in common"
    elif pair.share < LEAST_SHARE:
        cause = f"one scan shows {pair.share:.1%} of the head that the other shows, too little to tell a place by"
        raise InputError(cause, "Look at the two on top of each other, or leave it out of the study.")
    elif shift_mm >= SUSPICIOUS_MM and gain >= (PARTIAL_GAIN if pair.share < PARTIAL else SUSPICIOUS_GAIN):
        suspicious, verdict = True, "the scans look misaligned"
    else:
        suspicious, verdict = False, "no clearly better place nearby"
    return Alignment(before, best, shift_mm, matrix, suspicious, f"{verdict}: {figures}")


def notice(scan: LoadedScan, reference: LoadedScan, name: str, reference_name: str) -> Placement:
    """Leave a scan of a study where its header says, and warn if it looks misaligned; for ``read_study(place=...)``.

    Both are of one channel. Placed is the scan's own affine, with the figures as ``alignment``, and a warning with the
    way out if it looks misaligned, or if that cannot be told; the names are for the warning.
    """
    try:
        found = check_alignment((reference.data, reference.affine), (scan.data, scan.affine))
    except InputError as error:
        return Placement(scan.affine, {}, (f"whether {name} lies on {reference_name} cannot be told: {error.cause}",))
    warning = f"{name} and {reference_name}: {found.reason}; --register looks for the place and mends it"
    return Placement(scan.affine, {"alignment": found.as_json()}, (warning,) if found.suspicious else ())


def checked(scan: Scan, what: str) -> Grid:
    """A scan that can be compared, with intensities from 0 to 1; the brightest and darkest half percent are cut.

    Args:
        scan: the array and its affine; left as they are.
        what: how an error names it.

    Raises:
        InputError: if it is not 3D, an axis has fewer than 4 voxels, a voxel is no number, all are one value, or the
            affine has a spacing of 0.
    """
    array, matrix = np.asarray(scan[0]), np.asarray(scan[1], float)
    if array.ndim != 3 or min(array.shape) < LEAST_VOXELS:
        cause = f"{what} has the shape {array.shape}; three axes of at least {LEAST_VOXELS} voxels can be aligned"
        raise InputError(cause, "Give one 3D volume at a time; leave localizers and single slices out.")
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.linalg.det(matrix[:3, :3]) == 0:
        cause = f"the affine of {what} cannot be inverted: a spacing is 0, or a number is missing"
        raise InputError(cause, "Convert the scan again, or give its spacing.")
    values = np.asarray(array, np.float32)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(f"{bad} of {values.size} voxels of {what} are NaN or infinite", "Repair or exclude the scan.")
    few = values.ravel()[:: max(1, values.size // 500_000)]
    low = float(np.percentile(few, 0.5))
    high = float(np.percentile(few[few > low], 99)) if (few > low).any() else low
    if high <= low:
        raise InputError(f"{what} holds a single value, or nearly so", "Check that the right file was given.")
    return Grid(np.clip((values - low) / (high - low), 0, 1), matrix)


def head_of(image: Grid) -> npt.NDArray[np.bool_]:
    """The largest bright part of a checked image: a head, or a brain that was cut out."""
    bright = image.array > BRIGHT * np.percentile(image.array[image.array > 0], 98)
    opened = ndimage.binary_opening(bright)
    labels, count = ndimage.label(opened if opened.any() else bright)
    return labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=count + 1)[1:])


def near(head: npt.NDArray[np.bool_], affine: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """The head and the air around it."""
    sizes = geometry.voxel_sizes_mm(affine)
    return ndimage.distance_transform_edt(~head, sampling=sizes) <= RIM_MM


def reference_of(image: Grid, spacing_mm: float = CHECK_MM) -> Reference:
    """A checked image as a reference: places drawn in its head, with a fixed seed, and its intensities there."""
    small = average_blocks(image, spacing_mm)
    head = head_of(small)
    inside = np.argwhere(head)
    low, high = inside.min(axis=0) - 0.5, inside.max(axis=0) + 0.5
    box_mm = geometry.apply(small.affine, low + geometry.corners((2, 2, 2)) * (high - low))
    rng, voxels = np.random.default_rng(0), np.argwhere(near(head, small.affine))
    places = voxels[rng.integers(len(voxels), size=PLACES)] + rng.uniform(-0.5, 0.5, (PLACES, 3))
    values = ndimage.map_coordinates(small.array, places.T, order=1, mode="nearest")
    return Reference(geometry.apply(small.affine, places), _levels(values), box_mm)


def agreement(reference: Reference, moving: Grid, matrix: npt.ArrayLike) -> Agreement:
    """How well a checked image agrees with a reference.

    Args:
        reference: from :func:`reference_of`.
        moving: from :func:`checked`, best with voxels about as large as the reference's (``average_blocks``).
        matrix: (4, 4), the reference's mm -> the image's.
    """
    onto = np.linalg.inv(moving.affine) @ np.asarray(matrix, float)
    places = geometry.apply(onto, reference.places_mm)
    inside = ((places >= -0.5) & (places <= np.asarray(moving.array.shape) - 0.5)).all(axis=1)
    overlap = float(inside.mean())
    if overlap < LEAST_OVERLAP:
        return Agreement(1.0, overlap)
    there = ndimage.map_coordinates(moving.array, places[inside].T, order=1, mode="nearest")
    joint = np.bincount(reference.levels[inside] * BINS + _levels(there), minlength=BINS * BINS)
    return Agreement(normalised_mutual_information(joint.reshape(BINS, BINS)), overlap)


def normalised_mutual_information(joint: npt.ArrayLike) -> float:
    """(H(A) + H(B)) / H(A, B) of a joint histogram; 1 if all counts lie in one bin.

    >>> normalised_mutual_information([[5, 0], [0, 5]]), round(normalised_mutual_information([[1, 1], [1, 1]]), 9)
    (2.0, 1.0)
    """
    shares = np.asarray(joint, float) / np.sum(joint)
    both = _entropy(shares)
    return (_entropy(shares.sum(axis=0)) + _entropy(shares.sum(axis=1))) / both if both > 0 else 1.0


def _entropy(shares: geometry.Array) -> float:
    there = shares[shares > 0]
    return float(-(there * np.log(there)).sum())


def _levels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The bins of intensities from 0 to 1."""
    return np.minimum((values * BINS).astype(np.int64), BINS - 1)


def rigid_matrix(shift_mm: npt.ArrayLike, degrees: npt.ArrayLike, centre_mm: npt.ArrayLike) -> geometry.Array:
    """A turn about x, y and z through a centre, and a shift after it; (4, 4).

    >>> rigid_matrix([0, 0, 1], [0, 0, 90], [10, 0, 0]).round(6)[:3] @ [12, 0, 0, 1]
    array([10.,  2.,  1.])
    """
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(np.asarray(degrees, float))):
        a, b = [other for other in range(3) if other != axis]
        one = np.eye(3)
        sign = -1 if axis == 1 else 1
        one[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -sign * np.sin(angle), sign * np.sin(angle), np.cos(angle)
        turn = turn @ one
    centre, matrix = np.asarray(centre_mm, float), np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = centre + np.asarray(shift_mm, float) - turn @ centre
    return matrix


def moved_mm(matrix: npt.ArrayLike, box_mm: npt.ArrayLike) -> float:
    """The longest way that a corner of a box goes.

    >>> moved_mm(rigid_matrix([0, 3, 4], [0, 0, 0], [0, 0, 0]), geometry.corners((2, 2, 2)))
    5.0
    """
    return float(np.linalg.norm(geometry.apply(matrix, box_mm) - np.asarray(box_mm, float), axis=1).max())


def search(reference: Reference, moving: Grid, start: npt.ArrayLike) -> geometry.Array:
    """The best rigid matrix around a start, by steps of 4, 2 and 1 mm and degrees; (4, 4).

    The start is the identity or another rigid matrix. Places that lose half of the overlap are not looked at: less
    overlap is easier to agree in.
    """
    first = agreement(reference, moving, start)

    def value(parameters: geometry.Array) -> float:
        step = rigid_matrix(parameters[:3], parameters[3:], reference.centre_mm)
        found = agreement(reference, moving, np.asarray(start, float) @ step)
        return found.nmi if found.overlap >= first.overlap / 2 else 0.0

    parameters: geometry.Array = np.zeros(6)
    best = first.nmi
    for step in STEPS:
        for _ in range(MOST_ROUNDS):
            moves = _moves(parameters, best, step, value)
            reached, there = max(moves, key=lambda move: move[0])
            if reached <= best:
                break
            parameters, best = there, reached
    return np.asarray(start, float) @ rigid_matrix(parameters[:3], parameters[3:], reference.centre_mm)


def _moves(
    here: geometry.Array, best: float, step: float, value: Callable[[geometry.Array], float]
) -> list[tuple[float, geometry.Array]]:
    """One step either way along each parameter, and all steps that are better at once."""
    moves, together = [], here.copy()
    for axis in range(6):
        pair = []
        for sign in (-step, step):
            there = here.copy()
            there[axis] += sign
            pair.append((value(there), there))
        better = max(pair, key=lambda move: move[0])
        if better[0] > best:
            together[axis] = better[1][axis]
        moves += pair
    if (together != here).sum() > 1:
        moves.append((value(together), together))
    return moves
