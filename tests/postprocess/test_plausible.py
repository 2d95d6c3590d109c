import numpy as np
import pytest

from neurobundle.postprocess.plausible import HippocampusCheck


def why_implausible(labels: np.ndarray, affine: np.ndarray) -> list[str]:
    return HippocampusCheck().causes(labels, affine, centred=True)


def crop(front: int = 35, back: int = 25, low: int = 18, high: int = 24, side: int = 10, left: int = 19) -> np.ndarray:
    """Two cubes of one millilitre: the anterior one in front and below."""
    labels = np.zeros((48, 64, 48), np.uint8)
    labels[left : left + side, front : front + side, low : low + side] = 1
    labels[left : left + side, back : back + side, high : high + side] = 2
    return labels


def test_a_hippocampus_is_believed() -> None:
    assert why_implausible(crop(), np.eye(4)) == []


@pytest.mark.parametrize(
    ("labels", "cause"),
    [
        (np.where(crop() == 1, 0, crop()), "anterior part would have 0.00 ml"),
        (crop(side=7), "anterior part would have 0.34 ml"),
        (crop(front=25, back=35), "in front of and below"),
        (crop(low=24, high=18), "in front of and below"),
        (crop(left=2), "17 mm from where the template has it"),
    ],
    ids=["missing", "small", "reversed", "upside down", "elsewhere"],
)
def test_what_cannot_be_one_is_named(labels: np.ndarray, cause: str) -> None:
    (first, *_) = why_implausible(labels, np.eye(4))
    assert cause in first


def test_millilitres_depend_on_the_voxels() -> None:
    assert "8.00 ml" in why_implausible(crop(), 2 * np.eye(4))[0]


def test_a_crop_that_nobody_centred_may_show_it_anywhere() -> None:
    assert HippocampusCheck().causes(crop(left=2), np.eye(4)) == []
