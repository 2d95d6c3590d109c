"""``neurobundle synthesize``: a data set of heads that nobody has, from label maps.

A *case* is one head: ``<case>/<case>_{t1,t1ce,t2,flair}.nii.gz`` and ``<case>/<case>_seg.nii.gz``, as in BraTS, and a
*record* beside them, ``<case>/<case>.json``, which is written last and says what the case was made from. A case whose
record says the same is not made again. Case n is drawn from (seed, n) and made from label map n, counted round: more
cases leave the earlier ones as they are. The subject of a case is its label map, so that splits by subject are honest.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurobundle import __version__
from neurobundle.errors import ExitCode, InputError, SettingError, exit_code
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


def synthesize(
    label_maps: Sequence[str | Path] | str | Path,
    output: str | Path,
    n: int = 10,
    sequences: Sequence[str] = tuple(SUFFIXES),
    *,
    tumour: bool = False,
    seed: int = 0,
    spacing: float = 1.0,
    skull: bool = True,
    shape: Sequence[int] | None = None,
    contrast: str = "priors",
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
        seed: what they are drawn from.
        spacing: millimetres, the side of a voxel.
        skull: the head, or the brain alone.
        shape: of the images; what a head (or a brain) needs if None.
        contrast: ``priors`` or ``random``.
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
    settings = _settings(tuple(sequences), tumour, spacing, skull, shape, contrast)
    out = Path(output)
    require_writable(out)
    report = Report(out)
    names = _names(maps)
    # One label map after the other: each is read once.
    order = sorted(range(n), key=lambda number: (number % len(maps), number))
    head: tuple[Path, LabelMap | InputError] | None = None
    for number in progress(order) if progress else order:
        path = maps[number % len(maps)]
        if head is None or head[0] != path:
            head = (path, _read(path))
        _case(f"{names[path]}-s{seed}-{number:04d}", path, head[1], number, seed, settings, device, report)
    done = {case: path for path in maps for case in _cases_of(names[path], [*report.made, *report.kept])}
    if done:
        subjects = sorted(set(done.values()))
        items = [_item(out, case, names[path], subjects.index(path), settings) for case, path in done.items()]
        metadata = {"name": "synthetic heads", "labels": LABELS, "sequences": list(settings.sequences), "seed": seed}
        report.datalist = write_datalist(out / "datalist.json", items, metadata=metadata)
        _tell_of_others(out, set(done))
    return report


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
    sequences: tuple[str, ...], tumour: bool, spacing: float, skull: bool, shape: Sequence[int] | None, contrast: str
) -> HeadSettings:
    from neurobundle.augment.head_plan import HeadSettings

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


def _cases_of(name: str, cases: Iterable[str]) -> list[str]:
    return [case for case in cases if case.rsplit("-", 2)[0] == name]


def _case(
    case: str,
    path: Path,
    label_map: LabelMap | InputError,
    number: int,
    seed: int,
    settings: HeadSettings,
    device: str,
    report: Report,
) -> None:
    try:
        if isinstance(label_map, InputError):
            raise label_map
        record = _record(label_map, number, seed, settings, device)
        if _is_done(report.output, case, record, settings):
            report.kept.append(case)
            return
        _make(report.output / case, case, label_map, record, settings, device)
        report.made.append(case)
    except InputError as error:
        told = InputError(error.cause, error.way_out, case=case, file=error.file or path)
        logger.error("ERROR %s", told)
        report.failed[case] = f"{error.cause}. {error.way_out}".strip()


def _record(label_map: LabelMap, number: int, seed: int, settings: HeadSettings, device: str) -> dict[str, Any]:
    """What a case is made from; what is written has the hashes of its files besides."""
    made_from = {
        "neurobundle": __version__,
        "label_map_sha256": label_map.digest,
        "seed": seed,
        "number": number,
        "settings": asdict(settings),
        "device": device.partition(":")[0],
    }
    return dict(json.loads(json.dumps(made_from)))


def _is_done(out: Path, case: str, record: dict[str, Any], settings: HeadSettings) -> bool:
    folder = out / case
    try:
        there = json.loads((folder / f"{case}.json").read_text())
    except (OSError, ValueError):
        return False
    if not isinstance(there, dict):
        return False
    written = there.pop("files", {})
    if there != record:
        return False
    damaged = [
        file.name
        for file in _files(folder, case, settings)
        if not file.is_file() or sha256_of(file) != written.get(file.name)
    ]
    if damaged:
        logger.warning("%s: %s is missing or damaged; the case is made again", case, ", ".join(damaged))
    return not damaged


def _files(folder: Path, case: str, settings: HeadSettings) -> list[Path]:
    words = [*(SUFFIXES[sequence] for sequence in settings.sequences), "seg"]
    return [folder / f"{case}_{word}.nii.gz" for word in words]


def _make(
    folder: Path, case: str, label_map: LabelMap, record: dict[str, Any], settings: HeadSettings, device: str
) -> None:
    import torch

    from neurobundle.augment.head_plan import draw_head, grid_affine
    from neurobundle.augment.synthesis import WHITE_LEVEL, synthesize_head

    (folder / f"{case}.json").unlink(missing_ok=True)
    plan = draw_head(np.random.default_rng([record["seed"], record["number"]]), settings)
    try:
        labels = torch.from_numpy(label_map.labels).to(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        raise SettingError(f"the device {device!r} cannot be used", "Give --device cpu.") from error
    head = synthesize_head(labels, plan, label_map.spacing_mm)
    affine = grid_affine(settings)
    *images, seg = _files(folder, case, settings)
    for file, image in zip(images, head.images.cpu().numpy(), strict=True):
        whole = np.clip(np.rint(image * WHITE_LEVEL), 0, np.iinfo(np.int16).max).astype(np.int16)
        save_volume(file, whole, affine)
    save_label_map(seg, head.label.cpu().numpy(), affine)
    sweep_folder(folder)
    hashes = {file.name: sha256_of(file) for file in (*images, seg)}
    write_json(folder / f"{case}.json", {**record, "files": hashes})


def _item(out: Path, case: str, subject: str, number: int, settings: HeadSettings) -> dict[str, Any]:
    *images, seg = (str(file) for file in _files(out / case, case, settings))
    image = images if len(images) > 1 else images[0]
    return {"image": image, "label": seg, "case": case, "subject": subject, "fold": number % FOLDS}
