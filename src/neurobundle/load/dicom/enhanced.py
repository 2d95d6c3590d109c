"""Enhanced multi-frame files: one file, many slices, each with its own place in functional groups (PS3.3 C.7.6.16).

What is shared by all frames stands in SharedFunctionalGroupsSequence, what differs in PerFrameFunctionalGroupsSequence.
A *dimension* is one by which the file says that its frames are ordered: the place in the stack, the time, the echo.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from neurobundle.load.dicom.elements import Elements
from neurobundle.load.dicom.frames import Frame, make_frame
from neurobundle.load.dicom.instances import Instance
from neurobundle.load.gate import refuse

#: Dimensions that say where a frame lies, not which volume it belongs to: StackID, InStackPositionNumber,
#: ImagePositionPatient and ImageOrientationPatient (PS3.6).
_OF_PLACE = {0x00209056, 0x00209057, 0x00200032, 0x00200037}


def is_enhanced(instance: Instance) -> bool:
    """Whether a file has functional groups for its frames."""
    return bool(instance.elements.items("PerFrameFunctionalGroupsSequence"))


def enhanced_frames(instance: Instance) -> list[Frame]:
    """The frames of an enhanced file."""
    top = instance.elements
    per_frame = top.items("PerFrameFunctionalGroupsSequence")
    shared = _flat(next(iter(top.items("SharedFunctionalGroupsSequence")), {}))
    free = [
        n for n, dimension in enumerate(top.items("DimensionIndexSequence")) if _pointer(dimension) not in _OF_PLACE
    ]
    frames = []
    for index, groups in enumerate(per_frame):
        elements = top.behind(_flat(groups), shared)
        frame = make_frame(instance, elements, index, "enhanced")
        frames.append(replace(frame, marks=frame.marks | {"dimensions": _dimensions(elements, free)}))
    if frames and not instance.faults and len(per_frame) != instance.frames:
        cause = f"it has functional groups for {len(per_frame)} frames, and {instance.frames} frames"
        fault = refuse("pixels", cause, "Export the series again.", instance.file)
        frames[0] = replace(frames[0], faults=(fault, *frames[0].faults))
    return frames


def _flat(groups: Any) -> dict[int, Any]:
    """All elements of the public functional groups of one frame, by tag; each group is a sequence of one item."""
    flat: dict[int, Any] = {}
    for tag in list(groups.keys()):
        items = Elements(groups).items(int(tag)) if not int(tag) >> 16 & 1 else []
        for item in items[:1]:
            flat |= {int(inner): item.get_item(inner) for inner in item.keys()}  # noqa: SIM118 (a data set's iterator converts)
    return flat


def _pointer(dimension: Any) -> int:
    """The tag that a dimension points at: an AT value, which pydicom knows how to read; 0 if it is damaged."""
    try:
        return int(dimension["DimensionIndexPointer"].value)
    except Exception:
        return 0


def _dimensions(elements: Elements, free: list[int]) -> Hashable:
    """The frame's indices along the dimensions that are not its place."""
    values = elements.numbers("DimensionIndexValues")
    return tuple(values[n] for n in free if n < len(values)) or None
