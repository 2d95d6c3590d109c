"""What ``neurobundle check`` says of good and bad files, and of sets of them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import main
from neurobundle.commands.check import as_table, check

from ..helpers import Maker, small_datalist
from ..load import faults
from ..load.dicom import make


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["check", *map(str, words)])
    return code, capsys.readouterr().out


def names(findings: list) -> set[str]:
    return {finding.check for finding in findings}


@pytest.mark.parametrize("fault", faults.REFUSED.values(), ids=faults.REFUSED.keys())
def test_each_fault_is_refused_and_the_good_file_is_not(
    fault: faults.Fault, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files, one bad: exit code 3, or 0 where a check of files may let a flat one through."""
    faults.good(tmp_path, "good.nii.gz")
    fault.build(faults.good(tmp_path))
    code, table = said(capsys, tmp_path)
    if "it is 2D" in fault.saying:
        assert code == 0
        return
    assert code == 3
    assert "2 checked: 1 ok, 1 refused" in table


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, tmp_path)[0] == 2
    assert said(capsys, tmp_path / "nowhere")[0] == 2
    assert said(capsys)[0] == 1
    faults.truncated(faults.good(tmp_path))
    assert said(capsys, tmp_path)[0] == 4


def test_nothing_but_other_files_says_what_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    assert main(["check", str(tmp_path)]) == 2
    assert "set aside: 1 .txt, 1 hidden" in caplog.text


def test_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults.good(tmp_path)
    code, text = said(capsys, tmp_path, "--json")
    report = json.loads(text)
    assert report["exit_code"] == code == 0
    (file,) = report["files"]
    assert (file["name"], file["level"], file["facts"]["shape"]) == ("anna.nii.gz", "ok", [6, 7, 8])
    assert file["facts"]["axes"] == "LAS"
    assert file["facts"]["voxel_mm"] == [1.0, 1.0, 3.0]


def test_policies_reach_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults.saved(faults.with_nan)(faults.good(tmp_path))
    assert said(capsys, tmp_path)[0] == 4
    code, table = said(capsys, tmp_path, "--nonfinite", "zero")
    assert code == 0
    assert "2 NaN and 1 infinite voxels" in table


def test_19_values_that_a_label_map_may_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults.saved(lambda data: (data % 3).astype(np.uint8))(faults.good(tmp_path, "anna_seg.nii.gz"))
    assert said(capsys, tmp_path, "--label-values", "0,1,2")[0] == 0
    code, table = said(capsys, tmp_path, "--label-values", "0,1")
    assert code == 4
    assert "labels {2} not in {0..1}" in table


def test_many_good_files_are_one_line(tmp_path: Path) -> None:
    for n in range(45):
        faults.saved(lambda data, n=n: data + n)(faults.good(tmp_path, f"{n}.nii.gz"))
    report = check([tmp_path])
    assert "45 more (--all lists them)" in as_table(report)
    assert len(as_table(report, everything=True).splitlines()) == 46


def test_29_a_gap_is_refused_or_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make.series(tmp_path).files[7].unlink()
    code, table = said(capsys, tmp_path)
    assert code == 4
    assert table.count("gap of 6 mm") == 1
    code, table = said(capsys, tmp_path, "--allow-gaps")
    assert code == 0
    assert table.count("filled by linear interpolation") == 1


@pytest.mark.parametrize("name", ["b\nc.nii.gz", "\x1b[31mred.nii.gz", "bad\udcff.nii.gz", "x" * 200 + ".nii.gz"])
def test_28_odd_names_keep_the_table_a_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults.good(tmp_path).rename(tmp_path / name)
    code, table = said(capsys, tmp_path)
    assert code == 0
    first, last = table.splitlines()
    assert len(first) < 180
    assert first.isprintable()
    assert last == "1 checked: 1 ok"


class TestSets:
    """Files that are good alone."""

    def test_pairs(self, tmp_path: Path, make_pair: Maker) -> None:
        for n in range(4):
            make_pair(tmp_path, f"case_{n}", seed=n)
        (tmp_path / "images/case_0.nii.gz").unlink()
        (tmp_path / "labels/case_1.nii.gz").unlink()
        label = nib.load(tmp_path / "labels/case_2.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(label.dataobj), np.diag([-1, 1, 1, 1])), tmp_path / "labels/case_2.nii.gz")
        table = as_table(check([tmp_path]))
        assert "label without an image" in table
        assert "image without a label" in table
        assert "the label lies elsewhere than its image case_2.nii.gz" in table
        assert "6 checked: 3 ok, 3 refused" in table

    def test_duplicates_by_content(self, tmp_path: Path) -> None:
        """Another name, another compression, another type."""
        faults.good(tmp_path)
        faults.unpacked(faults.good(tmp_path, "bert.nii.gz"))
        faults.saved(lambda data: data.astype(np.int16))(faults.good(tmp_path, "carl.nii.gz"))
        (finding,) = (f for f in check([tmp_path]).findings if f.check == "duplicates")
        assert "there are copies of 1 image: anna.nii.gz = bert.nii = carl.nii.gz" in finding.cause

    def test_types_and_maxima(self, tmp_path: Path) -> None:
        for n in range(6):
            faults.saved(lambda data, n=n: (data + n).astype(np.int16))(faults.good(tmp_path, f"{n}.nii.gz"))
        faults.saved(lambda data: data * 1000)(faults.good(tmp_path, "loud.nii.gz"))
        report = check([tmp_path])
        assert names(report.findings) == {"types", "range"}
        assert "6 int16, 1 float32" in as_table(report)
        assert "1 of 7 images have maxima above" in as_table(report)

    def test_channels_on_several_grids_and_a_mask_in_another_space(self, tmp_path: Path) -> None:
        faults.good(tmp_path, "T1.nii.gz")
        faults.saved(lambda data: data[:-1])(faults.good(tmp_path, "FLAIR.nii.gz"))
        faults.saved(lambda data: (data[:, :-1] > 50).astype(np.uint8))(faults.good(tmp_path, "gt.nii.gz"))
        causes = " ".join(finding.cause for finding in check([tmp_path]).findings)
        assert "lie on 2 grids: 5x7x8 of 1x1x3 mm: FLAIR.nii.gz; 6x7x8 of 1x1x3 mm: T1.nii.gz" in causes
        assert "gt.nii.gz lies on the grid of none of the 2 images" in causes

    def test_negative_voxels_are_said(self, tmp_path: Path) -> None:
        faults.saved(lambda data: data - 10)(faults.good(tmp_path))
        assert "10 voxels are negative, down to -10" in as_table(check([tmp_path]))

    def test_copied_channels(self, tmp_path: Path) -> None:
        """Three channels saved as colours, of which two are the same image."""
        pillow = pytest.importorskip("PIL.Image")
        rng = np.random.default_rng(0)
        for patient, copied in (("a", False), ("b", True)):
            (tmp_path / patient).mkdir()
            for n in range(3):
                picture = rng.integers(0, 255, (16, 16, 3), np.uint8)
                if copied:
                    picture[..., 2] = picture[..., 1]
                pillow.fromarray(picture).save(tmp_path / patient / f"{n}.png")
        (finding,) = (f for f in check([tmp_path]).findings if f.check == "copy")
        assert "channels 1 and 2 are copies of each other in b (3 of 3 pictures)" in finding.cause

    def test_persons_across_folds_of_a_table(self, tmp_path: Path) -> None:
        faults.good(tmp_path)
        rows = [("1", "p", "p", "0"), ("2", "p", "pB", "1"), ("3", "q", "q", "0")]
        with (tmp_path / "index.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "person", "pid", "fold"), *rows])
        causes = " ".join(finding.cause for finding in check([tmp_path]).findings)
        assert "1 of 2 values of 'person' stand in several folds: p" in causes
        assert "1 values of 'person' have several of 'pid': p" in causes


class TestDatalist:
    def test_sound(self, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]) -> None:
        code, table = said(capsys, "--datalist", small_datalist(tmp_path, make_pair))
        assert code == 0
        assert "4 checked: 4 ok" in table

    def test_17_18_19_bad_labels(self, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]) -> None:
        """A flipped label, one of another shape and one with a 7: each named before a training starts."""
        datalist = small_datalist(tmp_path, make_pair)
        for n, change in enumerate((lambda d: d, lambda d: d[1:], lambda d: np.where(d == 2, 7, d).astype(np.uint8))):
            path = tmp_path / f"labels/case_{n}.nii.gz"
            affine = np.diag([-1.0, 1, 1, 1]) if n == 0 else np.eye(4)
            nib.save(nib.Nifti1Image(change(np.asarray(nib.load(path).dataobj)), affine), path)
        code, table = said(capsys, "--datalist", datalist, "--label-values", "0,1,2")
        assert code == 3
        assert "lies elsewhere than its image case_0" in table
        assert "the label has shape (19, 24, 20)" in table
        assert "labels {7} not in {0..2}" in table
        assert "4 checked: 1 ok, 3 refused" in table

    def test_a_subject_and_a_file_in_two_folds(
        self, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each case is good, the split is not: exit code 6."""
        datalist = small_datalist(tmp_path, make_pair)
        content = json.loads(datalist.read_text())
        content["training"][1]["subject"] = content["training"][0]["subject"]
        content["training"][3]["image"] = content["training"][2]["image"]
        content["training"][3]["label"] = content["training"][2]["label"]
        datalist.write_text(json.dumps(content))
        code, table = said(capsys, "--datalist", datalist)
        assert code == 6
        assert "the subject 'person-0' is in two sides" in table
        assert "the same content is in two sides: case_2" in table

    def test_a_test_section_does_not_hide_the_folds(
        self, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        datalist = small_datalist(tmp_path, make_pair, cases=5)
        content = json.loads(datalist.read_text())
        held = content["training"].pop()
        content["test"] = [{**held, "subject": content["training"][0]["subject"]}]
        del content["test"][0]["fold"]
        datalist.write_text(json.dumps(content))
        code, table = said(capsys, "--datalist", datalist)
        assert code == 6
        assert "the subject 'person-0' is in two sides" in table

    def test_classes_as_labels(self, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]) -> None:
        """Where a label is a number, its image is checked all the same."""
        datalist = small_datalist(tmp_path, make_pair)
        content = json.loads(datalist.read_text())
        for entry in content["training"]:
            entry["label"] = 1
        datalist.write_text(json.dumps(content))
        faults.truncated(tmp_path / "images/case_2.nii.gz")
        code, table = said(capsys, "--datalist", datalist)
        assert code == 3
        assert "4 checked: 3 ok, 1 refused" in table

    def test_no_cases(self, tmp_path: Path) -> None:
        (tmp_path / "d.json").write_text('{"training": []}')
        assert main(["check", "--datalist", str(tmp_path / "d.json")]) == 2

    def test_options_that_would_do_nothing(self, tmp_path: Path, make_pair: Maker) -> None:
        datalist = small_datalist(tmp_path, make_pair)
        assert main(["check", "--datalist", str(datalist), "--form", "qform"]) == 1

    def test_missing_files(self, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]) -> None:
        datalist = small_datalist(tmp_path, make_pair)
        (tmp_path / "images/case_1.nii.gz").unlink()
        code, table = said(capsys, "--datalist", datalist)
        assert code == 3
        assert "there is no such file" in table


def test_it_is_a_light_door(tmp_path: Path) -> None:
    faults.good(tmp_path)
    code = (
        "import sys; from neurobundle.cli import main as m; m(['check', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "dirt"),
    [
        (
            "hippocampus",
            [
                "refuse  dirty/images/hippocampus_118",
                "refuse  dirty/labels/hippocampus_281.nii.gz  512x512x94",
                "159 float32, 44 uint8",
                "24 of 203 images have maxima above",
            ],
        ),
        ("ms_lesions", ["LAS  float32  qform 1", "voxels are negative, down to -75.2799"]),
        ("ms_lesions_raw", ["the 6 images of patient01 lie on 6 grids", "gt.nii.gz lies on the grid of none"]),
        ("labelmaps", ["LIA  int32", "11 int32, 3 float32"]),
        ("ce_mri", ["values of 'person' stand in several folds", "values of 'person' have several of 'pid'"]),
        ("lgg", ["channels 0, 1 and 2 are copies of each other in TCGA_FG_A60K", "channels 1 and 2 are copies"]),
        ("no_tumour_2d", ["1402 checked: 1402 ok"]),
        ("br35h_boxes", ["500 checked: 500 ok"]),
        ("dicom", ["64x64x15", "_t-010", "96x96x40", "raw data", "PIR"]),
    ],
)
def test_real_sets_and_their_published_dirt(folder: str, dirt: list[str], real_data: Path) -> None:
    table = as_table(check([real_data / folder]), everything=folder == "labelmaps")
    for saying in dirt:
        assert saying in table
