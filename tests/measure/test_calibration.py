import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.measure.calibration import (
    BINS,
    CaseCalibration,
    binary_probabilities,
    case_calibration,
    dilated_region,
    normalised_entropy,
)
from neurobundle.measure.calibration_summary import read_calibration, summarise_calibration, write_calibration


def answers(*confidences: float) -> np.ndarray:
    """Two classes; class 0 is chosen, with these confidences."""
    sure = np.array(confidences)
    return np.stack([sure, 1 - sure])


def random_case(seed: int, classes: int = 4, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.4), size=n).T, rng.integers(0, classes, n)


def test_four_answers() -> None:
    """Two at .9, both right; two at .6, one right: the gaps are .1 and .1, the errors sum up by hand."""
    result = case_calibration(answers(0.9, 0.9, 0.6, 0.6), np.array([0, 0, 0, 1]))
    assert result.n == 4
    assert result.ece == pytest.approx(0.1)
    assert result.mce == pytest.approx(0.1)
    assert result.brier == pytest.approx(2 * (0.01 + 0.01 + 0.16 + 0.36) / 4)
    assert result.nll == pytest.approx(-(2 * math.log(0.9) + math.log(0.6) + math.log(0.4)) / 4)
    assert result.error_auroc == pytest.approx((1 + 1 + 0.5) / 3)


def test_mean_and_largest_gap_differ() -> None:
    """Three at .9 of which two are right, one at .6 that is right: gaps .2333 and .4."""
    result = case_calibration(answers(0.9, 0.9, 0.9, 0.6), np.array([0, 0, 1, 0]))
    assert result.mce == pytest.approx(0.4)
    assert result.ece == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.4)


@pytest.mark.parametrize(
    ("confidence", "bin_number"),
    [(1.0, 14), (0.97, 14), (0.95, 14), (14 / 15, 13), (0.8, 11), (0.6, 8), (0.5, 7)],
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bins_are_closed_on_the_right(confidence: float, bin_number: int, kind: type) -> None:
    """(14/15, 1] is the last: certainty itself is in it, and a border belongs to the bin below."""
    counts = case_calibration(answers(confidence).astype(kind), np.array([0])).counts
    assert counts == tuple(int(n == bin_number) for n in range(BINS))


def test_bins_hold_what_fell_into_them() -> None:
    result = case_calibration(answers(0.95, 0.97, 0.6), np.array([0, 1, 0]))
    assert result.counts[14] == 2
    assert result.confidence[14] == pytest.approx(0.96)
    assert result.accuracy[14] == 0.5
    assert (result.confidence[8], result.accuracy[8]) == (0.6, 1)
    assert math.isnan(result.confidence[0])
    assert math.isnan(result.accuracy[0])


def test_equal_mass_bins_by_hand() -> None:
    """Five answers, two bins: three and two. Gaps |.7 - 2/3| and |.95 - .5|."""
    result = case_calibration(answers(0.6, 1.0, 0.8, 0.9, 0.7), np.array([0, 1, 1, 0, 0]), bins=2)
    assert result.ace == pytest.approx((3 * abs(0.7 - 2 / 3) + 2 * 0.45) / 5)


def test_fewer_answers_than_equal_mass_bins() -> None:
    """Each answer is a bin of its own."""
    assert case_calibration(answers(0.9, 0.7), np.array([0, 1])).ace == pytest.approx((0.1 + 0.7) / 2)


def test_equal_mass_does_not_depend_on_the_order_of_ties() -> None:
    """Six answers of one confidence, three wrong: each bin has half of them right, however they came."""
    sure = answers(*[0.9] * 6)
    for truth in ([0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]):
        assert case_calibration(sure, np.array(truth), bins=3).ace == pytest.approx(0.4)


def test_only_the_region_counts() -> None:
    """Outside it nothing is looked at, not even whether it is a probability."""
    sure = answers(0.9, 7.0)
    result = case_calibration(sure, np.array([0, 9]), region=np.array([True, False]))
    assert (result.n, result.ece) == (1, pytest.approx(0.1))


def test_certain_and_wrong_costs_sixteen_nats() -> None:
    assert case_calibration(answers(1.0), np.array([1])).nll == pytest.approx(-math.log(1e-7))


def test_all_right_leaves_error_detection_undefined() -> None:
    result = case_calibration(answers(1.0, 1.0), np.array([0, 0]))
    assert math.isnan(result.error_auroc)
    assert (result.ece, result.brier, result.nll, result.uncertainty) == (0, 0, 0, 0)


def test_a_sigmoid_becomes_two_classes() -> None:
    result = case_calibration(binary_probabilities(np.array([[0.2, 0.9]])), np.array([[0, 1]]), structure="WT")
    assert (result.structure, result.ece) == ("WT", pytest.approx(0.15))


def test_half_precision_is_taken() -> None:
    sure, truth = random_case(3)
    half, full = case_calibration(sure.astype(np.float16), truth), case_calibration(sure, truth)
    assert half.brier == pytest.approx(full.brier, abs=1e-3)


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (4, 1)])
def test_oracle_scikit_learn(classes: int, seed: int) -> None:
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    sure, truth = random_case(seed, classes)
    result = case_calibration(sure, truth)
    labels = list(range(classes))
    if classes == 2:
        # of two classes scikit-learn takes the second alone, which is one half
        assert result.brier == pytest.approx(2 * brier_score_loss(truth, sure[1]))
    else:
        assert result.brier == pytest.approx(brier_score_loss(truth, sure.T, labels=labels, scale_by_half=False))
    clipped = np.clip(sure, 1e-7, 1)
    assert result.nll == pytest.approx(log_loss(truth, (clipped / clipped.sum(axis=0)).T, labels=labels), abs=1e-6)
    wrong = sure.argmax(axis=0) != truth
    assert result.error_auroc == pytest.approx(roc_auc_score(wrong, normalised_entropy(sure)))


def test_oracle_monai_binning() -> None:
    """MONAI's default puts a border into the bin below, as we do (its docstring says the other)."""
    import torch
    from monai.metrics.calibration import calibration_binning

    sure, truth = random_case(2)
    confidence = sure.max(axis=0).astype(np.float32)
    right = (sure.argmax(axis=0) == truth).astype(np.float32)
    result = case_calibration(sure.astype(np.float32), truth)
    means, accuracies, counts = (
        values[0, 0].numpy()
        for values in calibration_binning(
            torch.from_numpy(confidence)[None, None], torch.from_numpy(right)[None, None], BINS
        )
    )
    assert result.counts == tuple(counts.astype(int))
    np.testing.assert_allclose(result.confidence, means, atol=1e-5)
    np.testing.assert_allclose(result.accuracy, accuracies, atol=1e-5)
    gaps = np.abs(means - accuracies)
    assert result.ece == pytest.approx(float(np.nansum(gaps * counts) / counts.sum()), abs=1e-5)
    assert result.mce == pytest.approx(float(np.nanmax(gaps)), abs=1e-5)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 200))
def test_bounds_and_order(seed: int, classes: int, n: int) -> None:
    """The mean gap is at most the largest, all lie in their ranges, and the voxels' order is of no account."""
    sure, truth = random_case(seed, classes, n)
    sure = np.round(sure, 1)  # so that there are ties
    sure[0] += 1 - sure.sum(axis=0)
    sure = np.clip(sure, 0, 1) / np.clip(sure, 0, 1).sum(axis=0)
    result = case_calibration(sure, truth)
    assert 0 <= result.ece <= result.mce + 1e-9
    assert result.mce <= 1
    assert 0 <= result.ace <= 1
    assert 0 <= result.brier <= 2
    assert 0 <= result.uncertainty <= 1
    assert sum(result.counts) == n
    order = np.random.default_rng(seed).permutation(n)
    again = case_calibration(sure[:, order], truth[order])
    for field in dataclasses.fields(CaseCalibration)[2:]:
        assert getattr(again, field.name) == pytest.approx(getattr(result, field.name), nan_ok=True)


@given(st.integers(0, 1000), st.integers(1, 100))
def test_one_wrong_answer_more_raises_brier_and_nll(seed: int, n: int) -> None:
    """A miss can never raise a score: whatever the others are, turning a sure right answer into a wrong one costs."""
    sure, truth = random_case(seed, 3, n)
    sure[:, 0], truth[0] = [0.8, 0.1, 0.1], 0
    right = case_calibration(sure, truth)
    truth[0] = 1
    wrong = case_calibration(sure, truth)
    assert wrong.brier > right.brier
    assert wrong.nll > right.nll


def test_entropy_of_the_unsure_and_the_sure() -> None:
    even, sure = np.full(4, 0.25), np.array([0, 1, 0, 0.0])
    assert normalised_entropy(np.stack([even, sure], axis=1)).tolist() == [1, 0]
    assert normalised_entropy(np.full((3, 2, 2), 1 / 3, np.float32)).shape == (2, 2)


def test_oracle_entropy() -> None:
    from scipy.stats import entropy

    sure, _ = random_case(5)
    np.testing.assert_allclose(normalised_entropy(sure), entropy(sure, base=4, axis=0), atol=1e-12)


@pytest.mark.parametrize(
    ("sure", "truth", "region", "said"),
    [
        (answers(0.9, np.nan), [0, 0], None, "not a finite number"),
        (answers(0.9, np.inf), [0, 0], None, "not a finite number"),
        (answers(0.9, 3.0), [0, 0], None, "softmax"),
        (np.full((2, 2), 0.4), [0, 0], None, "sum to 0.8"),
        (np.full((1, 2), 1.0), [0, 0], None, "one class only"),
        (answers(0.9, 0.9), [0, 0, 0], None, "do not fit"),
        (answers(0.9, 0.9), [0, 0], [True], "do not fit"),
        (answers(0.9, 0.9), [0, 0], [False, False], "no voxel"),
        (answers(0.9, 0.9), [0, 2], None, "classes 0 to 2"),
        (answers(0.9, 0.9), [0, -1], None, "classes -1 to 0"),
        (answers(0.9, 0.9), [0.0, 1.0], None, "whole numbers"),
    ],
)
def test_bad_input_is_named(sure: np.ndarray, truth: list, region: list | None, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        case_calibration(sure, np.array(truth), None if region is None else np.array(region), case="anna")
    assert caught.value.case == "anna" or "binary" in caught.value.way_out
    assert caught.value.way_out


def test_entropy_of_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="one class"):
        normalised_entropy(np.ones((1, 3)))


def test_a_region_by_hand() -> None:
    """One voxel in a row of 2 mm voxels, dilated by 5 mm: two neighbours on each side."""
    mask = np.zeros((9, 1, 1), bool)
    mask[4] = True
    assert np.flatnonzero(dilated_region(mask, (2, 1, 1))).tolist() == [2, 3, 4, 5, 6]
    assert np.flatnonzero(dilated_region(mask, (2.5, 1, 1))).tolist() == [2, 3, 4, 5, 6]
    assert np.flatnonzero(dilated_region(mask, (5.1, 1, 1))).tolist() == [4]


def test_a_region_of_nothing_is_empty() -> None:
    assert not dilated_region(np.zeros((4, 4)), (1, 1)).any()


def test_a_region_at_the_border_does_not_come_round() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0, 0] = True
    assert not dilated_region(mask, (1, 1), 3)[8:].any()
    assert dilated_region(mask, (1, 1), 0).sum() == 1


@given(st.integers(0, 10_000), st.sampled_from([2, 3]), st.floats(0, 6))
def test_a_region_equals_brute_force(seed: int, axes: int, by_mm: float) -> None:
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.4, 3, axes)
    mask = rng.random((7,) * axes) < 0.02
    places = np.argwhere(np.ones_like(mask)) * spacing
    marked = np.argwhere(mask) * spacing
    expected = np.zeros(mask.shape, bool)
    if len(marked):
        distances = np.linalg.norm(places[:, None] - marked[None], axis=2).min(axis=1)
        if (np.abs(distances - by_mm) < 1e-5).any():
            return
        expected = (distances <= by_mm).reshape(mask.shape)
    np.testing.assert_array_equal(dilated_region(mask, spacing, by_mm), expected)


@pytest.mark.parametrize(
    ("spacing", "by_mm"), [((1, 1), 5), ((1, 1, 0), 5), ((1, 1, math.nan), 5), ((1, 1, 1), -1), ((1, 1, 1), math.nan)]
)
def test_a_region_that_means_nothing(spacing: tuple, by_mm: float) -> None:
    with pytest.raises(SettingError, match="mm"):
        dilated_region(np.ones((2, 2, 2)), spacing, by_mm)


def two_cases() -> list[CaseCalibration]:
    return [
        case_calibration(answers(0.95, 0.95), np.array([0, 0]), case="a"),
        case_calibration(answers(0.95, 0.95, 0.6, 0.6), np.array([1, 1, 0, 0]), case="b"),
    ]


def test_a_summary_by_hand() -> None:
    """Gaps .05 and (.95 + .4) / 2; pooled, the last bin has four answers, of which two are right."""
    result = summarise_calibration(two_cases(), {"a": "x", "b": "y"})["all"]
    assert (result["n_cases"], result["n_voxels"]) == (2, 6)
    assert result["ece"]["mean"] == pytest.approx((0.05 + 0.675) / 2)
    assert result["ece"]["interval"] == [pytest.approx(0.05), pytest.approx(0.675)]
    assert result["bins"][14] == {"low": 0.933333, "high": 1, "count": 4, "confidence": 0.95, "accuracy": 0.5}
    assert result["bins"][0]["confidence"] is None
    assert result["error_auroc"]["mean"] == 0  # of b alone, whose sure answers are the wrong ones; a has none wrong
    assert result["risk_coverage"] is None
    assert result["uncertainty_dice_spearman"] is None


def test_structures_are_summarised_apart() -> None:
    cases = [dataclasses.replace(two_cases()[0], structure=name) for name in ("WT", "TC")]
    assert list(summarise_calibration(cases, {})) == ["WT", "TC"]


def test_a_failed_case_is_kept_last() -> None:
    """It has a score and no probabilities: it is in no mean, and its risk is in that at full coverage."""
    result = summarise_calibration(two_cases(), {}, {"a": 0.9, "b": 0.5, "failed": 0.0, "empty": math.nan})["all"]
    curve = result["risk_coverage"]
    assert result["n_cases"] == 2
    assert curve["coverage"] == [pytest.approx(1 / 3, abs=1e-6), pytest.approx(2 / 3, abs=1e-6), 1]
    assert curve["risk"] == [pytest.approx(0.1), pytest.approx(0.3), pytest.approx(1.6 / 3, abs=1e-6)]
    assert curve["n_without_uncertainty"] == 1
    assert curve["aurc"] == curve["aurc_best"]


def test_uncertainty_that_follows_the_score() -> None:
    base = two_cases()[0]
    cases = [dataclasses.replace(base, case=str(n), uncertainty=n / 10) for n in range(4)]
    result = summarise_calibration(cases, {}, {str(n): 1 - n / 10 for n in range(4)})["all"]
    assert result["uncertainty_dice_spearman"] == -1


def test_scores_of_other_cases_alone_give_no_curve() -> None:
    assert summarise_calibration(two_cases(), {}, {"other": 0.5})["all"]["risk_coverage"] is None


def test_nothing_is_summarised_as_nothing() -> None:
    assert summarise_calibration([], {}, {}) == {}


def test_summaries_can_be_written(tmp_path: Path) -> None:
    """What is not defined is null, since JSON has no NaN."""
    from neurobundle.files import write_json

    assert write_json(tmp_path / "c.json", summarise_calibration(two_cases()[:1], {}, {"a": 1.0})).is_file()


def test_different_bins_cannot_be_pooled() -> None:
    other = case_calibration(answers(0.9), np.array([0]), case="other", bins=5)
    with pytest.raises(InputError, match="5 bins") as caught:
        summarise_calibration([*two_cases(), other], {})
    assert caught.value.case == "other"


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """To the last digit, so that folds joined from their files give the summary of one run."""
    cases = [case_calibration(*random_case(seed), case=f"case {seed}", structure="WT") for seed in range(3)]
    cases.append(case_calibration(answers(1.0), np.array([0]), case="sure"))
    subjects = {"case 0": "anna", "case 1": "anna"}
    path = write_calibration(tmp_path / "calibration.csv", cases, subjects)
    back, who = read_calibration(path)
    assert repr(back) == repr(cases)  # NaN is not equal to itself
    assert who == {"case 0": "anna", "case 1": "anna", "case 2": "case 2", "sure": "sure"}
    again = write_calibration(tmp_path / "again.csv", back, who)
    assert again.read_bytes() == path.read_bytes()


def test_folds_joined_equal_one_run(tmp_path: Path) -> None:
    cases = [case_calibration(*random_case(seed), case=str(seed)) for seed in range(4)]
    parts = [read_calibration(write_calibration(tmp_path / f"{n}.csv", cases[n::2], {}))[0] for n in range(2)]
    assert summarise_calibration(sorted(parts[0] + parts[1], key=lambda c: c.case), {}) == summarise_calibration(
        cases, {}
    )


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "case,subject,structure,n\nanna,anna,WT,many\n"])
def test_another_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.csv"
    path.write_text(text)
    if text:
        with pytest.raises(InputError, match="no calibration table"):
            read_calibration(path)
    else:
        assert read_calibration(path) == ([], {})
    with pytest.raises(NoInputError):
        read_calibration(tmp_path / "none.csv")
