"""``neurobundle run`` on studies: DICOM, BIDS, folders whose names say sequences, mapping files, several channels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.cli import main
from neurobundle.geometry import same_grid
from neurobundle.networks import residual_unet, save_weights

from ..helpers import Maker
from ..load import faults
from ..load.dicom import make
from ..test_how_to import blocks, run_all

Runner = Callable[..., int]


@pytest.fixture
def run(tiny_bundle: Path, tmp_path: Path) -> Runner:
    def call(*inputs: Path, bundle: Path | None = None, options: tuple[str, ...] = ()) -> int:
        words = ["run", str(bundle or tiny_bundle), "-i", *map(str, inputs), "-o", str(tmp_path / "out"), *options]
        return main([*words, "--device", "cpu", "--no-pictures"])

    return call


def cases(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "out" / "report.json").read_text())["cases"]


def t1(folder: Path, **more: Any) -> make.Made:
    """A crop-sized MP-RAGE, oblique."""
    return make.series(folder, slices=26, rows=30, columns=24, step=1.5, **more)


def flair(ds: Any, _: int) -> None:
    ds.ScanningSequence, ds.SequenceVariant, ds.EchoTime = ["SE", "IR"], "SK", "120"
    ds.RepetitionTime, ds.InversionTime, ds.SeriesNumber = "9000", "2500", 9


def copied(image: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(image, target)
    return target


@pytest.fixture
def crop(tmp_path: Path, make_pair: Maker) -> Path:
    return make_pair(tmp_path / "made", "anna", shape=(24, 30, 24))[0]


def test_a_dicom_study(run: Runner, tmp_path: Path) -> None:
    """The T1 is chosen, the FLAIR passed over with its reason, and the labels lie on the T1's grid."""
    made = t1(tmp_path / "study" / "a")
    t1(tmp_path / "study" / "b", uid=make.SERIES + ".9", edit=flair)
    assert run(tmp_path / "study") == 0
    (case,) = cases(tmp_path)
    assert case["case"].startswith("study-")
    assert [choice["channel"] for choice in case["study"]["chosen"]] == ["T1"]
    assert "FLAIR" in json.dumps(case["study"]["passed_over"])
    written = nib.load(tmp_path / "out" / case["output"])
    assert same_grid(written.shape, written.affine, made.data.shape, made.affine)


def test_a_dicom_study_is_finished_when_it_is(run: Runner, tmp_path: Path) -> None:
    t1(tmp_path / "study")
    assert run(tmp_path / "study") == 0
    first = cases(tmp_path)
    assert run(tmp_path / "study") == 0
    assert cases(tmp_path) == first


def test_a_study_without_the_channel(run: Runner, tmp_path: Path) -> None:
    t1(tmp_path / "study", edit=flair)
    assert run(tmp_path / "study") == 4
    (case,) = cases(tmp_path)
    assert "no T1: no channel was found; passed over" in case["error"]
    assert case["study"]["passed_over"]


def test_29_gaps_only_where_they_are_allowed(run: Runner, tmp_path: Path) -> None:
    for path in t1(tmp_path / "study").files[10:12]:
        path.unlink()
    assert run(tmp_path / "study") == 4
    assert run(tmp_path / "study", options=("--allow-gaps",)) == 0
    (case,) = cases(tmp_path)
    assert any("filled by linear interpolation" in warning for warning in case["warnings"])


def test_bids(run: Runner, tmp_path: Path, crop: Path) -> None:
    for session in ("01", "02"):
        folder = tmp_path / f"bids/sub-01/ses-{session}/anat"
        copied(crop, folder / f"sub-01_ses-{session}_T1w.nii.gz")
        copied(crop, folder / f"sub-01_ses-{session}_FLAIR.nii.gz")
    copied(crop, tmp_path / "bids/derivatives/x/sub-01/anat/sub-01_T1w.nii.gz")
    assert run(tmp_path / "bids") == 0
    assert [case["case"] for case in cases(tmp_path)] == ["sub-01_ses-01", "sub-01_ses-02"]


def test_names_say_sequences(run: Runner, tmp_path: Path, crop: Path) -> None:
    """A T1 bundle does not touch a FLAIR, neither in a folder nor by its own name."""
    copied(crop, tmp_path / "in/p1/p1_T1.nii.gz")
    other = copied(crop, tmp_path / "in/p1/p1_FLAIR.nii.gz")
    assert run(tmp_path / "in") == 0
    assert [case["case"] for case in cases(tmp_path)] == ["p1"]
    assert run(other) == 4
    assert "its name says FLAIR" in cases(tmp_path)[-1]["error"]


def test_files_that_say_nothing_are_cases_beside_studies(run: Runner, tmp_path: Path, crop: Path) -> None:
    """One name that says a sequence does not swallow the others; label maps are nobody's scan."""
    for name in ("anna", "emil", "otto_t1", "c_T2", "anna_mask"):
        copied(crop, tmp_path / f"in/{name}.nii.gz")
    assert run(tmp_path / "in") == 3
    assert {case["case"]: case["status"] for case in cases(tmp_path)} == {
        "anna": "ok",
        "emil": "ok",
        "otto": "ok",
        "c": "failed",
    }


def test_label_maps_beside_scans_are_set_aside(run: Runner, tmp_path: Path, crop: Path, caplog: Any) -> None:
    copied(crop, tmp_path / "in/anna.nii.gz")
    copied(crop, tmp_path / "in/anna_label.nii.gz")
    assert run(tmp_path / "in") == 0
    assert [case["case"] for case in cases(tmp_path)] == ["anna"]
    assert "1 label maps, by their names, are set aside" in caplog.text


def test_dicom_beside_nifti_is_said(run: Runner, tmp_path: Path, crop: Path, caplog: Any) -> None:
    copied(crop, tmp_path / "in/anna.nii.gz")
    t1(tmp_path / "in/dicom")
    assert run(tmp_path / "in") == 0
    assert "1 DICOM folders are not looked at" in caplog.text


def test_a_mapping_over_several_places_is_done_once(run: Runner, tmp_path: Path, crop: Path) -> None:
    files = [copied(crop, tmp_path / f"in{n}/{name}_t1.nii.gz") for n, name in enumerate("ab")]
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("x: {T1: in0/a_t1.nii.gz}\n")
    assert run(*files, options=("--mapping", str(mapping))) in (0, 3)
    assert [case["case"] for case in cases(tmp_path)].count("x") == 1


def test_a_mapping_goes_over_every_rule(run: Runner, tmp_path: Path, crop: Path) -> None:
    copied(crop, tmp_path / "in/a.nii.gz")
    copied(crop, tmp_path / "in/b_FLAIR.nii.gz")
    mapping = tmp_path / "in/mapping.yaml"
    mapping.write_text("otto: {T1: b_FLAIR.nii.gz}\n")
    assert run(mapping) == 0
    assert [case["case"] for case in cases(tmp_path)] == ["otto"]
    # Below a folder, what the mapping leaves out is chosen by the rules, which find no T1 in "b".
    assert run(tmp_path / "in", options=("--mapping", str(mapping))) == 3


def test_6_allowed_by_name_reaches_the_network(run: Runner, tmp_path: Path, crop: Path) -> None:
    image = nib.load(crop)
    data = np.asarray(image.dataobj).copy()
    data[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine), crop)
    assert run(crop) == 4
    assert run(crop, options=("--nonfinite", "zero")) == 0
    (case,) = cases(tmp_path)
    assert any("1 NaN" in warning for warning in case["warnings"])


def test_79_salted_studies_name_no_file(run: Runner, tmp_path: Path, crop: Path, caplog: Any) -> None:
    copied(crop, tmp_path / "DOE^JANE/DOE^JANE_T1.nii.gz")
    copied(crop, tmp_path / "DOE^JANE/DOE^JANE_FLAIR.nii.gz")
    assert run(tmp_path / "DOE^JANE", options=("--salted-names",)) == 0
    assert all("JANE" not in path.name for path in (tmp_path / "out").iterdir())
    assert "JANE" not in (tmp_path / "out" / "report.json").read_text()
    assert "JANE" not in caplog.text


@pytest.mark.parametrize("layout", ["names", "bids", "tie"])
def test_79_a_salted_study_that_fails_tells_no_name(
    run: Runner, tmp_path: Path, crop: Path, caplog: Any, layout: str
) -> None:
    """Neither what cannot be read, nor what fits twice."""
    names = {
        "names": ["x/JANE_t1.nii.gz"],
        "bids": ["sub-JANE/anat/sub-JANE_T1w.nii.gz"],
        "tie": ["x/JANE_t1.nii.gz", "x/JANE_T1w.nii.gz"],
    }[layout]
    for name in names:
        copied(crop, tmp_path / "JANE" / name)
    if layout != "tie":
        faults.truncated(tmp_path / "JANE" / names[0])
    assert run(tmp_path / "JANE", options=("--salted-names",)) == 4
    (case,) = cases(tmp_path)
    assert case["error"].startswith(case["case"])
    assert "JANE" not in json.dumps(case) + caplog.text


def test_79_numbers_stay_numbers_where_files_are_called_by_numbers(run: Runner, tmp_path: Path) -> None:
    """A name is taken out of a message as a whole, or not at all."""
    t1(tmp_path / "study", name="{}").files[10].unlink()
    assert run(tmp_path / "study", options=("--salted-names",)) == 4
    (case,) = cases(tmp_path)
    assert "gap of 3 mm between slices 10 and 12, expected 1.5; 1 slice" in case["error"]


def bundle_of_two(tiny_bundle: Path, folder: Path) -> Path:
    """A bundle whose network sees T1 and FLAIR, on the FLAIR's grid, and can do without one."""
    shutil.copytree(tiny_bundle, folder, ignore=shutil.ignore_patterns("*.pt", "M*256"))
    torch.manual_seed(0)
    save_weights(residual_unet(2, 3, size="tiny"), folder / "models" / "model.pt", origin="released")
    config = folder / "configs" / "inference.yaml"
    text = config.read_text().replace("in_channels: 1", "in_channels: 2")
    config.write_text(text.replace("  spacing_mm:", "  allow_empty: true\n  spacing_mm:"))
    metadata = folder / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    image = content["network_data_format"]["inputs"]["image"]
    image |= {"num_channels": 2, "channel_def": {"0": "T1", "1": "FLAIR"}, "reference": "FLAIR"}
    image |= {"missing_channels": "fill"}
    metadata.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def two_channels(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of_two(tiny_bundle, tmp_path_factory.mktemp("two") / "two_segmentation")


def test_several_channels_on_the_references_grid(run: Runner, tmp_path: Path, two_channels: Path, crop: Path) -> None:
    """FLAIR in thick slices: T1 is resampled onto it, and the labels lie on it."""
    copied(crop, tmp_path / "in/first_T1.nii.gz")
    thick = nib.load(crop).slicer[:, :, ::2]
    nib.save(thick, tmp_path / "in/first_FLAIR.nii.gz")
    assert run(tmp_path / "in", bundle=two_channels) == 0
    (case,) = cases(tmp_path)
    assert {choice["channel"]: choice["grid"][:9] for choice in case["study"]["chosen"]} == {
        "T1": "resampled",
        "FLAIR": "as it was",
    }
    written = nib.load(tmp_path / "out" / case["output"])
    assert same_grid(written.shape, written.affine, thick.shape, thick.affine)


def test_a_missing_channel(run: Runner, tmp_path: Path, two_channels: Path, tiny_bundle: Path, crop: Path) -> None:
    """A bundle that can do without it fills it, unless it is told not to."""
    copied(crop, tmp_path / "in/p1/p1_T1.nii.gz")
    assert run(tmp_path / "in", bundle=two_channels, options=("--missing", "refuse")) == 4
    for options in ((), ("--missing", "fill")):
        assert run(tmp_path / "in", bundle=two_channels, options=(*options, "--redo")) == 0
        (case,) = cases(tmp_path)
        assert case["study"]["missing"] == ["FLAIR"]
    assert run(tmp_path / "in", bundle=tiny_bundle, options=("--missing", "fill")) == 1


@pytest.mark.slow
def test_the_how_to_page(tmp_path: Path, tiny_bundle: Path) -> None:
    """The commands of docs/how-to/dicom.md, with a network that knows nothing and finds whatever it finds."""
    page = "docs/how-to/dicom.md"
    t1(tmp_path / "my_study" / "a")
    t1(tmp_path / "my_study" / "b", uid=make.SERIES + ".9", edit=flair)
    (tmp_path / "mapping.yaml").write_text(blocks(page, "yaml")[0])
    run_all([text.replace("hippocampus_segmentation", str(tiny_bundle)) for text in blocks(page)], tmp_path)
    assert len(list((tmp_path / "out").glob("study-*_seg.nii.gz"))) == 1
    assert len(list((tmp_path / "nifti").glob("study-*/*.nii.gz"))) == 2
    assert len(list((tmp_path / "channels").glob("*/*_FLAIR.nii.gz"))) == 1
