from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurobundle.measure.calibration_charts import write_reliability, write_risk_coverage
from neurobundle.measure.case_score import case_uncertainty
from neurobundle.measure.logits import CaseLogits, read_logits, write_logits
from neurobundle.measure.segmentation_calibration import Case, calibrate_voxels
from neurobundle.measure.voxel_calibration import Structures, draw_samples, fit_pooled

ONE = Structures({"part": [1]}, "softmax", region_mm=2.0)
FACTOR = 3.0


def made(folder: Path, folds: int = 2, cases: int = 6, subjects: int = 6) -> dict[str, Case]:
    """Cubes whose voxels are drawn from the logits' own softmax, and logits that are then too large by a factor."""
    found = {}
    for n in range(cases):
        rng = np.random.default_rng(n)
        inside = rng.normal(size=(9, 9, 9)) * 1.5 - 1
        reference = (rng.random(inside.shape) < 1 / (1 + np.exp(-inside))).astype(np.uint8)
        logits = np.stack([np.zeros_like(inside), inside]) * FACTOR
        name = f"case_{n}"
        path = write_logits(folder / f"{name}.npz", CaseLogits(logits.astype(np.float32), reference, (1.0, 1.0, 1.0)))
        found[name] = Case(path, f"person-{n % subjects}", str(n % folds), 0.9 - 0.1 * n)
    return found


def test_a_part_is_judged_by_the_others(tmp_path: Path) -> None:
    """The temperature of a fold is that of the other fold's voxels, and what is shipped is that of all."""
    cases = made(tmp_path)
    found = calibrate_voxels(cases, ONE, case_uncertainty)
    samples = {name: draw_samples(read_logits(one.logits), ONE, name) for name, one in cases.items()}
    for fold in ("0", "1"):
        others = [part for name, one in cases.items() if one.fold != fold for part in samples[name]]
        assert found.summary["temperature"]["by_part"][fold] == pytest.approx(fit_pooled(others).value, rel=1e-3)
    everything = [part for own in samples.values() for part in own]
    assert found.shipped["temperature"] == pytest.approx(fit_pooled(everything).value, rel=1e-3), "but for rounding"
    assert found.shipped["temperature"] == pytest.approx(FACTOR, rel=0.15)
    assert found.shipped["n"] == 6
    before, after = (found.summary["calibration"][when]["all"] for when in ("before", "after"))
    assert after["ece"]["mean"] < 0.5 * before["ece"]["mean"]
    assert after["n_voxels"] == before["n_voxels"]
    marginal = found.summary["marginal"]
    assert marginal["after"]["mean"]["ace"]["mean"] < marginal["before"]["mean"]["ace"]["mean"]
    assert marginal["after"]["1"] == marginal["after"]["mean"], "of one structure"


def test_a_case_moves_no_number_that_judges_it(tmp_path: Path) -> None:
    """Another truth of fold 0 changes the temperature and threshold of fold 1, and not its own."""
    cases = made(tmp_path / "a")
    changed = made(tmp_path / "b")
    for name in ("case_0", "case_2", "case_4"):
        case = read_logits(changed[name].logits)
        write_logits(changed[name].logits, CaseLogits(case.logits, 1 - case.reference, case.spacing_mm))
        changed[name] = replace(changed[name], dice=0.1)
    first, second = (calibrate_voxels(some, ONE, case_uncertainty, wanted_dice=0.7) for some in (cases, changed))
    for part in ("temperature", "flag"):
        assert first.summary[part]["by_part"]["0"] == second.summary[part]["by_part"]["0"]
    assert first.summary["temperature"]["by_part"]["1"] != second.summary["temperature"]["by_part"]["1"]
    kept = {row[0]: row[4:] for row in first.rows}
    assert all(row[4:] == kept[row[0]] for row in second.rows if row[2] == "0")


def test_one_fold_is_judged_on_halves_of_its_subjects(tmp_path: Path) -> None:
    found = calibrate_voxels(made(tmp_path, folds=1, subjects=3), ONE, case_uncertainty)
    assert found.summary["judged"] == "each half of the subjects by the other"
    assert set(found.summary["temperature"]["by_part"]) == {"half 0", "half 1"}


def test_one_subject_is_not_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = calibrate_voxels(made(tmp_path, folds=1, subjects=1), ONE, case_uncertainty)
    assert found.summary["judged"] is None
    assert "nothing judges it" in caplog.text
    assert found.summary["temperature"]["by_part"] == {"all": pytest.approx(found.shipped["temperature"], abs=1e-6)}


def test_a_score_that_knows_the_truth(tmp_path: Path) -> None:
    """In the order of the Dice: the best area, a correlation of 1, and the worst tenth of ten flagged."""
    cases = made(tmp_path, cases=10, subjects=10)
    by_file = {}
    for one in cases.values():
        by_file[read_logits(one.logits).logits.tobytes()] = 1 - one.dice
    found = calibrate_voxels(cases, ONE, lambda case, *_: by_file[case.logits.tobytes()])
    areas = found.summary["cases"]
    assert areas["aurc"] == areas["aurc_best"] < areas["aurc_random"]
    assert areas["aurc_random"] == pytest.approx(np.mean([1 - one.dice for one in cases.values()]), abs=1e-6)
    assert areas["spearman"] == 1
    assert found.shipped["flag_above"] == pytest.approx(1 - cases["case_8"].dice)


def test_a_case_without_a_dice_is_calibrated_and_not_ordered(tmp_path: Path) -> None:
    cases = made(tmp_path)
    cases["case_3"] = replace(cases["case_3"], dice=float("nan"))
    found = calibrate_voxels(cases, ONE, case_uncertainty)
    assert found.summary["calibration"]["after"]["all"]["n_cases"] == 6
    assert found.curve.shape == (2, 5)
    assert next(row for row in found.rows if row[0] == "case_3")[3] is None


def test_voxels_that_determine_no_temperature(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where all are right, 1 is kept, and said."""
    cases = made(tmp_path, cases=2)
    for one in cases.values():
        reference = np.zeros((9, 9, 9), np.uint8)
        reference[3:6, 3:6, 3:6] = 1
        logits = np.stack([1.0 - reference, reference]).astype(np.float32)
        write_logits(one.logits, CaseLogits(logits, reference, (1.0, 1.0, 1.0)))
    assert calibrate_voxels(cases, ONE, case_uncertainty).shipped["temperature"] == 1
    assert "do not determine a temperature" in caplog.text


def test_the_score_of_a_case_is_that_of_a_run() -> None:
    """One voxel that is certainly in the structure and one that is so by two thirds: 1 - Dice of 5/6."""
    logits = np.zeros((2, 1, 1, 3), np.float32)
    logits[1, 0, 0] = 60, np.log(2), -60
    case = CaseLogits(logits, np.zeros((1, 1, 3), np.uint8), (1.0, 1.0, 1.0))
    expected = 1 - 2 * (5 / 3) / (5 / 3 + 2)
    assert case_uncertainty(case, ONE, 1.0) == pytest.approx(expected, abs=1e-5)
    region = Structures({"part": [1]}, "sigmoid")
    assert case_uncertainty(replace(case, logits=logits[1:]), region, 1.0) == pytest.approx(expected, abs=1e-5)
    assert case_uncertainty(case, ONE, 2.0) > expected


def test_pictures_are_the_same_twice(tmp_path: Path) -> None:
    found = calibrate_voxels(made(tmp_path), ONE, case_uncertainty).summary
    bins = [{name: one["bins"] for name, one in found["calibration"][when].items()} for when in ("before", "after")]
    curve = np.array([[0.5, 1.0], [0.1, 0.3]])
    for name in ("a", "b"):
        write_reliability(tmp_path / f"{name}.png", *bins)
        write_risk_coverage(tmp_path / f"{name}_rc.png", curve, found["cases"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a_rc.png").read_bytes() == (tmp_path / "b_rc.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
