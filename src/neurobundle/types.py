"""The names of axes and of dictionary keys, once.

A *volume* is channel first, ``(channel, i, j, k)``, float32, RAS+ millimetres in its affine. A *label map* has one
channel of whole numbers. Dictionary keys are MONAI's own, so that our transforms sit between theirs.
"""

from __future__ import annotations

from enum import StrEnum


class Key(StrEnum):
    """Keys of a case's dictionary; the same words as in the bundles' configs."""

    IMAGE = "image"
    LABEL = "label"
    PRED = "pred"
    CASE = "case"
    SUBJECT = "subject"
    FOLD = "fold"


#: Axes of a volume as it reaches a 3D network: Right, Anterior, Superior (nibabel's RAS+).
CANONICAL_AXES = "RAS"

#: What ends the name of a NIfTI file.
NIFTI_SUFFIXES = (".nii.gz", ".nii")
