"""The report as an evaluate.yaml names it, on files and an engine of two epochs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from neurobundle.errors import ours_in

TARGET = "neurobundle.measure.SegmentationReport"
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def handler(folder: Path, **settings: Any) -> Any:
    parser = ConfigParser(
        {
            "report": {
                "_target_": "neurobundle.measure.SegmentationReport",
                "output_dir": str(folder / "out"),
                **settings,
            }
        }
    )
    parser.parse()
    return parser.get_parsed_content("report")


def engine_on(folder: Path, report: Any, shift: int = 1) -> Engine:
    """One case with two overlapping regions, predicted a voxel off."""
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:5, 2:6, 3:7], labels[3, 3, 4] = 1, 3
    for name, data in (("label", labels), ("image", labels * 1.5)):
        nib.save(nib.Nifti1Image(data, AFFINE), folder / f"anna_{name}.nii.gz")
    found = torch.from_numpy(np.roll(labels, shift, axis=0)[None].astype(np.float32))

    def file(name: str) -> MetaTensor:
        return MetaTensor(torch.zeros(1), meta={"filename_or_obj": str(folder / f"anna_{name}.nii.gz")})

    item = {"case": "anna", "subject": "p1", "image": file("image")}
    masks = torch.cat([(found > 0), found == 3]).float()
    output = {"pred": found, "label": file("label"), "sure": masks}

    def step(engine: Engine, batch: Any) -> Any:
        return [output]

    engine = Engine(step)
    report.attach(engine)
    engine.run([[item]], max_epochs=2)
    return engine


def test_every_setting_reaches_the_report(tmp_path: Path) -> None:
    report = handler(
        tmp_path,
        structures={"WT": [1, 3], "ET": 3},
        tolerances_mm=[1, 3],
        lesions={"dilation": 1},
        probability_key="sure",
        probabilities="structures",
        region_mm=3,
        save_label_maps=True,
    )
    engine_on(tmp_path, report)
    with (tmp_path / "out" / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["structure"], row["subject"]) for row in rows] == [
        ("anna", "WT", "p1"),
        ("anna", "ET", "p1"),
    ]
    assert rows[0]["dice"] == "0.666667"
    assert {"nsd_3mm", "lesion_dice"} <= set(rows[0])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["calibration"]) == {"WT", "ET"}
    assert (summary["calibration_region_mm"], summary["lesion_rule"]["dilation"]) == (3, 1)
    assert "<img" in (tmp_path / "out" / "report.html").read_text()
    written = nib.load(tmp_path / "out" / "predictions" / "anna_seg.nii.gz")
    assert np.allclose(written.affine, AFFINE)


def test_a_second_evaluation_starts_anew(tmp_path: Path) -> None:
    report = handler(tmp_path, structures={1: "front"}, pictures=False)
    engine_on(tmp_path, report)
    assert report.evaluation.summary()["n_cases"] == 1
    assert not (tmp_path / "out" / "predictions").exists()
    assert "<img" not in (tmp_path / "out" / "report.html").read_text()


def test_a_misspelt_setting_of_lesions_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        handler(tmp_path, structures={1: "front"}, lesions={"dilate": 3})
    ours = ours_in(error.value)
    assert ours is not None
    assert "lesions have no 'dilate'; did you mean 'dilation'?" in str(ours)
