"""What is read, refused, printed and written; the measuring is in tests/measure/test_comparison.py."""

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from neurobundle.cli import main
from neurobundle.commands.compare import RunComparison, compare
from neurobundle.errors import InputError, NoInputError
from neurobundle.measure.classification_evaluation import ClassificationEvaluation
from neurobundle.measure.comparison import ComparisonRow, compare_scores
from neurobundle.measure.tables import read_scores

NEEDED = ("case", "structure", "dice", "hd95_mm", "nsd", "volume_ml", "reference_ml")
COLUMNS = (*NEEDED, "volume_error_ml", "subject", "status")
OLD_COLUMNS = (*NEEDED, "status")
METRICS = ["dice", "nsd", "hd95_mm", "abs_volume_error_ml", "found"]
DIAGONAL = 100.0


def row(case: str, dice: float | str, status: str = "ok", structure: str = "lesion", **more: Any) -> dict[str, Any]:
    """A line of per_case.csv whose other scores follow from its Dice."""
    line = {"case": case, "subject": case, "structure": structure, "status": status, "dice": dice}
    line |= {"hd95_mm": "", "nsd": dice, "volume_ml": 2, "reference_ml": 2, "volume_error_ml": 0}
    if dice != "":
        line["hd95_mm"] = DIAGONAL * (1 - float(dice))
        line |= {"volume_ml": 1 + float(dice), "volume_error_ml": float(dice) - 1}
    return line | more


def run(folder: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "per_case.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def answers(folder: Path, correct: Mapping[str, Any], **more: Any) -> Path:
    columns = ("case", "subject", "truth", "prediction", "correct")
    rows = [
        {"case": c, "subject": c, "truth": "ad", "prediction": "x", "correct": v} | more for c, v in correct.items()
    ]
    return run(folder, rows, columns)


def row_of(result: RunComparison, metric: str, structure: str = "lesion") -> ComparisonRow:
    return next(line for line in result.rows if (line.structure, line.metric) == (structure, metric))


def test_segmentations(tmp_path: Path) -> None:
    """The rows are those of the scores in the tables."""
    a = run(tmp_path / "a", [row(f"c{n}", 0.9 + n / 100) for n in range(6)])
    b = run(tmp_path / "b", [row(f"c{n}", 0.8) for n in range(6)])
    result = compare(a, b)
    assert (result.task, result.run_a, result.run_b) == ("segmentation", str(a), str(b))
    assert [line.metric for line in result.rows] == METRICS
    assert row_of(result, "dice").difference == pytest.approx(0.125)
    assert row_of(result, "abs_volume_error_ml").mean_b == pytest.approx(0.2)
    assert result.rows == compare_scores(*(read_scores(folder / "per_case.csv")[0] for folder in (a, b))).rows


def test_the_same_folder_twice(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", 0.9), row("y", 0.8), row("z", "", "empty", volume_ml=0, reference_ml=0)])
    result = compare(a, a)
    assert all((line.difference, line.p, line.effect_size, line.better) == (0, 1, 0, "-") for line in result.rows)
    assert (result.n_empty, len(result.rows)) == (1, 5)


def test_classifications(tmp_path: Path) -> None:
    """A alone is right four times, B once: p = 12/32; a failed case has no answer and is wrong."""
    a = answers(tmp_path / "a", {"u": True, "v": "True", "w": 1, "x": "1", "y": False, "z": "true"})
    b = answers(tmp_path / "b", {"u": False, "v": "", "w": 0, "x": "false", "y": True, "z": "TRUE"})
    result = compare(a, b)
    (line,) = result.rows
    assert (result.task, line.structure, line.metric, line.n) == ("classification", "all", "accuracy", 6)
    assert (line.mean_a, line.mean_b) == (pytest.approx(5 / 6), pytest.approx(2 / 6))
    assert (line.p, line.effect_size) == (pytest.approx(12 / 32), pytest.approx(3 / 5))
    assert "McNemar" in result.as_table()
    assert "Wilcoxon" not in result.as_table()


def test_what_an_evaluation_of_classes_wrote(tmp_path: Path) -> None:
    """One of three is right in A, all in B, and a failed case is wrong in both."""
    for name, found in (("a", ["none", "none", "none"]), ("b", ["none", "ad", "ad"])):
        evaluation = ClassificationEvaluation(["none", "ad"])
        for n, (truth, answer) in enumerate(zip(["none", "ad", "ad"], found, strict=True)):
            evaluation.add_prediction(f"c{n}", truth, answer)
        evaluation.add_failed("lost", 1)
        evaluation.write(tmp_path / name)
    (line,) = compare(tmp_path / "a", tmp_path / "b").rows
    assert (line.n, line.mean_a, line.mean_b) == (4, 0.25, 0.75)


def test_an_old_table_against_a_new_one(tmp_path: Path) -> None:
    """It names no subjects and has no iou: the metrics of both are compared, by the other's subjects."""
    rows = [row("x", 0.9, subject="anna", iou=0.8), row("y", 0.7, subject="anna", iou=0.5)]
    old, new = run(tmp_path / "old", rows, OLD_COLUMNS), run(tmp_path / "new", rows, (*COLUMNS, "iou"))
    better = run(tmp_path / "better", [row("x", 1.0, subject="anna"), row("y", 0.7, subject="anna")])
    assert [line.metric for line in compare(old, new).rows] == METRICS
    assert row_of(compare(new, new), "iou").mean_a == pytest.approx(0.65)
    for pair in ((better, old), (old, better)):
        assert math.isnan(row_of(compare(*pair), "dice").low), "one subject: nothing to resample"
    alone = run(tmp_path / "alone", [row("x", 1.0), row("y", 0.7)], OLD_COLUMNS)
    assert row_of(compare(alone, old), "dice").low == 0, "nobody names a subject: each case is one"


def test_different_rules_are_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """NSD at 1 mm and at 2 mm have one name, and so have lesions of two sizes; an older summary has one tolerance."""
    columns = (*COLUMNS, "lesion_dice", "nsd_2mm")
    a, b = (run(tmp_path / name, [row("x", 0.9, lesion_dice=0.5, nsd_2mm=1)], columns) for name in "ab")

    def metrics(of_a: str, of_b: str) -> set[str]:
        (a / "summary.json").write_text(of_a)
        (b / "summary.json").write_text(of_b)
        return {line.metric for line in compare(a, b).rows} & {"nsd", "nsd_2mm", "lesion_dice"}

    same = '{"nsd_tolerances_mm": [1.0, 2.0], "lesion_rule": {"dilation": 3}}'
    assert metrics(same, same) == {"nsd", "nsd_2mm", "lesion_dice"}
    assert metrics(same, '{"nsd_tolerance_mm": 1.0}') == {"nsd", "nsd_2mm", "lesion_dice"}
    assert not caplog.text
    assert metrics(same, '{"nsd_tolerance_mm": 2.0}') == {"nsd_2mm", "lesion_dice"}
    assert "nsd: measured with 1.0 in A and 2.0 in B, and left out" in caplog.text
    assert metrics(same, '{"lesion_rule": {"dilation": 0}}') == {"nsd", "nsd_2mm"}


@pytest.mark.parametrize("text", ["[]", "{", '{"nsd_tolerances_mm": []}', '{"nsd_tolerances_mm": 1}'])
def test_a_summary_that_is_none(text: str, tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", 0.9)])
    (a / "summary.json").write_text(text)
    with pytest.raises(InputError, match="no summary") as caught:
        compare(a, a)
    assert caught.value.file.endswith("summary.json")


def test_files(tmp_path: Path) -> None:
    """The same rows in both, the same bytes each time; a table may be given itself."""
    a = run(tmp_path / "a", [row(f"c{n}", 0.9) for n in range(40)])
    b = run(tmp_path / "b", [row(f"c{n}", 0.8) for n in range(40)])
    result = compare(a, b, tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored == result.as_json()
    assert list(stored)[:3] == ["task", "run_a", "run_b"]
    assert [line["metric"] for line in lines] == [line["metric"] for line in stored["rows"]] == METRICS
    assert lines[0]["better"] == stored["rows"][0]["better"] == "A"
    assert float(lines[0]["p"]) == stored["rows"][0]["p"] == pytest.approx(2 / 2**40, rel=1e-3, abs=0)
    first = (tmp_path / "out" / "comparison.csv").read_bytes()
    again = compare(a / "per_case.csv", b / "per_case.csv", tmp_path / "out")
    assert again.rows == result.rows
    assert (tmp_path / "out" / "comparison.csv").read_bytes() == first


def test_no_interval_is_a_blank(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", 0.9)])
    compare(a, a, tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open() as file:
        assert next(csv.DictReader(file))["low"] == ""
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]["low"] is None


def test_a_table_for_the_terminal(tmp_path: Path) -> None:
    """Aligned, and narrow even with long names and large numbers."""
    columns = (*COLUMNS, "lesion_hd95_mm")
    rows = [row(f"c{n}", 0.1, structure="a structure with a very long name", lesion_hd95_mm=900 + n) for n in range(9)]
    far = [line | {"lesion_hd95_mm": 1, "volume_ml": 1236.5} for line in rows]
    a = run(tmp_path / ("a" * 120), rows, columns)
    text = compare(a, run(tmp_path / "b", far, columns)).as_table()
    lines = text.splitlines()
    assert max(map(len, lines)) < 120
    header = next(line for line in lines if line.startswith("structure"))
    table = lines[lines.index(header) + 1 : lines.index(header) + 7]
    assert [line.split()[4] for line in table] == [*METRICS[:-1], "lesion_hd95_mm", "found"]
    assert "".join(line[header.index("better") :] for line in table) == "---AB-"
    assert all(line.startswith("a structure with ...") for line in table)
    assert "9 cases in both, 0 in A only, 0 in B only" in text


def test_nothing_to_test_has_a_table(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", "", "empty", volume_ml=0, reference_ml=0)])
    result = compare(a, a, tmp_path / "out")
    assert (result.rows, result.n_empty) == ([], 1)
    assert "structure" in result.as_table()


def test_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    a = run(tmp_path / "a", [row("x", 0.9), row("only", 0.9)])
    b = run(tmp_path / "b", [row("x", 0.8)])
    with caplog.at_level(logging.WARNING):
        assert main(["compare", str(a), str(b), "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)
    assert (stored["run_b"], stored["only_in_a"], stored["rows"][0]["difference"]) == (str(b), ["only"], 0.1)
    assert "1 cases are in A only, and are left out: only" in caplog.text
    assert main(["compare", str(a), str(b)]) == 0
    assert "abs_volume_error_ml" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "RUN_B another one: segmentations, or classes (by accuracy)" in said


def test_different_references_are_refused(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", [row("w", 0.9), row("x", 0.9)]), run(tmp_path / "b", [row("x", 0.9, reference_ml=2.01)])
    with pytest.raises(InputError, match=r"volume in ml of lesion is 2 in A and 2\.01 in B") as caught:
        compare(a, b)
    assert caught.value.case == "x"


def test_different_truths_are_refused(tmp_path: Path) -> None:
    a, b = answers(tmp_path / "a", {"x": True}), answers(tmp_path / "b", {"x": True}, truth="healthy")
    with pytest.raises(InputError, match="truth is ad in A and healthy in B") as caught:
        compare(a, b)
    assert caught.value.case == "x"


def test_tasks_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classification"):
        compare(run(tmp_path / "a", [row("x", 0.9)]), answers(tmp_path / "b", {"x": True}))


def test_boxes_are_refused(tmp_path: Path) -> None:
    """As A and as B, whatever the other is."""
    columns = ("case", "subject", "n_boxes", "n_found", "n_missed", "n_false", "status")
    boxes = run(tmp_path / "boxes", [dict.fromkeys(columns, 1)], columns)
    a = run(tmp_path / "a", [row("x", 0.9)])
    for pair in ((boxes, boxes), (boxes, a), (a, boxes)):
        with pytest.raises(InputError, match="it is of a detection, and boxes cannot be compared yet") as caught:
            compare(*pair)
        assert caught.value.file == str(boxes / "per_case.csv")
        assert caught.value.way_out


def test_nothing_in_common(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", 0.9)])
    with pytest.raises(NoInputError, match="no case in common"):
        compare(a, run(tmp_path / "b", [row("y", 0.9)]))
    with pytest.raises(NoInputError, match="A scores lesion; B scores core"):
        compare(a, run(tmp_path / "b", [row("x", 0.9, structure="core")]))
    with pytest.raises(NoInputError, match="no case in common"):
        compare(answers(tmp_path / "c", {"x": True}), answers(tmp_path / "d", {"y": True}))
    with pytest.raises(NoInputError, match="no such table"):
        compare(a, tmp_path)
    with pytest.raises(NoInputError, match="no such table"):
        compare(tmp_path / "nowhere.csv", a)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("x", 0.9) | {"dice": "inf"}], "dice is infinite"),
        ([row("x", 0.9, status="fine")], "status is 'fine'"),
        ([row("x", 0.9), row("x", 0.9)], "two rows 'x lesion'"),
    ],
)
def test_cells_that_cannot_be_used(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    good = run(tmp_path / "good", [row("x", 0.9)])
    with pytest.raises(InputError, match=said) as caught:
        compare(good, run(tmp_path / "bad", rows))
    assert (caught.value.case, caught.value.file) == ("x", str(tmp_path / "bad" / "per_case.csv"))


def test_a_cell_that_is_no_number(tmp_path: Path) -> None:
    good, bad = run(tmp_path / "good", [row("x", 0.9)]), run(tmp_path / "bad", [row("x", 0.9) | {"dice": "much"}])
    with pytest.raises(InputError, match=r"line 2 holds .*'much'") as caught:
        compare(good, bad)
    assert caught.value.file == str(bad / "per_case.csv")


def test_answers_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="correct is 'perhaps'") as caught:
        compare(answers(tmp_path / "a", {"x": True}), answers(tmp_path / "b", {"x": "perhaps"}))
    assert caught.value.file == str(tmp_path / "b" / "per_case.csv")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00"], ids=["nothing", "other columns", "no text"])
def test_what_is_no_table(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "per_case.csv"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        compare(file, file)
    assert caught.value.file == str(file)
    assert caught.value.way_out


@pytest.mark.parametrize(
    "task",
    [
        "segmentation",
        "classification",
    ],
)
def test_a_table_that_a_spreadsheet_saved(task: str, tmp_path: Path) -> None:
    """With the mark that Excel puts in front."""
    a = run(tmp_path / "a", [row("x", 0.9)]) if task == "segmentation" else answers(tmp_path / "a", {"x": True})
    table = a / "per_case.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert compare(a, a).n_cases == 1


def test_other_references_of_equal_volume_are_refused(tmp_path: Path) -> None:
    """By the hashes that both summaries hold; of other cases they differ anyway."""
    a, b = (run(tmp_path / name, [row("x", 0.9)]) for name in "ab")
    for folder, text in ((a, "1"), (b, "2")):
        (folder / "summary.json").write_text(json.dumps({"sha256": {"references": text}}))
    with pytest.raises(InputError, match="its references are not those of"):
        compare(a, b)
    more = run(tmp_path / "more", [row("x", 0.9), row("y", 0.8)])
    (more / "summary.json").write_text(json.dumps({"sha256": {"references": "3"}}))
    assert compare(a, more).n_cases == 1
