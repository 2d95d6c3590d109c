"""``neurobundle train`` and ``neurobundle evaluate``: the bundle's own configs on somebody's datalist."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurobundle.bundle.find import find_bundle, structures_of
from neurobundle.bundle.workflow import Plan, make_plan
from neurobundle.errors import InputError, NeurobundleError, SettingError, WeightsError
from neurobundle.files import require_writable, write_json
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.datalist import Item, fold_items, read_datalist
from neurobundle.load.gate import LABEL
from neurobundle.load.labels import check_pair
from neurobundle.load.scan import read_scan
from neurobundle.measure.report import read_scores, write_scores
from neurobundle.measure.segmentation import diagonal_mm, failed_case
from neurobundle.networks.manifest import sha256_of

if TYPE_CHECKING:
    from ignite.engine import Engine

logger = logging.getLogger(__name__)


def train_plan(
    bundle: str,
    data: Path,
    output: Path,
    *,
    fold: int = 0,
    dataset_dir: Path | None = None,
    overlays: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """What ``neurobundle train`` runs.

    Args:
        bundle: a name or a folder.
        data: the datalist.
        output: gets ``models/model.pt`` (best epoch), ``final.pt`` (last epoch), ``last.pt`` and ``tensorboard/``.
        fold: the fold that validates; -1 trains on all cases.
        dataset_dir: what the datalist's paths are relative to, if not to the datalist.
        overlays: names or paths of config overlays.
        settings: values by id.
    """
    return make_plan(
        find_bundle(bundle),
        "train",
        overlays,
        {
            **_data_settings(data, dataset_dir, fold),
            "output_dir": str(output),
            "ckpt_dir": str(output / "models"),
            **(settings or {}),
        },
    )


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
        output: gets ``per_case.csv``, ``summary.json`` and ``predictions/``.
        fold: whose cases to score.
        weights: which weights. If None: the bundle's ``models/fold<K>.pt`` if the datalist has the folds that these
            were trained with, else its ``models/model.pt``.
        dataset_dir: what the datalist's paths are relative to, if not to the datalist.
        overlays: names or paths of config overlays.
        settings: values by id.

    Raises:
        WeightsError: if there are no weights.
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
            **_data_settings(data, dataset_dir, fold),
            "output_dir": str(output),
            "weights": str(chosen),
            **(settings or {}),
        },
    )


def run_plan(plan: Plan) -> None:
    """Run a training or evaluation plan to its end.

    Args:
        plan: of kind ``train`` or ``evaluate``.
    """
    output = Path(plan.settings["output_dir"])
    require_writable(output)
    workflow = plan.workflow()
    if plan.kind == "train" and (output / "last.pt").exists() and not workflow.parser["resume"]:
        raise SettingError(
            "this folder holds a training already",
            "Go on with --set resume=true, or give another output folder.",
            file=output,
        )
    workflow.initialize()
    if sys.stderr.isatty():
        engine = "train::trainer" if plan.kind == "train" else "validate::evaluator"
        _show_progress(workflow.parser.get_parsed_content(engine))
    workflow.run()
    workflow.finalize()


def _show_progress(engine: Engine) -> None:
    from ignite.handlers.tqdm_logger import ProgressBar

    ProgressBar(persist=False, desc="epoch").attach(engine)


def check_training(bundle: str, data: Path, dataset_dir: Path | None, fold: int) -> None:
    """Read every pair that a training would read, before it starts; each bad one is logged by name.

    Raises:
        InputError: if there is a bad one.
        SettingError: if the datalist cannot be read or has no such fold.
    """
    items = [item for part in ("train", "validation") for item in fold_items(data, dataset_dir, fold, part)]
    _, bad = _check(bundle, items)
    for error in bad.values():
        logger.error("ERROR %s", error)
    if bad:
        raise InputError(
            f"{len(bad)} of {len(items)} pairs cannot be trained on; each is named above",
            "Mend them, or take them out of the datalist: `neurobundle split` does.",
            file=data,
        )


def evaluate(plan: Plan) -> dict[str, bool]:
    """Run an evaluation; a case whose files are bad is named, counts as missed, and does not stop the others.

    Args:
        plan: of kind ``evaluate``.

    Returns:
        Whether each case passed.
    """
    settings = plan.settings
    output, bundle = Path(settings["output_dir"]), str(plan.bundle_dir)
    items = fold_items(settings["datalist"], settings["dataset_dir"], settings["fold"], "validation")
    good, bad = _check(bundle, items[: settings.get("max_cases") or None])
    for error in bad.values():
        logger.error("ERROR %s", error)
    if not bad:
        run_plan(plan)
    elif good:
        run_plan(Plan(plan.bundle_dir, plan.kind, plan.overlays, {**settings, "validate::dataset::data": good}))
    if bad:
        _add_failed(output, structures_of(plan.bundle_dir), items, list(bad))
    weights, summary = Path(settings["weights"]), output / "summary.json"
    said = {"weights": {"file": weights.name, "sha256": sha256_of(weights)}}
    write_json(summary, {**said, **json.loads(summary.read_text())})
    return {str(item["case"]): item["case"] not in bad for item in items}


def _check(bundle: str, items: Sequence[Item]) -> tuple[list[Item], dict[str, NeurobundleError]]:
    known = [0, *structures_of(find_bundle(bundle))]
    good, bad = [], {}
    for item in items:
        try:
            check_pair(item["image"], item["label"], known, case=str(item["case"]))
            good.append(item)
        except NeurobundleError as error:
            bad[str(item["case"])] = error
    return good, bad


def _add_failed(output: Path, structures: Mapping[int, str], items: Sequence[Item], failed: Sequence[str]) -> None:
    table = output / "per_case.csv"
    scores = read_scores(table) if table.exists() else []
    diagonals = {str(item["case"]): _diagonal_mm(Path(str(item["label"]))) for item in items}
    largest_mm = max((mm for mm in diagonals.values() if mm is not None), default=math.nan)
    for case in failed:
        scores += failed_case(case, structures, diagonals[case] or largest_mm)
    write_scores(output, scores, {str(item["case"]): str(item["subject"]) for item in items})


def _diagonal_mm(label: Path) -> float | None:
    try:
        scan = read_scan(label, LABEL)
    except NeurobundleError:
        return None
    return diagonal_mm(scan.data.shape, voxel_sizes_mm(scan.affine).tolist())


def _default_weights(bundle_dir: Path, data: Path, fold: int) -> Path:
    of_fold, own = bundle_dir / "models" / f"fold{fold}.pt", bundle_dir / "configs" / "datalist.json"
    if of_fold.exists() and own.exists() and _folds(own) == _folds(data):
        return of_fold
    logger.warning(
        "WARNING scoring models/model.pt: it may have been trained on these cases, and then the score is not out of "
        "fold. Name other weights with --weights."
    )
    return bundle_dir / "models" / "model.pt"


def _folds(datalist: Path) -> dict[str, Any]:
    return {str(item["case"]): item.get("fold") for item in read_datalist(datalist, check_files=False)}


def _data_settings(data: Path, dataset_dir: Path | None, fold: int) -> dict[str, Any]:
    return {"datalist": str(data), "dataset_dir": str(dataset_dir or data.parent), "fold": fold}
