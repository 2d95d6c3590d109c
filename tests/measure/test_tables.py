"""``per_case.csv``: what is in it, and that it comes back."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from neurobundle.errors import InputError
from neurobundle.measure.lesions import LesionRule
from neurobundle.measure.segmentation import Score, failed_case, score_case
from neurobundle.measure.tables import read_scores, write_scores


def some_scores(lesions: bool = False) -> list[Score]:
    found, there = np.zeros((2, 6, 6, 6), int)
    found[1:3], there[2:4] = 1, 1
    rule = LesionRule() if lesions else None
    scores = score_case(found, there, {1: "front", 2: "back"}, (1, 1, 2), (1, 2), "anna", rule)
    return scores + failed_case("ben", {1: "front", 2: "back"}, 17.0, (1, 2), rule)


def test_the_columns_and_their_order(tmp_path: Path) -> None:
    with write_scores(tmp_path / "per_case.csv", some_scores(lesions=True), {"anna": "p1"}).open() as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == (
        "case,structure,dice,hd95_mm,nsd,nsd_2mm,iou,sensitivity,precision,hd_mm,assd_mm,volume_ml,reference_ml,"
        "volume_error_ml,n_lesions,n_missed_lesions,n_false_lesions,lesion_dice,lesion_hd95_mm,subject,status"
    )
    assert [(row["case"], row["structure"], row["subject"], row["status"]) for row in rows] == [
        ("anna", "front", "p1", "ok"),
        ("anna", "back", "p1", "empty"),
        ("ben", "front", "ben", "failed"),
        ("ben", "back", "ben", "failed"),
    ]
    assert (rows[0]["dice"], rows[0]["n_lesions"]) == ("0.500000", "1")


def test_an_empty_structure_and_a_failed_case_have_blanks(tmp_path: Path) -> None:
    with write_scores(tmp_path / "per_case.csv", some_scores(), {}).open() as file:
        rows = list(csv.DictReader(file))
    assert {rows[1][name] for name in ("dice", "hd95_mm", "nsd", "nsd_2mm", "iou", "assd_mm")} == {""}
    assert (rows[2]["dice"], rows[2]["hd95_mm"], rows[2]["volume_error_ml"]) == ("0.000000", "17.000000", "")


@pytest.mark.parametrize("lesions", [False, True], ids=["plain", "lesions"])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, lesions: bool) -> None:
    scores = some_scores(lesions)
    first = write_scores(tmp_path / "per_case.csv", scores, {"anna": "p1"})
    back, subjects = read_scores(first)
    assert subjects == {"anna": "p1", "ben": "ben"}
    assert [(one.case, one.structure, one.status) for one in back] == [(s.case, s.structure, s.status) for s in scores]
    assert back[0].iou == pytest.approx(scores[0].iou, abs=1e-6)
    assert back[0].more == scores[0].more
    assert math.isnan(back[1].dice)
    again = write_scores(tmp_path / "again.csv", back, subjects)
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no column 'case'"),
        (b"case,structure\n", "no column 'dice'"),
        (b"case,structure,dice,hd95_mm,nsd,volume_ml,reference_ml,status\na,b,x,1,1,1,1,ok\n", "line 2"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
    ids=["nothing", "columns", "word", "bytes"],
)
def test_what_is_no_table_is_refused_by_its_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "per_case.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_scores(path)
    assert error.value.file == str(path)
    assert error.value.way_out
