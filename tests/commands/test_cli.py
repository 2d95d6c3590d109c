import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import main, parser
from neurobundle.networks.manifest import sha256_of

from ..conftest import BUNDLES
from ..helpers import TINY, Maker, small_datalist

COMMANDS = (
    *(
        "list",
        "info",
        "check",
        "convert",
        "run",
        "train",
        "evaluate",
        "compare",
        "crossval",
        "calibrate",
        "card",
        "split",
        "doctor",
        "audit",
    ),
    *("prepare", "synthesize", "new", "demo", "strip", "stack", "reproduce"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    example = capsys.readouterr().out.split("example: neurobundle ")[1].strip()
    assert parser().parse_args(shlex.split(example)).command == command


def test_a_usage_error_is_1() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 1


def test_list_names_every_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == {path.name for path in BUNDLES}


def test_info_states_the_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "hippocampus_segmentation"]) == 0
    shown = capsys.readouterr().out
    assert "CC-BY-SA-4.0" in shown
    assert "Apache-2.0" in shown
    assert "Not for diagnosis" in shown


def test_print_command_is_a_stock_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["run", "hippocampus_segmentation", "-i", "scans", "-o", "out", "--set", "fold=1", "--print-command"]) == 0
    )
    words = shlex.split(capsys.readouterr().out)
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    assert words[words.index("--dataset_dir") + 1] == "scans"
    assert words[words.index("--fold") + 1] == "1"


def test_train_evaluate_crossval(tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """A fold, its scores, and then both folds pooled; a finished training is not repeated."""
    data = small_datalist(tmp_path, make_pair)
    settings = ["--device", "cpu", "--set", *(f"{name}={value}" for name, value in TINY.items())]
    name = "hippocampus_segmentation"
    for fold in (0, 1):
        out = tmp_path / "cv" / f"fold{fold}"
        assert main(["train", name, "--data", str(data), "-o", str(out), "--fold", str(fold), *settings]) == 0
    weights = tmp_path / "cv" / "fold1" / "final.pt"
    before = weights.stat().st_mtime
    words = ["evaluate", name, "--data", str(data), "-o", str(tmp_path / "e"), "--fold", "1", "--weights", str(weights)]
    assert main([*words, *settings]) == 0
    table = (tmp_path / "e" / "per_case.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in table] == ["case", "case_1", "case_1", "case_3", "case_3"]
    assert {path.name for path in (tmp_path / "e" / "predictions").iterdir()} == {
        "case_1_seg.nii.gz",
        "case_3_seg.nii.gz",
    }
    capsys.readouterr()
    assert main(["crossval", name, "--data", str(data), "-o", str(tmp_path / "cv"), *settings]) == 0
    assert capsys.readouterr().out.startswith("4 cases; means with 95 % intervals")
    summary = json.loads((tmp_path / "cv" / "summary.json").read_text())
    assert summary["n_cases"] == 4
    assert set(summary["folds"]) == {"0", "1"}
    assert summary["calibration"]["all"]["n_cases"] == 4
    assert summary["weights"]["fold 1"] == sha256_of(weights)
    assert (tmp_path / "cv" / "report.html").exists()
    assert weights.stat().st_mtime == before


def test_a_fold_that_is_not_there(tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture) -> None:
    data = small_datalist(tmp_path, make_pair)
    words = ["train", "hippocampus_segmentation", "--data", str(data), "-o", str(tmp_path / "out"), "--fold", "7"]
    assert main(words) == 1
    assert "there is no fold 7" in caplog.text
    assert not (tmp_path / "out").exists()


TINY_WORDS = ["--device", "cpu", "--set", *(f"{name}={value}" for name, value in TINY.items())]


def spoiled(folder: Path, make_pair: Maker) -> Path:
    """A datalist of four, of which case_1 has a label of 7 (fault 19)."""
    data = small_datalist(folder, make_pair)
    label = nib.load(folder / "labels" / "case_1.nii.gz")
    nib.save(nib.Nifti1Image(np.full(label.shape, 7, np.uint8), label.affine), folder / "labels" / "case_1.nii.gz")
    return data


def test_a_bad_label_stops_a_training_before_it_starts_19(
    tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data = spoiled(tmp_path, make_pair)
    words = ["train", "hippocampus_segmentation", "--data", str(data), "-o", str(tmp_path / "out"), *TINY_WORDS]
    assert main(words) == 4
    assert "ERROR case_1 " in caplog.text
    assert "labels {7} not in {0..2}" in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_bad_case_counts_as_missed_and_the_others_are_scored(
    tmp_path: Path, make_pair: Maker, tiny_bundle: Path
) -> None:
    data = spoiled(tmp_path, make_pair)
    words = ["evaluate", str(tiny_bundle), "--data", str(data), "-o", str(tmp_path / "e"), "--fold", "1"]
    assert main([*words, *TINY_WORDS]) == 3
    rows = [row.split(",") for row in (tmp_path / "e" / "per_case.csv").read_text().splitlines()[1:]]
    assert [(row[0], row[-1] == "failed") for row in rows] == [
        ("case_3", False),
        ("case_3", False),
        ("case_1", True),
        ("case_1", True),
    ]
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert "case_1.nii.gz: labels {7} not in {0..2}" in summary["failed"]["case_1"]
    assert summary["structures"]["anterior"]["n_failed"] == 1
    assert summary["n_cases"] == 2
    assert float(rows[-1][3]) == pytest.approx(np.sqrt(20**2 + 24**2 + 20**2), abs=1e-4), "the image's diagonal"


def test_smoke_evaluates_two_cases(tmp_path: Path, make_pair: Maker, tiny_bundle: Path) -> None:
    data = small_datalist(tmp_path, make_pair, cases=6)
    words = ["evaluate", str(tiny_bundle), "--data", str(data), "-o", str(tmp_path / "e"), "--config", "smoke"]
    assert main([*words, "--device", "cpu", "--set", "window=[16,16,16]"]) == 0
    assert len((tmp_path / "e" / "per_case.csv").read_text().splitlines()) == 1 + 2 * 2


def test_an_evaluation_is_on_the_native_grid(tmp_path: Path, make_pair: Maker, tiny_bundle: Path) -> None:
    """Cases stored in another order of axes and with other voxels get label maps of that very grid."""
    data = small_datalist(tmp_path, make_pair)
    for folder in ("images", "labels"):
        path = tmp_path / folder / "case_1.nii.gz"
        scan = nib.load(path)
        turned = nib.Nifti1Image(np.asarray(scan.dataobj)[::-1, :, ::2], np.diag([-1.0, 1.0, 2.0, 1.0]))
        nib.save(turned, path)
    words = ["evaluate", str(tiny_bundle), "--data", str(data), "-o", str(tmp_path / "e"), "--fold", "1"]
    assert main([*words, *TINY_WORDS]) == 0
    truth = nib.load(tmp_path / "labels" / "case_1.nii.gz")
    found = nib.load(tmp_path / "e" / "predictions" / "case_1_seg.nii.gz")
    assert found.shape == truth.shape
    assert np.allclose(found.affine, truth.affine)


def test_crossval_refuses_a_folder_of_other_settings(
    tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data = small_datalist(tmp_path, make_pair)
    (tmp_path / "cv").mkdir()
    (tmp_path / "cv" / "crossval.json").write_text("{}")
    words = ["crossval", "hippocampus_segmentation", "--data", str(data), "-o", str(tmp_path / "cv"), *TINY_WORDS]
    assert main(words) == 1
    assert "other settings" in caplog.text


def test_printed_values_are_read_back_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    """MONAI reads them with fire, to which ``false`` is a text, and a true one."""
    words = ["run", "hippocampus_segmentation", "-i", "x", "-o", "out", "--set", "amp=false", "max_cases=null"]
    assert main([*words, "--print-command"]) == 0
    shown = shlex.split(capsys.readouterr().out)
    assert shown[shown.index("--amp") + 1] == "False"
    assert shown[shown.index("--max_cases") + 1] == "None"


def test_a_second_training_does_not_overwrite_the_first(
    tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data = small_datalist(tmp_path, make_pair)
    words = ["train", "hippocampus_segmentation", "--data", str(data), "-o", str(tmp_path / "out"), *TINY_WORDS]
    assert main(words) == 0
    assert main(words) == 1
    assert "holds a training already" in caplog.text
    assert main([*words, "--config", "resume"]) == 0


def test_an_evaluation_names_its_weights(
    tmp_path: Path, make_pair: Maker, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And warns where they may have seen the cases."""
    data = small_datalist(tmp_path, make_pair)
    words = ["evaluate", str(tiny_bundle), "--data", str(data), "-o", str(tmp_path / "e"), *TINY_WORDS]
    assert main(words) == 0
    assert "may have been trained on these cases" in caplog.text
    assert json.loads((tmp_path / "e" / "summary.json").read_text())["weights"]["file"] == "model.pt"


def test_a_value_of_the_wrong_kind_says_what_was_wrong(
    tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    data = small_datalist(tmp_path, make_pair)
    words = ["train", "hippocampus_segmentation", "--data", str(data), "-o", str(tmp_path / "out"), *TINY_WORDS]
    assert main([*words, "learning_rate=-1"]) == 1
    assert "Invalid learning rate: -1" in caplog.text
    assert "_mode_" not in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "in", "-o", "out", "--channels", "T1,FLAIR", "--4d"],
        ["check", "in", "--channels", "T1,FLAIR", "--label-values", "0,1"],
    ],
    ids=["4d", "label-values"],
)
def test_what_means_nothing_for_channels_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert "means nothing with --channels" in capsys.readouterr().err
