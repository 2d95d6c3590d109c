"""How sure a network was of a case, as files. Imports neither torch nor MONAI.

``<case>_uncertainty.nii.gz`` is the map, a byte a voxel in steps of 1/255, with the scale in its header;
``<case>_uncertainty.json`` the numbers, as :func:`neurobundle.postprocess.uncertainty.numbers_of` has them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.export.nifti import SCANNER_ANAT, encode, write_checked
from neurobundle.files import write_json

MAP_ENDING = "_uncertainty.nii.gz"
NUMBERS_ENDING = "_uncertainty.json"

#: Steps of a map from 0 to 1.
STEPS = 255


@dataclass(frozen=True)
class CaseUncertainty:
    """The numbers of a case.

    Attributes:
        case_score: the error that is expected, 0 to 1.
        flagged: whether a person should look at it.
        flag_above: of the score; None flags nothing.
        members: how many predictions the result is the mean of.
        structures: numbers by structure.
    """

    case_score: float
    flagged: bool = False
    flag_above: float | None = None
    members: int = 1
    structures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """What an entry of a report warns of.

        >>> CaseUncertainty(0.5, True, 0.25).warnings()
        ['its uncertainty, 0.500, is above 0.25: look at the result before it is used']
        """
        if not self.flagged:
            return []
        score = f"its uncertainty, {self.case_score:.3f}, is above {self.flag_above:g}"
        return [f"{score}: look at the result before it is used"]

    def entry(self) -> dict[str, Any]:
        """What an entry of a report holds of it."""
        return dict(vars(self))


def save_numbers(path: Path, case: str, numbers: Mapping[str, Any]) -> Path:
    """Write the numbers of a case as JSON, atomically."""
    return write_json(path, {"case": case, **numbers})


def save_map(
    path: Path, steps: npt.NDArray[np.uint8], affine: npt.ArrayLike, form_code: int = SCANNER_ANAT, units: str = "mm"
) -> Path:
    """Write a map atomically, and read it back before it gets its name.

    Args:
        path: ends in ``.nii.gz`` or ``.nii``.
        steps: ``(i, j, k)``, of 1/255.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system, for both forms.
        units: the file's unit of length: ``mm``, ``m`` or ``um``.

    Raises:
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    return write_checked(path, encode(steps, affine, form_code, units, slope=1 / STEPS))


def read_uncertainty(path: Path, names: Mapping[int, str] | None = None) -> CaseUncertainty:
    """Read what :func:`save_numbers` wrote.

    Args:
        path: ``<case>_uncertainty.json``.
        names: of label values, for structures that the config left without a name.

    Raises:
        InputError: for a file that is none.
    """
    try:
        content = json.loads(path.read_bytes())
        score, known = float(content["case_score"]), {str(value): name for value, name in (names or {}).items()}
        if not math.isfinite(score):
            raise ValueError("case_score is not finite")
        structures = {known.get(name, name): dict(numbers) for name, numbers in content["structures"].items()}
        return CaseUncertainty(
            score, bool(content["flagged"]), content["flag_above"], int(content["members"]), structures
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = f"this is no {NUMBERS_ENDING.removeprefix('_')} ({type(error).__name__}: {error})"
        raise InputError(cause, "Run the case again with --redo.", file=path) from error


def of_both_sides(sides: Mapping[str, CaseUncertainty]) -> CaseUncertainty:
    """One of several crops of a head: each side's structures, and the largest score.

    Args:
        sides: by the word that goes before the names of their structures.

    >>> of_both_sides({"left": CaseUncertainty(0.1), "right": CaseUncertainty(0.3, True, 0.2)}).case_score
    0.3
    """
    worst = max(sides.values(), key=lambda one: one.case_score)
    together = {f"{side} {name}": numbers for side, one in sides.items() for name, numbers in one.structures.items()}
    flagged = any(one.flagged for one in sides.values())
    return CaseUncertainty(worst.case_score, flagged, worst.flag_above, worst.members, together)
