import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.detection_evaluation import DetectionEvaluation

A, B = [0, 0, 2, 2], [10, 10, 12, 12]


def filled() -> DetectionEvaluation:
    evaluation = DetectionEvaluation(["tumour", "cyst"])
    evaluation.add("anna", [A, B], ["tumour", 1], np.array([A, A]), [0, 0], [0.9, 0.6], subject="s1")
    evaluation.add("bert", [], [], [B], ["cyst"], [0.4], subject="s1")
    evaluation.add_failed("carl", [A], [0])
    evaluation.add("dora", [A, B], [0, 0], [A, B], [0, 0], [0.9, 0.9], ignored=[False, True])
    return evaluation


def test_a_row_an_image(tmp_path: Path) -> None:
    """The second box on A is false, the one of a low score does not count, an ignored one is no box."""
    filled().write(tmp_path)
    assert (tmp_path / "per_case.csv").read_text() == (
        "case,subject,n_boxes,n_found,n_missed,n_false,status\n"
        "anna,s1,2,1,1,1,ok\n"
        "bert,s1,0,0,0,0,ok\n"
        "carl,carl,1,0,1,0,failed\n"
        "dora,dora,1,1,0,0,ok\n"
    )


def test_the_summary_holds_scores_and_facts(tmp_path: Path) -> None:
    summary = filled().write(tmp_path, {"weights": "model.pt"})
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["task"], summary["n_images"], summary["n_boxes"], summary["n_failed"]) == ("detection", 4, 4, 1)
    assert summary["recall"]["mean"] == 0.5
    assert summary["precision"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert summary["weights"] == "model.pt"
    assert "neurobundle" in summary["versions"]
    assert "model.pt" in (tmp_path / "report.html").read_text()


def test_the_table_and_the_summary_agree(tmp_path: Path) -> None:
    summary = filled().write(tmp_path)
    rows = [line.split(",") for line in (tmp_path / "per_case.csv").read_text().splitlines()[1:]]
    n_boxes, n_found, n_missed, n_false = (sum(int(row[k]) for row in rows) for k in range(2, 6))
    assert n_boxes == n_found + n_missed == summary["n_boxes"]
    assert summary["recall"]["mean"] == n_found / n_boxes
    assert summary["precision"]["mean"] == pytest.approx(n_found / (n_found + n_false), abs=1e-6)


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        filled().write(tmp_path / folder)
    for name in ("per_case.csv", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_thresholds_are_used_and_stated(tmp_path: Path) -> None:
    evaluation = DetectionEvaluation(["tumour"], iou_threshold=0.1, score_threshold=0.3)
    evaluation.add("anna", [[0, 0, 0, 2, 2, 2]], [0], [[0, 0, 1, 2, 2, 3]], [0], [0.3])
    summary = evaluation.write(tmp_path)
    assert (summary["iou_threshold"], summary["score_threshold"]) == (0.1, 0.3)
    assert (summary["recall"]["mean"], summary["map50"]["mean"]) == (1.0, 0.0)


def test_a_failed_image_lowers_recall() -> None:
    evaluation = DetectionEvaluation(["tumour"])
    evaluation.add("anna", [A], [0], [A], [0], [0.9])
    before = evaluation.score()
    evaluation.add_failed("bert", [B], [0])
    after = evaluation.score()
    for name in ("map50", "map50_95", "recall", "f1"):
        assert after[name]["mean"] < before[name]["mean"] == 1
    assert after["froc"]["score"] < before["froc"]["score"] == 1


def test_an_evaluation_without_an_image_is_written(tmp_path: Path) -> None:
    assert DetectionEvaluation(["tumour"]).write(tmp_path)["map50"]["mean"] is None


def test_an_image_can_be_added_once() -> None:
    evaluation = filled()
    with pytest.raises(InputError, match="added twice") as caught:
        evaluation.add_failed("anna", [], [])
    assert caught.value.case == "anna"
    with pytest.raises(InputError, match="no name"):
        evaluation.add("", [], [], [], [], [])
    assert len(evaluation.images) == 4


@pytest.mark.parametrize("truth", ["tumor", 2, -1, "2"])
def test_an_unknown_class(truth: Any) -> None:
    evaluation = filled()
    with pytest.raises(InputError, match="there is no class") as caught:
        evaluation.add("emil", [A], [truth], [], [], [])
    assert ("did you mean 'tumour'?" in str(caught.value)) == (truth == "tumor")
    with pytest.raises(InputError, match="there is no class"):
        evaluation.add("emil", [], [], [A], [truth], [0.5])
    assert "emil" not in evaluation.images


def test_boxes_that_are_none_leave_no_trace() -> None:
    evaluation = filled()
    with pytest.raises(InputError, match=r"emil.*is none"):
        evaluation.add("emil", [[2, 2, 0, 0]], [0], [], [], [])
    evaluation.add("emil", [[0, 0, 2, 2]], [0], [], [], [])


def test_settings_are_refused_at_once() -> None:
    with pytest.raises(SettingError, match="iou_threshold"):
        DetectionEvaluation(["tumour"], iou_threshold=50)
    with pytest.raises(SettingError, match="score_threshold"):
        DetectionEvaluation(["tumour"], score_threshold=math.nan)
    with pytest.raises(SettingError, match="classes"):
        DetectionEvaluation([])
    with pytest.raises(SettingError, match="classes"):
        DetectionEvaluation(["tumour", "tumour"])


def test_evaluations_are_light() -> None:
    modules = "neurobundle.measure.detection_evaluation, neurobundle.measure.classification_evaluation"
    code = f"import sys, {modules}; print({{'torch', 'monai', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
