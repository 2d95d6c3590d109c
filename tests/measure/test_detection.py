import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.detection import (
    COCO_LIMITS,
    ImageBoxes,
    average_precision,
    count_boxes,
    iou_matrix,
    score_detection,
)

#: Two boxes far from each other, and one that has an IoU of exactly .5 with the first.
A, B, HALF_A = [0, 0, 2, 2], [10, 10, 12, 12], [0, 0, 2, 1]
MEANS = ("map50", "map50_95", "precision", "recall", "f1")


def image(name: str, truth: list[Any], found: list[Any], scores: list[float] | None = None, **more: Any) -> ImageBoxes:
    """An image of one class; every score is .9 if none are given."""
    scores = [0.9] * len(found) if scores is None else scores
    return ImageBoxes(name, truth, [0] * len(truth), found, [0] * len(found), scores, **more)


def means(images: list[ImageBoxes], classes: str = "a", **more: Any) -> dict[str, Any]:
    result = score_detection(images, list(classes), **more)
    return {name: result[name]["mean"] for name in MEANS} | {"froc": result["froc"]["score"]}


# --- on fingers ---


def test_iou_of_boxes_and_of_cuboids() -> None:
    assert iou_matrix(np.array([A]), np.array([A, HALF_A, B])).tolist() == [[1, 0.5, 0]]
    cube = np.array([[0, 0, 0, 2, 2, 2]])
    assert iou_matrix(cube, np.array([[0, 0, 0, 2, 2, 1], [0, 0, 1, 2, 2, 3]])).tolist() == [[0.5, 1 / 3]]


def test_boxes_that_touch_or_have_no_area_share_nothing() -> None:
    point = [[1, 1, 1, 1]]
    assert iou_matrix(np.array([A]), np.array([[2, 0, 4, 2]])).tolist() == [[0]]
    assert iou_matrix(np.array(point), np.array(point)).tolist() == [[0]]


def test_one_box_found_perfectly() -> None:
    assert means([image("a", [A], [A])]) == dict.fromkeys((*MEANS, "froc"), 1)


def test_a_second_box_on_one_that_is_found_is_false() -> None:
    images = [image("a", [A], [A, A], [0.9, 0.8])]
    assert count_boxes(images, 1).tolist() == [[1, 1, 1]]
    result = means(images)
    assert (result["precision"], result["recall"]) == (0.5, 1)
    # Its score is the lower one, so that the precision at every recall is 1.
    assert result["map50"] == 1


def test_a_false_box_of_higher_score_halves_the_precision() -> None:
    assert means([image("a", [A], [B, A], [0.9, 0.8])])["map50"] == 0.5


def test_one_of_two_boxes_found() -> None:
    """Precision 1 at the recalls 0 to .50, which are 51 of 101 points."""
    result = means([image("a", [A, B], [A])])
    assert result["map50"] == pytest.approx(51 / 101, abs=1e-6)
    assert (result["precision"], result["recall"]) == (1, 0.5)
    assert result["f1"] == pytest.approx(2 / 3, abs=1e-6)


def test_seven_of_ten_boxes_found() -> None:
    """The recall .70 counts as reached, which rounding would deny: 71 of 101 points."""
    boxes = [[k, 0, k + 1, 1] for k in range(10)]
    assert average_precision([image("a", boxes, boxes[:7])])[0] == pytest.approx(71 / 101)


def test_the_wrong_class_is_a_miss_and_a_false_box() -> None:
    images = [ImageBoxes("a", [A], [0], [A], [1], [0.9])]
    assert count_boxes(images, 2).tolist() == [[1, 0, 1]]
    result = score_detection(images, ["a", "b"])
    assert result["map50"]["mean"] == result["precision"]["mean"] == result["recall"]["mean"] == 0
    assert result["per_class"]["b"] == {
        "n_boxes": 0,
        **dict.fromkeys(("ap50", "ap50_95", "precision", "recall", "f1")),
    }


@pytest.mark.parametrize(("limit", "found"), [(0.5, 1), (0.51, 0)])
def test_an_iou_at_the_threshold_is_enough(limit: float, found: int) -> None:
    assert count_boxes([image("a", [A], [HALF_A])], 1, limit).tolist() == [[1, found, 1 - found]]


def test_every_limit_of_coco_is_met_exactly() -> None:
    """Boxes of n twentieths of another have the IoU n / 20, and are found up to that limit."""
    for n, limit in zip(range(10, 20), COCO_LIMITS, strict=True):
        part = [image("a", [[0, 0, 20, 1]], [[0, 0, n, 1]])]
        assert average_precision(part, limit) == {0: 1}
        assert means(part)["map50_95"] == pytest.approx((n - 9) / 10)


@pytest.mark.parametrize(("limit", "found"), [(0.9, 1), (0.91, 0)])
def test_a_score_at_the_threshold_is_enough(limit: float, found: int) -> None:
    assert count_boxes([image("a", [A], [A])], 1, score_threshold=limit).tolist() == [[1, found, 0]]


def test_a_box_takes_the_nearest_that_is_free() -> None:
    """The first takes A, which it covers; the second overlaps A more than C, and gets C."""
    c = [1, 0, 3, 2]
    images = [image("a", [A, c], [A, [0.4, 0, 2.4, 2]], [0.9, 0.8])]
    assert count_boxes(images, 1, iou_threshold=0.5).tolist() == [[2, 2, 0]]


def test_the_higher_score_chooses_first() -> None:
    """The poorer box has the higher score and takes A, so that the better one is false."""
    images = [image("a", [A], [A, HALF_A], [0.6, 0.9])]
    assert count_boxes(images, 1).tolist() == [[1, 1, 1]]
    assert average_precision(images, 0.6)[0] == 0.5


def test_an_image_without_boxes_has_false_ones_only() -> None:
    """A false box of the higher score in an empty image: precision .5 at every recall."""
    images = [image("a", [A], [A], [0.8]), image("b", [], [B], [0.9])]
    assert count_boxes(images, 1).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert means(images)["map50"] == 0.5


def test_all_images_without_boxes() -> None:
    result = means([image("a", [], [B]), image("b", [], [])])
    assert result == {**dict.fromkeys(("map50", "map50_95", "recall", "froc")), "precision": 0, "f1": 0}
    assert set(means([image("a", [], [])]).values()) == {None}


def test_no_prediction_at_all() -> None:
    result = means([image("a", [A], []), image("b", [A, B], [])])
    assert result == {**dict.fromkeys((*MEANS, "froc"), 0), "precision": None}


def test_no_image_at_all() -> None:
    result = score_detection([], ["a"])
    assert (result["n_images"], result["map50"]) == (0, {"mean": None, "interval": [None, None]})


def test_the_boxes_of_a_failed_image_are_missed() -> None:
    images = [image("a", [A], [A]), image("b", [A, B], [], failed=True)]
    result = score_detection(images, ["a"])
    assert (result["n_images"], result["n_boxes"], result["n_failed"]) == (2, 3, 1)
    assert result["recall"]["mean"] == pytest.approx(1 / 3, abs=1e-6)
    assert result["map50"]["mean"] == pytest.approx(34 / 101, abs=1e-6)


def test_an_ignored_box_need_not_be_found_and_may_be() -> None:
    assert count_boxes([image("a", [A, B], [A], ignored=[False, True])], 1).tolist() == [[1, 1, 0]]
    many = image("a", [A, B], [A, B, [10, 10, 11, 11]], ignored=[False, True])
    assert count_boxes([many], 1).tolist() == [[1, 1, 0]]
    beside = image("a", [A, B], [A, [11, 10, 15, 12]], ignored=[False, True])
    assert count_boxes([beside], 1).tolist() == [[1, 1, 1]]


def test_froc_on_fingers() -> None:
    """Two images, two boxes: one is found before any false one, the other after one of two false ones.

    The points are (0, .5), (.5, .5), (.5, 1) and (1, 1), in false ones an image; between 0 and .5 it stays at .5.
    """
    images = [image("a", [A], [A, B], [0.9, 0.8]), image("b", [A], [A, B], [0.7, 0.6])]
    result = score_detection(images, ["a"], froc_at=(0.25, 0.5, 1, 2))["froc"]
    assert result == {
        "false_positives_per_image": [0.25, 0.5, 1.0, 2.0],
        "sensitivity": [0.5, 1.0, 1.0, 1.0],
        "score": 0.875,
    }


def test_a_failed_image_does_not_thin_out_the_false_ones() -> None:
    """One false box in the one image that was answered is one an image."""
    images = [image("a", [A], [B, A], [0.9, 0.8]), image("b", [], [], failed=True)]
    assert score_detection(images, ["a"], froc_at=(0.5, 1))["froc"]["sensitivity"] == [0.0, 1.0]
    assert score_detection([image("a", [A], [], failed=True)], ["a"])["froc"]["score"] == 0


def test_equal_scores_are_taken_together_in_any_order() -> None:
    """A hit and a false one of the same score: precision .5, whichever image comes first."""
    images = [image("a", [A], [A]), image("b", [], [B])]
    assert average_precision(images) == average_precision(images[::-1]) == {0: 0.5}


def test_subjects_are_drawn_whole() -> None:
    """Two subjects, of whom one has every box found and one none."""
    images = [
        image("a1", [A], [A], subject="a"),
        image("a2", [A], [A], subject="a"),
        image("b1", [A], [B], subject="b"),
        image("b2", [A], [B], subject="b"),
    ]
    result = score_detection(images, ["a"])
    assert result["recall"] == {"mean": 0.5, "interval": [0.0, 1.0]}
    assert result["map50"]["interval"] == [0.0, 1.0]
    alone = [image(k, [A], [A if k < "c" else B], subject="x") for k in "abcd"]
    assert score_detection(alone, ["a"])["recall"]["interval"] == [None, None], "nothing can be drawn anew"


def test_the_mean_is_over_classes_and_the_counts_are_of_all() -> None:
    images = [ImageBoxes("a", [A, B, B], [0, 1, 1], [A], [0], [0.9])]
    result = score_detection(images, ["a", "b", "c"])
    assert result["map50"]["mean"] == 0.5
    assert result["recall"]["mean"] == pytest.approx(1 / 3, abs=1e-6)
    assert [scores["n_boxes"] for scores in result["per_class"].values()] == [1, 2, 0]
    assert result["per_class"]["a"] == {
        "n_boxes": 1,
        **dict.fromkeys(("ap50", "ap50_95", "precision", "recall", "f1"), 1),
    }
    assert result["per_class"]["b"]["precision"] is None


# --- MONAI as the oracle ---


def random_images(seed: int, n_classes: int = 2, dims: int = 2) -> list[ImageBoxes]:
    """Images whose predictions are moved and mixed references, and some that are no such.

    Each class has 7, 11 or 13 reference boxes: none of 101 recalls but 0 and 1 is one of theirs, where rounding would
    decide (MONAI's recalls are float32).
    """
    rng = np.random.default_rng(seed)
    truth_classes = np.repeat(np.arange(n_classes), rng.choice([7, 11, 13], n_classes))
    home = rng.integers(6, size=len(truth_classes))
    images = []
    for number in range(7):
        own = truth_classes[home == number]
        truth = random_boxes(rng, len(own), dims)
        moved = truth + rng.normal(0, 0.6, truth.shape) * (np.arange(2 * dims) >= dims)
        boxes = np.concatenate([moved, truth[::2], random_boxes(rng, 4, dims)])
        classes = np.concatenate([own, own[::2], rng.integers(n_classes, size=4)])
        images.append(ImageBoxes(str(number), truth, own, boxes, classes, rng.uniform(0.05, 1, len(boxes))))
    return images


def random_boxes(rng: np.random.Generator, n: int, dims: int) -> np.ndarray:
    low = rng.uniform(0, 12, (n, dims))
    return np.concatenate([low, low + rng.uniform(3, 8, (n, dims))], axis=1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_equals_monais(seed: int, dims: int) -> None:
    from monai.apps.detection.metrics.coco import COCOMetric
    from monai.apps.detection.metrics.matching import matching_batch

    images = random_images(seed, dims=dims)
    oracle = COCOMetric(["a", "b"], iou_list=[0.5], iou_range=[0.5, 0.95, 0.05], max_detection=[100])
    matches = matching_batch(
        iou_matrix,
        oracle.iou_thresholds,
        [one.boxes for one in images],
        [one.classes for one in images],
        [one.scores for one in images],
        [one.truth_boxes for one in images],
        [one.truth_classes for one in images],
    )
    wanted = oracle(matches)[0]
    result = score_detection(images, ["a", "b"])
    assert 0.1 < result["map50_95"]["mean"] < result["map50"]["mean"] < 1
    assert result["map50_95"]["mean"] == pytest.approx(wanted["mAP_IoU_0.50_0.95_0.05_MaxDet_100"], abs=1e-6)
    assert result["map50"]["mean"] == pytest.approx(wanted["AP_IoU_0.50_MaxDet_100"], abs=1e-6)
    for name in "ab":
        assert result["per_class"][name]["ap50"] == pytest.approx(wanted[f"{name}_AP_IoU_0.50_MaxDet_100"], abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_iou_equals_monais(dims: int) -> None:
    from monai.data.box_utils import box_iou

    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 20, dims), random_boxes(rng, 30, dims)
    assert iou_matrix(a, b) == pytest.approx(box_iou(a, b), abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_froc_equals_monais(seed: int) -> None:
    """MONAI gives a missed box the score 0, and leaves the lowest score out: it agrees where one is missed."""
    from monai.metrics import compute_froc_curve_data, compute_froc_score

    images = random_images(seed, n_classes=1)
    found, false = [], []
    for one in images:
        free = np.ones(len(one.truth_boxes), dtype=bool)
        best = np.zeros(len(free))
        for k in np.argsort(-one.scores):
            overlap = iou_matrix(one.boxes[k : k + 1], one.truth_boxes)[0] * free if len(free) else np.zeros(1)
            if overlap.max() >= 0.5:
                free[overlap.argmax()] = False
                best[overlap.argmax()] = one.scores[k]
            else:
                false.append(one.scores[k])
        found += best.tolist()
    found.append(0.0)  # a box that nobody can find
    images.append(image("missed", [A], []))
    at = (0.1, 0.25, 0.5, 1, 2, 4)
    curve = compute_froc_curve_data(np.array(false), np.array(found), len(found), len(images))
    result = score_detection(images, ["a"], froc_at=at)["froc"]
    assert result["sensitivity"][0] < result["sensitivity"][-1] < 1
    assert result["score"] == pytest.approx(compute_froc_score(*curve, at), abs=1e-6)


# --- laws ---

BOXES = st.lists(st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(1, 4)] * 2), max_size=4)


@settings(max_examples=40)
@given(st.lists(BOXES, min_size=1, max_size=4), st.sampled_from(["missed", "false", "failed"]), st.floats(0.5, 1))
def test_a_missed_or_false_box_never_raises_a_perfect_mean(layout: list[Any], kind: str, score: float) -> None:
    boxes = [[[x, y, x + w, y + h] for x, y, w, h in one] for one in layout]
    perfect = [image(str(k), one, one) for k, one in enumerate(boxes)]
    there, found = ([], [B]) if kind == "false" else ([B], [])
    more = image("more", there, found, [score] * len(found), failed=kind == "failed")
    before, after = means(perfect), means([*perfect, more])
    for name, value in before.items():
        assert value in (1, None), name
        if value is not None:
            assert after[name] <= 1
    name = "precision" if kind == "false" else "recall"
    assert (after[name] if after[name] is not None else 0) < 1


@given(st.integers(0, 30), st.data())
def test_an_image_that_fails_never_raises_recall(seed: int, data: st.DataObject) -> None:
    images = random_images(seed)
    place = data.draw(st.integers(0, len(images) - 1))
    old = images[place]
    failed = ImageBoxes(old.image, old.truth_boxes, old.truth_classes, [], [], [], failed=True)
    after = [failed if k == place else one for k, one in enumerate(images)]
    assert count_boxes(after, 2)[:, 1].sum() <= count_boxes(images, 2)[:, 1].sum()
    assert count_boxes(after, 2)[:, 0].sum() == count_boxes(images, 2)[:, 0].sum()


@settings(max_examples=15)
@given(st.integers(0, 30))
def test_the_order_of_images_does_not_matter(seed: int) -> None:
    images = random_images(seed)
    rounded = [
        ImageBoxes(i.image, i.truth_boxes, i.truth_classes, i.boxes, i.classes, np.round(i.scores, 1)) for i in images
    ]
    assert means(rounded, "ab") == means(rounded[::-1], "ab")


def test_the_same_images_give_the_same_scores() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score_detection(random_images(0), ["a", "b"]) == score_detection(random_images(0), ["a", "b"])


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[0, 0, 2]]}, "predicted boxes have the shape"),
        ({"boxes": [0, 0, 2, 2]}, "predicted boxes have the shape"),
        ({"boxes": [[2, 0, 0, 2]]}, "predicted box .* is none"),
        ({"boxes": [[0, 0, math.nan, 2]]}, "predicted box .* is none"),
        ({"boxes": [[0, 0, math.inf, 2]]}, "predicted box .* is none"),
        ({"truth_boxes": [[0, 0, 0, 2, 2, 2]]}, "have 6 numbers and its predicted ones 4"),
        ({"truth_classes": [0, 0]}, "1 boxes and .2,. of a reference class"),
        ({"classes": []}, "1 boxes and .0,. of a predicted class"),
        ({"scores": [math.nan]}, "score is not finite"),
        ({"ignored": [True, False]}, "1 boxes"),
        ({"failed": True}, "failed and has predicted boxes"),
    ],
)
def test_boxes_that_are_none(change: dict[str, Any], message: str) -> None:
    good = {
        "truth_boxes": [A],
        "truth_classes": [0],
        "boxes": [A],
        "classes": [0],
        "scores": [0.5],
    }
    ImageBoxes("anna", **good)
    with pytest.raises(InputError, match=message) as caught:
        ImageBoxes("anna", **{**good, **change})
    assert caught.value.case == "anna"


def test_images_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match="given twice"):
        score_detection([image("a", [A], []), image("a", [A], [])], ["a"])
    with pytest.raises(InputError, match="no class 1; there are 1: a"):
        score_detection([ImageBoxes("a", [A], [1], [], [], [])], ["a"])
    with pytest.raises(InputError, match="no class -1"):
        score_detection([ImageBoxes("a", [A], [0], [A], [-1], [0.5])], ["a"])
    with pytest.raises(InputError, match="3D, and those of a are 2D"):
        score_detection([image("a", [A], []), image("b", [[0, 0, 0, 1, 1, 1]], [])], ["a"])


@pytest.mark.parametrize(
    "change",
    [
        {"iou_threshold": 0},
        {"iou_threshold": 1.1},
        {"iou_threshold": math.nan},
        {"score_threshold": math.nan},
        {"froc_at": ()},
        {"froc_at": (-1,)},
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(change))):
        score_detection([image("a", [A], [])], ["a"], **change)


def test_a_detection_needs_classes() -> None:
    with pytest.raises(SettingError, match="1 classes or more"):
        score_detection([], [])
    with pytest.raises(SettingError, match="different names"):
        score_detection([], ["a", "a"])
