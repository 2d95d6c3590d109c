"""``neurobundle calibrate``: the temperature of a segmentation bundle, and above which case score a person looks.

Each fold's cases are predicted by the network that left the fold out, never by several folds together: an ensemble of
folds has seen every case. What is fitted, and how it is judged, is in
:mod:`neurobundle.measure.segmentation_calibration`. A fold that is done is not repeated.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.bundle.find import answers_of, find_bundle
from neurobundle.bundle.workflow import Plan
from neurobundle.commands.calibrate_card import publish_calibration
from neurobundle.commands.evaluate import evaluate, evaluate_plan, folds_of, shipped_folds
from neurobundle.commands.results import require_same_plan
from neurobundle.errors import InputError, SettingError, WeightsError
from neurobundle.export.tables import write_csv
from neurobundle.files import require_writable, write_json
from neurobundle.infer.uncertainty import Activation
from neurobundle.measure.calibration_charts import RELIABILITY, RISK_COVERAGE, write_reliability, write_risk_coverage
from neurobundle.measure.case_score import case_uncertainty
from neurobundle.measure.logits import SUFFIX, LogitsRecorder
from neurobundle.measure.outputs import SUMMARY, TABLE, versions
from neurobundle.measure.segmentation import Score
from neurobundle.measure.segmentation_calibration import CalibratedVoxels, Case, calibrate_voxels
from neurobundle.measure.summary import summarise
from neurobundle.measure.tables import read_scores
from neurobundle.measure.voxel_calibration import ALL, Structures
from neurobundle.networks.manifest import sha256_of
from neurobundle.postprocess.calibration import CALIBRATION_FILE

logger = logging.getLogger(__name__)

#: The table of cases: Dice, case score, and whether it is flagged.
CASES = "case_scores.csv"
COLUMNS = ("case", "subject", "fold", "dice", "score", "flagged")

#: Where a fold's logits lie in its folder.
LOGITS = "logits"

#: The scores of a structure that a summary repeats.
SCORES = ("dice", "nsd", "hd95_mm", "n_missed", "n_failed")


class Calibration:
    """Predicts the cases of folds out of fold, and calibrates what was predicted.

    Args:
        bundle: a name or a folder.
        data: a datalist with a fold for each case.
        output: gets ``fold<K>/``, ``calibration.json``, ``summary.json``, ``case_scores.csv``, ``reliability.png`` and
            ``risk_coverage.png``.
        dataset_dir: what the datalist's paths are relative to, if not to the datalist.
        folds: which; if None all that have weights.
        weights: a folder with ``fold<K>.pt``, or a cross-validation's (``fold<K>/final.pt``); or the one file that did
            not see the one fold that is named. The bundle's own if None.
        overlays: names or paths of config overlays.
        settings: values by id.
        wanted_dice: those who are kept should have it; if None the most uncertain tenth is flagged.

    Raises:
        SettingError: for a bundle that answers classes, a fold that is not there, or a wanted Dice that is none.
        WeightsError: if a fold that was named has no weights, or none has, or the bundle's own folds are others.
    """

    def __init__(
        self,
        bundle: str,
        data: Path,
        output: Path,
        *,
        dataset_dir: Path | None = None,
        folds: Sequence[int] | None = None,
        weights: Path | None = None,
        overlays: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        wanted_dice: float | None = None,
    ) -> None:
        self.bundle_dir, self.data, self.output, self.dataset_dir = find_bundle(bundle), data, output, dataset_dir
        self.overlays, self.settings, self.wanted_dice = list(overlays), dict(settings or {}), wanted_dice
        if answers_of(self.bundle_dir) is not None:
            cause = "it answers classes, whose temperature a cross-validation chooses"
            raise SettingError(cause, "Run `neurobundle crossval NAME --publish`.", file=self.bundle_dir)
        if wanted_dice is not None and not 0 < wanted_dice <= 1:
            raise SettingError(f"--wanted-dice is {wanted_dice!r}", "Give a number above 0 and up to 1.")
        there = sorted({int(fold) for fold in folds_of(data).values() if fold is not None})
        absent = [fold for fold in folds or () if fold not in there]
        if absent or not there:
            cause = f"the datalist has no fold {', '.join(map(str, absent))}".rstrip()
            raise SettingError(cause, f"It has {', '.join(map(str, there)) or 'none'}.", file=data)
        self.weights = self._weights(weights, sorted(set(folds)) if folds else there, named=bool(folds))
        self.left_out = [fold for fold in there if fold not in self.weights]

    def _weights(self, given: Path | None, folds: Sequence[int], named: bool) -> dict[int, Path]:
        """The weights of each fold that has some."""
        if given is not None and given.is_file():
            if len(folds) != 1 or not named:
                cause = f"--weights is one file, and there are {len(folds)} folds"
                raise SettingError(cause, "Name the one fold that it did not see: --folds 0.", file=given)
            return {folds[0]: given}
        if given is None:
            self._require_own_folds()
        folder = given or self.bundle_dir / "models"
        found = {}
        for fold in folds:
            choices = (folder / f"fold{fold}.pt", folder / f"fold{fold}" / "final.pt")
            path = next((path for path in choices if path.is_file()), None)
            if path is not None:
                found[fold] = path
        absent = [fold for fold in folds if fold not in found]
        if not found or (absent and named):
            there = ", ".join(map(str, shipped_folds(folder))) or "no fold"
            cause = (
                f"there are no weights that did not see fold {', '.join(map(str, absent))} (there are those of {there})"
            )
            way_out = "Name a folder that has them with --weights, or the folds that are there with --folds."
            raise WeightsError(cause, way_out, file=folder)
        if absent:
            logger.warning("WARNING fold %s is left out: it has no weights here", ", ".join(map(str, absent)))
        return found

    def _require_own_folds(self) -> None:
        own = self.bundle_dir / "configs" / "datalist.json"
        if not own.exists() or folds_of(own) != folds_of(self.data):
            cause = "its folds are not those that the bundle's weights were trained with"
            way_out = "Train folds of your own with `neurobundle crossval`, and name its folder with --weights."
            raise WeightsError(cause, way_out, file=self.data)

    def folder(self, fold: int) -> Path:
        """Where a fold's evaluation lies."""
        return self.output / f"fold{fold}"

    def plan(self, fold: int) -> Plan:
        """The evaluation of one fold's cases."""
        return evaluate_plan(
            str(self.bundle_dir),
            self.data,
            self.folder(fold),
            fold=fold,
            weights=self.weights[fold],
            dataset_dir=self.dataset_dir,
            overlays=self.overlays,
            # In float32, as the weights will run.
            settings={"amp": False, **self.settings},
        )

    def __call__(self, progress: Callable[[list[Any]], Iterable[Any]] = lambda items: items) -> dict[str, Any]:
        """Predict what is not predicted yet, then calibrate.

        Args:
            progress: wraps the list of folds; a progress bar, for instance.

        Returns:
            The summary.

        Raises:
            SettingError: if the folder holds a calibration of something else, or the bundle's evaluation measures no
                calibration.
            InputError: if no case can be calibrated.
        """
        require_writable(self.output)
        self._require_same_plan()
        for fold in progress(list(self.weights)):
            if not self._is_done(fold):
                evaluate(self.plan(fold), [LogitsRecorder(self.folder(fold) / LOGITS)])
        return self._calibrate()

    def _require_same_plan(self) -> None:
        """Predictions of other settings are not mixed with these."""
        plan = {
            "bundle": self.bundle_dir.name,
            "datalist_sha256": sha256_of(self.data),
            "overlays": self.overlays,
            "settings": self.settings,
        }
        require_same_plan(self.output / "calibrate.json", plan, "a calibration")

    def _is_done(self, fold: int) -> bool:
        """Whether these weights have predicted the fold to its end; the summary's weights are written last."""
        path = self.folder(fold) / SUMMARY
        if not (path.is_file() and (path.parent / LOGITS).is_dir()):
            return False
        return bool(json.loads(path.read_bytes()).get("weights", {}).get("sha256") == sha256_of(self.weights[fold]))

    def _calibrate(self) -> dict[str, Any]:
        structures, cases, scores, subjects = self._predicted()
        folds = f"fold {', '.join(map(str, self.weights))}"
        words = f"{folds}, each case predicted by the network that did not see its fold"
        found = calibrate_voxels(cases, structures, case_uncertainty, wanted_dice=self.wanted_dice, chosen_on=words)
        pooled = summarise(scores, subjects)
        summary = {
            "task": "calibration",
            "bundle": self.bundle_dir.name,
            "datalist": {"file": self.data.name, "sha256": sha256_of(self.data)},
            "folds": list(self.weights),
            "folds_left_out": self.left_out,
            "weights": {f"fold {fold}": sha256_of(path) for fold, path in self.weights.items()},
            **({"settings": self.settings} if self.settings else {}),
            "structures": {name: {key: values[key] for key in SCORES} for name, values in pooled["structures"].items()},
            **found.summary,
            "versions": versions(),
        }
        self._write(summary, found)
        return summary

    def _predicted(self) -> tuple[Structures, dict[str, Case], list[Score], dict[str, str]]:
        """What the folds' evaluations left: the structures, the cases with logits, and all scores."""
        cases: dict[str, Case] = {}
        scores: list[Score] = []
        subjects: dict[str, str] = {}
        kinds = []
        for fold in self.weights:
            folder = self.folder(fold)
            kinds.append(self._structures(json.loads((folder / SUMMARY).read_bytes()), folder))
            own, whose = read_scores(folder / TABLE)
            scores, subjects = scores + own, {**subjects, **whose}
            for case, subject in whose.items():
                path = folder / LOGITS / f"{case}{SUFFIX}"
                if path.is_file():
                    cases[case] = Case(path, subject, str(fold), _mean_dice(own, case))
        if not cases:
            raise InputError("no case was predicted", "Each is named above.", file=self.data)
        return kinds[0], cases, scores, subjects

    def _structures(self, summary: Mapping[str, Any], folder: Path) -> Structures:
        measured = summary.get("calibration")
        if not measured:
            raise SettingError(
                "its evaluation measures no calibration, so that nothing says what the network's outputs are",
                "Give the report of its evaluate.yaml a probability_key, and delete this fold's folder.",
                file=folder,
            )
        activation: Activation = "softmax" if ALL in measured else "sigmoid"
        return Structures(summary["labels"], activation, summary["calibration_region_mm"])

    def _write(self, summary: Mapping[str, Any], found: CalibratedVoxels) -> None:
        write_csv(self.output / CASES, COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in found.rows])
        bins = [
            {name: one["bins"] for name, one in summary["calibration"][when].items()} for when in ("before", "after")
        ]
        write_reliability(self.output / RELIABILITY, *bins)
        write_risk_coverage(self.output / RISK_COVERAGE, found.curve, summary["cases"])
        write_json(self.output / CALIBRATION_FILE, found.shipped)
        write_json(self.output / SUMMARY, summary)

    def expected(self) -> int:
        """How many cases the folds hold, or fewer if the setting ``max_cases`` says so."""
        folds = list(folds_of(self.data).values())
        most = self.plan(next(iter(self.weights))).value("max_cases")
        return sum(min(folds.count(fold), int(most or folds.count(fold))) for fold in self.weights)

    def publish(self, ship: bool = True) -> None:
        """Copy the file beside the bundle's weights, and the results and pictures into its card.

        Args:
            ship: also the file that a run reads; else the results and pictures alone.

        Raises:
            SettingError: if the card has no place for the table.
        """
        publish_calibration(self.bundle_dir, self.output, ship)


def _mean_dice(scores: Sequence[Score], case: str) -> float:
    """Of the case's structures that have one; NaN where none has."""
    values = [score.dice for score in scores if score.case == case and math.isfinite(score.dice)]
    return sum(values) / len(values) if values else math.nan
