"""Find image and label pairs in the layouts that people keep them in.

| layout | images | labels |
|---|---|---|
| ``folders`` | ``images/`` or any folder | ``labels/`` or any folder |
| ``decathlon`` | ``dataset.json``'s ``training``, or ``imagesTr/`` | ``labelsTr/`` |
| ``nnunet`` | ``imagesTr/<case>_0000.nii.gz``, ``_0001`` ... one a channel | ``labelsTr/<case>.nii.gz`` |
| ``slices`` | ``images/`` of slices, beside a table ``index.csv`` that names their persons | ``masks/`` |
| ``bids`` | ``sub-*/[ses-*/]anat/*_T1w.nii.gz`` | ``derivatives/**/*_dseg.nii.gz``, else ``*_mask.nii.gz`` |

Sources: Antonelli 2022 (Medical Segmentation Decathlon), nnU-Net's ``documentation/dataset_format.md``, and the Brain
Imaging Data Structure 1.9 (*Derivatives*, *Imaging data type derivatives*).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, NoInputError, SettingError, closest
from neurobundle.load.names import is_image_name, safe_name, stem, unique_case_names
from neurobundle.load.pairs import FoundPairs, Pair, pair_by_name, volumes
from neurobundle.load.slice_folders import find_slices, is_slice_folder

LAYOUTS = ("folders", "decathlon", "nnunet", "bids", "slices")

#: nnU-Net's channel number behind a case's name.
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")

#: Folder names that hold a folder pair.
_FOLDER_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"))

#: BIDS entities that say which scan it is; a label may leave out the last ones, and then fits any.
_BIDS_FIXED, _BIDS_LOOSE = ("sub", "ses"), ("acq", "ce", "rec", "run")


def find_pairs(
    folder: str | Path,
    *,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    layout: str = "auto",
    need_labels: bool = True,
) -> FoundPairs:
    """Find the pairs of a data folder; files are paired by name, never by order.

    Args:
        folder: the data folder.
        images: the folder of the images, relative to ``folder`` or absolute, if the layout does not say.
        labels: the folder of the labels, likewise; for BIDS the derivative to take labels from.
        layout: one of :data:`LAYOUTS`, or ``auto``.
        need_labels: whether an image without a label is a problem; if not, its pair has the label None.

    Returns:
        The pairs sorted by case, and a problem for each file that was left over.

    Raises:
        NoInputError: if the folder is missing or holds neither images nor labels.
        SettingError: if the layout is unknown, cannot be recognised, or lacks a folder that was named.
        InputError: if a ``dataset.json`` cannot be read.
    """
    root = Path(folder)
    if layout not in ("auto", *LAYOUTS):
        known = ", ".join(("auto", *LAYOUTS))
        raise SettingError(f"the layout must be one of {known}, got {layout!r}{closest(layout, LAYOUTS)}")
    if not root.is_dir():
        raise NoInputError("there is no such folder", "Give the folder that holds the images and labels.", file=root)
    image_dir, label_dir = (_named_folder(root, name) for name in (images, labels))
    if layout == "auto":
        layout = _recognise(root, image_dir, label_dir)
    if layout == "slices":
        found = find_slices(root)
    elif layout == "bids":
        found = _bids(image_dir or root, label_dir or root / "derivatives", need_labels)
    elif layout == "nnunet":
        found = _nnunet(root, image_dir or root / "imagesTr", label_dir or root / "labelsTr", need_labels)
    elif layout == "decathlon" and image_dir is None and (root / "dataset.json").is_file():
        found = _listed(root, need_labels)
    else:
        found = _folder_pair(root, image_dir, label_dir, layout, need_labels)
    if not found.pairs and not found.problems:
        raise NoInputError(
            f"there are no images in it (layout {layout})", "Images end in .nii, .nii.gz, .png or .jpg.", file=root
        )
    found.pairs.sort(key=lambda pair: pair.case)
    return found


def _named_folder(root: Path, name: str | Path | None) -> Path | None:
    if name is None:
        return None
    for candidate in (root / name, Path(name)):
        if candidate.is_dir():
            return candidate
    raise SettingError("there is no such folder", "Give it relative to the data folder.", file=name)


def _recognise(root: Path, images: Path | None, labels: Path | None) -> str:
    """The layout of a folder by what is in it; folders that the user names make it ``folders``."""
    if images is not None or labels is not None:
        return "folders"
    if any(path.is_dir() for path in root.glob("sub-*")):
        return "bids"
    if is_slice_folder(root):
        return "slices"
    settings = _dataset_json(root)
    if "channel_names" in settings or "file_ending" in settings or _has_channel_numbers(root):
        return "nnunet"
    if "training" in settings or (root / "imagesTr").is_dir() or (root / "labelsTr").is_dir():
        return "decathlon"
    if (root / "images").is_dir() or (root / "labels").is_dir():
        return "folders"
    if not any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise NoInputError("the folder is empty", "Give the folder that holds the images and labels.", file=root)
    raise SettingError(
        "its layout is not recognised: it has no imagesTr, images or sub-* folder and no dataset.json",
        "Say where the files are: --images DIR --labels DIR.",
        file=root,
    )


def _has_channel_numbers(root: Path) -> bool:
    """Whether all images end in four digits and a label is called like one of them without the digits."""
    matches = [_CHANNEL.match(stem(path.name)) for path in volumes(root / "imagesTr")]
    cases = {match["case"] for match in matches if match}
    return bool(matches) and all(matches) and bool(cases & {stem(p.name) for p in volumes(root / "labelsTr")})


def _dataset_json(root: Path) -> dict[str, Any]:
    file = root / "dataset.json"
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"it is not readable JSON ({error})", "Mend it, or give --layout folders.", file=file
        ) from error
    if not isinstance(settings, dict):
        raise InputError("it is not a JSON object", "Mend it, or give --layout folders.", file=file)
    return settings


def _label_names(settings: Mapping[str, Any]) -> dict[int, str]:
    """Value to name, from Decathlon's ``{"1": "a"}`` or nnU-Net's ``{"a": 1}``; regions that overlap have no name."""
    stated = settings.get("labels")
    names: dict[int, str] = {}
    for key, value in stated.items() if isinstance(stated, dict) else ():
        if str(key).isdigit():
            names[int(key)] = str(value)
        elif str(value).isdigit():
            names[int(value)] = str(key)
        elif isinstance(value, list):
            names.update({int(v): names.get(int(v), f"label {v}") for v in value if str(v).isdigit()})
    return dict(sorted(names.items()))


def _channel_names(settings: Mapping[str, Any]) -> tuple[str, ...]:
    stated = settings.get("channel_names") or settings.get("modality") or {}
    return tuple(str(stated[key]) for key in sorted(stated, key=str)) if isinstance(stated, dict) else ()


def _folder_pair(root: Path, images: Path | None, labels: Path | None, layout: str, need_labels: bool) -> FoundPairs:
    if images is None or labels is None:
        ours, theirs = next(((a, b) for a, b in _FOLDER_PAIRS if (root / a).is_dir() or (root / b).is_dir()), ("", ""))
        if not ours:
            raise SettingError("it has no folders imagesTr and labelsTr, or images and labels", _WHERE, file=root)
        images, labels = images or root / ours, labels or root / theirs
    if not labels.is_dir() and need_labels:
        raise SettingError(f"the images in {images.name} have no folder of labels ({labels.name})", _WHERE, file=root)
    pairs, problems = pair_by_name(volumes(images), volumes(labels), need_labels=need_labels)
    names = unique_case_names(image for image, _ in pairs)
    settings = _dataset_json(root) if layout == "decathlon" else {}
    return FoundPairs(
        layout,
        [Pair(names[image], image, label) for image, label in pairs],
        problems,
        _label_names(settings),
        _channel_names(settings),
    )


_WHERE = "Say where the files are: --images DIR --labels DIR."


def _listed(root: Path, need_labels: bool) -> FoundPairs:
    """Decathlon with a ``dataset.json``: its ``training`` list decides; files that it does not list are left alone."""
    settings = _dataset_json(root)
    entries = settings.get("training")
    if not isinstance(entries, list):
        raise InputError(
            "it has no list 'training'", "Give --layout folders to pair by name.", file=root / "dataset.json"
        )
    found = FoundPairs("decathlon", [], [], _label_names(settings), _channel_names(settings))
    complete: list[tuple[Path, Path | None]] = []
    for number, entry in enumerate(entries):
        image, label = (entry.get(key) for key in ("image", "label")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(image, str) or not (isinstance(label, str) or (label is None and not need_labels)):
            cause = f"entry {number} of 'training' does not name an image and a label: {json.dumps(entry)[:80]}"
            found.problems.append(InputError(cause, "Mend the entry.", file=root / "dataset.json"))
            continue
        files = (root / image, root / label if label else None)
        missing = next((file for file in files if file and not file.is_file()), None)
        if missing is None:
            complete.append(files)
        else:
            cause = f"entry {number} of dataset.json lists it and it is not there"
            error = InputError(cause, "Add the file, or take the entry out.", case=safe_name(stem(Path(image).name)))
            error.file = str(missing)
            found.problems.append(error)
    names = unique_case_names(image for image, _ in complete)
    found.pairs = [Pair(names[image], image, label) for image, label in dict(complete).items()]
    return found


def _nnunet(root: Path, images: Path, labels: Path, need_labels: bool) -> FoundPairs:
    settings = _dataset_json(root)
    names = _channel_names(settings)
    found = FoundPairs("nnunet", [], [], _label_names(settings), names)
    cases, strays = _channels_by_case(images)
    found.problems += strays
    expected = max(len(names), 1 + max((max(channels) for channels in cases.values()), default=0))
    whole: dict[str, tuple[Path, ...]] = {}
    for case, channels in cases.items():
        missing = [number for number in range(expected) if number not in channels]
        if missing:
            called = f" ({names[missing[0]]})" if missing[0] < len(names) else ""
            cause = f"channel {missing[0]:04d}{called} of {expected} is missing"
            way_out = "Add the file, or take the case out."
            found.problems.append(InputError(cause, way_out, case=safe_name(case), file=next(iter(channels.values()))))
        whole[case] = tuple(channels[number] for number in sorted(channels))
    # Pairing sees the case's name, as if it were a file of its own.
    stands_for = {images / f"{case}.nii.gz": files for case, files in whole.items()}
    pairs, problems = pair_by_name(list(stands_for), volumes(labels), need_labels=need_labels)
    for problem in problems:
        problem.file = str(stands_for.get(Path(problem.file), (problem.file,))[0])
    case_names = unique_case_names(stands_for)
    for path, label in pairs:
        if len(files := stands_for[path]) == expected:
            found.pairs.append(Pair(case_names[path], files[0] if expected == 1 else files, label))
    found.problems += problems
    return found


def _channels_by_case(images: Path) -> tuple[dict[str, dict[int, Path]], list[InputError]]:
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    problems = []
    for path in volumes(images):
        match = _CHANNEL.match(stem(path.name))
        if match is None:
            cause = "its name does not end in a channel number such as _0000"
            way_out = "Rename it, or give --layout decathlon."
            problems.append(InputError(cause, way_out, case=safe_name(stem(path.name)), file=path))
        else:
            cases[match["case"]][int(match["channel"])] = path
    return dict(cases), problems


def _bids(root: Path, derivatives: Path, need_labels: bool) -> FoundPairs:
    images = [
        p for s in ("sub-*/anat", "sub-*/ses-*/anat") for p in root.glob(f"{s}/*_T1w.nii*") if is_image_name(p.name)
    ]
    labels = _bids_labels(derivatives)
    names = unique_case_names(images)
    found = FoundPairs("bids")
    used: set[Path] = set()
    for image in sorted(images):
        entities = bids_entities(image.name)
        label, error = _bids_match(image, entities, labels)
        used |= {label} if label else set()
        if error is not None and (need_labels or label):
            error.for_case(names[image])
            found.problems.append(error)
        else:
            found.pairs.append(Pair(names[image], image, label, f"sub-{entities.get('sub', '')}"))
    return _without_shared(found, [label for label in labels if label not in used])


def _bids_labels(derivatives: Path) -> list[Path]:
    if not derivatives.is_dir():
        return []
    suffixes = ("_dseg.nii", "_dseg.nii.gz", "_mask.nii", "_mask.nii.gz")
    return [p for p in sorted(derivatives.rglob("sub-*.nii*")) if p.name.endswith(suffixes) and is_image_name(p.name)]


def bids_entities(name: str) -> dict[str, str]:
    """The key-value parts of a BIDS file name.

    >>> bids_entities("sub-01_ses-b_run-2_T1w.nii.gz")
    {'sub': '01', 'ses': 'b', 'run': '2'}
    """
    return dict(part.split("-", 1) for part in stem(name).split("_") if "-" in part)


def _bids_match(image: Path, entities: dict[str, str], labels: Sequence[Path]) -> tuple[Path | None, InputError | None]:
    fits = [label for label in labels if _bids_fits(entities, bids_entities(label.name))]
    segmentations = [label for label in fits if "_dseg." in label.name]
    fits = segmentations or fits
    if len(fits) == 1:
        return fits[0], None
    if not fits:
        way_out = "Add derivatives/*/sub-*/anat/*_dseg.nii.gz with the same entities, or take the image out."
        return None, InputError("it is an image without a label", way_out, file=image)
    cause = f"two labels fit it: {fits[0].name} and {fits[1].name}"
    return fits[0], InputError(cause, "Name the derivative to use: --labels derivatives/NAME.", file=image)


def _bids_fits(image: dict[str, str], label: dict[str, str]) -> bool:
    fixed = all(image.get(key) == label.get(key) for key in _BIDS_FIXED)
    return fixed and all(key not in label or image.get(key) == label[key] for key in _BIDS_LOOSE)


def _without_shared(found: FoundPairs, unused: Sequence[Path]) -> FoundPairs:
    """Refuse a label that two images claim, and name the segmentations that no image claims."""
    claims: dict[Path, list[Pair]] = defaultdict(list)
    for pair in found.pairs:
        if pair.label is not None:
            claims[pair.label].append(pair)
    for label, pairs in claims.items():
        for pair in pairs if len(pairs) > 1 else ():
            cause = f"the label {label.name} fits several images: {', '.join(p.images[0].name for p in pairs)}"
            found.problems.append(
                InputError(cause, "Put the run into the label's name.", case=pair.case, file=pair.images[0])
            )
            found.pairs.remove(pair)
    for label in unused:
        if "_dseg." in label.name and not any(str(label.name) in problem.cause for problem in found.problems):
            way_out = "Add its image, or take the label out."
            found.problems.append(
                InputError("it is a label without an image", way_out, case=safe_name(stem(label.name)), file=label)
            )
    return found
