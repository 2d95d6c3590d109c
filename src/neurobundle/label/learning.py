"""What annotators' final labels teach a bundle: cases with folds by person, a training, and whether it helped.

The words are those of docs/concepts/label.md. Nothing here needs MONAI Label.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ignite.engine import Engine, Events

from neurobundle.bundle.find import answers_of, can_fill, channels_of, reference_of, structures_of, takes_pictures
from neurobundle.commands.evaluate import evaluate, evaluate_plan
from neurobundle.commands.sources import Wanted
from neurobundle.commands.train import check_training, run_plan, train_plan
from neurobundle.errors import InputError, NeurobundleError, SettingError
from neurobundle.export.nifti import save_label_map
from neurobundle.files import write_atomic, write_json
from neurobundle.label.answers import on_grid, source_of
from neurobundle.label.fetched import private_folder
from neurobundle.label.finals import Labelled, class_of, read_final, require_same_study, values_of
from neurobundle.label.folds import BOTH_SIDES, HELD_OUT, deal, read_folds, united, without_persons
from neurobundle.label.studies import StudyStore
from neurobundle.load.datalist import ALL_CASES, Item, natural, write_datalist
from neurobundle.load.labels import check_pair
from neurobundle.measure.evaluation import SUMMARY
from neurobundle.networks import load_weights
from neurobundle.networks.manifest import announce, make_entry, remove, sha256_of, write_entry
from neurobundle.postprocess.calibration import CALIBRATION_FILE

logger = logging.getLogger(__name__)

LESSON_NAME, TRAININGS = "lesson.json", "trainings"


@dataclass
class Lesson:
    """What a training did; ``lesson.json``.

    Attributes:
        bundle: its name.
        cases: those that were learned from.
        held_out: those that were not, and judged it.
        left_out: cases that could not be used, and why.
        unknown: segments that were drawn and that the bundle does not know, by case: background, to it.
        metric: what judged: ``mean Dice`` or ``balanced accuracy``.
        before: of the weights that the training began with, on the cases held out; None where there are none.
        after: of those that it ended with.
        taken: whether the bundle has the new weights: they are no worse, or nothing was held out.
    """

    bundle: str
    cases: list[str]
    held_out: list[str]
    left_out: dict[str, str]
    unknown: dict[str, list[str]]
    metric: str
    before: float | None = None
    after: float | None = None
    taken: bool = False

    def in_words(self) -> str:
        """One line for a log."""
        learned = f"{self.bundle}: learned from {len(self.cases)} cases"
        if not self.held_out:
            return f"{learned}; no person is held out who could judge the new weights. They are taken."
        found = f"{self.metric} of {len(self.held_out)} held out {_shown(self.after)}, before {_shown(self.before)}"
        return f"{learned}; {found}. {'They are taken.' if self.taken else 'The old weights stay.'}"


def learn(
    bundle: Path,
    store: StudyStore,
    labelled: Sequence[Labelled],
    *,
    epochs: int = 10,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Lesson:
    """Train a bundle on from its weights; it gets the new ones if the persons held out say that they are no worse.

    What is kept of it lies in the store's ``trainings/<bundle>``: ``lesson.json``, the curves, the weights, and the
    evaluations ``before`` and ``after``.

    Args:
        bundle: the store's copy of it, which is changed.
        store: the studies.
        labelled: images with final labels; those that cannot be used are left out and named.
        epochs: how many.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        settings: of the training, by id.

    Raises:
        InputError: if there is nothing to learn from.
        SettingError: for no epochs.
        WeightsError: if the bundle's weights cannot be trusted.
    """
    if epochs < 1:
        raise SettingError(f"{epochs} epochs are none", "Set max_epochs to 1 or more.")
    kept = store.folder / TRAININGS / bundle.name
    more = {**(settings or {}), **({} if device == "auto" else {"device": device})}
    with private_folder() as work:
        found = prepared(bundle, store, labelled, work)
        lesson, items = _dealt(bundle, store, found)
        datalist = write_datalist(work / "datalist.json", items, metadata=_labels_of(bundle))
        new = _train(lesson, bundle, datalist, kept, epochs, more)
        if lesson.taken:
            _take(new, bundle / "models" / "model.pt")
    (kept / "last.pt").unlink(missing_ok=True)
    write_json(kept / LESSON_NAME, asdict(lesson))
    logger.info("%s", lesson.in_words())
    return lesson


def read_lesson(store: Path, bundle: str) -> dict[str, Any]:
    """The last lesson of a bundle; empty if there was none.

    Args:
        store: its folder.
        bundle: the bundle's name.
    """
    file = store / TRAININGS / bundle / LESSON_NAME
    return dict(json.loads(file.read_bytes())) if file.exists() else {}


class Prepared(NamedTuple):
    """Final labels as a training reads them.

    Attributes:
        items: entries with ``case``, ``subject``, ``image``, ``label`` and, for classes, ``mask``.
        left_out: case to cause and way out, of those that cannot be used.
        unknown: segments that the bundle does not know, by case.
        others: image to person, of those that were in an earlier lesson and have no label now.
    """

    items: list[Item]
    left_out: dict[str, str]
    unknown: dict[str, list[str]]
    others: dict[str, str]


def prepared(bundle: Path, store: StudyStore, labelled: Sequence[Labelled], work: Path) -> Prepared:
    """Read final labels and their studies; what cannot be used is left out and named.

    Args:
        bundle: says which channels, and what the values of a label map mean.
        store: the studies.
        labelled: images with final labels.
        work: gets the channels and the label maps, in the bundle's values.
    """
    items: list[Item] = []
    left_out: dict[str, str] = {}
    unknown: dict[str, list[str]] = {}
    for number, one in enumerate(sorted(labelled, key=lambda one: natural(one.case))):
        try:
            item, foreign = _item(bundle, store, one, work / f"case{number}")
        except NeurobundleError as error:
            left_out[one.case] = f"{error.cause}. {error.way_out}".strip()
            logger.error("ERROR %s: left out: %s", one.case, left_out[one.case])
            continue
        items.append(item)
        if foreign:
            unknown[one.case] = foreign
            logger.warning("WARNING %s: %s does not know %s", one.case, bundle.name, ", ".join(foreign))
    others = sorted({*read_folds(store.folder)} - {item["case"] for item in items})
    return Prepared(united(items), left_out, unknown, _persons(bundle, store, others, work))


def _item(bundle: Path, store: StudyStore, one: Labelled, work: Path) -> tuple[Item, list[str]]:
    """An image and its label, as the bundle's training reads them, and the segments that it does not know."""
    work.mkdir()
    with store.reading(one.case) as place:
        require_same_study(one, store)
        source = source_of(place, one.case, _wanted(bundle), work)
        scan, person = source.read(), source.person()
    drawn, foreign = read_final(one, bundle)
    labels = on_grid(drawn, scan)
    label = save_label_map(work / "label.nii.gz", labels.data, scan.affine, form_code=scan.form_code, units=scan.units)
    images = [str(path) for path in source.opened]
    image: str | list[str] = images if len(images) > 1 else images[0]
    item: Item = {"case": one.case, "subject": person, "image": image, "label": str(label)}
    classes = answers_of(bundle)
    if classes is not None:
        return {**item, "label": class_of(labels, len(classes)), "mask": str(label)}, foreign
    check_pair(image, str(label), [0, *values_of(bundle)], case=one.case, allow_empty=True)
    return item, foreign


def _persons(bundle: Path, store: StudyStore, cases: Sequence[str], work: Path) -> dict[str, str]:
    """Whose some images are, as far as their studies are still there."""
    found = {}
    for number, case in enumerate(cases):
        own = work / f"other{number}"
        own.mkdir()
        try:
            with store.reading(case) as place:
                found[case] = source_of(place, case, _wanted(bundle), own).person()
        except NeurobundleError:
            continue
    return found


def _wanted(bundle: Path) -> Wanted:
    missing: Literal["refuse", "fill"] = "fill" if can_fill(bundle) else "refuse"
    return Wanted(channels_of(bundle), reference_of(bundle), missing=missing, pictures=takes_pictures(bundle))


def _dealt(bundle: Path, store: StudyStore, found: Prepared) -> tuple[Lesson, list[Item]]:
    """The lesson as far as it is known before the training, and what it is trained on."""
    contradicted = deal(found.items, store.folder, found.others)
    left_out = {**found.left_out, **dict.fromkeys(sorted(contradicted), BOTH_SIDES)}
    items = without_persons(item for item in found.items if item["case"] not in contradicted)
    learned = [str(item["case"]) for item in items if item["fold"] != HELD_OUT]
    held_out = [str(item["case"]) for item in items if item["fold"] == HELD_OUT]
    if not items:
        raise _nothing(left_out)
    if not learned:
        cause = f"all {len(items)} labels are of persons who are held out, and nothing is learned from these"
        raise InputError(cause, "Save labels of others.")
    if len({item["label"] for item in items if item["fold"] == HELD_OUT}) < 2 and answers_of(bundle) is not None:
        # Of one class alone nobody can tell whether an answer is better. They wait, and are not learned from.
        held_out, items = [], [item for item in items if item["fold"] != HELD_OUT]
    if not held_out:
        # A training on all cases watches fold 0, and chooses nothing by it.
        items = [{**item, "fold": HELD_OUT} for item in items]
    metric = "mean Dice" if answers_of(bundle) is None else "balanced accuracy"
    return Lesson(bundle.name, learned, held_out, left_out, found.unknown, metric), items


def _labels_of(bundle: Path) -> dict[str, Any]:
    """The head of a datalist: what its numbers mean."""
    classes = answers_of(bundle)
    names = {0: "background", **structures_of(bundle)} if classes is None else dict(enumerate(classes))
    return {"name": "final labels", "labels": {str(value): name for value, name in names.items()}}


def _train(lesson: Lesson, bundle: Path, datalist: Path, kept: Path, epochs: int, settings: Mapping[str, Any]) -> Path:
    """Train, and fill in what the lesson says of before and after; returns the new weights."""
    model, fold = bundle / "models" / "model.pt", HELD_OUT if lesson.held_out else ALL_CASES
    values = {"epochs": epochs, "val_interval": 1, **settings}
    plan = train_plan(str(bundle), datalist, kept, fold=fold, settings=values)
    check_training(plan)
    shutil.rmtree(kept, ignore_errors=True)  # the last lesson, now that there will be another one
    if not lesson.held_out:
        run_plan(plan, [_BeginWith(model)])
        lesson.taken = True
        return kept / "final.pt"
    lesson.before = _score(bundle, datalist, model, kept / "before", settings)
    run_plan(plan, [_BeginWith(model)])
    new = kept / "models" / model.name
    lesson.after = _score(bundle, datalist, new, kept / "after", settings)
    if lesson.before is not None and lesson.after is not None:
        lesson.taken = lesson.after >= lesson.before
    return new


def _score(bundle: Path, datalist: Path, weights: Path, output: Path, settings: Mapping[str, Any]) -> float | None:
    """Of the cases held out, by the bundle's own evaluation; None if nothing could be scored."""
    evaluate(evaluate_plan(str(bundle), datalist, output, fold=HELD_OUT, weights=weights, settings=settings))
    shutil.rmtree(output / "predictions", ignore_errors=True)
    summary = json.loads((output / SUMMARY).read_bytes())
    if "structures" not in summary:
        return _number(summary["balanced_accuracy"])
    found = [_number(values["dice"]) for values in summary["structures"].values()]
    numbers = [value for value in found if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def _number(value: Any) -> float | None:
    value = value["mean"] if isinstance(value, Mapping) else value
    return None if value is None or math.isnan(value) else float(value)


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _take(new: Path, model: Path) -> None:
    """Put new weights in the place of a bundle's; its calibration was of the old ones."""
    parent = sha256_of(model)
    # First: of a process that is killed in between, no calibration is left, which is better than another's.
    remove(model.parent, CALIBRATION_FILE)
    announce(model.parent, make_entry(new, "trained-here", parent, name=model.name))
    write_atomic(model, new.read_bytes())
    write_entry(model.parent, model.name, "trained-here", parent)


def _nothing(left_out: Mapping[str, str]) -> InputError:
    first = next(iter(left_out.items()), None)
    if first is None:
        return InputError("there is no final label to learn from", "Save some first.")
    return InputError(f"none of {len(left_out)} labels can be used; {first[0]}: {first[1]}", "Mend them.")


class _BeginWith:
    """Loads the weights that a training begins with; not every bundle's config can.

    Args:
        path: the weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Load."""
        load_weights(engine.network, self.path)
