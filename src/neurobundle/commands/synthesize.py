"""``neurobundle synthesize``: a data set of heads that nobody has, from label maps.

A *case* is one head: ``<case>/<case>_{t1,t1ce,t2,flair}.nii.gz`` and ``<case>/<case>_seg.nii.gz``, as in BraTS, and a
*record* beside them, ``<case>/<case>.json``, which is written last and says what the case was made from. A case whose
record says the same is not made again. Case n is drawn from (seed, n) and made from label map n, counted round: more
cases leave the earlier ones as they are. The subject of a case is its label map, so that splits by subject are honest.

Its labels are those of the tumour, or the anatomy in the numbers of a bundle that learns anatomy: by the map
``anatomy`` of the bundle's train config. Such a bundle takes any one scan, so a case has one image then, and the cases
have the sequences in turn. A *variant* is what the heads of one command differ in besides: settings, taken in turn.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurobundle import __version__
from neurobundle.bundle.configfile import lookup, read_config
from neurobundle.bundle.find import bundles, find_bundle, structures_of
from neurobundle.bundle.workflow import config_file
from neurobundle.errors import ExitCode, InputError, SettingError, closest, exit_code
from neurobundle.export.nifti import save_label_map, save_volume
from neurobundle.files import require_writable, sweep_folder, write_json
from neurobundle.load.datalist import write_datalist
from neurobundle.load.names import safe_name, stem
from neurobundle.networks.manifest import sha256_of

if TYPE_CHECKING:
    from neurobundle.augment.head_plan import HeadSettings
    from neurobundle.augment.label_maps import LabelMap

logger = logging.getLogger(__name__)

#: Sequence -> what ends its file's name, as in BraTS up to 2021.
SUFFIXES = {"T1": "t1", "T1c": "t1ce", "T2": "t2", "FLAIR": "flair"}
#: Side of the image in millimetres along R, A and S: a head with its skull, or a brain.
HEAD_MM, BRAIN_MM = (192, 224, 208), (160, 192, 160)
#: Folds of the datalist, or as many as there are subjects.
FOLDS = 5
#: BraTS 2023's numbers.
LABELS = {"0": "background", "1": "necrotic core", "2": "oedema", "3": "enhancing tumour"}
#: The word for these, where else a bundle's name stands.
TUMOUR = "tumour"
#: Where a bundle's train config has FreeSurfer's numbers and its own.
ANATOMY_ID = "anatomy"


@dataclass
class Report:
    """What was done.

    Attributes:
        output: the folder.
        made: cases that were made now.
        kept: cases that were there.
        failed: case -> cause and way out.
        datalist: its file; None if no case is there.
    """

    output: Path
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    datalist: Path | None = None

    @property
    def exit_code(self) -> ExitCode:
        """All, some or none."""
        return exit_code([True] * (len(self.made) + len(self.kept)) + [False] * len(self.failed))


@dataclass(frozen=True)
class _Recipe:
    """What heads are made from, beside their label maps.

    Attributes:
        variants: one or more.
        anatomy: FreeSurfer's number -> label; None for the labels of the tumour.
        labels: their names, by number.
        seed: what heads are drawn from.
        device: where to work.
    """

    variants: tuple[HeadSettings, ...]
    anatomy: dict[int, int] | None
    labels: dict[str, str]
    seed: int
    device: str

    def settings(self, number: int, maps: int) -> HeadSettings:
        """Those of a case. Each label map begins with another variant, and goes through all of them."""
        return self.variants[(number % maps + number // maps) % len(self.variants)]

    def files(self, folder: Path, case: str, settings: HeadSettings) -> list[Path]:
        """The images of a case, then its label map. One image of a random contrast is of no sequence."""
        nameless = self.anatomy is not None and settings.contrast == "random"
        images = ["image"] if nameless else [SUFFIXES[sequence] for sequence in settings.sequences]
        return [folder / f"{case}_{word}.nii.gz" for word in (*images, "seg")]


def synthesize(
    label_maps: Sequence[str | Path] | str | Path,
    output: str | Path,
    n: int = 10,
    sequences: Sequence[str] = tuple(SUFFIXES),
    *,
    tumour: bool = False,
    labels: str = TUMOUR,
    seed: int = 0,
    spacing: float = 1.0,
    skull: bool = True,
    shape: Sequence[int] | None = None,
    contrast: str = "priors",
    mixed: bool = False,
    device: str = "cpu",
    progress: Callable[[Sequence[int]], Iterable[int]] | None = None,
) -> Report:
    """Make heads, and a datalist of them.

    A label map that is refused fails its cases, in one line each; the others go on.

    Args:
        label_maps: files and folders of label maps in FreeSurfer's numbers.
        output: made if need be.
        n: how many heads.
        sequences: some of T1, T1c, T2, FLAIR.
        tumour: whether each head has one.
        labels: ``tumour``, or the name or folder of a bundle that learns anatomy: then a head's label map is its
            anatomy in that bundle's numbers, and it has one image, of one of the sequences in turn.
        seed: what they are drawn from.
        spacing: millimetres, the side of a voxel.
        skull: the head, or the brain alone.
        shape: of the images; what a head (or a brain) needs if None.
        contrast: ``priors`` or ``random``.
        mixed: heads and brains alone, of both contrasts, in turn.
        device: where to work. Heads of one kind of device are the same each time.
        progress: wraps the list of numbers, as tqdm does.

    Raises:
        NoInputError: if there is no label map.
        SettingError: for a setting that means nothing.
        EnvironmentFault: if the output cannot be written.
    """
    from neurobundle.augment.label_maps import find_label_maps

    maps = find_label_maps(label_maps)
    if n < 1 or seed < 0:
        raise SettingError(f"n is {n} and seed is {seed}", "n must be 1 or more, seed 0 or more.")
    if mixed and (not skull or contrast != "priors"):
        raise SettingError("mixed heads have both contrasts, with and without the skull", "Leave the others out.")
    kinds = [(True, "priors"), (False, "priors"), (True, "random"), (False, "random")] if mixed else [(skull, contrast)]
    variants = tuple(_settings(tuple(sequences), tumour, spacing, kind, shape) for kind in kinds)
    anatomy, names_of_labels = _labels(labels)
    if anatomy is not None:
        images = variants[0].sequences
        variants = tuple(replace(variant, sequences=(image,)) for image in images for variant in variants)
    recipe = _Recipe(variants, anatomy, names_of_labels, seed, device)
    out = Path(output)
    require_writable(out)
    report = Report(out)
    names = _names(maps)
    # One label map after the other: each is read once.
    order = sorted(range(n), key=lambda number: (number % len(maps), number))
    head: tuple[Path, LabelMap | InputError] | None = None
    made: dict[str, tuple[Path, HeadSettings]] = {}
    for number in progress(order) if progress else order:
        path = maps[number % len(maps)]
        if head is None or head[0] != path:
            head = (path, _read(path))
        case, settings = f"{names[path]}-s{seed}-{number:04d}", recipe.settings(number, len(maps))
        if _case(case, path, head[1], number, settings, recipe, report):
            made[case] = (path, settings)
    if made:
        report.datalist = _write_datalist(out, made, names, tuple(dict.fromkeys(sequences)), recipe)
        _tell_of_others(out, set(made))
    return report


def _write_datalist(
    out: Path,
    made: dict[str, tuple[Path, HeadSettings]],
    names: dict[Path, str],
    sequences: Sequence[str],
    recipe: _Recipe,
) -> Path:
    subjects = sorted({path for path, _ in made.values()})
    items = []
    for case, (path, settings) in made.items():
        *images, seg = (str(file) for file in recipe.files(out / case, case, settings))
        image = images if len(images) > 1 else images[0]
        fold = subjects.index(path) % FOLDS
        items.append({"image": image, "label": seg, "case": case, "subject": names[path], "fold": fold})
    metadata = {"name": "synthetic heads", "labels": recipe.labels, "sequences": list(sequences), "seed": recipe.seed}
    return write_datalist(out / "datalist.json", items, metadata=metadata)


def _labels(labels: str) -> tuple[dict[int, int] | None, dict[str, str]]:
    """FreeSurfer's number -> label, and the labels' names; no map for those of the tumour.

    Raises:
        SettingError: if no bundle is called so, or it learns no anatomy; it names those that do.
    """
    if labels == TUMOUR:
        return None, LABELS
    try:
        folder = find_bundle(labels)
    except SettingError as error:
        near = closest(labels, [TUMOUR, *bundles()])
        raise SettingError(f"there are no labels {labels!r}, and no such bundle{near}", _known_labels()) from error
    anatomy = _anatomy_of(folder)
    if not anatomy:
        cause = f"{folder.name} learns no anatomy: its train config has no map {ANATOMY_ID!r} from numbers to labels"
        raise SettingError(cause, _known_labels())
    return anatomy, {"0": "background", **{str(value): name for value, name in sorted(structures_of(folder).items())}}


def _anatomy_of(folder: Path) -> dict[int, int]:
    """A bundle's map from FreeSurfer's numbers to its own; empty if it has none."""
    found = lookup(read_config(config_file(folder, "train")), ANATOMY_ID)
    try:
        return {int(number): int(label) for number, label in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _known_labels() -> str:
    known = []
    for name, folder in bundles().items():
        with contextlib.suppress(SettingError):  # another bundle's fault is not told here
            known += [name] if _anatomy_of(folder) else []
    return f"Give {TUMOUR}, or a bundle that learns anatomy: {', '.join(known) or 'none is known'}."


def _tell_of_others(out: Path, listed: set[str]) -> None:
    """Cases of an earlier command stay where they are, and this datalist does not know them."""
    others = sorted(folder.name for folder in out.iterdir() if folder.name not in listed and _has_record(folder))
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        logger.warning(
            "NOTE %s: %d cases of an earlier command are not in its datalist.json (%s). Give each command a folder.",
            *(out, len(others), named),
        )


def _has_record(folder: Path) -> bool:
    return (folder / f"{folder.name}.json").is_file()


def _read(path: Path) -> LabelMap | InputError:
    from neurobundle.augment.label_maps import read_label_map

    try:
        return read_label_map(path)
    except InputError as error:
        error.file = error.file or str(path)
        return error


def _settings(
    sequences: tuple[str, ...], tumour: bool, spacing: float, kind: tuple[bool, str], shape: Sequence[int] | None
) -> HeadSettings:
    """Those of one kind of head: whether it has its skull, and its contrast."""
    from neurobundle.augment.head_plan import HeadSettings

    skull, contrast = kind
    if not 0 < spacing < 20:
        raise SettingError(f"the spacing is {spacing!r} mm", "Give a length above 0 and below 20.")
    size = shape or [math.ceil(side / spacing) for side in (HEAD_MM if skull else BRAIN_MM)]
    i, j, k = (int(side) for side in size) if len(size) == 3 else (0, 0, 0)
    return HeadSettings(
        shape=(i, j, k),
        spacing_mm=(spacing, spacing, spacing),
        sequences=tuple(dict.fromkeys(sequences)),
        contrast=contrast,
        tumour=float(tumour),
        skull=skull,
    )


def _names(maps: Sequence[Path]) -> dict[Path, str]:
    """A name for each label map; equal ones get a number."""
    names: dict[Path, str] = {}
    for path in maps:
        name = safe_name(stem(path.name))
        twins = sum(other == name or other.startswith(f"{name}-m") for other in names.values())
        names[path] = f"{name}-m{twins}" if twins else name
    return names


def _case(
    case: str,
    path: Path,
    label_map: LabelMap | InputError,
    number: int,
    settings: HeadSettings,
    recipe: _Recipe,
    report: Report,
) -> bool:
    """Make one case if it is not there; whether it is there now."""
    try:
        if isinstance(label_map, InputError):
            raise label_map
        record = _record(label_map, number, settings, recipe)
        files = recipe.files(report.output / case, case, settings)
        if _is_done(files, case, record):
            report.kept.append(case)
            return True
        _make(files, case, label_map, record, settings, recipe)
        report.made.append(case)
    except InputError as error:
        told = InputError(error.cause, error.way_out, case=case, file=error.file or path)
        logger.error("ERROR %s", told)
        report.failed[case] = f"{error.cause}. {error.way_out}".strip()
        return False
    return True


def _record(label_map: LabelMap, number: int, settings: HeadSettings, recipe: _Recipe) -> dict[str, Any]:
    """What a case is made from; what is written has the hashes of its files besides."""
    made_from = {
        "neurobundle": __version__,
        "label_map_sha256": label_map.digest,
        "labels": TUMOUR if recipe.anatomy is None else recipe.anatomy,
        "seed": recipe.seed,
        "number": number,
        "settings": asdict(settings),
        "device": recipe.device.partition(":")[0],
    }
    return dict(json.loads(json.dumps(made_from)))


def _written_record(folder: Path) -> dict[str, Any]:
    """The record of the case that lies in a folder; empty if there is none."""
    try:
        there = json.loads((folder / f"{folder.name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def _is_done(files: Sequence[Path], case: str, record: dict[str, Any]) -> bool:
    there = _written_record(files[0].parent)
    written = there.pop("files", {})
    if there != record:
        return False
    damaged = [file.name for file in files if not file.is_file() or sha256_of(file) != written.get(file.name)]
    if damaged:
        logger.warning("%s: %s is missing or damaged; the case is made again", case, ", ".join(damaged))
    return not damaged


def _make(
    files: Sequence[Path],
    case: str,
    label_map: LabelMap,
    record: dict[str, Any],
    settings: HeadSettings,
    recipe: _Recipe,
) -> None:
    import torch

    from neurobundle.augment.head_plan import draw_head, grid_affine
    from neurobundle.augment.synthesis import WHITE_LEVEL, renumbered, synthesize_head

    *images, seg = files
    _remove_old(seg.parent, case)
    plan = draw_head(np.random.default_rng([record["seed"], record["number"]]), settings)
    try:
        labels = torch.from_numpy(label_map.labels).to(recipe.device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        raise SettingError(f"the device {recipe.device!r} cannot be used", "Give --device cpu.") from error
    head = synthesize_head(labels, plan, label_map.spacing_mm)
    affine = grid_affine(settings)
    for file, image in zip(images, head.images.cpu().numpy(), strict=True):
        whole = np.clip(np.rint(image * WHITE_LEVEL), 0, np.iinfo(np.int16).max).astype(np.int16)
        save_volume(file, whole, affine)
    label = head.label if recipe.anatomy is None else renumbered(head.anatomy, recipe.anatomy)
    save_label_map(seg, label.cpu().numpy(), affine)
    sweep_folder(seg.parent)
    hashes = {file.name: sha256_of(file) for file in files}
    write_json(seg.parent / f"{case}.json", {**record, "files": hashes})


def _remove_old(folder: Path, case: str) -> None:
    """What the case had when it was made otherwise; the record goes last, so that it lists what is left."""
    for name in _written_record(folder).get("files", {}):
        (folder / Path(name).name).unlink(missing_ok=True)
    (folder / f"{case}.json").unlink(missing_ok=True)
