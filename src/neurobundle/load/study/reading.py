"""A study's channels as one array on one grid.

The *reference* is the channel whose native grid the others come to: the one that the metadata calls so, else the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class StudyScan(NamedTuple):
    """The channels of a study on the reference's native grid.

    Attributes:
        data: (channel, i, j, k), float32, in the order that was asked for; a filled channel is zero.
        affine: (4, 4), voxel index to RAS+ mm.
        channels: their names.
        warnings: of the study, its scans and their grids.
        chosen: for ``report.json``: channel, source by a safe name, why, and what was done to its grid.
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
) -> StudyScan:
    """Read the chosen scans of a study, each through the gate, and bring them onto one grid.

    A channel on the reference's grid passes unchanged, voxel for voxel; another is interpolated linearly in space.

    Args:
        study: what :func:`find_studies` found.
        channels: the channels to return, in this order; aliases count.
        reference: the channel whose grid it is; the first if None.
        missing: ``refuse`` a study that lacks a channel, or ``fill`` the channel with zeros and a warning.
        policy: for each scan.

    Raises:
        SettingError: if a channel, the reference or ``missing`` is unknown.
        InputError: names case and file: two series fit one channel; a channel is missing; a scan is refused; the layout
            promises one grid and a channel has another; a channel shows another place than the reference.
    """
    wanted, first = _order(channels, reference)
    if missing not in ("refuse", "fill"):
        raise SettingError(f"missing must be 'refuse' or 'fill', got {missing!r}")
    verdict = study.judge(missing, wanted)
    verdict.require(study.folder, study.case)
    first = _reference(study, wanted, first, verdict)
    data, base, notes = _on_one_grid(study, wanted, first, policy, verdict)
    return StudyScan(
        data,
        np.asarray(base.affine, np.float64),
        wanted,
        tuple(verdict.warnings),
        **_report(study, wanted, notes),
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


def _report(study: Study, wanted: Sequence[str], notes: Mapping[str, str]) -> dict[str, Any]:
    """What :class:`StudyScan` says of where its channels come from.

    Args:
        study: with its choices.
        wanted: the channels that were asked for.
        notes: what was done to the grid of each channel that is there.
    """
    return {
        "chosen": tuple({**study.choices[channel].as_json(), "grid": note} for channel, note in notes.items()),
        "passed_over": tuple(choice.as_json() for choice in study.passed_over),
        "missing": tuple(channel for channel in wanted if channel not in notes),
    }


def _on_one_grid(
    study: Study, wanted: tuple[str, ...], first: str, policy: Policy, verdict: Verdict
) -> tuple[npt.NDArray[np.float32], Scan, dict[str, str]]:
    """The channels that are there on the grid of the first, the first's scan, and what was done to each grid.

    One scan besides the first is held at a time. What is seen on the way is added to the verdict.
    """
    base = _read(study, first, policy)
    data = np.zeros((len(wanted), *base.data.shape), np.float32)
    notes: dict[str, str] = {}
    for number, channel in enumerate(wanted):
        if channel not in study.choices:
            continue
        scan = base if channel == first else _read(study, channel, policy)
        verdict.add(*[warn("scan", f"{channel}: {text}") for text in scan.warnings])
        verdict.extend(_grid_findings(study, channel, scan, first, base))
        verdict.require(_file(study.choices[channel]), study.case)
        data[number] = onto_grid(_float32(scan.data), scan.affine, base.data.shape, base.affine)
        notes[channel] = _grid_note(scan, base)
    return data, base, notes


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


def _grid_findings(study: Study, channel: str, scan: Scan, first: str, base: Scan) -> list[Finding]:
    """Whether a channel may lie where it lies, next to the reference."""
    grids = (scan.data.shape, scan.affine, base.data.shape, base.affine)
    differ = grids_differ(*grids)
    if not differ:
        return []
    here, there = study.choices[channel], study.choices[first]
    pair = f"{channel} ({here.name}) {{}} {first} ({there.name})"
    if study.registered:
        cause = f"{pair.format('is not on the grid of')}: {differ}"
        return [refuse("channel_grid", cause, _ONE_GRID, _file(here))]
    shared, covered = shared_parts(*grids)
    if shared < LEAST_SHARED:
        cause = f"{pair.format('shows another place than')}: they share {shared:.0%} of the smaller field of view"
        return [refuse("channel_place", cause, "Check that both are of one head, and their headers.", _file(here))]
    if study.layout in _NO_FRAME and only_displaced(*grids):
        cause = f"{pair.format('has the voxels of')} and lies elsewhere: {differ}"
        return [refuse("channel_grid", cause, _ONE_GRID, _file(here))]
    if covered < LEAST_COVERED:
        return [warn("channel_cover", f"{channel} covers {covered:.0%} of {first}; the rest of it is zero")]
    return []


def _grid_note(scan: Scan, base: Scan) -> str:
    if grids_differ(scan.data.shape, scan.affine, base.data.shape, base.affine):
        return f"resampled from {in_words(scan.affine)} to {in_words(base.affine)}"
    return "as it was read"
