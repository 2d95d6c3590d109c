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
from neurobundle.load.datalist import Item, fold_items
from neurobundle.load.labels import check_pair

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
            **data_settings(data, dataset_dir, fold),
            "output_dir": str(output),
            "ckpt_dir": str(output / "models"),
            **(settings or {}),
        },
    )


def run_plan(plan: Plan) -> Any:
    """Run a training or evaluation plan to its end.

    Args:
        plan: of kind ``train`` or ``evaluate``.

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
    if sys.stderr.isatty():
        engine = "train::trainer" if plan.kind == "train" else "validate::evaluator"
        _show_progress(workflow.parser.get_parsed_content(engine))
    workflow.run()
    workflow.finalize()
    return workflow


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
    _, bad = check_pairs(bundle, items)
    for error in bad.values():
        logger.error("ERROR %s", error)
    if bad:
        raise InputError(
            f"{len(bad)} of {len(items)} pairs cannot be trained on; each is named above",
            "Mend them, or take them out of the datalist: `neurobundle split` does.",
            file=data,
        )


def check_pairs(bundle: str, items: Sequence[Item]) -> tuple[list[Item], dict[str, NeurobundleError]]:
    """The items whose image and label a bundle can use, and what is wrong with the others, by case."""
    folder = find_bundle(bundle)
    known = [0, *structures_of(folder)]
    good, bad = [], {}
    for item in items:
        try:
            check_pair(item["image"], item["label"], known, case=str(item["case"]), allow_empty=can_fill(folder))
            good.append(item)
        except NeurobundleError as error:
            bad[str(item["case"])] = error
    return good, bad


def data_settings(data: Path, dataset_dir: Path | None, fold: int) -> dict[str, Any]:
    """The settings that name a datalist, its folder and a fold."""
    return {"datalist": str(data), "dataset_dir": str(dataset_dir or data.parent), "fold": fold}
