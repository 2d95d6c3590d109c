"""The answer for a case as a file, and the table of all of them."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle.errors import InputError
from neurobundle.export.answer_transforms import SaveAnswerd
from neurobundle.export.answers import MOST_SLICES, answer_of, read_answer, save_answer, write_predictions

CLASSES = ["glioma", "meningioma", "pituitary tumour"]


def test_the_most_probable_class_is_the_answer() -> None:
    answer = answer_of([0.1, 0.7, 0.2], CLASSES)
    assert (answer.prediction, answer.confidence, answer.abstained) == ("meningioma", 0.7, False)
    assert answer.probabilities == {"glioma": 0.1, "meningioma": 0.7, "pituitary tumour": 0.2}


def test_below_the_confidence_no_class_is_named() -> None:
    answer = answer_of([0.1, 0.5, 0.4], CLASSES, abstain_below=0.6)
    assert (answer.prediction, answer.abstained, answer.leading) == ("", True, "meningioma")
    assert not answer_of([0.1, 0.6, 0.3], CLASSES, abstain_below=0.6).abstained


def test_the_slices_that_counted_most_come_first() -> None:
    logits = np.zeros((3, 7))
    logits[1, 4] = 50
    slices = np.vstack([logits, [0.1, 0.1, 0.1, 0.1, 0.4, 0.1, 0.1]])
    listed = answer_of([0.1, 0.7, 0.2], CLASSES, slices=slices).slices
    assert len(listed) == MOST_SLICES
    assert listed[0] == {"slice": 4, "weight": 0.4, "prediction": "meningioma", "confidence": 1.0}
    assert [each["slice"] for each in listed[1:]] == [0, 1, 2, 3]


def test_slices_that_did_not_count_are_not_listed() -> None:
    slices = np.vstack([np.zeros((3, 4)), [0.0, 0.75, 0.0, 0.25]])
    listed = answer_of([0.1, 0.7, 0.2], CLASSES, slices=slices).slices
    assert [(each["slice"], each["weight"]) for each in listed] == [(1, 0.75), (3, 0.25)]


def test_a_picture_lists_no_slices() -> None:
    assert answer_of([0.1, 0.7, 0.2], CLASSES, slices=np.ones((4, 1))).slices == []


@pytest.mark.parametrize("values", [[0.5, 0.5], [np.nan, 0.5, 0.5]])
def test_other_classes_or_no_number(values: list[float]) -> None:
    with pytest.raises(InputError, match="for the classes glioma"):
        answer_of(values, CLASSES)


def test_there_and_back(tmp_path: Path) -> None:
    answer = answer_of([0.1, 0.7, 0.2], CLASSES, 0.9, np.ones((4, 2)))
    path = save_answer(tmp_path / "a_class.json", "a", answer)
    assert read_answer(path) == answer
    assert json.loads(path.read_text())["case"] == "a"


def test_the_table_has_a_row_a_case(tmp_path: Path) -> None:
    """A failed case is there too, blank, so that who scores the table counts it."""
    sure, unsure = answer_of([0.1, 0.7, 0.2], CLASSES), answer_of([0.3, 0.4, 0.3], CLASSES, 0.5)
    write_predictions(tmp_path / "p.csv", CLASSES, {"a": asdict(sure), "b": asdict(unsure), "c": {}})
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["case", "prediction", "confidence", "p_glioma", "p_meningioma", "p_pituitary tumour", "abstained"],
        ["a", "meningioma", "0.700000", "0.100000", "0.700000", "0.200000", "0"],
        ["b", "", "0.400000", "0.300000", "0.400000", "0.300000", "1"],
        ["c", "", "", "", "", "", ""],
    ]


def test_the_transform_writes_beside_nothing_half(tmp_path: Path) -> None:
    found = MetaTensor(torch.tensor([0.2, 0.7, 0.1]), meta={"filename_or_obj": "dir/x.png"})
    step = SaveAnswerd("pred", tmp_path / "out", CLASSES)
    assert isinstance(step, SaveImaged), "MONAI Label takes it out by this"
    item = step({"pred": found})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x_class.json"]
    assert item["pred"].meta["saved_to"] == str(tmp_path / "out" / "x_class.json")
    assert read_answer(tmp_path / "out" / "x_class.json").prediction == "meningioma"
    step({"pred": found, "case": "case-1", "pred_slices": torch.ones(4, 3)})
    assert len(read_answer(tmp_path / "out" / "case-1_class.json").slices) == 3
