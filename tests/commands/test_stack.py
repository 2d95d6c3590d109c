"""Pictures in, NIfTI cases and a datalist out."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobundle.cli.console import Parser
from neurobundle.cli.stack import add_stack
from neurobundle.commands.stack import deal, stack
from neurobundle.errors import SettingError
from neurobundle.load.datalist import read_datalist

from ..load.test_picture_stacks import write_stack


def data_set(folder: Path, cases: int = 4) -> Path:
    """Heads of three channels, of which the last case lacks T1; two sites."""
    rng = np.random.default_rng(0)
    rows = ["patient,site"]
    for n in range(cases):
        slices = rng.integers(1, 255, (3, 8, 10, 3), np.uint8)
        if n == cases - 1:
            slices[..., 0] = slices[..., 1]
        write_stack(folder / f"case_{n}", slices, np.where(slices[..., 1] > 128, 255, 0).astype(np.uint8))
        rows.append(f"case_{n},{'north' if n % 2 else 'south'}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def words(data: Path, out: Path, *more: str) -> argparse.Namespace:
    parser = Parser(prog="neurobundle")
    add_stack(parser.add_subparsers(parser_class=Parser))
    text = ["--channels", "T1,FLAIR,T1c", "--order", "T1,T1c,T2,FLAIR", "--reference", "FLAIR", "--spacing", "1,1,6"]
    return parser.parse_args(["stack", str(data), "-o", str(out), *text, *more])


def run(data: Path, out: Path, *more: str) -> int:
    options = words(data, out, *more)
    return int(options.function(options))


def test_cases_and_a_datalist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = data_set(tmp_path / "data"), tmp_path / "out"
    assert run(data, out, "--group", "site", "--folds", "2") == 0
    assert "4 cases stacked, 0 failed" in capsys.readouterr().out
    items = read_datalist(out / "datalist.json", need_fold=True)
    assert [item["case"] for item in items] == [f"case_{n}" for n in range(4)]
    for item in items:
        channels = [nib.load(path) for path in item["image"]]
        assert [scan.shape for scan in channels] == [(10, 8, 3)] * 4
        assert [bool(np.asarray(scan.dataobj).any()) for scan in channels] == [
            item["case"] != "case_3",
            True,
            False,
            True,
        ]
        assert nib.aff2axcodes(channels[0].affine) == ("R", "A", "S")
        assert channels[0].header.get_zooms() == (1, 1, 6)
        flair, label = np.asarray(channels[3].dataobj), np.asarray(nib.load(item["label"]).dataobj)
        assert np.array_equal(label, flair > 128)
    facts = json.loads((out / "stack.json").read_text())["cases"]
    assert sorted((facts[item["case"]]["group"], item["fold"]) for item in items) == [
        *(("north", 0), ("north", 1), ("south", 0), ("south", 1))
    ]
    assert facts["case_3"]["copies"] == ["T1"]
    assert facts["case_0"]["spacing"] == "given"


def test_a_study_a_folder_without_what_is_absent(tmp_path: Path) -> None:
    """What `neurobundle run` shall read has no file for a channel that is not there."""
    out = tmp_path / "out"
    run(data_set(tmp_path / "data"), out)
    assert {path.name for path in (out / "cases" / "case_3").iterdir()} == {
        *("case_3_T1c.nii.gz", "case_3_FLAIR.nii.gz", "case_3_seg.nii.gz")
    }


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    for name in ("a", "b"):
        run(data, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 2 + 4 * (3 + 1) - 1 + 4, "two lists, channels and masks, one channel less, zeros for T2"
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_bad_case_is_named_and_the_others_are_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, out = data_set(tmp_path / "data"), tmp_path / "out"
    (data / "case_1" / "case_1_2.png").unlink()
    assert run(data, out) == 3
    assert "ERROR case_1 " in caplog.text
    assert [item["case"] for item in read_datalist(out / "datalist.json")] == ["case_0", "case_2", "case_3"]
    assert "missing" in json.loads((out / "stack.json").read_text())["failed"]["case_1"]


def test_a_group_a_fold() -> None:
    """To leave out one site at a time."""
    assert deal({"a": "south", "b": "north", "c": "south"}, 0) == {"a": 1, "b": 0, "c": 1}


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--folds", "1"], "no 1 folds"),
        (["--folds", "0"], "no 0 folds"),
        (["--group", "sight"], "did you mean 'site'"),
        (["--group", "site", "--index", "nowhere.csv"], "a table"),
        (["--spacing", "1,1"], "wants 3 numbers"),
        (["--scale", "1,x"], "wants 2 numbers"),
        (["--order", "T1,T2,FLAIR"], "'T1c' is a channel and not in the order"),
        (["--channels", "T1,FLAIR,T1"], "named twice"),
    ],
)
def test_settings_that_mean_nothing(more: list[str], cause: str, tmp_path: Path) -> None:
    data, out = data_set(tmp_path / "data"), tmp_path / "out"
    with pytest.raises(SettingError, match=cause):
        run(data, out, *more)
    assert not out.exists()


def test_the_output_is_not_put_into_the_data(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    with pytest.raises(SettingError, match="lies in the data"):
        stack(data, data / "out", ["T1", "FLAIR", "T1c"])


def test_the_example_of_the_help_parses(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="neurobundle")
    add_stack(parser.add_subparsers(parser_class=Parser))
    with pytest.raises(SystemExit):
        parser.parse_args(["stack", "--help"])
    example = capsys.readouterr().out.split("example: neurobundle ")[1].strip()
    assert parser.parse_args(shlex.split(example)).command == "stack"


def test_a_real_head_has_the_size_of_one(real_data: Path, tmp_path: Path) -> None:
    """Within a quarter of what scanners give: 230 mm over 256 pixels, 6.5 mm a slice where there are 20 to 24."""
    folder = sorted((real_data / "lgg").glob("TCGA_HT_7690*"))
    if not folder:
        pytest.skip("the lower-grade gliomas are not here")
    report = stack(folder[0], tmp_path / "out", ["T1", "FLAIR", "T1c"], reference="FLAIR")
    (facts,) = report.cases.values()
    assert facts["spacing_mm"] == pytest.approx([0.9, 0.9, 6.5], rel=0.25)
    assert facts["spacing"] == "estimated from the head"


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    write_stack(tmp_path / "data" / "anna", np.full((2, 6, 6), 90, np.uint8))
    Image.fromarray(np.full((6, 6), 30, np.uint8)).save(tmp_path / "data" / "anna" / "anna_2.png")
    stack(tmp_path / "data", tmp_path / "out", ["T1c"], spacing_mm=(1, 1, 5))
    (item,) = read_datalist(tmp_path / "out" / "datalist.json")
    assert "label" not in item
    assert sorted(np.unique(np.asarray(nib.load(item["image"][0]).dataobj))) == [30, 90]
