"""What a bundle says of a study, as MONAI Label hands it on: by the same code as ``neurobundle run``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurobundle.bundle.configfile import read_config
from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import answers_of, structures_of
from neurobundle.bundle.workflow import config_file, device_setting
from neurobundle.commands.classify import make_run
from neurobundle.commands.run import UNCERTAINTY_ID
from neurobundle.errors import InputError
from neurobundle.geometry import same_grid
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import Scan, read_scan
from neurobundle.prepare.grid import Grid
from neurobundle.prepare.space import sample


@dataclass(frozen=True)
class Answer:
    """What a bundle says of a study.

    Attributes:
        labels: a label map on the image's grid; None for a class.
        numbers: what goes beside it, as JSON can hold it.
    """

    labels: Scan | None
    numbers: dict[str, Any] = field(default_factory=dict)


def answer(
    bundle: Path,
    study: Path,
    image: Path,
    *,
    device: str = "auto",
    uncertainty: bool = True,
    settings: Mapping[str, Any] | None = None,
    mapping: Path | None = None,
) -> Answer:
    """Run a bundle on one study.

    Args:
        bundle: its folder.
        study: a file, or the folder of a study.
        image: the store's image of it; the label map lies on its grid.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        uncertainty: also say how sure it is, if the bundle can.
        settings: values by id.
        mapping: a file that says which scan is which channel.

    Raises:
        InputError: if the study is refused; the message is that of ``neurobundle run``.
        SettingError: for a setting or a device that is none.
        WeightsError: if the weights cannot be trusted.
    """
    with tempfile.TemporaryDirectory(prefix="neurobundle-") as place:
        run = make_run(
            str(bundle),
            Path(place),
            settings={**(settings or {}), **device_setting(device)},
            pictures=False,
            mapping=mapping,
            uncertainty=uncertainty and UNCERTAINTY_ID in read_config(config_file(bundle, "inference")),
            overlap=False,
        )
        results = run([study]).results
        result = next((one for one in results if one.case == image.name.removesuffix(".nii.gz")), results[0])
        if not result.passed:
            raise InputError(result.error)
        if answers_of(bundle) is not None:
            return Answer(None, numbers_of(result, bundle))
        labels = read_scan(Path(place) / result.output, LABEL)
    return Answer(on_grid(labels, read_scan(image)), numbers_of(result, bundle))


def on_grid(labels: Scan, image: Scan) -> Scan:
    """A label map on the grid of an image: as it is, or by the nearest voxel if the reference was another scan."""
    if same_grid(image.data.shape, image.affine, labels.data.shape, labels.affine):
        return labels
    i, j, k = image.data.shape
    grid = Grid((i, j, k), np.asarray(image.affine, float))
    (found,) = sample(torch.from_numpy(np.ascontiguousarray(labels.data))[None], labels.affine, grid, "nearest")
    return Scan(found.numpy(), image.affine, labels.warnings, image.form_code, image.units)


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
