import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurobundle.commands.compare import Comparison, Row, compare
from neurobundle.errors import InputError, NoInputError

COLUMNS = ("case", "structure", "dice", "hd95_mm", "nsd", "volume_error_ml", "reference_ml", "subject", "status")
OLD_COLUMNS = ("case", "structure", "dice", "hd95_mm", "nsd", "volume_ml", "reference_ml", "status")
DIAGONAL = 100.0


def row(case: str, dice: float | str, status: str = "ok", structure: str = "lesion", **more: Any) -> dict[str, Any]:
    """A line of per_case.csv whose other scores follow from its Dice."""
    line = {"case": case, "subject": case, "structure": structure, "status": status, "dice": dice}
    line |= {"hd95_mm": "", "nsd": dice, "volume_ml": 2, "reference_ml": 2, "volume_error_ml": 0}
    if dice != "":
        line["hd95_mm"] = DIAGONAL * (1 - float(dice))
        line["volume_error_ml"] = float(dice) - 1
    return line | more


def empty(case: str) -> dict[str, Any]:
    return row(case, "", "empty", reference_ml=0)


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


def line_of(result: Comparison, metric: str, structure: str = "lesion") -> Row:
    return next(line for line in result.rows if (line.structure, line.metric) == (structure, metric))


def test_six_cases_that_a_wins(tmp_path: Path) -> None:
    """Six of six for A has p = 2/64; of five tests Holm leaves the first at 5 times that, so nobody wins yet."""
    a = run(tmp_path / "a", [row(f"c{n}", 0.9 + n / 100) for n in range(6)])
    b = run(tmp_path / "b", [row(f"c{n}", 0.8) for n in range(6)])
    result = compare(a, b)
    dice = line_of(result, "dice")
    assert (result.task, result.n_cases, dice.n) == ("segmentation", 6, 6)
    assert (dice.mean_a, dice.mean_b) == (pytest.approx(0.925), pytest.approx(0.8))
    assert dice.difference == pytest.approx(0.125)
    assert dice.low < 0.125 < dice.high
    assert (dice.p, dice.effect_size) == (2 / 64, 1)
    assert [line.metric for line in result.rows] == ["dice", "hd95_mm", "nsd", "volume_error_ml", "found"]
    assert dice.p_holm == pytest.approx(5 * 2 / 64)
    assert dice.better == "-"


def test_ten_cases_that_b_wins(tmp_path: Path) -> None:
    """In distances and volumes less is better, and the sign of a volume's error is of no account."""
    a = run(tmp_path / "a", [row(f"c{n}", 0.5 + n / 100) for n in range(10)])
    b = run(tmp_path / "b", [row(f"c{n}", 0.9, volume_error_ml=0.1) for n in range(10)])
    result = compare(a, b)
    assert [line.better for line in result.rows] == ["B", "B", "B", "B", "-"]
    assert all(line.effect_size == -1 for line in result.rows[:4])
    assert line_of(result, "hd95_mm").difference > 0
    assert line_of(result, "volume_error_ml").mean_b == pytest.approx(0.1)
    assert line_of(result, "volume_error_ml").mean_a == pytest.approx(0.455)


def test_the_same_folder_twice(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", 0.9), row("y", 0.8), empty("z")])
    result = compare(a, a)
    assert all((line.difference, line.p, line.effect_size, line.better) == (0, 1, 0, "-") for line in result.rows)
    assert (result.n_empty, len(result.rows)) == (1, 5)


def test_nobody_wins_against_the_mean(tmp_path: Path) -> None:
    """B is a little better in 19 cases and fails in one, so the means are for A: no winner is named."""
    a = run(tmp_path / "a", [row(f"c{n}", 0.8) for n in range(20)])
    b = run(tmp_path / "b", [row(f"c{n}", 0.81 if n else 0) for n in range(20)])
    dice = line_of(compare(a, b), "dice")
    assert dice.p_holm < 0.05
    assert dice.difference > 0 > dice.effect_size
    assert dice.better == "-"


def test_a_false_alarm_counts_against_who_gave_it(tmp_path: Path) -> None:
    """The reference is empty: A found nothing and was right, which a blank would hide."""
    a = run(tmp_path / "a", [row("x", 0.8), empty("y")])
    b = run(tmp_path / "b", [row("x", 0.8), row("y", 0, "false", reference_ml=0, volume_error_ml=3)])
    result = compare(a, b)
    assert (line_of(result, "dice").n, line_of(result, "dice").difference) == (2, pytest.approx(0.5))
    assert line_of(result, "hd95_mm").mean_a == pytest.approx(10)
    assert line_of(result, "volume_error_ml").difference == pytest.approx(-1.5)
    assert line_of(result, "found").n == 1
    assert result.n_empty == 0


def test_a_failed_case_counts_as_missed(tmp_path: Path) -> None:
    """Where the table is blank it gets the worst, of its volume all; and it was not found."""
    a = run(tmp_path / "a", [row("x", 0.8), row("y", 0.8)])
    failed = row("y", 0, "failed", nsd="", hd95_mm="", volume_error_ml="", reference_ml="")
    b = run(tmp_path / "b", [row("x", 0.4), failed])
    result = compare(a, b)
    assert line_of(result, "dice").mean_b == pytest.approx(0.2)
    assert line_of(result, "nsd").mean_b == pytest.approx(0.2)
    assert line_of(result, "hd95_mm").mean_b == pytest.approx(60)  # the largest distance of both tables
    assert line_of(result, "volume_error_ml").mean_b == pytest.approx((0.6 + 2) / 2)
    assert (line_of(result, "found").mean_a, line_of(result, "found").mean_b) == (1, 0.5)


def test_failed_where_nothing_was(tmp_path: Path) -> None:
    """A failed case of an empty reference loses against one that found nothing there; there was nothing to find."""
    a = run(tmp_path / "a", [row("x", 0.8), empty("y")])
    b = run(tmp_path / "b", [row("x", 0.8), row("y", 0, "failed", reference_ml="", volume_error_ml="")])
    result = compare(a, b)
    assert line_of(result, "dice").difference == pytest.approx(0.5)
    assert line_of(result, "found").n == 1


def test_what_both_miss_is_in(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", 0.8), row("y", 0, "missed")])
    result = compare(a, a)
    assert (line_of(result, "dice").n, line_of(result, "dice").mean_a) == (2, pytest.approx(0.4))
    assert (line_of(result, "found").n, line_of(result, "found").mean_a) == (2, 0.5)


def test_found_is_tested_after_mcnemar(tmp_path: Path) -> None:
    """A alone finds six: p = 2/64."""
    a = run(tmp_path / "a", [row(f"c{n}", 0.5) for n in range(6)])
    b = run(tmp_path / "b", [row(f"c{n}", 0, "missed") for n in range(6)])
    found = line_of(compare(a, b), "found")
    assert (found.p, found.effect_size, found.difference, found.n) == (2 / 64, 1, 1, 6)


def test_what_is_nowhere_cannot_be_found(tmp_path: Path) -> None:
    """A structure that no reference has: false alarms are scored, and there is nothing to find."""
    a = run(tmp_path / "a", [row("x", 0, "false", reference_ml=0)])
    assert [line.metric for line in compare(a, a).rows] == ["dice", "hd95_mm", "nsd", "volume_error_ml"]


def test_structures_are_compared_apart(tmp_path: Path) -> None:
    rows = [row("x", 0.9, structure="WT"), row("x", 0.7, structure="TC")]
    result = compare(run(tmp_path / "a", rows), run(tmp_path / "b", rows))
    assert (line_of(result, "dice", "WT").mean_a, line_of(result, "dice", "TC").mean_a) == (0.9, 0.7)
    assert (result.n_cases, len(result.rows)) == (1, 10)


def test_lesions_without_a_score_in_both_are_left_out(tmp_path: Path) -> None:
    columns = (*COLUMNS, "lesion_dice", "lesion_hd95_mm", "nsd_2mm", "n_lesions")
    more = {"lesion_dice": "", "lesion_hd95_mm": "", "nsd_2mm": 1, "n_lesions": 0}
    a = run(tmp_path / "a", [row("x", 0.9, **more), row("y", 0.9, **more)], columns)
    b = run(tmp_path / "b", [row("x", 0.9, **more), row("y", 0.9, **more | {"lesion_dice": 0})], columns)
    result = compare(a, b)
    lesions = line_of(result, "lesion_dice")
    assert (lesions.n, lesions.mean_a, lesions.mean_b) == (1, 1, 0)
    metrics = [line.metric for line in result.rows]
    assert "nsd_2mm" in metrics
    assert "lesion_hd95_mm" not in metrics
    assert "n_lesions" not in metrics


def test_an_old_table_against_a_new_one(tmp_path: Path) -> None:
    """It names no subjects and no volume errors: the metrics of both are compared, by the other's subjects."""
    rows = [row("x", 0.9, subject="anna"), row("y", 0.7, subject="anna")]
    old, new = run(tmp_path / "old", rows, OLD_COLUMNS), run(tmp_path / "new", rows)
    better = run(tmp_path / "better", [row("x", 1.0, subject="anna"), row("y", 0.7, subject="anna")])
    result = compare(old, new)
    assert [line.metric for line in result.rows] == ["dice", "hd95_mm", "nsd", "found"]
    dice = line_of(compare(better, old), "dice")
    assert math.isnan(dice.low), "one subject: nothing to resample"
    alone = line_of(compare(run(tmp_path / "again", rows, OLD_COLUMNS), old), "dice")
    assert alone.n == 2


def test_cases_of_one_run_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = run(tmp_path / "a", [row("x", 0.9), *(row(f"only{n}", 0.9) for n in range(7))])
    b = run(tmp_path / "b", [row("x", 0.9), row("other", 0.9), row("x", 0.9, structure="core")])
    with caplog.at_level(logging.WARNING):
        result = compare(a, b)
    assert (result.n_cases, len(result.only_in_a), result.only_in_b, result.n_unpaired) == (1, 7, ["other"], 1)
    assert "7 cases are in A only, and are left out: only0, only1, only2, only3, only4 and 2 more" in caplog.text
    assert "1 cases are in B only, and are left out: other" in caplog.text
    assert "core" in caplog.text


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
    assert [line["metric"] for line in lines] == [line["metric"] for line in stored["rows"]]
    assert lines[0]["better"] == stored["rows"][0]["better"] == "A"
    assert float(lines[0]["p"]) == pytest.approx(2 / 2**40, rel=1e-3)
    first = (tmp_path / "out" / "comparison.csv").read_bytes()
    again = compare(a / "per_case.csv", b / "per_case.csv", tmp_path / "out")
    assert again.rows == result.rows
    assert (tmp_path / "out" / "comparison.csv").read_bytes() == first


def test_a_table_for_the_terminal(tmp_path: Path) -> None:
    """Aligned, and narrow even with long names and large numbers."""
    columns = (*COLUMNS, "lesion_hd95_mm")
    rows = [row(f"c{n}", 0.1, structure="a structure with a very long name", lesion_hd95_mm=900 + n) for n in range(9)]
    far = [line | {"lesion_hd95_mm": 1, "volume_error_ml": -1234.5} for line in rows]
    a = run(tmp_path / ("a" * 120), rows, columns)
    text = compare(a, run(tmp_path / "b", far, columns)).as_table()
    lines = text.splitlines()
    assert max(map(len, lines)) < 120
    header = next(line for line in lines if line.startswith("structure"))
    table = lines[lines.index(header) : lines.index(header) + 7]
    assert len({len(line) for line in table}) == 1
    assert "a structure with ..." in text
    assert "9 cases in both, 0 in A only, 0 in B only" in text
    assert table[-1].split()[-1] == "-"
    assert any(line.endswith("  B") for line in table)


def test_classification_by_mcnemar(tmp_path: Path) -> None:
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


def test_different_references_are_refused(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", [row("w", 0.9), row("x", 0.9)]), run(tmp_path / "b", [row("x", 0.9, reference_ml=2.01)])
    with pytest.raises(InputError, match=r"volume in ml of lesion is 2 in A and 2\.01 in B") as caught:
        compare(a, b)
    assert caught.value.case == "x"
    assert compare(a, run(tmp_path / "b", [row("x", 0.9, reference_ml=2.001)])).n_cases == 1


def test_different_truths_are_refused(tmp_path: Path) -> None:
    a, b = answers(tmp_path / "a", {"x": True}), answers(tmp_path / "b", {"x": True}, truth="healthy")
    with pytest.raises(InputError, match="truth is ad in A and healthy in B") as caught:
        compare(a, b)
    assert caught.value.case == "x"


def test_tasks_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classification"):
        compare(run(tmp_path / "a", [row("x", 0.9)]), answers(tmp_path / "b", {"x": True}))


def test_nothing_in_common(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [row("x", 0.9)])
    with pytest.raises(NoInputError, match="no case and structure in common"):
        compare(a, run(tmp_path / "b", [row("y", 0.9)]))
    with pytest.raises(NoInputError, match="no case and structure in common"):
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
        ([row("x", 0.9) | {"dice": "much"}], "dice is 'much'"),
        ([row("x", 0.9) | {"dice": "inf"}], "dice is 'inf'"),
        ([row("x", 0.9, status="fine")], "status is 'fine'"),
        ([row("x", 0.9), row("x", 0.9)], "two rows 'x lesion'"),
    ],
)
def test_cells_that_cannot_be_used(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    good = run(tmp_path / "good", [row("x", 0.9)])
    with pytest.raises(InputError, match=said) as caught:
        compare(good, run(tmp_path / "bad", rows))
    assert caught.value.case == "x"
    assert caught.value.file.endswith("per_case.csv")


def test_answers_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="correct is 'perhaps'"):
        compare(answers(tmp_path / "a", {"x": True}), answers(tmp_path / "b", {"x": "perhaps"}))


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00"], ids=["nothing", "other columns", "no text"])
def test_what_is_no_table(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "per_case.csv"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        compare(file, file)
    assert caught.value.file == str(file)
    assert caught.value.way_out


def test_a_table_that_a_spreadsheet_saved(tmp_path: Path) -> None:
    """With the mark that Excel puts in front."""
    a = run(tmp_path / "a", [row("x", 0.9)])
    table = a / "per_case.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert compare(a, a).n_cases == 1


def test_all_empty_leaves_nothing_to_test(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [empty("x")])
    result = compare(a, a, tmp_path / "out")
    assert (result.rows, result.n_empty) == ([], 1)
    assert "structure" in result.as_table()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(dices=st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=2, max_size=8), data=st.data())
def test_an_error_never_helps(dices: list[float], data: st.DataObject, tmp_path: Path) -> None:
    """Whichever case of A becomes missed, failed or a false alarm: no mean of A gains on B's."""
    good = [row(f"c{n}", dice) for n, dice in enumerate(dices)] + [empty("none")]
    b = run(tmp_path / "b", good)
    before = compare(run(tmp_path / "a", good), b)
    worse = list(good)
    n = data.draw(st.integers(0, len(good) - 1))
    status = data.draw(st.sampled_from(["missed", "failed"]))
    blank = {"volume_error_ml": "", "hd95_mm": ""} if status == "failed" else {"volume_error_ml": -2}
    worse[n] = row(f"c{n}", 0, status, **blank)
    if n == len(dices):
        worse[n] = row("none", 0, "false", reference_ml=0, volume_error_ml=5)
    after = compare(run(tmp_path / "a", worse), b)
    for line in after.rows:
        sign = -1 if line.metric in ("hd95_mm", "volume_error_ml") else 1
        assert sign * line.difference <= 1e-9
        assert line.effect_size <= 0
    assert line_of(after, "dice").difference < line_of(before, "dice").difference
