"""Final labels in the values of a bundle; without MONAI Label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurobundle.errors import InputError
from neurobundle.label.finals import Labelled, class_of, in_values_of, require_same_study, unknown_segments
from neurobundle.label.studies import StudyEntry, StudyStore
from neurobundle.load.scan import Scan

NAMES = {1: "Anterior", 2: "Posterior"}


def labels_of(*values: int) -> Scan:
    return Scan(np.array([[values]], np.uint8), np.eye(4))


def test_a_clients_segments_are_known_by_their_names() -> None:
    labels = Scan(np.array([[[0, 1, 2, 3]]], np.uint8), np.eye(4))
    swapped = in_values_of(labels, {1: "posterior", 2: "Anterior", 3: "scribbles"}, NAMES)
    assert swapped.data.tolist() == [[[0, 2, 1, 0]]]
    assert in_values_of(labels, {}, NAMES) is labels
    with pytest.raises(InputError, match=r"lung.*none is one of the bundle"):
        in_values_of(labels, {1: "lung"}, NAMES)


def test_segments_that_hold_something_and_that_nobody_knows() -> None:
    """Not one that is empty, and not the background."""
    names = {1: "posterior", 2: "Anterior left", 3: "scribbles"}
    assert unknown_segments(labels_of(0, 1, 2, 4), names, NAMES) == ["Anterior left", "value 4"]
    assert unknown_segments(labels_of(0, 9), {}, NAMES) == [], "without names the values are the bundle's"


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ((0, 0), "nothing is outlined"),
        ((0, 1, 2), r"segments \[1, 2\] are outlined"),
        ((0, 7), r"segments \[7\] are outlined, and there are 3 classes"),
    ],
)
def test_what_is_no_class(values: tuple[int, ...], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        class_of(labels_of(*values), 3)


def test_a_class() -> None:
    assert class_of(labels_of(0, 3, 3), 3) == 2


def test_a_label_of_another_study_than_that_of_today(tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "store")
    store.note(StudyEntry("one", "", "new"))
    require_same_study(Labelled("one", tmp_path, key="new"), store)
    require_same_study(Labelled("one", tmp_path), store)
    with pytest.raises(InputError, match="changed after it was labelled"):
        require_same_study(Labelled("one", tmp_path, key="old"), store)
