"""From the frames of one series to its volumes.

A *part* is what becomes one volume: frames of one kind, one component, one plane, one echo, one time. A *place* is
where a frame lies along the normal of its slices; in a part, a place that is taken twice is a duplicate. A *label* says
how a part differs from the others of its series: ``echo-2``, ``phase``, ``t-003``.

Frames that differ in what is never one volume are always parted. What may vary inside of one volume (a time, an
acquisition number) parts frames only where places are taken more than once, and only into parts that are whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neurobundle.load.dicom.frames import Array, Frame
from neurobundle.load.gate import Finding, refuse, warn

#: Frames this close to each other along their normal are at one place. Positions that are written with two decimals
#: are wrong by up to 0.005 mm on each axis, so by 0.009 mm along a diagonal, each.
SAME_PLACE_MM = 0.02

#: Direction cosines this close are one orientation: the tolerance of the task; six digits round to 1e-6.
SAME_ORIENTATION = 1e-4

#: Another plane (a localizer's) is turned by more than this; what is turned by less is a slice that went astray.
OTHER_PLANE_DEG = 10.0

#: Fewer slices than this in another plane than the rest of their series are left out, not offered as a volume.
FEWEST_OF_A_PLANE = 3

#: A part is whole if it has this share of the places that the series has.
WHOLE_SHARE = 0.75


@dataclass
class Part:
    """The frames of one volume.

    Attributes:
        frames: in no order.
        labels: name -> text, how it differs from the rest of its series.
        findings: what parting them showed.
        left_out: how many frames of another plane were left out.
    """

    frames: list[Frame]
    labels: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0

    def labelled(self, name: str, text: str) -> Part:
        """The same part with one more label in front."""
        return replace(self, labels={name: text} | self.labels)


def part_series(frames: Sequence[Frame]) -> list[Part]:
    """The volumes of one series.

    Args:
        frames: all of one SeriesInstanceUID.
    """
    parts = [Part(list(frames))]
    for split in _ALWAYS:
        parts = [child for part in parts for child in _part_by(part, *split)]
    parts = [child for part in parts for child in _part_planes(part)]
    for split in _WHERE_PLACES_REPEAT:
        parts = [child for part in parts for child in _part_if_repeated(part, *split)]
    return [child for part in parts for child in _part_places(part)]


# --- what is never one volume ------------------------------------------------------------------------------------


def _kind_label(value: Hashable, _: int) -> str:
    return "" if value == "classic" else str(value)


def _component_label(value: Hashable, _: int) -> str:
    return str(value or "")


def _numbered(prefix: str) -> Callable[[Hashable, int], str]:
    return lambda _value, number: f"{prefix}-{number}"


def _type_of(frame: Frame) -> Hashable:
    """ImageType without the component, which parts by itself."""
    words = frame.marks["type"]
    return tuple(word for word in words if word not in ("M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY"))  # type: ignore[attr-defined]


#: Name, key and label of what always parts a series.
_ALWAYS: tuple[tuple[str, Callable[[Frame], Hashable], Callable[[Hashable, int], str]], ...] = (
    ("kind", lambda frame: frame.kind, _kind_label),
    ("stack", lambda frame: frame.marks["stack"], _numbered("stack")),
    ("component", lambda frame: frame.marks["component"], _component_label),
)

#: The same for what parts a series only if the groups share places; else they are one volume, with a warning.
_WHERE_PLACES_REPEAT: tuple[tuple[str, Callable[[Frame], Hashable], Callable[[Hashable, int], str]], ...] = (
    ("type", _type_of, _numbered("type")),
    ("echo", lambda frame: frame.marks["echo"], lambda value, _: f"echo-{value or 0}"),
)


def _part_by(
    part: Part, name: str, key: Callable[[Frame], Hashable], label: Callable[[Hashable, int], str]
) -> list[Part]:
    groups = _grouped(part.frames, key)
    if len(groups) < 2:
        return [part]
    return [
        Part(frames, part.labels | ({name: text} if (text := label(value, number)) else {}), list(part.findings))
        for number, (value, frames) in enumerate(groups.items(), 1)
    ]


def _part_if_repeated(
    part: Part, name: str, key: Callable[[Frame], Hashable], label: Callable[[Hashable, int], str]
) -> list[Part]:
    children = _part_by(part, name, key, label)
    placed = [frame for frame in part.frames if frame.has_place]
    if len(children) < 2 or not placed:
        return children
    place = {id(frame): number for frame, number in zip(placed, place_numbers(placed), strict=True)}
    taken = [{place[id(frame)] for frame in child.frames if frame.has_place} for child in children]
    if len(set().union(*taken)) < sum(map(len, taken)):
        return children
    what = {"type": "image types", "echo": "echo numbers"}[name]
    cause = f"its slices have {len(children)} different {what}, though they lie at different places"
    part.findings.append(warn(f"mixed_{name}", cause, "Look at it in a viewer."))
    return [part]


def _grouped(frames: Sequence[Frame], key: Callable[[Frame], Hashable]) -> dict[Hashable, list[Frame]]:
    """Frames by a key, in the order of its values; None first."""
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return dict(sorted(groups.items(), key=lambda item: (item[0] is not None, _sortable(item[0]))))


def _sortable(value: Any) -> Any:
    return value if value is not None else 0


# --- planes ------------------------------------------------------------------------------------------------------


def _part_planes(part: Part) -> list[Part]:
    """One part a plane. Stray slices stay with theirs, to be refused; a few of another plane are left out."""
    clusters: list[list[Frame]] = []
    for frame in part.frames:
        if frame.orientation is not None:
            cluster = next((one for one in clusters if _same_orientation(one[0], frame)), None)
            if cluster is None:
                clusters.append([frame])
            else:
                cluster.append(frame)
    clusters.sort(key=len, reverse=True)
    unknown = [frame for frame in part.frames if frame.orientation is None]
    main = Part([*(clusters[0] if clusters else []), *unknown], part.labels, part.findings)
    others = []
    for cluster in clusters[1:]:
        turned = turned_deg(clusters[0][0].orientation, cluster[0].orientation)
        if turned <= OTHER_PLANE_DEG:
            cause = f"its slices are turned by {turned:.3g} degrees against the others of its series"
            way_out = "Export the series again, or take that slice out."
            main.findings.append(refuse("orientation", cause, way_out, cluster[0].plane.file))
            main.frames += cluster
        elif len(cluster) < FEWEST_OF_A_PLANE <= len(clusters[0]):
            main.left_out += len(cluster)
        else:
            others.append(Part(cluster, part.labels))
    if main.left_out:
        main.findings.append(localizer_note(main.left_out))
    if not others:
        return [main]
    return [
        replace(one, labels=one.labels | {"plane": f"plane-{number}"}) for number, one in enumerate([main, *others], 1)
    ]


def _same_orientation(one: Frame, other: Frame) -> bool:
    assert one.orientation is not None
    assert other.orientation is not None
    return bool(np.abs(one.orientation - other.orientation).max() <= SAME_ORIENTATION)


def localizer_note(count: int) -> Finding:
    """What a volume says of localizers that lay in its series."""
    slices = "1 localizer slice was" if count == 1 else f"{count} localizer slices were"
    return warn("localizer", f"{slices} left out of its series")


def turned_deg(one: Array | None, other: Array | None) -> float:
    """By how much a slice is turned against another, in degrees: the angle of the rotation between their axes.

    >>> x, y, z = np.eye(3)
    >>> turned_deg(np.array([x, y]), np.array([y, z])), turned_deg(np.array([x, y]), np.array([y, -x]))
    (120.0, 90.0)
    """
    assert one is not None
    assert other is not None
    first, second = (np.stack([*pair, np.cross(*pair)]) for pair in (one, other))
    cosine = (np.trace(first.T @ second) - 1) / 2
    return round(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), 6)


# --- places that are taken more than once ------------------------------------------------------------------------

#: Marks that part frames by their value, in this order, each with its label.
_GROUPING: tuple[tuple[str, str, Callable[[Hashable, int], str]], ...] = (
    ("echo_time", "echo", _numbered("echo")),
    ("b_value", "b", lambda value, _: f"b-{value or 0:g}"),
    ("direction", "direction", _numbered("dir")),
    ("inversion_time", "inversion", _numbered("ti")),
    ("flip_angle", "flip", _numbered("fa")),
    ("time", "time", lambda _, number: f"t-{number:03d}"),
    ("dimensions", "dimensions", _numbered("dim")),
    ("acquisition", "time", lambda _, number: f"t-{number:03d}"),
)

#: Marks that part frames by their order at each place.
_RANKING = ("trigger_time", "clock", "instance")


def _part_places(part: Part) -> list[Part]:
    """One part for each frame that a place has, where the header says by what they differ; else they are duplicates."""
    lost = [frame for frame in part.frames if not frame.has_place]
    twins: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in part.frames:
        if frame.has_place:
            twins[_identity(frame)].append(frame)
    children = _separate([copies[0] for copies in twins.values()])
    for child in children:
        copies = [copy for frame in child.frames for copy in twins[_identity(frame)]]
        # A slice that lies nowhere belongs to the part with its marks; where that is not clear, all are refused.
        mine = [frame for frame in lost if len(children) == 1 or _may_belong(frame, child)]
        child.frames = copies + mine
        child.labels = part.labels | child.labels
        child.findings = [*part.findings, *child.findings]
        child.left_out = part.left_out
    return children or [part]


def _identity(frame: Frame) -> Hashable:
    """What two files of one and the same image have in common."""
    assert frame.position is not None
    marks = tuple(sorted((name, value) for name, value in frame.marks.items() if value is not None))
    return (*frame.plane[1:], tuple(frame.position), str(marks))


def _may_belong(lost: Frame, part: Part) -> bool:
    marks = [name for name, _, _ in _GROUPING]
    return any(all(lost.marks.get(m) == frame.marks.get(m) for m in marks) for frame in part.frames)


def _separate(frames: list[Frame]) -> list[Part]:
    if not frames:
        return []
    places = place_numbers(frames)
    counts = np.bincount(places)
    if counts.max() < 2:
        return [Part(frames)]
    for mark, name, label in _GROUPING:
        groups = list(_grouped(frames, lambda frame, mark=mark: frame.marks.get(mark)).items())  # type: ignore[misc]
        if _are_whole([group for _, group in groups], frames, places):
            return _labelled(
                [(name, label(value, number), group) for number, (value, group) in enumerate(groups, 1)], len(counts)
            )
    for mark in _RANKING:
        ranks = _ranks(frames, places, mark)
        if ranks:
            return _labelled([("time", f"t-{number:03d}", group) for number, group in enumerate(ranks, 1)], len(counts))
    return [Part(frames)]


def _labelled(groups: Sequence[tuple[str, str, list[Frame]]], places: int) -> list[Part]:
    """The parts of each group, with its label, and a finding where slices are missing that the other groups have."""
    parts = []
    for name, text, group in groups:
        there = len(set(place_numbers(group).tolist()))
        for part in _separate(group):
            if there < places:
                cause = f"it has {there} of the {places} slices of its series ({text})"
                way_out = "Export the series again, or leave this volume out."
                part.findings.append(refuse("incomplete", cause, way_out, group[0].plane.file))
            parts.append(part.labelled(name if name not in part.labels else f"outer_{name}", text))
    return parts


def place_numbers(frames: Sequence[Frame]) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The place of each frame along the normal of the first, counted from 0."""
    reference = frames[0].orientation
    assert reference is not None
    along = np.array([frame.position for frame in frames]) @ np.cross(*reference)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order]) > SAME_PLACE_MM
    numbers = np.empty(len(frames), np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(steps)])
    return numbers


def _are_whole(groups: Sequence[list[Frame]], frames: Sequence[Frame], places: np.ndarray[Any, Any]) -> bool:
    """Whether groups are volumes: at least two, and each, but for a last one of several, has most of the places.

    A half stack is no volume, though its slices may be equally far apart: every second slice has its own acquisition
    number in an interleaved one. And two slices with another number than the rest are duplicates, not a second time.
    """
    if len(groups) < 2:
        return False
    place = {id(frame): number for frame, number in zip(frames, places, strict=True)}
    total = len(set(place.values()))
    shares = [len({place[id(frame)] for frame in group}) / total for group in groups]
    may_be_cut = shares[:-1] if len(shares) > 2 else shares
    return min(may_be_cut) >= WHOLE_SHARE


def _ranks(frames: Sequence[Frame], places: np.ndarray[Any, Any], mark: str) -> list[list[Frame]]:
    """Frames in the order of a mark at each place: the first of each place, the second ...; nothing if that is unclear.

    InstanceNumber is believed only where the header says how many times there are, and so many there are.
    """
    columns: dict[int, list[Frame]] = defaultdict(list)
    for frame, place in zip(frames, places, strict=True):
        if frame.marks.get(mark) is None:
            return []
        columns[int(place)].append(frame)
    most, fewest = max(map(len, columns.values())), min(map(len, columns.values()))
    if fewest < most - 1 or fewest < 2 - (most > 2):
        return []
    if mark == "instance" and any(frame.marks["times"] != most for frame in frames):
        return []
    for column in columns.values():
        column.sort(key=lambda frame: frame.marks[mark])  # type: ignore[arg-type, return-value]
        if len({frame.marks[mark] for frame in column}) < len(column):
            return []
    return [[column[n] for _, column in sorted(columns.items()) if n < len(column)] for n in range(most)]
