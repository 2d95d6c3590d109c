"""``neurobundle train`` and ``neurobundle evaluate``: the bundle's own configs on somebody's datalist."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurobundle.bundle.find import find_bundle
from neurobundle.bundle.workflow import Plan, make_plan
from neurobundle.errors import WeightsError
from neurobundle.load.datalist import fold_items

if TYPE_CHECKING:
    from ignite.engine import Engine


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
        weights: which weights; the bundle's ``models/fold<K>.pt`` if there, else its ``models/model.pt``.
        dataset_dir: what the datalist's paths are relative to, if not to the datalist.
        overlays: names or paths of config overlays.
        settings: values by id.

    Raises:
        WeightsError: if there are no weights.
    """
    folder = find_bundle(bundle)
    chosen = weights or _default_weights(folder, fold)
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
    workflow = plan.workflow()
    workflow.initialize()
    if sys.stderr.isatty():
        engine = "train::trainer" if plan.kind == "train" else "validate::evaluator"
        _show_progress(workflow.parser.get_parsed_content(engine))
    workflow.run()
    workflow.finalize()


def _show_progress(engine: Engine) -> None:
    from ignite.handlers.tqdm_logger import ProgressBar

    ProgressBar(persist=False, desc="epoch").attach(engine)


def check_cases(data: Path, dataset_dir: Path | None, fold: int) -> int:
    """Count the cases of a fold's validation part; refuses a datalist that has none.

    Raises:
        InputError: if the datalist cannot be read.
        NoInputError: if the fold has no case.
    """
    return len(fold_items(data, dataset_dir, fold, "validation"))


def _default_weights(bundle_dir: Path, fold: int) -> Path:
    of_fold = bundle_dir / "models" / f"fold{fold}.pt"
    return of_fold if of_fold.exists() else bundle_dir / "models" / "model.pt"


def _data_settings(data: Path, dataset_dir: Path | None, fold: int) -> dict[str, Any]:
    return {"datalist": str(data), "dataset_dir": str(dataset_dir or data.parent), "fold": fold}
