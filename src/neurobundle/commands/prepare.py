"""``neurobundle prepare NAME --data DATALIST -o STORE``: a bundle's cases prepared once, for training to read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.bundle.find import find_bundle, structures_of
from neurobundle.bundle.runner import understood
from neurobundle.bundle.workflow import make_plan
from neurobundle.commands.train import data_settings
from neurobundle.errors import InputError, NeurobundleError, NoInputError, SettingError
from neurobundle.files import require_writable
from neurobundle.load.datalist import Item, fold_items, read_datalist

logger = logging.getLogger(__name__)

#: The id of a bundle's config that says how a case is prepared.
PREPARATION = "train::deterministic_transforms"


def prepare(
    bundle: str,
    data: Path,
    output: Path,
    *,
    dtype: str | None = None,
    workers: int = 1,
    dataset_dir: Path | None = None,
    overlays: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[Sequence[Any]], Any] = lambda items: items,
) -> dict[str, bool]:
    """Prepare the cases of a datalist into a store; those that it has already, undamaged, are left as they are.

    Args:
        bundle: a name or a folder.
        data: the datalist; its section ``training``.
        output: the store.
        dtype: ``float16`` or ``float32``, for a new store; that of the store if None, float16 for a new one.
        workers: cases at once.
        dataset_dir: what the datalist's paths are relative to, if not to the datalist.
        overlays: names or paths of config overlays.
        settings: values by id.
        progress: wraps the list of cases; a progress bar, for instance.

    Returns:
        Whether each case is in the store; a bad one is named, and the others go on.

    Raises:
        NoInputError: if the datalist is empty.
        InputError: if no case has its files.
        SettingError: for a bundle that has no preparation or one that cannot be described, for settings that are
            refused, and for another dtype than the store's.
        EnvironmentFault: if the disk is full.
    """
    if workers < 1:
        raise SettingError(f"--workers must be 1 or more, got {workers}", "Leave it out for 1.")
    folder = find_bundle(bundle)
    plan = make_plan(folder, "train", overlays, {**data_settings(data, dataset_dir, 0), **(settings or {})})
    items = _items(data, dataset_dir, plan.settings.get("max_cases"))
    workflow = plan.workflow()
    workflow.initialize()
    if PREPARATION not in workflow.parser:
        raise SettingError(f"its train.yaml has no {PREPARATION}", "A store needs one.", file=plan.config_files[0])
    require_writable(output)
    from neurobundle.prepare.store import Store

    store = Store(output, workflow.parser.get_parsed_content(PREPARATION), dtype)
    kept = store.keep(items, workers, progress)
    known = {str(value) for value in structures_of(folder)}
    problems = {number: understood(error, str(items[number]["case"]), "") for number, error in kept.failed.items()}
    for number, (item, entry) in enumerate(zip(items, kept.entries, strict=True)):
        if entry is not None and (error := _unknown_labels(item, entry, known)) is not None:
            problems[number] = error
    for _, error in sorted(problems.items()):
        logger.error("ERROR %s", error)
    return {str(item["case"]): number not in problems for number, item in enumerate(items)}


def _items(data: Path, dataset_dir: Path | None, most: int | None) -> list[Item]:
    """The cases of a datalist; files may be missing, but not of all: then they are looked for in the wrong place."""
    from neurobundle.prepare.store_key import sources_of

    everything = read_datalist(data, base_dir=dataset_dir, check_files=False)
    items = fold_items(everything, part="all", max_cases=most)
    if not items:
        raise NoInputError("the datalist has no training case", "Make it again: neurobundle split.", file=data)
    if not any(all(path.exists() for paths in sources_of(item).values() for path in paths) for item in items):
        read_datalist(data, base_dir=dataset_dir)
    return items


def _unknown_labels(item: Item, entry: Mapping[str, Any], known: set[str]) -> NeurobundleError | None:
    """What is wrong with a label map that has values which the bundle does not know."""
    record = entry["arrays"].get("label", {})
    strange = [value for value in record.get("labels", {}) if value not in known]
    if not known:
        return None
    if strange:
        plural = "s" * (len(strange) > 1)
        cause = (
            f"its label map has the value{plural} {', '.join(strange)}, and the bundle knows {', '.join(sorted(known))}"
        )
    elif len(record.get("fill", ())) == 1 and "labels" not in record:
        cause = "its label map has values below 0, fractions, or thousands of values, and those are no labels"
    else:
        return None
    way_out = "Mend the label map, or take the case out of the datalist."
    return InputError(cause, way_out, case=str(item["case"]), file=str(item.get("label", "")))
