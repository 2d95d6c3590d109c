"""A study's channels as one array on one grid.

The *reference* is the channel whose native grid the others come to: the one that the metadata calls so, else the first.
A *placement* is where a channel lies by more than its header: a registration, for instance. This room makes none; who
has one hands it in, and it is applied in the one resampling that brings the channel onto the reference's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, NeurobundleError, SettingError
from neurobundle.load.gate import STRICT, Finding, Policy, Verdict, refuse, warn
from neurobundle.load.scan import Scan, read_scan
from neurobundle.load.study.channels import channel_named, channels_named
from neurobundle.load.study.choices import Choice, Study
from neurobundle.load.study.regrid import (
    LEAST_COVERED,
    LEAST_SHARED,
    grids_differ,
    in_words,
    only_displaced,
    onto_grid,
    shared_parts,
)

#: Layouts whose files say where they lie only by their header; a scan that is displaced as a whole lost its origin.
_NO_FRAME = ("names",)

_ONE_GRID = "Resample the channels onto one grid, or name the files with --mapping to have it done here."


class Placement(NamedTuple):
    """Where a channel lies, by more than its header.

    Attributes:
        affine: (4, 4), its voxel index to the reference's RAS+ mm.
        facts: for the channel's entry in :attr:`StudyScan.chosen`.
        warnings: whole sentences without the full stop; they name the channel.
        settled: whether it was found by what the scans show: a grid of its own, where the layout promises one for all,
            is then warned of and not refused, and the look of a lost origin does not count.
    """

    affine: npt.NDArray[np.float64]
    facts: Mapping[str, Any] = {}
    warnings: tuple[str, ...] = ()
    settled: bool = False


#: Places a scan next to the reference: ``place(scan, reference, name, reference's name)``. The names are for messages.
Place = Callable[[Scan, Scan, str, str], Placement]


class StudyScan(NamedTuple):
    """The channels of a study on the reference's native grid.

    Attributes:
        data: (channel, i, j, k), float32, in the order that was asked for; a filled channel is zero.
        affine: (4, 4), voxel index to RAS+ mm.
        channels: their names.
        warnings: of the study, its scans and their grids.
        chosen: for ``report.json``: channel, source by a safe name, why, what was done to its grid, and what its
            placement says.
        passed_over: likewise: channel or None, source, why.
        missing: channels that were filled with zeros.
        form_code: of the reference, for what is written on its grid.
        units: likewise.
    """

    data: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    channels: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    chosen: tuple[dict[str, Any], ...] = ()
    passed_over: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    form_code: int = 1
    units: str = "mm"


def read_study(
    study: Study,
    channels: Sequence[str],
    reference: str | None = None,
    missing: Literal["refuse", "fill"] = "refuse",
    policy: Policy = STRICT,
    place: Place | None = None,
) -> StudyScan:
    """Read the chosen scans of a study, each through the gate, and bring them onto one grid.

    A channel on the reference's grid passes unchanged, voxel for voxel; another is interpolated linearly in space.

    Args:
        study: what :func:`find_studies` found.
        channels: the channels to return, in this order; aliases count.
        reference: the channel whose grid it is; the first if None.
        missing: ``refuse`` a study that lacks a channel, or ``fill`` the channel with zeros and a warning.
        policy: for each scan.
        place: places each channel but the reference; None leaves them where their headers say.

    Raises:
        SettingError: if a channel, the reference or ``missing`` is unknown.
        InputError: names case and file: two series fit one channel; a channel is missing; a scan is refused; the layout
            promises one grid and a channel has another; a channel shows another place than the reference, or cannot
            be placed.
    """
    wanted, first = _order(channels, reference)
    if missing not in ("refuse", "fill"):
        raise SettingError(f"missing must be 'refuse' or 'fill', got {missing!r}")
    verdict = study.judge(missing, wanted)
    verdict.require(study.folder, study.case)
    first = _reference(study, wanted, first, verdict)
    data, base, done = _on_one_grid(study, wanted, first, policy, verdict, place)
    return StudyScan(
        data,
        np.asarray(base.affine, np.float64),
        wanted,
        tuple(verdict.warnings),
        **_report(study, wanted, done),
        form_code=base.form_code,
        units=base.units,
    )


def _reference(study: Study, wanted: Sequence[str], first: str, verdict: Verdict) -> str:
    """The channel whose grid it is: the one that was asked for, or the first that is there, with a warning."""
    there = [channel for channel in wanted if channel in study.choices]
    if not there:
        raise InputError(study.lacks(first), "Add the scans.", case=study.case, file=study.folder)
    if first not in there:
        verdict.add(warn("reference", f"the reference {first} is missing: the grid is that of {there[0]}"))
        return there[0]
    return first


def _report(study: Study, wanted: Sequence[str], done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What :class:`StudyScan` says of where its channels come from.

    Args:
        study: with its choices.
        wanted: the channels that were asked for.
        done: to each channel that is there, as its entry says it.
    """
    return {
        "chosen": tuple({**study.choices[channel].as_json(), **facts} for channel, facts in done.items()),
        "passed_over": tuple(choice.as_json() for choice in study.passed_over),
        "missing": tuple(channel for channel in wanted if channel not in done),
    }


def _on_one_grid(
    study: Study, wanted: tuple[str, ...], first: str, policy: Policy, verdict: Verdict, place: Place | None
) -> tuple[npt.NDArray[np.float32], Scan, dict[str, dict[str, Any]]]:
    """The channels that are there on the grid of the first, the first's scan, and what was done to each.

    One scan besides the first is held at a time. What is seen on the way is added to the verdict.
    """
    base = _read(study, first, policy)
    data = np.zeros((len(wanted), *base.data.shape), np.float32)
    done: dict[str, dict[str, Any]] = {}
    for number, channel in enumerate(wanted):
        if channel not in study.choices:
            continue
        scan = base if channel == first else _read(study, channel, policy)
        verdict.add(*[warn("scan", f"{channel}: {text}") for text in scan.warnings])
        placed = Placement(scan.affine)
        if place is not None and channel != first:
            placed = _placed(study, channel, scan, first, base, place)
        verdict.extend(warn("placement", text) for text in placed.warnings)
        # A promise is about the file as it lies; whether a scan may lie where it is placed, about its place.
        verdict.extend(_broken_promise(study, channel, scan, first, base, placed.settled))
        scan = scan._replace(affine=placed.affine)
        verdict.extend(_grid_findings(study, channel, scan, first, base, placed.settled))
        verdict.require(_file(study.choices[channel]), study.case)
        data[number] = onto_grid(_float32(scan.data), scan.affine, base.data.shape, base.affine)
        done[channel] = {"grid": _grid_note(scan, base), **placed.facts}
    return data, base, done


def _placed(study: Study, channel: str, scan: Scan, first: str, base: Scan, place: Place) -> Placement:
    here, there = study.choices[channel], study.choices[first]
    try:
        return place(scan, base, f"{channel} ({here.name})", f"{first} ({there.name})")
    except NeurobundleError as error:
        # It may be either scan's fault; the cause names it.
        error.file = error.file or str(study.folder)
        error.for_case(study.case)
        raise


def _order(channels: Sequence[str], reference: str | None) -> tuple[tuple[str, ...], str]:
    wanted = channels_named(channels)
    first = channel_named(reference) if reference else wanted[0]
    if first not in wanted:
        raise SettingError(f"the reference {first} is none of the channels {', '.join(wanted)}")
    return wanted, first


def _read(study: Study, channel: str, policy: Policy) -> Scan:
    source = study.choices[channel].source
    try:
        scan = read_scan(source, policy) if isinstance(source, Path) else source.read(policy)
    except NeurobundleError as error:
        error.for_case(study.case)
        raise
    if scan.data.ndim != 3:
        cause = f"{channel} has the shape {tuple(scan.data.shape)}"
        raise InputError(cause, "A channel is one 3D scan.", case=study.case, file=_file(study.choices[channel]))
    return scan


def _file(choice: Choice) -> str:
    return str(choice.source) if isinstance(choice.source, Path) else choice.name


def _float32(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.asarray(data, dtype=np.float32)


def _broken_promise(study: Study, channel: str, scan: Scan, first: str, base: Scan, settled: bool) -> list[Finding]:
    """Whether a layout promises one grid, and a channel has another."""
    differ = grids_differ(scan.data.shape, scan.affine, base.data.shape, base.affine)
    if not (study.registered and differ):
        return []
    here, there = study.choices[channel], study.choices[first]
    cause = f"{channel} ({here.name}) is not on the grid of {first} ({there.name}): {differ}"
    return [warn("channel_grid", cause) if settled else refuse("channel_grid", cause, _ONE_GRID, _file(here))]


def _grid_findings(study: Study, channel: str, scan: Scan, first: str, base: Scan, settled: bool) -> list[Finding]:
    """Whether a channel may lie where it lies, next to the reference."""
    grids = (scan.data.shape, scan.affine, base.data.shape, base.affine)
    differ = grids_differ(*grids)
    if not differ:
        return []
    here, there = study.choices[channel], study.choices[first]
    pair = f"{channel} ({here.name}) {{}} {first} ({there.name})"
    shared, covered = shared_parts(*grids)
    if shared < LEAST_SHARED:
        cause = f"{pair.format('shows another place than')}: they share {shared:.0%} of the smaller field of view"
        return [refuse("channel_place", cause, "Check that both are of one head, and their headers.", _file(here))]
    if study.layout in _NO_FRAME and not settled and only_displaced(*grids):
        cause = f"{pair.format('has the voxels of')} and lies elsewhere: {differ}"
        return [refuse("channel_grid", cause, _ONE_GRID, _file(here))]
    if covered < LEAST_COVERED:
        return [warn("channel_cover", f"{channel} covers {covered:.0%} of {first}; the rest of it is zero")]
    return []


def _grid_note(scan: Scan, base: Scan) -> str:
    if grids_differ(scan.data.shape, scan.affine, base.data.shape, base.affine):
        return f"resampled from {in_words(scan.affine)} to {in_words(base.affine)}"
    return "as it was read"
