"""Words of the whole house: what a volume and a label map are, and how their files are called.

A *volume* is channel first, ``(channel, i, j, k)``, float32, RAS+ millimetres in its affine. A *label map* has one
channel of whole numbers.
"""

from __future__ import annotations

#: What ends the name of a NIfTI file.
NIFTI_SUFFIXES = (".nii.gz", ".nii")
