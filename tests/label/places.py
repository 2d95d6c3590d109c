"""A study of four series, a bundle that knows nothing, and our app on them; shared by the tests of the app."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from neurobundle.networks import save_weights, strided_unet

from ..conftest import ROOT
from ..load.dicom import make
from .client import SlicerClient
from .conftest import free_port, served

TUMOUR = "brain_tumor_segmentation"
PAGE = ROOT / "docs" / "concepts" / "label.md"


def contrast(ds: Any, _: int) -> None:
    ds.ContrastBolusAgent, ds.SeriesNumber = "Gadolinium", 7


def t2(ds: Any, _: int) -> None:
    ds.ScanningSequence, ds.SequenceVariant, ds.EchoTime = "SE", "SK", "95"
    ds.RepetitionTime, ds.InversionTime, ds.SeriesNumber = "4500", None, 8


def flair(ds: Any, _: int) -> None:
    ds.ScanningSequence, ds.SequenceVariant, ds.EchoTime = ["SE", "IR"], "SK", "120"
    ds.RepetitionTime, ds.InversionTime, ds.SeriesNumber = "9000", "2500", 9


def four_series(folder: Path, number: int = 0) -> list[Path]:
    """A DICOM study of four series in no order, of a person of its own.

    Args:
        folder: where to write it.
        number: of the study, from 0.

    Returns:
        Its files.
    """
    study = f"{make.STUDY}.{number}" if number else make.STUDY
    # Of another step each, since the same head twice would be one person.
    size: dict[str, Any] = {"slices": 26, "rows": 30, "columns": 24, "step": 1.5 + number / 8}
    files: list[Path] = []
    for n, (name, edit) in enumerate({"d": t2, "a": flair, "c": contrast, "b": None}.items()):

        def numbered(ds: Any, k: int, edit: make.Edit | None = edit) -> None:
            ds.StudyInstanceUID, ds.FrameOfReferenceUID = study, f"{study}.9"
            ds.PatientID = f"{ds.PatientID}{number or ''}"
            if edit is not None:
                edit(ds, k)

        files += make.series(folder / name, uid=f"{study}.1.{n}", edit=numbered, **size).files
    return files


def blank_bundle(folder: Path) -> Path:
    """The bundle of four channels with a small network that learned nothing, in a folder."""
    copy = folder / TUMOUR
    shutil.copytree(ROOT / "bundles" / TUMOUR, copy, ignore=shutil.ignore_patterns("*.pt", "M*256", "docs"))
    torch.manual_seed(0)
    save_weights(strided_unet(4, 3, "tiny"), copy / "models" / "model.pt", origin="released")
    for name in ("inference", "train"):
        path = copy / "configs" / f"{name}.yaml"
        text = path.read_text().replace("network_size: full", "network_size: tiny")
        path.write_text(text.replace("[80, 96, 80]", "[16, 16, 16]"))
    return copy


@contextmanager
def serving(
    place: Path, python: Path, archive: str = "", more: Sequence[str] = (), **variables: str
) -> Iterator[SlicerClient]:
    """The command of docs/concepts/label.md, with a bundle that knows nothing, on a free port.

    Args:
        place: holds the bundle, and the folder ``studies``; gets the store, and what the server prints.
        python: that has MONAI Label.
        more: further bundles.
        archive: an address in the place of the page's; the command for a folder if empty.
        **variables: of the environment.
    """
    port = free_port()
    folder, other = re.findall(r"```bash\n(neurobundle label .*)\n```", PAGE.read_text())
    command = re.sub(r"--studies \S+", f"--studies {archive}", other) if archive else folder
    bundles = " ".join([str(place / TUMOUR), *more])
    words = [python, "-m", *command.replace(TUMOUR, bundles).split(), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    with served([*map(str, words)], place, environment, port, place / "server.txt") as client:
        yield client
