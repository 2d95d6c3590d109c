"""What stands beside a NIfTI file, or in its header: evidence where its name says nothing, and traits for ties.

A *sidecar* is the JSON file of the same name that converters write; its times are in seconds (BIDS 1.9, *MRI common
metadata fields*). Of its free text only the words of a fixed table are taken.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurobundle.errors import InputError
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.gate import Level
from neurobundle.load.names import stem
from neurobundle.load.study.choices import Traits
from neurobundle.load.study.filenames import Recognised, says_after_contrast

if TYPE_CHECKING:
    from neurobundle.load.dicom.facts import Facts

#: A sidecar is a page of text; a larger file is something else.
LARGEST_BYTES = 1 << 20


def recognise_with_sidecar(path: Path, found: Recognised) -> Recognised:
    """What a file is, by its name, and by its sidecar where the name says nothing of the sequence, or of contrast.

    Args:
        path: the NIfTI file.
        found: what the rules for names made of it.
    """
    content = _sidecar(path) if found.silent or found.channel == "T1" else {}
    if not content:
        return found
    from neurobundle.load.study.rules import recognise

    if not found.silent:
        if _agent(content):
            return Recognised("T1c", f"{found.reason}, its JSON file names a contrast agent", Level.WARN)
        return found
    by_facts = recognise(_facts(content))
    return by_facts._replace(reason=f"its name says no sequence, its JSON file: {by_facts.reason}")


def traits_of_file(path: Path, agrees: bool, look: bool) -> Traits:
    """By what a file is compared with others that fit the same channel.

    Args:
        path: the NIfTI file.
        agrees: whether the evidence agrees.
        look: whether to read its header; a file whose header cannot be read is not usable.
    """
    traits = Traits(agrees=agrees, contrast=says_after_contrast(path.name))
    if not look:
        return traits
    import numpy as np

    from neurobundle.load.nifti import read_header

    try:
        promised = read_header(path)
        affine = np.asarray(promised.header.get_best_affine(), float)
    except InputError:
        return traits._replace(usable=False)
    if len(promised.shape) < 3 or not np.isfinite(affine).all():
        return traits._replace(usable=False)
    i, j, k = (round(float(size), 6) for size in voxel_sizes_mm(affine))
    return traits._replace(voxel_mm=(i, j, k), slices=promised.shape[2])


def _sidecar(path: Path) -> dict[str, Any]:
    file = path.with_name(f"{stem(path.name)}.json")
    try:
        if file.stat().st_size > LARGEST_BYTES:
            return {}
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Evidence that cannot be read is no evidence; the image itself is not harmed.
        return {}
    return content if isinstance(content, dict) else {}


def _facts(content: dict[str, Any]) -> Facts:
    from neurobundle.load.dicom.facts import Facts
    from neurobundle.load.dicom.vocabulary import IMAGE_TYPES, known_words

    types = content.get("ImageType")
    stated = [str(value).upper() for value in types] if isinstance(types, list) else []
    return Facts(
        modality="MR" if content.get("Modality", "MR") == "MR" else "",
        sequence=(*_codes(content.get("ScanningSequence")), *_codes(content.get("SequenceVariant"))),
        repetition_time_ms=_ms(content.get("RepetitionTime")),
        echo_time_ms=_ms(content.get("EchoTime")),
        inversion_time_ms=_ms(content.get("InversionTime")),
        contrast_agent=_agent(content) or None,
        image_type=tuple(value for value in stated if value.replace(" ", "_") in IMAGE_TYPES),
        words=known_words(*(str(content.get(key, "")) for key in ("SeriesDescription", "ProtocolName"))),
    )


def _codes(value: object) -> tuple[str, ...]:
    r"""Codes of a sequence; converters write ``GR_IR`` or ``GR\IR`` or a list."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return tuple(code for code in re.split(r"[^A-Z]+", text.upper()) if code)


def _ms(seconds: object) -> float | None:
    usable = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1000
    return round(float(str(seconds)) * 1000, 6) if usable else None


def _agent(content: dict[str, Any]) -> bool:
    """Whether BIDS's field for the agent's ingredient, or a converter's for its name, is filled."""
    stated = [str(content.get(key) or "").strip() for key in ("ContrastBolusIngredient", "ContrastBolusAgent")]
    return any(text and text.upper() not in ("NONE", "NO", "N/A", "N", "0") for text in stated)
