"""``neurobundle train``: the bundle's own config on somebody's datalist."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurobundle.bundle.find import can_fill, find_bundle, structures_of
from neurobundle.bundle.workflow import Plan, make_plan
from neurobundle.errors import InputError, NeurobundleError, SettingError
from neurobundle.files import require_writable
from neurobundle.load.class_labels import (
    check_class_folds,
    check_class_names_of,
    check_classified,
    leaks_of,
    unnamed_of,
)
from neurobundle.load.datalist import Item, fold_items, read_datalist
from neurobundle.load.labels import check_pair
from neurobundle.train.curves import write_curves

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
        output: gets ``models/model.pt`` (best epoch), ``final.pt`` (last epoch), ``last.pt``, ``tensorboard/`` and
            ``curves.png``.
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
            **data_settings(data, dataset_dir, fold),
            "output_dir": str(output),
            "ckpt_dir": str(output / "models"),
            **(settings or {}),
        },
    )


def run_plan(plan: Plan, handlers: Sequence[Any] = ()) -> Any:
    """Run a training or evaluation plan to its end.

    Args:
        plan: of kind ``train`` or ``evaluate``.
        handlers: further ones of its engine, beside those of the config.

    Returns:
        MONAI's workflow that ran.
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
    engine = workflow.parser.get_parsed_content("train::trainer" if plan.kind == "train" else "validate::evaluator")
    for handler in handlers:
        handler.attach(engine)
    if sys.stderr.isatty():
        _show_progress(engine)
    workflow.run()
    workflow.finalize()
    if plan.kind == "train":
        write_curves(output, {"training": output})
    return workflow


def _show_progress(engine: Engine) -> None:
    from ignite.handlers.tqdm_logger import ProgressBar

    ProgressBar(persist=False, desc="epoch").attach(engine)


def check_training(plan: Plan, folds: Sequence[int] | None = None) -> None:
    """Read every case that a training would read, before it starts; each bad one is logged by name.

    Args:
        plan: of the training.
        folds: all that will be held out, one after the other; the plan's alone if None. Where cases have classes, each
            class must be in the training cases of each.

    Raises:
        InputError: if there is a bad one, or a fold that can teach nothing.
        SettingError: if the datalist cannot be read, has no such fold, or names other classes than the bundle.
    """
    data, dataset_dir = (Path(plan.settings[name]) for name in ("datalist", "dataset_dir"))
    fold = int(plan.settings["fold"])
    classes = plan.classes()
    if classes is not None:
        check_class_names_of(data, classes)
    both = (fold_items(data, dataset_dir, fold, part) for part in ("train", "validation"))
    items = list({str(item["case"]): item for part in both for item in part}.values())
    _, bad = check_pairs(plan, items)
    for error in bad.values():
        logger.error("ERROR %s", error)
    if bad:
        raise InputError(
            f"{len(bad)} of {len(items)} pairs cannot be trained on; each is named above",
            "Mend them, or take them out of the datalist: `neurobundle split` does.",
            file=data,
        )
    if classes is not None:
        _check_folds(classes, data, dataset_dir, folds or [fold])


def _check_folds(classes: Sequence[str], data: Path, dataset_dir: Path | None, folds: Sequence[int]) -> None:
    """Refuse folds that can teach nothing, or that share persons and do not say so."""
    problems = check_class_folds(read_datalist(data, base_dir=dataset_dir, need_fold=True), classes, folds, data)
    for problem in problems[1:]:
        logger.error("ERROR %s", problem)
    if problems:
        raise problems[0]
    nobody = unnamed_of(data)
    if nobody:
        text = (
            "WARNING %s: %d cases name no subject, %s for one; each counts as a person of its own. Name whose they are."
        )
        logger.warning(text, data, len(nobody), nobody[0])
    leaks = leaks_of(data)
    if leaks:
        logger.warning("WARNING %s leaks, as it says: %s. Its scores are too good.", data.name, leaks)


def check_pairs(plan: Plan, items: Sequence[Item]) -> tuple[list[Item], dict[str, NeurobundleError]]:
    """The items whose image and label a training or evaluation can use, and what is wrong with the others, by case.

    Args:
        plan: of a bundle; where it answers classes, the label is a class's number. A channel may be empty if the config
            says so (``allow_empty``), or if the bundle's network can do without one.
        items: of a datalist.
    """
    folder = plan.bundle_dir
    classes, allow_empty = plan.classes(), plan.value("allow_empty") is True or can_fill(folder)
    known = [0, *structures_of(folder)] if classes is None else []
    good, bad = [], {}
    for item in items:
        case = str(item["case"])
        try:
            if classes is None and not isinstance(item.get("label"), str):
                cause = f"its label is {item.get('label')!r}, and this bundle learns from label maps"
                raise InputError(cause, "Give the path of one.", case=case)
            if classes is None:
                check_pair(item["image"], item["label"], known, case=case, allow_empty=allow_empty)
            else:
                label, mask = item.get("label"), item.get("mask")
                check_classified(item["image"], label, classes, mask, case=case, allow_empty=allow_empty)
            good.append(item)
        except NeurobundleError as error:
            bad[case] = error
    return good, bad


def data_settings(data: Path, dataset_dir: Path | None, fold: int) -> dict[str, Any]:
    """The settings that name a datalist, its folder and a fold."""
    return {"datalist": str(data), "dataset_dir": str(dataset_dir or data.parent), "fold": fold}
