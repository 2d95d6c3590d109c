"""What the tests of DICOM results share: a plan of two structures, a result, and how highdicom reads it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.export.dicom_codes import Algorithm, Code, Segment, StructureCodes
from neurobundle.export.dicom_source import DicomSource, read_source
from neurobundle.geometry import apply
from neurobundle.load.dicom import DicomVolume, find_dicom

NAME, NUMBER = "DOE^JANE", "MRN-12345"
ALGORITHM = Algorithm("A network", "1.2", Code("123110", "DCM", "Artificial Intelligence"), "Neurobundle", "ab" * 32)
_PART = Code("91723000", "SCT", "Anatomical Structure"), Code("5366008", "SCT", "Hippocampus")
ANTERIOR = StructureCodes(*_PART, (Code("255549009", "SCT", "Anterior"),))
POSTERIOR = StructureCodes(*_PART, (Code("255551008", "SCT", "Posterior"),))
SEGMENTS = [Segment(1, "anterior", (1,), ANTERIOR), Segment(2, "posterior", (2,), POSTERIOR)]
#: As BraTS has them: 1 necrotic core, 2 oedema, 3 enhancing.
_REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
REGIONS = [Segment(n, name, values, ANTERIOR) for n, (name, values) in enumerate(_REGIONS.items(), start=1)]


def one_volume(folder: Path) -> DicomVolume:
    (volume,) = find_dicom(folder).volumes
    return volume


def source_of(folder: Path) -> DicomSource:
    return read_source(one_volume(folder))


def result_on(shape: tuple[int, ...], values: int = 2) -> np.ndarray:
    """A label map that no flip, swap or shift leaves as it is, with an empty slice between two others."""
    labels = np.zeros(shape, np.uint8)
    one, two, three = (1, 3, 4) if shape[2] > 4 else (0, 2, 2)
    labels[1, 2, one] = 1
    labels[1:4, 3, two] = 2
    labels[2, 1:5, three] = values
    return labels


def read_back(path: Path, affine: np.ndarray, shape: tuple[int, ...], number: int | None = None) -> np.ndarray:
    """The result as highdicom reads it, on a grid; fails if a voxel lies 1e-3 mm or more beside the grid's.

    Args:
        path: a segmentation object.
        affine: of the grid, RAS+.
        shape: of the grid.
        number: of one segment; all of them as a label map if None.
    """
    import highdicom

    seg = highdicom.seg.segread(path)
    numbers = None if number is None else [number]
    volume: Any = seg.get_volume(segment_numbers=numbers, combine_segments=True)
    where = np.argwhere(volume.array)
    places = apply(np.diag([-1.0, -1, 1, 1]) @ volume.affine, where)
    indices = np.rint(apply(np.linalg.inv(affine), places)).astype(int)
    assert np.abs(apply(affine, indices) - places).max() < 1e-3
    found = np.zeros(shape, np.uint8)
    found[tuple(indices.T)] = volume.array[tuple(where.T)]
    return found
