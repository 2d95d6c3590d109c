"""The scans of one visit brought together: a rigid registration of each to the study's reference.

The *reference* is the scan on whose grid the study will lie; the others are *moving*. A *rigid matrix* (rotation and
shift, no size) takes the reference's millimetres to the moving scan's, RAS+: where in the moving scan the tissue is
that the reference shows at a place. The *corrected affine* of the moving scan is ``inv(matrix) @ affine``: it places
its voxels where the reference shows them, and changes no voxel. So nothing is resampled here; whoever puts the study
on one grid resamples once, with the corrected affine. For *agreement*, *overlap* and *moves* see
:mod:`neurobundle.prepare.alignment`.

How: a search by steps at 4 mm from the header's geometry, and from the centres of the heads and of the fields of view
where they lie elsewhere; then a descent on Mattes mutual information at 2 mm, over the reference's head. The best of
header, search and descent is kept, judged by one measure at other places than the descent saw. One thread, fixed
seeds: the same input gives the same matrix.

Sources: Mattes et al., *PET-CT image registration in the chest using free-form deformations*, IEEE TMI 22 (2003) 120.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform

from neurobundle import geometry
from neurobundle.errors import InputError, SettingError, require
from neurobundle.load.scan import Scan as LoadedScan
from neurobundle.load.study import Placement
from neurobundle.prepare.alignment import (
    CHECK_MM,
    LEAST_NMI,
    LEAST_OVERLAP,
    LEAST_SHARE,
    PARTIAL,
    PARTIAL_GAIN,
    Agreement,
    Pair,
    Scan,
    checked,
    head_of,
    near,
    pair_of,
    reference_of,
)
from neurobundle.prepare.itk_helpers import Grid, average_blocks, itk_image, matrix_of, one_thread

log = logging.getLogger(__name__)

#: Voxels of the descent, mm: in-plane means of this size, thick slices as they are.
FIT_MM = 2.0
#: Places in the reference's head that the descent looks at, and the seed that they are drawn with.
FIT_PLACES, FIT_SEED = 200_000, 1
#: Bins of the descent's histogram; its first and last step, mm at the head's surface; its most steps.
FIT_BINS, FIRST_STEP_MM, LAST_STEP_MM, FIT_STEPS = 32, 1.0, 0.001, 100

#: Another start than the header is tried where it lies further from it than the search reaches, mm.
OTHER_START_MM = 15.0
#: ... and believed where its agreement above 1 is so many times the header's: wrong valleys are seldom deeper.
OTHER_START_GAIN = 1.25

#: A fit is accepted where its agreement above 1 is so many times the header's; of a partial pair PARTIAL_GAIN times.
LEAST_GAIN = 1.002
#: No place is believed where two scans agree less than this. Measured at the best place: two contrasts of one head at
#: least 1.13, of a synthesized one 1.12, windows within the head 1.107; scans stored upside down or back to front, or
#: turned by 90 or 180 degrees, at most 1.064, and 1.078 for two visits in one contrast.
BELIEVED_NMI = 1.09
#: ... nor one in which less than this share of the compared head is seen by both.
BELIEVED_OVERLAP = 0.4
#: A partial pair has many wrong places that agree a little. So one that lies this far from the header's, mm, must agree
#: better. Measured: wrong places at most 1.104, right ones 1.107 to 1.229, so that some right ones are refused.
FAR_MM, FAR_NMI = 25.0, 1.15
#: A fit that turns the head by more than this is not believed: the search does not reach so far.
MOST_DEGREES = 45.0
#: A scan on the reference's own grid would be resampled for nothing by a fit that moves the head less than this, mm.
#: Measured on six scans that were registered and resampled by others: .4 to .6 mm.
LEAST_MOVED_MM = 1.0

_KEPT = "kept: "
_HEADERS = "Without --register the places are taken that the headers say."


class RigidRegistration(NamedTuple):
    """Where the reference's tissue lies in a moving scan.

    Attributes:
        matrix: (4, 4), the reference's mm -> the moving scan's, RAS+, rigid; the identity if not accepted.
        rotation_deg: the angle of its one rotation.
        translation_mm: (3,), where it shifts the middle of the reference's head.
        before: agreement and overlap as the headers say.
        after: the same under ``matrix``.
        moved_mm: the longest way of a corner of the reference's head's box.
        accepted: whether ``matrix`` is a fit; if not, the header's geometry stands.
        reason: why, as a sentence without its full stop.
        doubtful: whether the header's geometry stands only because nothing better can be believed.
    """

    matrix: geometry.Array
    rotation_deg: float
    translation_mm: tuple[float, float, float]
    before: Agreement
    after: Agreement
    moved_mm: float
    accepted: bool
    reason: str
    doubtful: bool = False

    def apply(self, affine: npt.ArrayLike) -> geometry.Array:
        """The moving scan's corrected affine: its voxels where the reference shows them."""
        return np.asarray(np.linalg.inv(self.matrix) @ np.asarray(affine, float))

    def undo(self, affine: npt.ArrayLike) -> geometry.Array:
        """The affine that a corrected one came from."""
        return np.asarray(self.matrix @ np.asarray(affine, float))

    def as_json(self) -> dict[str, Any]:
        """All figures as plain numbers, for reports and metadata."""
        plain = self._asdict() | {"matrix": np.asarray(self.matrix).tolist()}
        return plain | {name: getattr(self, name)._asdict() for name in ("before", "after")}


def register_study(
    fixed: Scan, moving: Sequence[Scan], names: Sequence[str] = (), reference_name: str = "the reference"
) -> list[RigidRegistration]:
    """Rigid registrations of a study's scans to its reference.

    A fit that does not agree better than the header is not accepted, and the header's geometry stays. Where one scan
    shows a part of the head only, it has to agree clearly better.

    Args:
        fixed: the reference, ``(array (i, j, k), affine (4, 4))``, RAS+ mm; skull on or off.
        moving: the other scans; any grid, slice thickness, contrast and field of view.
        names: how errors call the moving scans.
        reference_name: how errors call the reference.

    Returns:
        One for each moving scan, in order.

    Raises:
        InputError: if a scan cannot be compared (see :func:`neurobundle.prepare.alignment.checked`), or lies apart
            from the reference by its header, and no place was found for it.
        MissingPackageError: if SimpleITK is not installed.
    """
    sitk: Any = require("SimpleITK", extra="head", feature="Registering the scans of a study")
    if names and len(names) != len(moving):
        raise SettingError(f"{len(names)} names for {len(moving)} moving scans: give one each, or none")
    image = checked(fixed, reference_name)
    centre_mm = reference_of(image).centre_mm
    found = []
    for number, scan in enumerate(moving):
        name = names[number] if names else f"moving scan {number + 1}"
        other = checked(scan, name)
        coarse = pair_of(image, other)
        start = _start(coarse, other, centre_mm)
        with one_thread(sitk):
            fit = _fit(sitk, image, other, coarse, start)
        on_one_grid = geometry.same_grid(image.array.shape, image.affine, other.array.shape, other.affine)
        found.append(_judge(pair_of(image, other, FIT_MM), [start, fit], name, on_one_grid, centre_mm))
        log.debug("%s: %s", name, found[-1].reason)
    return found


def place(scan: LoadedScan, reference: LoadedScan, name: str, reference_name: str) -> Placement:
    """Place a scan of a study where the reference shows it; for ``read_study(place=...)``.

    Args:
        scan: of one channel.
        reference: the scan on whose grid the study will lie.
        name: of the scan, for errors.
        reference_name: likewise.

    Returns:
        The corrected affine, and the figures of :class:`RigidRegistration` as ``registration``.

    Raises:
        InputError: if a scan cannot be compared, or no place can be believed: whoever asks for a registration is not
            served by a header that may be wrong.
        MissingPackageError: if SimpleITK is not installed.
    """
    fixed, moving = ((one.data, one.affine) for one in (reference, scan))
    try:
        (found,) = register_study(fixed, [moving], [name], reference_name)
    except InputError as error:
        error.way_out = f"{error.way_out} {_HEADERS}"
        raise
    if found.doubtful:
        cause = f"{name} cannot be registered to {reference_name}: {found.reason.removeprefix(_KEPT)}"
        raise InputError(cause, f"Check that both are of one head. {_HEADERS}")
    affine = np.asarray(found.apply(scan.affine), np.float64)
    return Placement(affine, {"registration": found.as_json()}, settled=True)


def _start(pair: Pair, moving: Grid, centre_mm: geometry.Array) -> geometry.Array:
    """Where the descent starts: the search's result from the header, or from what else lies far and agrees better."""

    def worth(matrix: geometry.Array) -> float:
        found = pair.agreement(matrix)
        return found.nmi if found.overlap >= BELIEVED_OVERLAP else 1.0

    best = pair.search(np.eye(4))
    value = worth(best)
    small = average_blocks(moving, CHECK_MM)
    heads = geometry.apply(small.affine, np.argwhere(head_of(small)).mean(axis=0))
    for centre in (heads, geometry.centre_mm(moving.array.shape, moving.affine)):
        start = np.eye(4)
        start[:3, 3] = centre - centre_mm
        if np.linalg.norm(start[:3, 3]) < OTHER_START_MM:
            continue
        other = pair.search(start)
        reached = worth(other)
        if reached - 1 > OTHER_START_GAIN * (value - 1):
            best, value = other, reached
    return best


def _fit(sitk: Any, fixed: Grid, moving: Grid, pair: Pair, start: geometry.Array) -> geometry.Array:
    """The matrix after the descent, over the compared head."""
    fixed, moving = (average_blocks(image, FIT_MM) for image in (fixed, moving))
    centre_mm = pair.compared.centre_mm
    if pair.turned:
        return np.linalg.inv(_descend(sitk, moving, fixed, np.linalg.inv(start), centre_mm))
    return _descend(sitk, fixed, moving, start, centre_mm)


def _descend(sitk: Any, fixed: Grid, moving: Grid, start: geometry.Array, centre_mm: geometry.Array) -> geometry.Array:
    """The matrix after the descent; the start if the descent left the image."""
    transform = sitk.VersorRigid3DTransform()
    transform.SetCenter(centre_mm.tolist())
    transform.SetMatrix(geometry.rotation_of(start).ravel().tolist(), 1e-6)
    transform.SetTranslation((geometry.apply(start, centre_mm) - centre_mm).tolist())
    mask = near(head_of(fixed), fixed.affine)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(FIT_BINS)
    method.SetMetricFixedMask(sitk.Cast(itk_image(sitk, Grid(mask.astype(np.float32), fixed.affine)), sitk.sitkUInt8))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, FIT_PLACES / int(mask.sum())), FIT_SEED)
    # ITK's default smooths the gradient by the longest voxel edge: with slices of 4 mm it points beside the optimum,
    # and the fit ended 1 to 2 mm from where the metric itself is best.
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        FIRST_STEP_MM, LAST_STEP_MM, FIT_STEPS, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-7
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(itk_image(sitk, fixed), itk_image(sitk, moving))
    except RuntimeError:  # ITK's way to say that no place falls inside the moving image
        return start
    return matrix_of(transform)


def _judge(
    pair: Pair, candidates: Sequence[geometry.Array], name: str, on_one_grid: bool, centre_mm: geometry.Array
) -> RigidRegistration:
    """The best candidate if it is better than the header, else the header."""
    before = pair.agreement(np.eye(4))
    best = max([np.eye(4), *candidates], key=lambda matrix: pair.agreement(matrix).nmi)
    after, moved, degrees = pair.agreement(best), pair.moved_mm(best), _degrees(best)
    doubt = _disbelief(pair, after, moved, degrees)
    doubtful = bool(doubt)
    if not doubt and after.nmi - 1 < (PARTIAL_GAIN if pair.share < PARTIAL else LEAST_GAIN) * (before.nmi - 1):
        doubt = f"no fit agrees clearly better than the headers, {before.nmi:.3f}"
    elif not doubt and on_one_grid and moved < LEAST_MOVED_MM:
        doubt = f"it lies on the reference's grid, and the best fit moves it by less than {LEAST_MOVED_MM:g} mm"
    if doubt and before.overlap < LEAST_OVERLAP:
        raise InputError(
            f"{name} shares {before.overlap:.0%} of the head by its header, and {doubt}",
            "Check that both are of one head, and that no header was lost; or leave the scan out.",
        )
    if doubt:
        still = (0.0, 0.0, 0.0)
        return RigidRegistration(np.eye(4), 0.0, still, before, before, 0.0, False, f"{_KEPT}{doubt}", doubtful)
    way = geometry.apply(best, centre_mm) - centre_mm
    reason = f"agreement {before.nmi:.3f} became {after.nmi:.3f}, the head moved by up to {moved:.1f} mm"
    shift = (float(way[0]), float(way[1]), float(way[2]))
    return RigidRegistration(best, degrees, shift, before, after, moved, True, reason)


def _disbelief(pair: Pair, found: Agreement, moved: float, degrees: float) -> str:
    """Why the best place cannot be believed; empty if it can."""
    if found.nmi < LEAST_NMI:
        return f"nothing in common was found: the agreement is {found.nmi:.3f} at best"
    if pair.share < LEAST_SHARE:
        return f"one scan shows {pair.share:.1%} of the head that the other shows, too little to tell a place by"
    if found.nmi < BELIEVED_NMI:
        return (
            f"too little in common was found: the agreement is {found.nmi:.3f} at best, less than {BELIEVED_NMI}, "
            "as if one scan were stored upside down or back to front"
        )
    if degrees > MOST_DEGREES:
        return f"the best fit turns the head by {degrees:.0f} degrees, more than {MOST_DEGREES:.0f}"
    if found.overlap < BELIEVED_OVERLAP:
        return f"the best fit leaves {found.overlap:.0%} of the head to compare, less than {BELIEVED_OVERLAP:.0%}"
    if pair.share < PARTIAL and moved > FAR_MM and found.nmi < FAR_NMI:
        return (
            f"one scan shows {pair.share:.0%} of the head that the other shows, and the best fit, agreement "
            f"{found.nmi:.3f}, moves it by {moved:.0f} mm"
        )
    return ""


def _degrees(matrix: geometry.Array) -> float:
    """The angle of a rotation, from its trace."""
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))


class RegisterStudyd(MapTransform, InvertibleTransform):
    """Replaces each moving image's affine by the corrected one, before the transform that resamples.

    Voxels stay as they are, and no input is changed in place. The figures lie in the image's metadata under
    ``registration``, as :meth:`RigidRegistration.as_json` gives them. Inverting puts the affine back, bit for bit.

    Args:
        keys: the moving images, MetaTensors of one channel, ``(1, i, j, k)``.
        reference_key: the reference, the same; if it is among ``keys`` it is passed over.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: as :func:`register_study`, naming the file; also if an image has no affine or several channels.
    """

    def __init__(self, keys: KeysCollection, reference_key: Hashable, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference_key = reference_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Register the images of one case."""
        result = dict(data)
        if self.reference_key not in result:
            raise InputError(f"the reference {self.reference_key!r} is not among the images", "Name one that is there.")
        fixed = _scan_of(result[self.reference_key], self.reference_key)
        for key in self.key_iterator(result):
            if key == self.reference_key:
                continue
            image = result[key]
            scan = _scan_of(image, key)
            try:
                (found,) = register_study(fixed, [scan], [str(key)])
            except InputError as error:
                error.file = error.file or str(image.meta.get("filename_or_obj", ""))
                raise
            result[key] = self._corrected(image, found)
        return result

    def _corrected(self, image: MetaTensor, found: RigidRegistration) -> MetaTensor:
        before = image.affine
        out = MetaTensor(image.as_tensor()).copy_meta_from(image)
        out.affine = torch.as_tensor(found.apply(before.numpy()), dtype=before.dtype)
        out.meta["registration"] = found.as_json()
        self.push_transform(out, extra_info={"affine": before.tolist()})
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The images with the affines that they came with."""
        result = dict(data)
        for key in self.key_iterator(result):
            if key == self.reference_key:
                continue
            out = MetaTensor(result[key].as_tensor()).copy_meta_from(result[key])
            done = self.pop_transform(out)
            out.affine = torch.as_tensor(done["extra_info"]["affine"], dtype=out.affine.dtype)
            out.meta.pop("registration", None)
            result[key] = out
        return result


def _scan_of(image: Any, key: Hashable) -> Scan:
    """The array and affine of an image of one channel."""
    if not isinstance(image, MetaTensor):
        raise InputError(f"{key!r} has no affine, so that its place is unknown", "Load it with LoadImaged first.")
    if image.ndim != 4 or image.shape[0] != 1:
        cause = f"{key!r} has the shape {tuple(image.shape)}; one channel and three axes can be registered"
        file = image.meta.get("filename_or_obj", "")
        raise InputError(cause, "Give each scan a key of its own, with its channel first.", file=str(file))
    return image.as_tensor()[0].detach().cpu().numpy(), image.affine.numpy()
