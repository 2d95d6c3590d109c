import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobundle.errors import InputError, SettingError
from neurobundle.load.answers import check_class_names, class_number, read_class_table, read_coco, require_class

CLASSES = ["healthy", "tumour"]


def table(folder: Path, text: str | bytes, name: str = "answers.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- tables of classes ---


@pytest.mark.parametrize("column", ["class", "label", "truth", "prediction", "Label"])
def test_a_class_a_case(tmp_path: Path, column: str) -> None:
    rows = read_class_table(table(tmp_path, f"case,{column},subject\nanna,tumour,s1\nbert,0,\n"), CLASSES)
    assert [(row.case, row.label, row.subject, row.line) for row in rows] == [
        ("anna", "tumour", "s1", 2),
        ("bert", "healthy", "bert", 3),
    ]
    assert rows[0].probabilities is None


def test_probabilities_in_any_order_of_columns(tmp_path: Path) -> None:
    rows = read_class_table(table(tmp_path, "p_tumour,case,p_healthy\n0.75,anna,0.25\n"), CLASSES)
    assert rows[0].probabilities == {"healthy": 0.25, "tumour": 0.75}
    assert list(rows[0].probabilities) == CLASSES
    assert rows[0].label is None


def test_a_class_and_probabilities(tmp_path: Path) -> None:
    row = read_class_table(table(tmp_path, "case,truth,p_healthy,p_tumour\nanna,tumour,1,0\n"), CLASSES)[0]
    assert (row.label, row.probabilities) == ("tumour", {"healthy": 1, "tumour": 0})


def test_a_class_that_was_not_named_beside_its_probabilities(tmp_path: Path) -> None:
    """As a run writes it that abstained; a row of blanks has failed."""
    path = table(tmp_path, "case,prediction,p_healthy,p_tumour,abstained\nanna,,0.5,0.5,1\nbert,,,,\n")
    rows = read_class_table(path, CLASSES, "prediction", allow_blank=True)
    assert [(row.label, row.probabilities) for row in rows] == [(None, {"healthy": 0.5, "tumour": 0.5}), (None, None)]
    with pytest.raises(InputError, match="line 2, column 'prediction' is blank"):
        read_class_table(path, CLASSES, "prediction")


def test_without_classes_any_label_will_do(tmp_path: Path) -> None:
    path = table(tmp_path, "case,label,p_a,p_b\nanna,7,0.5,0.5\n")
    assert read_class_table(path)[0].label == "7"
    assert read_class_table(path)[0].probabilities == {"a": 0.5, "b": 0.5}


def test_names_come_before_numbers() -> None:
    """Where classes are called by numbers, those are their names."""
    assert class_number("1", ["1", "0"]) == 0
    assert class_number(1, ["1", "0"]) == 1
    assert [class_number(text, CLASSES) for text in ("01", "1.0", "-1", "²", "", "9" * 5000)] == [None] * 6
    assert [class_number(value, CLASSES) for value in (np.int64(1), True, 1.0)] == [1, 1, 1]
    assert [class_number(value, CLASSES) for value in (1.5, math.nan, 2, -1)] == [None] * 4


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_delimiters_blank_lines_and_a_mark_of_utf8(tmp_path: Path, delimiter: str) -> None:
    text = "\ufeffcase,class\n\nanna , tumour\n \n'b;,\tc',tumour\n".replace(",", delimiter).replace("'", '"')
    rows = read_class_table(table(tmp_path, text, "answers.tsv"), CLASSES)
    assert [row.case for row in rows] == ["anna", "b;,\tc".replace(",", delimiter)]
    assert [row.line for row in rows] == [3, 5]


def test_lines_end_as_on_any_system(tmp_path: Path) -> None:
    for end in ("\n", "\r\n", "\r"):
        rows = read_class_table(table(tmp_path, end.join(["case,class", "anna,tumour", ""])), CLASSES)
        assert [row.case for row in rows] == ["anna"], repr(end)


def test_which_of_two_columns_can_be_named(tmp_path: Path) -> None:
    path = table(tmp_path, "case,truth,prediction\nanna,tumour,healthy\n")
    assert read_class_table(path, CLASSES, "truth")[0].label == "tumour"
    assert read_class_table(path, CLASSES, "prediction")[0].label == "healthy"
    with pytest.raises(InputError, match="both 'truth' and 'prediction'"):
        read_class_table(path, CLASSES)
    with pytest.raises(InputError, match="no column 'label'"):
        read_class_table(path, CLASSES, "label")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        ("case,class\n", "has a header and no case"),
        ("cases,class\nanna,tumour\n", "line 1 has no column 'case'; did you mean 'cases'"),
        ("case,kind\nanna,tumour\n", "line 1 names neither a class nor probabilities: case, kind"),
        ("case,case,class\nanna,anna,tumour\n", "line 1 names the column 'case' twice"),
        ("case,,class\nanna,,tumour\n", "line 1: column 2 has no name"),
        ("case,class\nanna,tumour\nanna,healthy\n", "line 3, column 'case': .* line 2 already"),
        ("case,class\nanna,tumor\n", "line 2, column 'class': there is no class 'tumor'; did you mean 'tumour'"),
        ("case,class\nanna,2\n", "line 2, column 'class': there is no class '2'"),
        ("case,class\nanna,\n", "line 2, column 'class' is blank"),
        ("case,class\n,tumour\n", "line 2, column 'case' is blank"),
        ("case,class\nanna\n", "line 2 has 1 cells, and the header has 2"),
        ("case,class\nanna,tumour,x\n", "line 2 has 3 cells, and the header has 2"),
        ('case,class\n"anna,tumour\n', "is no CSV"),
        ("case,p_healthy\nanna,1\n", "line 1 has no column 'p_tumour'"),
        ("case,p_healthy,p_tumor\nanna,1,0\n", "line 1, column 'p_tumor': .* did you mean 'tumour'"),
        ("case,p_healthy,p_tumour\nanna,1,x\n", "line 2, column 'p_tumour': 'x' is no probability"),
        ("case,p_healthy,p_tumour\nanna,1,nan\n", "line 2, column 'p_tumour': 'nan' is no probability"),
        ("case,p_healthy,p_tumour\nanna,1.5,-0.5\n", "line 2, column 'p_healthy': '1.5' is no probability"),
        ("case;p_healthy;p_tumour\nanna;0,5;0,5\n", "line 2, column 'p_healthy': '0,5' is no probability"),
        ("case,p_healthy,p_tumour\nanna,1,\n", "line 2, column 'p_tumour' is blank"),
        ("case,p_healthy,p_tumour\nanna,0.5,0.4\n", "line 2: the probabilities sum to 0.9"),
        ("case,class\nanna,\xfcber\n".encode("latin-1"), "byte 16 is no UTF-8"),
        ("case,class\nanna,tumour\n".encode("utf-16"), "is no UTF-8"),
        (b"case,class\nanna,\0\n", r"there is no class '\\x00'|line contains NUL"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_class_table(path, CLASSES)
    assert caught.value.file == str(path)
    assert caught.value.way_out


def test_the_case_of_a_bad_line_is_named(tmp_path: Path) -> None:
    for text in ("case,class\nanna,tumor\n", "case,class\nanna,\n", "case,p_healthy,p_tumour\nanna,1,1\n"):
        with pytest.raises(InputError) as caught:
            read_class_table(table(tmp_path, text), CLASSES)
        assert caught.value.case == "anna"


def test_rounded_probabilities_are_taken(tmp_path: Path) -> None:
    text = "case,p_a,p_b,p_c\nanna,0.333,0.333,0.333\n"
    assert read_class_table(table(tmp_path, text))[0].probabilities == dict.fromkeys("abc", 0.333)


def test_files_that_are_none(tmp_path: Path) -> None:
    for read in (read_class_table, read_coco):
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / "nothing.csv")
        with pytest.raises(InputError, match="read"):
            read(tmp_path)


def test_a_class_that_must_be_there() -> None:
    assert require_class("tumour", CLASSES) == 1
    with pytest.raises(InputError, match=r"anna: there is no class 'x'\. Classes: healthy, tumour") as caught:
        require_class("x", CLASSES, "anna")
    assert caught.value.case == "anna"


def test_names_that_a_table_could_not_tell_apart() -> None:
    check_class_names(CLASSES, at_least=2)
    for names in ([], ["a", "a"], [""], ["a "]):
        with pytest.raises(SettingError, match="classes"):
            check_class_names(names)


# --- boxes ---


def truth_content() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a/anna.png"}, {"id": 3, "file_name": "bert.png", "subject": "s1"}],
        "categories": [{"id": 2, "name": "cyst"}, {"id": 1, "name": "tumour"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4]},
            {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1.5, 1], "iscrowd": 1},
        ],
    }


def written(folder: Path, content: Any, name: str = "truth.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_references_come_as_corners(tmp_path: Path) -> None:
    """Classes go by their ids, images by their place in the file."""
    found = read_coco(written(tmp_path, truth_content()))
    assert found.classes == ("tumour", "cyst")
    anna, bert = found.images
    assert (anna.case, anna.subject, anna.boxes.shape) == ("anna", "anna", (0, 4))
    assert (bert.case, bert.subject) == ("bert", "s1")
    assert bert.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 1.5, 1]]
    assert bert.classes.tolist() == [1, 0]
    assert bert.ignored.tolist() == [False, True]
    assert bert.scores.tolist() == [1, 1]


def test_predictions_go_by_the_ids_of_the_references(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, truth_content()))
    results = [
        {"image_id": 7, "category_id": 1, "bbox": [5, 5, 1, 1], "score": 0.25},
        {"image_id": 7, "category_id": 2, "bbox": [5, 5, 0, 1], "score": 1},
    ]
    found = read_coco(written(tmp_path, results, "results.json"), "predictions", truth)
    anna, bert = found.images
    assert anna.boxes.tolist() == [[5, 5, 6, 6], [5, 5, 5, 6]]
    assert (anna.classes.tolist(), anna.scores.tolist()) == ([0, 1], [0.25, 1])
    assert (bert.case, bert.subject, len(bert.boxes)) == ("bert", "s1", 0)
    assert found.classes == truth.classes


def test_no_predictions_at_all(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, truth_content()))
    found = read_coco(written(tmp_path, [], "results.json"), "predictions", truth)
    assert [len(image.boxes) for image in found.images] == [0, 0]


def test_boxes_go_on_to_be_scored(tmp_path: Path) -> None:
    from neurobundle.measure.detection import ImageBoxes, count_boxes

    truth = read_coco(written(tmp_path, truth_content()))
    results = [{"image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.9}]
    found = read_coco(written(tmp_path, results, "results.json"), "predictions", truth)
    images = [
        ImageBoxes(t.case, t.boxes, t.classes, p.boxes, p.classes, p.scores, t.subject, ignored=t.ignored)
        for t, p in zip(truth.images, found.images, strict=True)
    ]
    assert count_boxes(images, 2).tolist() == [[0, 0, 0], [1, 1, 0]]


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    content = truth_content()
    content["images"] = [{"id": 7, "file_name": "a/1.png"}, {"id": 3, "file_name": "b/1.png"}]
    assert [image.case for image in read_coco(written(tmp_path, content)).images] == ["a-1", "b-1"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The references with one thing changed: ``images/0/id`` names the thing."""
    content: Any = truth_content()
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    inner = content
    for part in way:
        inner = inner[part]
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the references are no JSON object"),
        ({"image": []}, "'images' is not there; did you mean 'image'"),
        (changed("annotations", {}), "'annotations' is no list"),
        (changed("images", []), "lists no image"),
        (changed("images/0", 5), "image 0 .counted from 0. is no object: 5"),
        (changed("images/0/id", None), "image 0 .* id is None"),
        (changed("images/0/id", True), "image 0 .* id is True"),
        (changed("images/0/id", 3), "image 1 .* the id 3 stands twice"),
        (changed("images/0/file_name", "bert.png"), "two images have the file_name 'bert.png'"),
        (changed("categories/0/id", 1), "category 1 .* the id 1 stands twice"),
        (changed("categories/0/name", "tumour"), "two categories have the same name"),
        (changed("annotations/1/image_id", 4), "annotation 1 .* no image with the id 4"),
        (changed("annotations/1/image_id", "3"), "annotation 1 .* no image with the id '3'"),
        (changed("annotations/1", {"image": 3}), "it has no image_id; did you mean 'image'"),
        (changed("annotations/1/category_id", 3), "annotation 1 .* no category 3"),
        (changed("annotations/1/bbox", [1, 2, 3]), "annotation 1 .* its bbox is .1, 2, 3."),
        (changed("annotations/1/bbox", None), "annotation 1 .* its bbox is None"),
        (changed("annotations/1/bbox", [1, 2, -3, 4]), "annotation 1 .* its width is -3"),
        (changed("annotations/1/bbox", [1, 2, 3, -4]), "annotation 1 .* its height is -4"),
        (changed("annotations/1/bbox", [1, 2, 0, 4]), "annotation 1 .* has no area"),
        (changed("annotations/1/bbox", [1, 2, math.nan, 4]), "bbox has nan, which is no finite number"),
        (changed("annotations/1/bbox", [1, 2, 10**400, 4]), "bbox has 1000.*, which is no finite number"),
        (changed("annotations/1/bbox", [1, 2, "3", 4]), "bbox has '3', which is no finite number"),
        (changed("annotations/1/bbox", [1, 2, True, 4]), "bbox has True, which is no finite number"),
    ],
)
def test_references_that_cannot_be_used(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_coco(path)
    assert caught.value.file == str(path)
    assert caught.value.way_out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no JSON list"),
        ([7], "prediction 0 .* is no object"),
        ([{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}], "no image with the id 9"),
        ([{"image_id": 7, "category_id": 9, "bbox": [0, 0, 1, 1], "score": 1}], "no category 9"),
        ([{"image_id": 7, "category_id": 1, "bbox": [0, 0, -1, 1], "score": 1}], "its width is -1"),
        ([{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}], "score has None"),
        ([{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1], "score": math.inf}], "score has inf"),
    ],
)
def test_predictions_that_cannot_be_used(tmp_path: Path, content: Any, message: str) -> None:
    truth = read_coco(written(tmp_path, truth_content()))
    path = written(tmp_path, content, "results.json")
    with pytest.raises(InputError, match=message) as caught:
        read_coco(path, "predictions", truth)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b"}"])
def test_files_that_are_no_json(tmp_path: Path, text: bytes) -> None:
    path = table(tmp_path, text, "truth.json")
    with pytest.raises(InputError, match="no readable JSON") as caught:
        read_coco(path)
    assert caught.value.file == str(path)


def test_settings_of_the_reader(tmp_path: Path) -> None:
    path = written(tmp_path, truth_content())
    with pytest.raises(SettingError, match="did you mean 'predictions'"):
        read_coco(path, "prediction")
    with pytest.raises(SettingError, match="ids of the truth"):
        read_coco(path, "predictions")


def test_reading_answers_is_light() -> None:
    code = "import sys, neurobundle.load.answers; print({'torch', 'monai', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
