"""The temperature of a segmentation network, and whom to show to a person, from cases that it did not train on.

The logits are *out of fold*: each case's network never saw it. A *part* is what is judged by the others: a fold; of one
fold alone each half of its subjects, if there are two. Each part is *judged cross-wise*: at the temperature, and by the
threshold of the case score, that were chosen on the other parts. Both are then chosen once more on all cases, for new
ones: what is reported is of the former, what is shipped the latter.

One thing this does not undo: the networks of the other folds trained on this fold's cases, so two numbers that were
chosen with their help have heard of it. Two numbers can hold little.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.measure.calibration import CaseCalibration
from neurobundle.measure.calibration_summary import summarise_calibration
from neurobundle.measure.flagging import choose_flag, judge_flag, rule_in_words
from neurobundle.measure.logits import CaseLogits, read_logits
from neurobundle.measure.resampling import number
from neurobundle.measure.selective import RiskCoverage, risk_coverage, spearman
from neurobundle.measure.summary import mean_with_interval
from neurobundle.measure.temperature import HIGHEST, LOWEST
from neurobundle.measure.voxel_calibration import (
    MARGINAL_BINS,
    Samples,
    Structures,
    calibrate_case,
    draw_samples,
    fit_pooled,
    marginal_errors,
    voxels_a_group,
)

logger = logging.getLogger(__name__)

#: How parts are judged.
FOLDS, HALVES = "each fold by the others", "each half of the subjects by the other"

#: What a summary keeps of a calibration, by structure.
KEPT = ("n_cases", "n_voxels", "ece", "ace", "mce", "brier", "nll", "error_auroc", "bins")

#: The uncertainty of a case from its logits, the structures and a temperature.
CaseScore = Callable[[CaseLogits, Structures, float], float]


@dataclass(frozen=True)
class Case:
    """A case that is judged: where its logits are, and what is known of it.

    Attributes:
        logits: its file.
        subject: whose it is.
        fold: which held it out.
        dice: the mean over its structures; NaN where none is defined.
    """

    logits: Path
    subject: str
    fold: str
    dice: float


@dataclass(frozen=True)
class CalibratedVoxels:
    """What :func:`calibrate_voxels` gives.

    Attributes:
        summary: for ``summary.json``: calibration before and after, case scores, threshold.
        shipped: what ``calibration.json`` holds.
        rows: case, subject, fold, Dice, case score as judged and whether it is flagged, for a table.
        curve: coverage and selective risk ``(2, steps)``.
    """

    summary: dict[str, Any]
    shipped: dict[str, Any]
    rows: list[tuple[Any, ...]]
    curve: np.ndarray


@dataclass
class _Measured:
    """What was measured of all cases, as judged."""

    before: list[CaseCalibration] = field(default_factory=list)
    after: list[CaseCalibration] = field(default_factory=list)
    marginal: dict[str, dict[str, list[tuple[str, float, float]]]] = field(
        default_factory=lambda: {"before": {}, "after": {}}
    )
    #: By case, then by part; the last under the empty name is at the temperature of all.
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


def calibrate_voxels(
    cases: Mapping[str, Case],
    structures: Structures,
    score: CaseScore,
    *,
    wanted_dice: float | None = None,
    chosen_on: str = "out-of-fold cases",
) -> CalibratedVoxels:
    """Fit, judge and choose.

    Args:
        cases: by id; of one bundle.
        structures: what the logits' channels are.
        score: the uncertainty of a case.
        wanted_dice: as for :func:`neurobundle.measure.flagging.choose_flag`.
        chosen_on: what the cases are, for ``calibration.json``.

    Raises:
        InputError: if no case has a voxel in the region, or a file of logits cannot be read.
    """
    parts, how = _parts(cases)
    temperatures = _temperatures(cases, structures, parts)
    measured = _measure(cases, structures, score, parts, temperatures)
    judged = _judge(cases, parts, measured.scores, wanted_dice)
    scored = [case for case, one in cases.items() if math.isfinite(one.dice)]
    dice = [cases[case].dice for case in scored]
    flag = choose_flag([measured.scores[case][""] for case in scored], dice, wanted_dice)
    curve = risk_coverage([judged.scores[case] for case in scored], [1 - value for value in dice])
    summary = {
        "judged": how,
        "n_cases": len(cases),
        "region_mm": structures.region_mm,
        "activation": structures.activation,
        "temperature": {
            "shipped": number(temperatures[""]),
            "by_part": {part: number(value) for part, value in temperatures.items() if part},
        },
        **_voxels(measured, cases),
        "cases": _order(curve, dice, scored, judged, measured),
        "flag": {
            "wanted_dice": wanted_dice,
            "reached": flag.reached,
            "above": number(flag.above),
            "by_part": {part: number(value) for part, value in judged.above.items()},
            "judged": judge_flag([judged.flagged[case] for case in scored], dice),
        },
    }
    shipped = {  # in full: rounded down, the last case that is kept would be flagged
        "temperature": temperatures[""],
        "flag_above": flag.above,
        "chosen_on": f"{chosen_on}; {rule_in_words(flag, wanted_dice)}",
        "n": len(cases),
    }
    rows = [
        (case, one.subject, one.fold, number(one.dice), judged.scores[case], judged.flagged[case])
        for case, one in cases.items()
    ]
    return CalibratedVoxels(summary, shipped, rows, np.stack([curve.coverage, curve.risk]))


def _voxels(measured: _Measured, cases: Mapping[str, Case]) -> dict[str, Any]:
    """The calibration of voxels before and after, near the reference and over the whole image."""
    subjects = {case: one.subject for case, one in cases.items()}
    marginal = {when: _marginal(found, subjects) for when, found in measured.marginal.items()}
    return {
        "calibration": {"before": _kept(measured.before, subjects), "after": _kept(measured.after, subjects)},
        "marginal": {"bins": MARGINAL_BINS, **marginal},
    }


def _order(
    curve: RiskCoverage, dice: Sequence[float], scored: Sequence[str], judged: _Judged, measured: _Measured
) -> dict[str, Any]:
    """How well the case score orders the cases that have a Dice."""
    scores, risks = [judged.scores[case] for case in scored], [1 - value for value in dice]
    return {
        "score_mean": number(float(np.mean(scores))),
        "aurc": number(curve.aurc),
        "aurc_best": number(curve.aurc_best),
        "aurc_random": number(float(np.mean(risks))),
        "spearman": number(spearman(scores, risks)),
        "spearman_uncalibrated": number(spearman([measured.scores[case]["raw"] for case in scored], risks)),
    }


def _parts(cases: Mapping[str, Case]) -> tuple[dict[str, str], str | None]:
    """The part of each case, and what the parts are; one part that nothing else judges where there is but a subject."""
    if len({one.fold for one in cases.values()}) > 1:
        return {case: one.fold for case, one in cases.items()}, FOLDS
    subjects = sorted({one.subject for one in cases.values()})
    if len(subjects) > 1:
        halves = {subject: f"half {n % 2}" for n, subject in enumerate(subjects)}
        return {case: halves[one.subject] for case, one in cases.items()}, HALVES
    logger.warning("WARNING there is one subject: the temperature is fitted, and nothing judges it")
    return dict.fromkeys(cases, "all"), None


def _temperatures(cases: Mapping[str, Case], structures: Structures, parts: Mapping[str, str]) -> dict[str, float]:
    """What each part's others give; under the empty name what all give."""
    most = voxels_a_group(len(cases) * len(structures.values), structures)
    samples: dict[str, list[Samples]] = {part: [] for part in sorted(set(parts.values()))}
    for case, one in cases.items():
        samples[parts[case]] += draw_samples(read_logits(one.logits), structures, case, most)
    everything = [sample for own in samples.values() for sample in own]
    found = {"": _fit(everything, "new cases")}
    for part in samples:
        others = [sample for other, own in samples.items() if other != part for sample in own]
        found[part] = _fit(others, part) if others else found[""]
    return found


def _fit(samples: Sequence[Samples], what: str) -> float:
    temperature = fit_pooled(samples).value
    all_right = all((one.logits.argmax(axis=0) == one.truth).all() for one in samples)
    # Where all are right the likelihood rises without an end towards 0, and where they are worse than chance towards
    # infinity: neither end says anything of new cases.
    if all_right or not LOWEST * 1.01 < temperature < HIGHEST / 1.01:
        logger.warning("WARNING for %s the voxels do not determine a temperature: 1 is kept", what)
        return 1.0
    return temperature


def _measure(
    cases: Mapping[str, Case],
    structures: Structures,
    score: CaseScore,
    parts: Mapping[str, str],
    temperatures: Mapping[str, float],
) -> _Measured:
    """Read each case once, and measure it at all temperatures that are needed."""
    found = _Measured()
    for case, one in cases.items():
        logits = read_logits(one.logits)
        own = temperatures[parts[case]]
        found.before += calibrate_case(logits, structures, case, 1.0)
        found.after += calibrate_case(logits, structures, case, own)
        for when, temperature in (("before", 1.0), ("after", own)):
            for name, (ece, ace) in marginal_errors(logits, structures, temperature).items():
                found.marginal[when].setdefault(name, []).append((case, ece, ace))
        found.scores[case] = {part: score(logits, structures, value) for part, value in temperatures.items()}
        found.scores[case]["raw"] = score(logits, structures, 1.0)
    return found


@dataclass(frozen=True)
class _Judged:
    """Each case's score and flag by what the other parts chose, and the threshold of each part."""

    scores: dict[str, float]
    flagged: dict[str, bool]
    above: dict[str, float]


def _judge(
    cases: Mapping[str, Case],
    parts: Mapping[str, str],
    scores: Mapping[str, Mapping[str, float]],
    wanted_dice: float | None,
) -> _Judged:
    names = sorted(set(parts.values()))
    above = {}
    for part in names:
        others = [c for c, one in cases.items() if math.isfinite(one.dice) and (parts[c] != part or len(names) == 1)]
        if others:
            dice = [cases[case].dice for case in others]
            above[part] = choose_flag([scores[case][part] for case in others], dice, wanted_dice).above
    judged = {case: scores[case][parts[case]] for case in cases}
    flagged = {case: judged[case] > above.get(parts[case], math.inf) for case in cases}
    return _Judged(judged, flagged, above)


def _kept(cases: Sequence[CaseCalibration], subjects: Mapping[str, str]) -> dict[str, Any]:
    found = summarise_calibration(cases, subjects)
    return {name: {key: values[key] for key in KEPT} for name, values in found.items()}


def _marginal(
    found: Mapping[str, Sequence[tuple[str, float, float]]], subjects: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Means over cases by structure; under ``mean`` those over the structures of each case first."""
    eces = {name: {case: ece for case, ece, _ in rows} for name, rows in found.items()}
    aces = {name: {case: ace for case, _, ace in rows} for name, rows in found.items()}
    cases = [case for case, _, _ in next(iter(found.values()))]
    who = [subjects[case] for case in cases]
    result: dict[str, dict[str, Any]] = {name: {} for name in (*found, "mean")}
    for metric, values in (("ece", eces), ("ace", aces)):
        for name, own in values.items():
            result[name][metric] = mean_with_interval([own[case] for case in cases], who)
        together = [float(np.mean([own[case] for own in values.values()])) for case in cases]
        result["mean"][metric] = mean_with_interval(together, who)
    return result
