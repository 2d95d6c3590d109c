"""``neurobundle evaluate NAME``: a bundle's own evaluation on the validation cases of somebody's datalist."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.bundle.find import find_bundle
from neurobundle.bundle.workflow import Plan, make_plan
from neurobundle.commands.train import check_pairs, data_settings, run_plan
from neurobundle.errors import NeurobundleError, SettingError, WeightsError
from neurobundle.load.answers import class_number
from neurobundle.load.class_labels import leaks_of
from neurobundle.load.datalist import Item, fold_items, read_datalist
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan
from neurobundle.measure.classification_evaluation import ClassificationEvaluation
from neurobundle.measure.evaluation import SegmentationEvaluation
from neurobundle.networks.manifest import sha256_of

logger = logging.getLogger(__name__)


def evaluate_plan(
    bundle: str,
    data: Path,
    output: Path,
    *,
    fold: int = 0,
    weights: Path | None = None,
    dataset_dir: Path | None = None,
    overlays: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """What ``neurobundle evaluate`` runs: the validation cases of a fold, predicted and scored.

    Args:
        bundle: a name or a folder.
        data: the datalist.
        output: gets ``per_case.csv``, ``summary.json``, ``report.html`` and ``predictions/``.
        fold: whose cases to score.
        weights: which weights. If None: the bundle's ``models/fold<K>.pt`` if the datalist has the folds that these
            were trained with; its ``models/model.pt`` if the fold's cases are none of the bundle's own datalist.
        dataset_dir: what the datalist's paths are relative to, if not to the datalist.
        overlays: names or paths of config overlays.
        settings: values by id.

    Raises:
        WeightsError: if there are no weights, or none of the bundle's that did not see the fold.
    """
    folder = find_bundle(bundle)
    chosen = weights or _default_weights(folder, data, fold)
    if not chosen.exists():
        raise WeightsError("there are no weights here", "Name some with --weights.", file=chosen)
    return make_plan(
        folder,
        "evaluate",
        overlays,
        {
            **data_settings(data, dataset_dir, fold),
            "output_dir": str(output),
            "weights": str(chosen),
            **(settings or {}),
        },
    )


def evaluate(plan: Plan, handlers: Sequence[Any] = ()) -> dict[str, bool]:
    """Run an evaluation; a case whose files are bad is named, counts as missed or wrong, and does not stop the others.

    Args:
        plan: of kind ``evaluate``.
        handlers: further ones of the evaluator, beside those of the config.

    Returns:
        Whether each case passed.

    Raises:
        SettingError: if the bundle's ``evaluate.yaml`` names no report of ours.
    """
    settings = plan.settings
    items = fold_items(settings["datalist"], settings["dataset_dir"], settings["fold"], "validation")
    items = items[: settings.get("max_cases") or None]
    good, bad = check_pairs(plan, items)
    for error in bad.values():
        logger.error("ERROR %s", error)
    if bad:
        plan = Plan(plan.bundle_dir, plan.kind, plan.overlays, {**settings, "validate::dataset::data": good})
    if good:
        workflow = run_plan(plan, handlers)
    else:
        workflow = plan.workflow()
        workflow.initialize()
    report = _report_of(workflow, plan)
    for item in items:
        if item["case"] in bad:
            add_failed(report.evaluation, item, bad[str(item["case"])].brief())
    weights, datalist = Path(settings["weights"]), Path(settings["datalist"])
    leaks = leaks_of(datalist)
    facts = {
        "bundle": plan.bundle_dir.name,
        "weights": {"file": weights.name, "sha256": sha256_of(weights)},
        "datalist": {"file": datalist.name, "sha256": sha256_of(datalist)},
        "fold": settings["fold"],
        **({"leaks": leaks} if leaks else {}),
    }
    report.evaluation.write(Path(settings["output_dir"]), facts, title=f"{plan.bundle_dir.name}, evaluated")
    return {str(item["case"]): item["case"] not in bad for item in items}


def _report_of(workflow: Any, plan: Plan) -> Any:
    """The handler of :mod:`neurobundle.measure` that scored the cases."""
    for handler in workflow.parser.get_parsed_content("validate::handlers"):
        if hasattr(handler, "evaluation"):
            return handler
    raise SettingError(
        "its evaluate.yaml names no report of neurobundle.measure",
        "Add neurobundle.measure.SegmentationReport, or ClassificationReport, to validate::handlers.",
        file=plan.config_files[-1],
    )


def add_failed(evaluation: Any, item: Item, problem: str) -> None:
    """Count a datalist's case as missed, with its reference if that can be read; in a classification as wrong.

    A case whose class is none can be right or wrong in nothing: it is named in the report, and in no score.

    Args:
        evaluation: what it is added to.
        item: the datalist's entry.
        problem: why, in a sentence.
    """
    case, subject, label = str(item["case"]), str(item["subject"]), item.get("label")
    classified = isinstance(evaluation, ClassificationEvaluation)
    if classified and (label is None or class_number(label, evaluation.classes) is None):
        evaluation.problems[case] = problem
        return
    if not isinstance(evaluation, SegmentationEvaluation):
        evaluation.add_failed(case, item["label"], subject=subject, problem=problem)
        return
    try:
        label = read_scan(str(item["label"]), LABEL)
        data = np.asarray(label.data)
        evaluation.add_failed(case, problem, reference=data, affine=label.affine, subject=subject)
    except NeurobundleError:
        evaluation.add_failed(case, problem, subject=subject)


def _default_weights(bundle_dir: Path, data: Path, fold: int) -> Path:
    """The weights that did not see the fold; ``model.pt`` for cases that are not the bundle's own."""
    of_fold, own = bundle_dir / "models" / f"fold{fold}.pt", bundle_dir / "configs" / "datalist.json"
    known = folds_of(own) if own.exists() else {}
    given = folds_of(data)
    if of_fold.exists() and known == given:
        return of_fold
    seen = [case for case, number in given.items() if number == fold and case in known]
    if seen:
        raise _seen(bundle_dir, fold, len(seen), same_folds=known == given)
    logger.warning(
        "WARNING scoring models/model.pt: it may have been trained on these cases, and then the score is not out of "
        "fold. Name other weights with --weights."
    )
    return bundle_dir / "models" / "model.pt"


def _seen(bundle_dir: Path, fold: int, cases: int, *, same_folds: bool) -> WeightsError:
    """There are no weights of the bundle that did not see a fold of its own cases."""
    there = shipped_folds(bundle_dir / "models") if same_folds else []
    if same_folds:
        which = f"those of fold {', '.join(map(str, there))} are" if there else "those of no fold are"
        cause = (
            f"the bundle has no models/fold{fold}.pt ({which} there), and model.pt may have been trained on its cases"
        )
    else:
        cause = (
            f"{cases} cases of fold {fold} are in the bundle's own datalist, in other folds: its weights may know them"
        )
    others = f"Evaluate fold {' or '.join(map(str, there))}, or name" if there else "Name"
    return WeightsError(cause, f"{others} weights that did not see them with --weights.", file=bundle_dir)


def shipped_folds(folder: Path) -> list[int]:
    """The numbers of the ``fold<N>.pt`` in a folder, from the smallest on."""
    names = (re.fullmatch(r"fold(\d+)\.pt", path.name) for path in folder.glob("fold*.pt"))
    return sorted(int(name[1]) for name in names if name)


def folds_of(datalist: Path) -> dict[str, Any]:
    """The fold of each case of a datalist, whether its files are there or not."""
    return {str(item["case"]): item.get("fold") for item in read_datalist(datalist, check_files=False)}
