"""What lies under a path, each file judged by the gate: what ``neurobundle check`` reports.

An *item* is one NIfTI file, one picture, or one DICOM volume, with its verdict and its *facts*: shape, voxel sizes,
axes, type, range, content. A *role* is ``image`` or ``label``; a file's name and folder tell. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, NoInputError
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.gate import STRICT, Kind, Level, Policy, Verdict, refuse, warn
from neurobundle.load.inputs import walk
from neurobundle.load.labels import content_hash, label_values
from neurobundle.load.names import PICTURE_SUFFIXES, is_nifti_name, stem, words_of
from neurobundle.load.nifti import judge_nifti, read_header
from neurobundle.load.pictures import judge_picture
from neurobundle.load.scan import Scan, is_dicom

#: Words of a file's name that make it a label map.
LABEL_WORDS = frozenset({"label", "labels", "seg", "segmentation", "dseg", "aseg", "mask", "gt", "gold", "truth"})

#: Folders that hold nothing else.
LABEL_FOLDERS = frozenset({"labels", "labelstr", "labelsts", "masks", "segmentations"})

#: Tables that say which person and fold a file belongs to.
TABLE_NAMES = ("index.csv", "participants.tsv", "subjects.csv", "subjects.tsv")


@dataclass
class Item:
    """One file, or one DICOM volume.

    Attributes:
        name: its path below what was asked for, or the volume's key.
        file: the file; of a volume, its first.
        role: ``image`` or ``label``.
        kind: ``nifti``, ``picture`` or ``dicom``.
        verdict: the gate's.
        facts: what was learned, in JSON's types.
        affine: (4, 4) mm, where there is one.
        content: the sha256 of its voxels, where they were read.
    """

    name: str
    file: Path
    role: str
    kind: str
    verdict: Verdict
    facts: dict[str, Any] = field(default_factory=dict)
    affine: npt.NDArray[np.float64] | None = None
    content: str | None = None


@dataclass
class Survey:
    """All that lies under some paths.

    Attributes:
        items: files and volumes, in the order of their names.
        set_aside: why files were not looked at, and how many.
        tables: tables of persons and folds.
        known_labels: the values that label maps may have; any whole numbers if None.
    """

    items: list[Item] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)
    tables: list[Path] = field(default_factory=list)
    known_labels: Collection[int] | None = None


def survey(
    paths: Iterable[str | Path],
    policy: Policy = STRICT,
    progress: Callable[[list[Any]], Iterable[Any]] = lambda items: items,
    known_labels: Collection[int] | None = None,
) -> Survey:
    """Judge everything under some paths.

    Args:
        paths: files and folders.
        policy: what is allowed beyond the default; images and label maps are told apart by their names.
        progress: wraps the list of what is to be read, as tqdm does.
        known_labels: the values that label maps may have; any whole numbers if None.

    Raises:
        NoInputError: if nothing there is an image.
    """
    found, work = Survey(known_labels=known_labels), []
    places = [Path(path) for path in paths]
    missing = [str(place) for place in places if not place.exists()]
    if missing:
        raise NoInputError("there is no such file or folder", "Check the path.", file=", ".join(missing))
    for place in places:
        work += _listed(place, found)
    for job in progress(work):
        found.items += job(policy)
    if not found.items:
        aside = ", ".join(f"{count} {why}" for why, count in sorted(found.set_aside.items())) or "nothing"
        raise NoInputError(
            f"no image is in it (set aside: {aside})",
            "NIfTI, DICOM, PNG and JPEG files are images.",
            file=", ".join(map(str, places)),
        )
    return found


def role_of(path: Path, below: Path) -> Kind:
    """Whether a file is an image or a label map, by its own name and those of the folders up to the one asked for.

    >>> role_of(Path("in/labelsTr/a.nii"), Path("in")), role_of(Path("in/a_seg.nii"), Path("in"))
    ('label', 'label')
    >>> role_of(Path("ms_lesions/p1/T1.nii"), Path("ms_lesions"))
    'image'
    """
    folders = path.relative_to(below).parts[:-1] if below in path.parents else ()
    by_folder = any(folder.lower() in LABEL_FOLDERS for folder in folders)
    return "label" if by_folder or LABEL_WORDS & set(words_of(stem(path.name))) else "image"


def _listed(place: Path, found: Survey) -> list[Callable[[Policy], list[Item]]]:
    """What is to be read below a place, each as a job; DICOM files of one folder are one job."""
    if not place.is_dir():
        return _jobs(place, place, found)
    jobs: list[Callable[[Policy], list[Item]]] = []
    roots: list[Path] = []
    inside: set[Path] = set()
    for folder, files in walk(place):
        hidden = sum(path.name.startswith(".") for path in folder.iterdir())
        if hidden:
            found.set_aside["hidden"] += hidden
        if folder.parent not in inside and any(is_dicom(path) for path in files if not _is_image(path)):
            roots.append(folder)
        if folder.parent in inside or folder in roots:
            inside.add(folder)
            files = [path for path in files if _is_image(path)]  # find_dicom looks at the others
        for path in files:
            jobs += _jobs(path, place, found)
    return [*jobs, *(_dicom_job(root, place, found) for root in roots)]


def _jobs(path: Path, below: Path, found: Survey) -> list[Callable[[Policy], list[Item]]]:
    if is_nifti_name(path.name):
        return [lambda policy: [_nifti(path, below, policy, found.known_labels)]]
    if path.name.lower().endswith(PICTURE_SUFFIXES):
        return [lambda policy: [_picture(path, below, policy, found.known_labels)]]
    if is_dicom(path):
        return [_dicom_job(path, below, found)]
    if path.name.lower() in TABLE_NAMES and path.is_file():
        found.tables.append(path)
    else:
        found.set_aside[f"{path.suffix.lower() or 'no ending'}"] += 1
    return []


def _is_image(path: Path) -> bool:
    return is_nifti_name(path.name) or path.name.lower().endswith(PICTURE_SUFFIXES)


def _name(path: Path, below: Path) -> str:
    return path.name if path == below else path.relative_to(below).as_posix()


def _nifti(path: Path, below: Path, policy: Policy, known: Collection[int] | None) -> Item:
    role = role_of(path, below)
    item = Item(_name(path, below), path, role, "nifti", Verdict())
    try:
        header = read_header(path)
        item.facts |= {"shape": list(header.shape), "type": str(header.dtype), "forms": _forms(header.header)}
    except InputError:
        header = None  # judge_nifti says why
    flat = header is not None and len(header.shape) == 2
    wanted = replace(policy, kind=role, spatial_dims=2) if flat else replace(policy, kind=role)
    item.verdict, scan = judge_nifti(path, wanted)
    if flat:
        item.verdict.add(warn("shape", "it is flat (2D), and is refused wherever a volume is wanted", file=path))
    if scan is not None:
        _learn(item, scan)
        if role == "label":
            _learn_labels(item, scan.data, known)
    return item


def _picture(path: Path, below: Path, policy: Policy, known: Collection[int] | None) -> Item:
    role = role_of(path, below)
    verdict, data, facts = judge_picture(path, replace(policy, kind=role))
    item = Item(_name(path, below), path, role, "picture", verdict, facts)
    if data is not None:
        item.facts |= {"min": float(data.min()), "max": float(data.max())}
        item.content = content_hash(data) if data.any() else None
        if role == "label" and data.ndim == 2:
            _learn_labels(item, data, known)
    return item


def _dicom_job(root: Path, below: Path, found: Survey) -> Callable[[Policy], list[Item]]:
    def job(policy: Policy) -> list[Item]:
        from neurobundle.load.dicom import find_dicom

        folder = find_dicom(root)
        found.set_aside.update(folder.set_aside)
        items = []
        for study in folder.studies:
            shared = [*folder.verdict.refusals, *study.verdict.findings]
            for volume in study.volumes:
                name = f"{_name(root, below)}: {volume.key}" if root != below else volume.key
                # What holds for the whole study stands in each volume's verdict too.
                verdict = Verdict(list(dict.fromkeys([*shared, *volume.judge(policy).findings])))
                item = Item(name, root, "image", "dicom", verdict, {"facts": volume.facts.as_json()})
                item.facts["files"] = len(volume.files)
                items.append(item)
                _read_volume(item, volume, policy)
        return items

    return job


def _read_volume(item: Item, volume: Any, policy: Policy) -> None:
    if item.verdict.level is Level.REFUSE:
        return
    try:
        scan = volume.read(policy)
    except InputError as error:
        item.verdict.add(refuse("pixels", error.cause, error.way_out, error.file))
        return
    known = set(item.verdict.warnings)
    item.verdict.extend(warn("pixels", warning) for warning in scan.warnings if warning not in known)
    item.facts["type"] = str(scan.data.dtype)
    _learn(item, scan)


def _learn(item: Item, scan: Scan) -> None:
    """Facts of a scan that was read, and what they make doubtful."""
    data = scan.data
    item.affine = scan.affine
    item.facts |= {
        "shape": list(data.shape),
        "voxel_mm": [round(float(size), 3) for size in voxel_sizes_mm(scan.affine)],
        "axes": "".join(nib.aff2axcodes(scan.affine)),
        "min": float(data.min()),
        "max": float(data.max()),
    }
    if item.role == "image":
        item.content = content_hash(data)
        if data.min() < 0 and item.facts.get("facts", {}).get("modality") != "CT":
            negative = int((data < 0).sum())
            cause = f"{negative} voxels are negative, down to {data.min():g}: interpolated, or normalised before"
            item.verdict.add(warn("negative", cause, file=item.file))


def _learn_labels(item: Item, data: npt.NDArray[Any], known: Collection[int] | None) -> None:
    item.content = content_hash(data) if data.any() else None
    try:
        item.facts["labels"] = sorted(label_values(data, item.file, known))
    except InputError as error:
        item.verdict.add(refuse("labels", error.cause, error.way_out, item.file))


def _forms(header: Any) -> str:
    """The form codes, in the NIfTI standard's words.

    >>> _forms({"qform_code": 1, "sform_code": 0})
    'qform 1'
    """
    coded = [f"{name} {int(header[f'{name}_code'])}" for name in ("qform", "sform") if int(header[f"{name}_code"]) > 0]
    return ", ".join(coded) or "none"
