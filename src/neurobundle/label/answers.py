"""What a bundle says of a study, as MONAI Label hands it on: by the same code as ``neurobundle run``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurobundle.bundle.configfile import read_config
from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import answers_of, channels_of, reference_of, structures_of
from neurobundle.bundle.workflow import config_file, device_setting
from neurobundle.commands.classify import make_run
from neurobundle.commands.inputs import find_sources, one_of
from neurobundle.commands.run import UNCERTAINTY_ID
from neurobundle.commands.run_outputs import NIFTI, SEG, Outputs
from neurobundle.commands.sources import Source, StudySource, Wanted
from neurobundle.errors import InputError
from neurobundle.export.dicom_seg import SEG_ENDING
from neurobundle.files import write_json
from neurobundle.geometry import same_grid
from neurobundle.label.fetched import private_folder
from neurobundle.label.studies import StudyEntry
from neurobundle.load.datalist import natural
from neurobundle.load.gate import LABEL
from neurobundle.load.names import stem
from neurobundle.load.scan import Scan, read_scan
from neurobundle.prepare.grid import Grid
from neurobundle.prepare.space import sample

#: More names than this are no list that a person chooses from.
MOST_NAMES = 40


@dataclass(frozen=True)
class Answer:
    """What a bundle says of a study.

    Attributes:
        labels: a label map on the image's grid; None for a class.
        numbers: what goes beside it, as JSON can hold it.
        dicom_seg: the file of a DICOM segmentation, on the grid of the series that it was made from; empty if it is
            not wanted.
    """

    labels: Scan | None
    numbers: dict[str, Any] = field(default_factory=dict)
    dicom_seg: bytes = field(default=b"", repr=False)


def answer(
    bundle: Path,
    study: Path,
    image: Path,
    *,
    device: str = "auto",
    uncertainty: bool = True,
    settings: Mapping[str, Any] | None = None,
    scans: Mapping[str, str] | None = None,
    dicom_seg: bool = False,
) -> Answer:
    """Run a bundle on one study.

    Args:
        bundle: its folder.
        study: a file, or the folder that a study lies in.
        image: the store's image of it, named after the case; the label map lies on its grid.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        uncertainty: also say how sure it is, if the bundle can.
        settings: values by id.
        scans: channel to what :func:`scan_name` calls the scan that a person picked for it; rules choose the others.
        dicom_seg: also make the DICOM segmentation that ``neurobundle run --output dicom-seg`` makes.

    Raises:
        InputError: if the study is refused, or has no such scan; the message is that of ``neurobundle run``.
        SettingError: for a setting or a device that is none, or a DICOM segmentation that the bundle cannot make.
        WeightsError: if the weights cannot be trusted.
    """
    case = image.name.removesuffix(".nii.gz")
    with private_folder() as place:
        mapping = write_mapping(scans, study, case, bundle, place) if scans else None
        run = make_run(
            str(bundle),
            place / "out",
            settings={**(settings or {}), **device_setting(device)},
            pictures=False,
            mapping=mapping,
            uncertainty=uncertainty and UNCERTAINTY_ID in read_config(config_file(bundle, "inference")),
            overlap=False,
            outputs=Outputs((NIFTI, SEG)) if dicom_seg else None,
        )
        (result,) = run([study], only=case).results
        if not result.passed:
            raise InputError(result.error)
        if answers_of(bundle) is not None:
            return Answer(None, numbers_of(result, bundle))
        labels = read_scan(place / "out" / result.output, LABEL)
        seg = (place / "out" / f"{result.case}{SEG_ENDING}").read_bytes() if dicom_seg else b""
    return Answer(on_grid(labels, read_scan(image)), numbers_of(result, bundle), seg)


def source_of(study: Path, case: str, wanted: Wanted, work: Path) -> Source:
    """What one case is made from.

    Args:
        study: a file, or the folder that it lies in.
        case: its name.
        wanted: by the bundle.
        work: a folder that is the source's own.

    Raises:
        InputError: if it is not there.
    """
    source = one_of(find_sources([study], work=work, wanted=wanted), case)
    source.work = work
    return source


def scan_name(source: str, case: str) -> str:
    """By what name a person picks a scan: ``series 5``, or what a file's name says beside the case's.

    >>> scan_name("case_0_T1c.nii.gz", "case_0"), scan_name("series 5", "study-1a2b")
    ('T1c', 'series 5')
    """
    return stem(source).removeprefix(case).strip("_-. ") or source


def scan_names(entries: Iterable[StudyEntry]) -> list[str]:
    """The names by which scans of some studies can be picked, each once; none where hardly two studies share one.

    Args:
        entries: of a store.
    """
    names: set[str] = set()
    for entry in entries:
        scans = [*entry.study.get("chosen", []), *entry.study.get("passed_over", [])]
        names |= {scan_name(scan["source"], entry.case) for scan in scans if "source" in scan}
    return sorted(names, key=natural) if len(names) <= MOST_NAMES else []


def write_mapping(scans: Mapping[str, str], study: Path, case: str, bundle: Path, work: Path) -> Path:
    """A mapping file of the scans that a person picked.

    Raises:
        InputError: if the study has no such scan.
    """
    source = source_of(study, case, Wanted(channels_of(bundle), reference_of(bundle)), work)
    if not isinstance(source, StudySource) or source.found is None:
        raise InputError("it is one file, of which no scan can be picked", "Leave the scans to the rules.", case=case)
    there = [candidate.choice for candidate in source.found.candidates]
    named = {scan_name(choice.name, case): choice.source for choice in there}
    unknown = next((name for name in scans.values() if name not in named), None)
    if unknown is not None:
        raise InputError(f"it has no scan {unknown!r}", f"It has {', '.join(sorted(named))}.", case=case)
    picked = {channel: named[name] for channel, name in scans.items()}
    values = {channel: str(one) if isinstance(one, Path) else one.key for channel, one in picked.items()}
    return write_json(work / "mapping.json", {source.case: values})


def on_grid(labels: Scan, image: Scan) -> Scan:
    """A label map on the grid of an image: as it is, or by the nearest voxel if the reference was another scan."""
    i, j, k = image.data.shape
    found = on_grid_of(labels, Grid((i, j, k), np.asarray(image.affine, float)))
    return labels if found is labels else found._replace(form_code=image.form_code, units=image.units)


def on_grid_of(labels: Scan, grid: Grid) -> Scan:
    """A label map on a grid: as it is if that is its own, else by the nearest voxel."""
    if same_grid(grid.shape, grid.affine, labels.data.shape, labels.affine):
        return labels
    (found,) = sample(torch.from_numpy(np.ascontiguousarray(labels.data))[None], labels.affine, grid, "nearest")
    return Scan(found.numpy(), grid.affine, labels.warnings, labels.form_code, labels.units)


def numbers_of(result: CaseResult, bundle: Path) -> dict[str, Any]:
    """What goes beside a label map, or is the answer."""
    names = {name: value for value, name in structures_of(bundle).items()} if answers_of(bundle) is None else {}
    found = {
        "label_names": names,
        "volumes_ml": result.volumes_ml,
        "answer": result.answer,
        "uncertainty": result.uncertainty,
        "warnings": result.warnings,
        "study": result.study,
        "weights_sha256": result.key.get("weights", ""),
    }
    return {name: value for name, value in found.items() if value}
