"""``neurobundle evaluate --pred DIR --truth DIR``: anybody's label maps against their references, paired by name.

A prediction is scored as it is on disk, on its reference's grid; nothing is resampled. A case that cannot be scored is
named, counts as missed, and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, NeurobundleError, NoInputError, SettingError
from neurobundle.files import require_writable
from neurobundle.load.gate import LABEL, Policy
from neurobundle.load.grids import require_same_grid
from neurobundle.load.labels import Volume, label_values, read_volume
from neurobundle.load.names import case_name, is_image_name, stem, unique_case_names, without_label_suffix
from neurobundle.load.pairs import Pair, pair_by_name, volumes
from neurobundle.measure.evaluation import SegmentationEvaluation
from neurobundle.measure.regions import is_label_map
from neurobundle.train.grouping import group_cases

logger = logging.getLogger(__name__)

#: nnU-Net's name of a case's first channel.
FIRST_CHANNEL = "_0000"
#: Images are only drawn: whatever their voxels hold, a report without a picture is better than none.
TO_DRAW = Policy(nonfinite="zero", allow_empty=True)


@dataclass(frozen=True)
class Files:
    """The files of one case; without a prediction it counts as missed."""

    case: str
    reference: Path
    prediction: Path | None
    image: Path | None = None
    subject: str = ""


@dataclass
class FolderReport:
    """What an evaluation of two folders gave.

    Attributes:
        summary: what ``summary.json`` holds.
        passed: whether each case could be scored; a prediction without a reference is a case that could not.
        notes: what was accepted and should be known.
    """

    summary: dict[str, Any]
    passed: dict[str, bool]
    notes: list[str] = field(default_factory=list)


def evaluate_folders(
    predictions: Path,
    references: Path,
    output: Path,
    evaluation: SegmentationEvaluation,
    *,
    images: Path | None = None,
    subjects: Path | None = None,
    other_labels: str = "refuse",
    progress: Callable[[Sequence[Any]], Iterable[Any]] = lambda items: items,
) -> FolderReport:
    """Score a folder of label maps against a folder of references.

    Args:
        predictions: NIfTI files or pictures ``<case>``, ``<case>_seg`` or ``<case>/<case>_seg``.
        references: the same.
        output: gets ``per_case.csv``, ``summary.json`` and ``report.html``.
        evaluation: what to score, still without a case.
        images: a folder of images to draw: ``<case>`` or nnU-Net's ``<case>_0000``.
        subjects: a CSV or TSV with columns ``case`` and ``subject``.
        other_labels: ``refuse`` a label map with a value that no structure has, or ``ignore`` the value.
        progress: wraps the list of cases; a progress bar, for instance.

    Raises:
        NoInputError: if a folder holds no label maps.
        InputError: if no prediction has the name of a reference.
        SettingError: if ``other_labels`` or the table of subjects cannot be used.
    """
    if other_labels not in ("refuse", "ignore"):
        raise SettingError(f"--other-labels is {other_labels!r}", "Say refuse or ignore.")
    cases, problems = _pair(predictions, references, images, subjects)
    for problem in problems:
        logger.error("ERROR %s", problem)
    require_writable(output)
    # By file: a problem may have the name of a case.
    passed = {str(problem.file): False for problem in problems}
    known = [0, *evaluation.values] if other_labels == "refuse" else None
    floats = 0
    for files in progress(cases):
        try:
            floats += score_files(evaluation, files, known)
            passed[files.case] = True
        except NeurobundleError as error:
            logger.error("ERROR %s", error.for_case(files.case))
            passed[files.case] = False
    notes = []
    if floats:
        notes.append(f"{floats} label maps are stored as floating-point numbers; all their values are whole")
    facts: dict[str, Any] = {"predictions": predictions.name, "references": references.name}
    if problems:
        facts["not scored"] = [problem.brief() for problem in problems]
    if notes:
        facts["notes"] = notes
    return FolderReport(evaluation.write(output, facts), passed, notes)


def score_files(evaluation: SegmentationEvaluation, files: Files, known: Collection[int] | None) -> int:
    """Score one case from its files; if that cannot be done it is counted as missed.

    Args:
        evaluation: what it is added to.
        files: which.
        known: the values that label maps may have; any whole ones if None.

    Returns:
        How many of both label maps are stored as floating-point numbers.

    Raises:
        InputError: if the case failed; it was counted.
    """
    reference: Volume | None = None
    try:
        reference = read_volume(files.reference, LABEL)
        _require_known(reference, known)
        if files.prediction is None:
            cause = "there is no prediction of this reference's name"
            raise InputError(cause, "Add it, or take the reference out.", case=files.case, file=files.reference)
        prediction = read_volume(files.prediction, LABEL)
        _require_known(prediction, known)
        prediction = _as_picture(prediction, reference)
        _require_same_grid(prediction, reference)
    except NeurobundleError as error:
        error.for_case(files.case)
        if reference is not None and not is_label_map(reference.data):
            reference = None
        data = reference.data if reference is not None else None
        affine = reference.affine if reference is not None else None
        evaluation.add_failed(files.case, error.brief(), reference=data, affine=affine, subject=files.subject)
        raise
    image = _image(files.image, reference) if evaluation.draws else None
    evaluation.add(files.case, prediction.data, reference.data, reference.affine, image=image, subject=files.subject)
    return sum(volume.data.dtype.kind == "f" for volume in (prediction, reference))


def _pair(
    predictions: Path, references: Path, images: Path | None, subjects: Path | None
) -> tuple[list[Files], list[InputError]]:
    """A case for each reference, and a problem for each file that has none."""
    found, there = _volumes(predictions, "--pred"), _volumes(references, "--truth")
    pairs, problems = pair_by_name(there, found, need_labels=False, words=("reference", "prediction"))
    problems = [*_unreadable(references), *_unreadable(predictions), *problems]
    if not any(prediction for _, prediction in pairs):
        raise InputError(
            f"no prediction has the name of a reference: there are {found[0].name} and {there[0].name}, for example",
            "Pairs are made by name: <case> and <case>, or <case>_seg.",
            file=predictions,
        )
    # Relative to the folder, so that a name does not depend on how the folder was typed.
    keys = {
        reference: reference.relative_to(references).with_name(without_label_suffix(stem(reference.name)))
        for reference, _ in pairs
    }
    names = unique_case_names(keys.values())
    if images is not None and not images.is_dir():
        raise SettingError("--images is no folder", "Give the folder of the images.", file=images)
    image_of = _by_name(volumes(images)) if images is not None else {}
    cases = [
        Files(names[keys[reference]], reference, prediction, image_of.get(case_name(keys[reference].name)))
        for reference, prediction in pairs
    ]
    if subjects is not None:
        whose = group_cases([Pair(one.case, one.reference) for one in cases], "column:subject", subjects)
        cases = [replace(one, subject=whose[one.case]) for one in cases]
    return cases, problems


def _volumes(folder: Path, option: str) -> list[Path]:
    if not folder.is_dir():
        raise NoInputError(f"{option} is no folder", "Give a folder of label maps.", file=folder)
    found = volumes(folder)
    if not found:
        raise NoInputError("there are no label maps here", "Give a folder of .nii, .nii.gz or .png files.", file=folder)
    return found


def _unreadable(folder: Path) -> list[InputError]:
    """Entries that are called like a label map and are none: links that lead nowhere, folders."""
    return [
        InputError("it is no file, or a link that leads nowhere", "Fetch it, or take it out.", file=entry)
        for entry in sorted(folder.iterdir())
        if is_image_name(entry.name) and not entry.is_file()
    ]


def _by_name(files: Sequence[Path]) -> Mapping[str, Path]:
    """Images by case; of several channels the first."""
    return {case_name(path).removesuffix(FIRST_CHANNEL): path for path in reversed(files)}


def _require_known(volume: Volume, known: Collection[int] | None) -> None:
    """Whole numbers, and none that no structure has."""
    others = sorted(label_values(volume.data, volume.path) - set(known)) if known is not None else []
    if others:
        raise InputError(
            f"it has the labels {', '.join(map(str, others))}, which no structure has",
            "Add them to --labels, or leave them out of it with --other-labels ignore.",
            file=volume.path,
        )


def _require_same_grid(
    volume: Volume, reference: Volume, what: str = "the prediction", how: str = " with the nearest neighbour"
) -> None:
    require_same_grid(
        volume.path,
        volume.data.shape,
        volume.affine,
        reference.path,
        reference.data.shape,
        reference.affine,
        what=what,
        other="the reference",
        way_out=f"Resample it onto its reference's grid{how}.",
    )


def _as_picture(volume: Volume, reference: Volume) -> Volume:
    """One slice as a bundle writes it, ``(column, row, 1)``, beside a picture, ``(row, column)``; else as it is."""
    if reference.affine is not None or volume.data.shape[2:] != (1,):
        return volume
    return Volume(volume.path, volume.data[..., 0].T, None)


def _image(path: Path | None, reference: Volume) -> Any:
    """The image's voxels, if it can be read and lies on the grid."""
    if path is None:
        return None
    try:
        volume = read_volume(path, TO_DRAW)
        _require_same_grid(volume, reference, "the image to draw", "")
    except NeurobundleError as error:
        logger.warning("WARNING not drawn: %s", error)
        return None
    return volume.data
