"""The names of axes and of file endings, once.

A *volume* is channel first, ``(channel, i, j, k)``, float32, RAS+ millimetres in its affine. A *label map* has one
channel of whole numbers.
"""

from __future__ import annotations

#: Axes of a volume as it reaches a 3D network: Right, Anterior, Superior (nibabel's RAS+).
CANONICAL_AXES = "RAS"

#: What ends the name of a NIfTI file.
NIFTI_SUFFIXES = (".nii.gz", ".nii")
