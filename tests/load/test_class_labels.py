from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobundle.errors import InputError, SettingError
from neurobundle.load.class_labels import check_class_folds, check_class_names_of, check_classified, leaks_of
from neurobundle.load.datalist import read_datalist, write_datalist

CLASSES = ["glioma", "meningioma", "pituitary tumour"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def mask(folder: Path, side: int = 8) -> Path:
    pixels = np.zeros((side, side), np.uint8)
    pixels[2:4, 2:4] = 255
    Image.fromarray(pixels).save(folder / "mask.png")
    return folder / "mask.png"


def test_a_picture_and_its_class(picture: Path) -> None:
    facts = check_classified(picture, 2, CLASSES)
    assert (facts.shape, facts.values, facts.label_hash) == ((8, 8), frozenset(), None)
    facts = check_classified(picture, 0, CLASSES, mask(picture.parent))
    assert facts.values == {0, 255}


def test_a_volume_and_its_class(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4)), path)
    assert check_classified(str(path), 1, CLASSES).shape == (3, 4, 5)


@pytest.mark.parametrize("label", [3, -1, True, 1.0, "glioma", "1"])
def test_a_label_that_is_no_class(label: object, picture: Path) -> None:
    """The case, the file, the label and the classes are named."""
    with pytest.raises(InputError) as caught:
        check_classified(picture, label, CLASSES, case="anna")
    said = str(caught.value)
    assert said.startswith(f"anna {picture}: its label is {label!r}, which is no class's number")
    assert "0 glioma, 1 meningioma, 2 pituitary tumour" in said


def test_no_label(picture: Path) -> None:
    with pytest.raises(InputError, match="it has no label"):
        check_classified(picture, None, CLASSES)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_a_colour_photograph(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    path = tmp_path / ("c.jpg" if mode == "CMYK" else "c.png")
    colours.convert(mode).save(path)
    with pytest.raises(InputError, match="images are not supported"):
        check_classified(path, 0, CLASSES)


def test_a_corrupt_picture(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:50])
    with pytest.raises(InputError, match="it cannot be read") as caught:
        check_classified(picture, 0, CLASSES, case="anna")
    assert caught.value.case == "anna"


def test_a_mask_of_another_grid(picture: Path) -> None:
    with pytest.raises(InputError, match=r"shape \(9, 9\), its image a.png \(8, 8\)"):
        check_classified(picture, 0, CLASSES, mask(picture.parent, side=9))


def datalist(folder: Path, rows: list[tuple[str, int, int]], **more: object) -> Path:
    """Of rows of subject, class and fold."""
    items = [
        {"case": f"c{n}", "subject": subject, "label": label, "fold": fold, "image": "a.png"}
        for n, (subject, label, fold) in enumerate(rows)
    ]
    (folder / "d.json").write_text(json.dumps({"training": items, **more}))
    return folder / "d.json"


def problems(path: Path, folds: list[int], classes: list[str] = CLASSES[:2]) -> list[str]:
    items = read_datalist(path, check_files=False)
    return [error.cause for error in check_class_folds(items, classes, folds, path)]


GOOD = [("a", 0, 0), ("b", 1, 0), ("c", 0, 1), ("d", 1, 1)]


def test_folds_that_can_teach(tmp_path: Path) -> None:
    assert problems(datalist(tmp_path, GOOD), [0, 1, -1]) == []


def test_a_class_that_a_training_lacks(tmp_path: Path) -> None:
    """Class 1 stands in fold 0 alone: who holds fold 0 out never sees it."""
    path = datalist(tmp_path, [*GOOD[:3], ("d", 0, 1)])
    assert problems(path, [0, 1, -1]) == [
        "fold 0's training cases hold no 'meningioma'",
        "fold 1 holds one class only, 'glioma'",
    ]
    assert problems(path, [-1]) == []
    assert problems(path, [-1], CLASSES) == ["the training cases hold no 'pituitary tumour'"]


def test_a_subject_in_two_folds(tmp_path: Path) -> None:
    rows = [*GOOD, ("a", 0, 1), ("b", 1, 1)]
    assert problems(datalist(tmp_path, rows), [0]) == [
        "the subject 'a' is in the folds 0, 1, and 1 more are in several"
    ]
    path = datalist(tmp_path, rows, split={"leaks": "on purpose"})
    assert (problems(path, [0]), leaks_of(path)) == ([], "on purpose")


def test_names_in_another_order(tmp_path: Path) -> None:
    """A 0 would be a glioma here and a meningioma there."""
    path = datalist(tmp_path, GOOD, labels={"0": "meningioma", "1": "glioma"})
    with pytest.raises(SettingError, match=r"0 meningioma, 1 glioma, and the bundle's are 0 glioma, 1 meningioma"):
        check_class_names_of(path, CLASSES[:2])
    check_class_names_of(path, ["meningioma", "glioma"])
    check_class_names_of(datalist(tmp_path, GOOD), CLASSES)


def test_a_mask_is_a_path_of_the_datalist(tmp_path: Path) -> None:
    """Relative to it when written, absolute when read, and looked for."""
    (tmp_path / "a.png").touch()
    item = {"case": "a", "subject": "a", "fold": 0, "label": 1, "image": str(tmp_path / "a.png")}
    path = write_datalist(tmp_path / "d.json", [{**item, "mask": str(tmp_path / "m.png")}])
    assert json.loads(path.read_text())["training"][0]["mask"] == "m.png"
    with pytest.raises(InputError, match="is not there") as caught:
        read_datalist(path)
    assert caught.value.file == str(tmp_path / "m.png")
    (tmp_path / "m.png").touch()
    assert read_datalist(path)[0]["mask"] == str(tmp_path / "m.png")
    path.write_text(json.dumps({"training": [{**item, "mask": 3}]}))
    with pytest.raises(SettingError, match="'mask' as a path"):
        read_datalist(path)
