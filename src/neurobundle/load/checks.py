"""The checks of the gate: one function for each, on a grid, a shape or voxels, and its tolerance beside it.

What they return are findings (:mod:`neurobundle.load.gate`); none of them raises. Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.geometry import corners_mm, voxel_sizes_mm
from neurobundle.load.gate import STRICT, Finding, Level, Policy, refuse, warn
from neurobundle.memory import available_bytes

# --- checks of a grid -------------------------------------------------------------------------------------------------

#: Where both forms of a NIfTI file have the same code, their corners must agree to this; above it left and right may
#: differ between programs. Below it lies what a float32 quaternion rounds away.
FORMS_AGREE_MM = 0.1

#: How far the voxel axes may be from right angles: the largest cosine between two of them. What float32 headers and
#: six-digit DICOM cosines round away is below 1e-5; at 1e-4 a corner 300 mm away moves by 0.03 mm.
SHEAR_TOLERANCE = 1e-4

#: Voxel edges outside of this are warned of: no brain MRI has them, a wrong unit has.
PLAUSIBLE_VOXEL_MM = (0.1, 20.0)

#: A first voxel further from the scanner's middle than this is nowhere: no hall is 100 m long.
FARTHEST_MM = 1e5

#: An affine whose unit voxel has less volume than this cannot be inverted.
LEAST_VOLUME = 1e-9


def check_affine(affine: npt.ArrayLike, what: str = "affine", file: str | Path = "") -> list[Finding]:
    """Whether an affine is finite, can be inverted, and has voxel axes at right angles and of plausible length.

    Args:
        affine: (4, 4), mm.
        what: what to call it.
        file: the file it stands in.
    """
    matrix = np.asarray(affine, float)
    if not np.isfinite(matrix).all():
        return [refuse("affine", f"its {what} has numbers that are not finite", _MEND_AFFINE, file)]
    sizes = voxel_sizes_mm(matrix)
    if not sizes.all() or abs(np.linalg.det(matrix[:3, :3] / sizes)) < LEAST_VOLUME:
        return [refuse("affine", f"its {what} is singular", _MEND_AFFINE, file)]
    if np.abs(matrix[:3, 3]).max() > FARTHEST_MM:
        cause = f"its {what} puts the first voxel {np.abs(matrix[:3, 3]).max():.3g} mm away"
        return [refuse("affine", cause, _MEND_AFFINE, file)]
    found = []
    shear = float(np.abs(np.triu((matrix[:3, :3] / sizes).T @ (matrix[:3, :3] / sizes), 1)).max())
    if shear > SHEAR_TOLERANCE:
        cause = f"its {what} is sheared: two voxel axes are {np.degrees(np.arccos(min(shear, 1))):.2f} degrees apart"
        found.append(refuse("shear", cause, "Resample the image onto a grid with right angles.", file))
    low, high = PLAUSIBLE_VOXEL_MM
    if sizes.min() < low or sizes.max() > high:
        cause = f"voxels of {_by(sizes)} mm are no brain MRI's: is the unit right?"
        found.append(warn("spacing", cause, "Look at it in a viewer.", file))
    return found


def check_forms(
    qform: tuple[npt.ArrayLike | None, int],
    sform: tuple[npt.ArrayLike | None, int],
    shape: Sequence[int],
    policy: Policy = STRICT,
    file: str | Path = "",
) -> tuple[list[Finding], str]:
    """Which of a NIfTI file's two affines speaks, and whether they contradict each other.

    Args:
        qform: its affine, (4, 4) mm, or None if its quaternion is none, and its code.
        sform: the same.
        shape: voxels along each axis.
        policy: ``form`` chooses, ``assume_ras`` allows neither.
        file: for the findings.

    Returns:
        What was found, and ``qform``, ``sform`` or ``none`` (neither has a code).
    """
    coded = {name: form for name, form in (("sform", sform), ("qform", qform)) if form[1] > 0}
    if not coded:
        cause = "it has no form code, so left and right cannot be known"
        way_out = "Set the form codes, or say --assume-ras if its axes run to the right, to the front and up."
        if policy.assume_ras:
            return [warn("form_codes", f"{cause}; RAS+ is assumed", file=file)], "none"
        return [refuse("form_codes", cause, way_out, file)], "none"
    if policy.form != "auto" and policy.form not in coded:
        return [refuse("form_codes", f"its {policy.form} has no code", "Leave --form out.", file)], policy.form
    chosen = policy.form if policy.form != "auto" else next(iter(coded))
    for name, (affine, _) in coded.items():
        cause = _unusable(affine)
        if cause:
            if policy.form == "auto" or name == chosen:
                other = " If the other form is right, choose it with --form." if len(coded) > 1 else ""
                return [refuse("affine", f"its {name} {cause}", f"{_MEND_AFFINE}{other}", file)], chosen
            return [], chosen  # the user chose the other one
    if len(coded) < 2 or policy.form != "auto":
        return [], chosen
    return _conflict(qform, sform, shape, file), chosen


def _conflict(
    qform: tuple[npt.ArrayLike | None, int],
    sform: tuple[npt.ArrayLike | None, int],
    shape: Sequence[int],
    file: str | Path,
) -> list[Finding]:
    """What follows from two usable forms that put the corners in different places."""
    apart = corners_mm(shape, np.asarray(sform[0], float)) - corners_mm(shape, np.asarray(qform[0], float))
    distance = float(np.sqrt((apart**2).sum(axis=1)).max())
    if distance <= FORMS_AGREE_MM:
        return []
    cause = f"its qform and its sform disagree: corners are {distance:.1f} mm apart"
    if sform[1] == qform[1]:
        way_out = "Find out which one is right, and choose it with --form sform or --form qform."
        return [refuse("forms", cause, way_out, file)]
    return [warn("forms", f"{cause}; the sform speaks (codes {sform[1]} and {qform[1]})", file=file)]


def _unusable(affine: npt.ArrayLike | None) -> str:
    """Why a form says nothing, or an empty text."""
    if affine is None:
        return "has a quaternion longer than 1"
    if not np.isfinite(np.asarray(affine, float)).all():
        return "has numbers that are not finite"
    if abs(np.linalg.det(np.asarray(affine, float)[:3, :3])) < LEAST_VOLUME:
        return "is singular"
    return ""


def check_pixdim(pixdim: npt.ArrayLike, affine: npt.ArrayLike, file: str | Path = "") -> Finding | None:
    """Warn where a header's voxel sizes are not its affine's: other programs may believe the former.

    Args:
        pixdim: (3,), mm.
        affine: (4, 4), mm.
        file: for the finding.
    """
    stated, real = np.abs(np.asarray(pixdim, float)), voxel_sizes_mm(affine)
    if np.allclose(stated, real, rtol=0.01, atol=1e-3):
        return None
    cause = f"its header states voxels of {_by(stated)} mm, its affine of {_by(real)} mm; the affine speaks"
    return warn("spacing", cause, file=file)


# --- checks of a shape ------------------------------------------------------------------------------------------------


def check_shape(shape: Sequence[int], policy: Policy = STRICT, file: str | Path = "") -> list[Finding]:
    """Whether an image has as many axes as are wanted, trailing axes of length 1 apart.

    Args:
        shape: voxels along each axis, as the file states them.
        policy: ``spatial_dims`` and ``channels`` say what is wanted.
        file: for the findings.
    """
    axes = list(shape)
    while len(axes) > policy.spatial_dims and axes[-1] == 1:
        axes.pop()
    whole = " x ".join(map(str, shape))
    if len(axes) < policy.spatial_dims:
        return [refuse("shape", f"it is {len(axes)}D ({whole}), a volume is wanted", "Give a 3D image.", file)]
    extra = axes[policy.spatial_dims :]
    if not extra or (len(extra) == 1 and extra[0] == policy.channels):
        return []
    wanted = "one volume is" if policy.channels is None else f"{policy.channels} channels are"
    return [refuse("shape", f"it is {len(axes)}D ({whole}), {wanted} wanted", "Save one volume a file.", file)]


def check_memory(needed: int, file: str | Path = "", free: int | None = None) -> Finding | None:
    """Refuse what would not fit into memory, before a byte is allocated.

    Args:
        needed: bytes of the voxels.
        file: for the finding.
        free: bytes that are free; asked of the system if None, and not checked where it cannot say.
    """
    free = available_bytes() if free is None else free
    if free is None or needed <= free:
        return None
    cause = f"its voxels need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
    return refuse("memory", cause, "Close other programs, crop it, or use a larger machine.", file)


# --- checks of values -------------------------------------------------------------------------------------------------

#: No scanner gives this much (its numbers have at most 32 bits), and the squares of 1e8 such voxels leave float32.
ABSURD_VALUE = 1e15


def check_scaling(slope: float, intercept: float, file: str | Path = "") -> Finding | None:
    """Whether the slope and intercept of a header can be meant.

    A slope of 0 means "not scaled" (nifti1.h, ``scl_slope``); DICOM knows no such rule and refuses it elsewhere.
    """
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        cause = f"its header scales by {slope:g} and adds {intercept:g}, which is not finite"
        return refuse("scaling", cause, "Export it again with scl_slope 1 and scl_inter 0.", file)
    if slope == 0 and intercept != 0:
        return warn("scaling", f"its scl_slope is 0, so its scl_inter of {intercept:g} is not added", file=file)
    return None


def check_voxels(data: npt.NDArray[Any], policy: Policy = STRICT, file: str | Path = "") -> list[Finding]:
    """Whether all voxels are finite and in a sane range, and whether an image has a signal.

    Args:
        data: the voxels, any shape; set to 0 where they are not finite and the policy says so.
        policy: ``kind`` and ``nonfinite``.
        file: for the findings.
    """
    if data.size == 0:
        return [refuse("signal", "it has no voxels", "Export it again.", file)]
    low, high = data.min(), data.max()  # a NaN anywhere makes both NaN
    found = []
    if data.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        found.append(_nonfinite(data, policy, file))
        low, high = data.min(), data.max()
    if found and found[0].level is Level.REFUSE:
        return found
    if max(abs(float(low)), abs(float(high))) > ABSURD_VALUE:
        cause = f"its values run from {low:g} to {high:g}, an absurd range"
        return [*found, refuse("range", cause, "Look at scl_slope, and export it again.", file)]
    if policy.kind == "label" and data.dtype.kind == "f":
        broken = data != np.rint(data)
        if broken.any():
            cause = f"labels must be whole numbers, it has {float(data[broken].flat[0]):g}"
            way_out = "Resample label maps with the nearest neighbour, and do not smooth them."
            return [*found, refuse("labels", cause, way_out, file)]
    if policy.kind == "image" and not policy.allow_empty and low == high:
        return [*found, refuse("signal", f"it has no signal: all voxels are {low:g}", "Leave the case out.", file)]
    return found


def _nonfinite(data: npt.NDArray[Any], policy: Policy, file: str | Path) -> Finding:
    broken = ~np.isfinite(data)
    nan = int(np.isnan(data).sum())
    first = tuple(int(n) for n in np.unravel_index(int(np.argmax(broken)), data.shape))
    cause = f"it has {nan} NaN and {int(broken.sum()) - nan} infinite voxels, the first at {first}"
    if policy.nonfinite == "zero":
        data[broken] = 0
        return warn("nonfinite", f"{cause}; set to 0", file=file)
    way_out = "Export it again, or say --nonfinite zero to set them to 0."
    return refuse("nonfinite", cause, way_out, file)


_MEND_AFFINE = "Mend its header, or export it again."


def _by(sizes: npt.ArrayLike) -> str:
    return " x ".join(f"{size:.3g}" for size in np.asarray(sizes, float))
