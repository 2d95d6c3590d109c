"""Label maps of slice pictures, as pictures. Imports neither torch nor MONAI.

A *label picture* is a PNG of the size of its slice whose pixels are label numbers, with a palette in which they can be
told apart: a program reads numbers and a person sees colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from neurobundle.errors import InputError
from neurobundle.export.pictures import colour_of, save_png

#: What goes behind a case's name.
LABEL_PICTURE_ENDING = "_seg.png"

#: The highest number that a pixel of a palette picture can hold.
HIGHEST = 255


def save_label_picture(path: Path, labels: npt.NDArray[Any]) -> Path:
    """Write the label map of one slice as a PNG, atomically.

    Args:
        path: ends in ``.png``.
        labels: ``(column, row)`` or ``(column, row, 1)``, whole numbers from 0 to 255.

    Returns:
        The path.

    Raises:
        InputError: for several slices, or a number that a pixel cannot hold.
        EnvironmentFault: if it cannot be written.
    """
    flat = labels[..., 0] if labels.shape[2:] == (1,) else labels
    if flat.ndim != 2:
        raise InputError(f"a picture holds one slice, and the label map is {labels.shape}", "Write it as NIfTI.")
    if flat.min() < 0 or flat.max() > HIGHEST or (flat != np.rint(flat)).any():
        raise InputError(f"a picture holds labels from 0 to {HIGHEST}", "Write the label map as NIfTI.")
    picture = Image.fromarray(np.ascontiguousarray(flat.T.astype(np.uint8)))
    picture.putpalette([0, 0, 0, *(part for value in range(1, HIGHEST + 1) for part in colour_of(value))])
    return save_png(path, picture)
