"""What annotators' final labels teach a bundle: cases with folds by person, a training, and whether it helped.

The words are those of docs/concepts/label.md. Nothing here needs MONAI Label.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ignite.engine import Engine, Events

from neurobundle.bundle.find import answers_of, can_fill, channels_of, reference_of, structures_of, takes_pictures
from neurobundle.commands.evaluate import evaluate, evaluate_plan
from neurobundle.commands.sources import Wanted
from neurobundle.commands.train import check_training, run_plan, train_plan
from neurobundle.errors import InputError, NeurobundleError
from neurobundle.export.nifti import save_label_map
from neurobundle.files import write_atomic, write_json
from neurobundle.label.answers import on_grid, source_of
from neurobundle.label.studies import StudyStore
from neurobundle.load.datalist import ALL_CASES, Item, natural, write_datalist
from neurobundle.load.gate import LABEL
from neurobundle.load.labels import check_pair
from neurobundle.load.scan import Scan, read_scan
from neurobundle.measure.evaluation import SUMMARY
from neurobundle.networks import load_weights
from neurobundle.networks.manifest import announce, make_entry, read_manifest, remove, sha256_of, write_entry
from neurobundle.postprocess.calibration import CALIBRATION_FILE

logger = logging.getLogger(__name__)

FOLDS_NAME, LESSON_NAME, TRAININGS = "folds.json", "lesson.json", "trainings"

#: The fold that is held out, how many there are, and the order in which the first persons come to them: of one person
#: nothing is held out, of two one.
HELD_OUT, FOLDS = 0, 5
_ORDER = (1, HELD_OUT, 2, 3, 4)


@dataclass(frozen=True)
class Labelled:
    """An image with a final label.

    Attributes:
        case: the image's id.
        file: the label map.
        names: what the annotator's client calls its values; empty if it said nothing: they are then the bundle's.
    """

    case: str
    file: Path
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass
class Lesson:
    """What a training did; ``lesson.json``.

    Attributes:
        bundle: its name.
        cases: those that were learned from.
        held_out: those that were not, and judged it.
        left_out: cases that could not be used, and why.
        metric: what judged: ``mean Dice`` or ``balanced accuracy``.
        before: of the weights that the training began with, on the cases held out; None where there are none.
        after: of those that it ended with.
        taken: whether the bundle has the new weights: they are no worse, or nothing was held out.
    """

    bundle: str
    cases: list[str]
    held_out: list[str]
    left_out: dict[str, str]
    metric: str
    before: float | None = None
    after: float | None = None
    taken: bool = False

    def in_words(self) -> str:
        """One line for a log."""
        learned = f"{self.bundle}: learned from {len(self.cases)} cases"
        if not self.held_out:
            return f"{learned}; no person was held out, so the new weights are not judged. They are taken."
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
        WeightsError: if the bundle's weights cannot be trusted.
    """
    kept = store.folder / TRAININGS / bundle.name
    shutil.rmtree(kept, ignore_errors=True)
    more = {**(settings or {}), **({} if device == "auto" else {"device": device})}
    with tempfile.TemporaryDirectory(prefix="neurobundle-") as folder:
        work = Path(folder)
        items, left_out = prepared(bundle, store, labelled, work)
        if not items:
            raise _nothing(left_out)
        deal(items, store.folder / FOLDS_NAME)
        lesson = _lesson(bundle, items, left_out)
        if not lesson.held_out:
            # A training on all cases watches fold 0, and chooses nothing by it.
            items = [{**item, "fold": HELD_OUT} for item in items]
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


def learned_from(bundle: Path, store: Path) -> set[str]:
    """The cases that trainings in a store may have seen: none, if the bundle's weights are those it came with.

    Args:
        bundle: the store's copy.
        store: its folder.
    """
    entry = read_manifest(bundle / "models").get("model.pt")
    file = store / FOLDS_NAME
    if entry is None or entry.origin != "trained-here" or not file.exists():
        return set()
    return {case for case, fold in json.loads(file.read_bytes()).items() if fold != HELD_OUT}


def prepared(
    bundle: Path, store: StudyStore, labelled: Sequence[Labelled], work: Path
) -> tuple[list[Item], dict[str, str]]:
    """A datalist's entries of the images, in files of a folder, and why the others are left out.

    Args:
        bundle: says which channels, and what the values of a label map mean.
        store: the studies.
        labelled: images with final labels.
        work: gets the channels and the label maps, in the bundle's values.

    Returns:
        Entries with ``case``, ``subject``, ``image``, ``label`` and, for classes, ``mask``; case to cause and way out.
    """
    items: list[Item] = []
    left_out: dict[str, str] = {}
    for one in sorted(labelled, key=lambda one: natural(one.case)):
        try:
            items.append(_item(bundle, store, one, work / f"case{len(items) + len(left_out)}"))
        except NeurobundleError as error:
            left_out[one.case] = f"{error.cause}. {error.way_out}".strip()
            logger.error("ERROR %s: left out: %s", one.case, left_out[one.case])
    return _one_person_a_scan(items), left_out


def deal(items: Sequence[Item], file: Path) -> None:
    """Give each entry its ``fold``: all of a person's the same, and the one that the store remembers.

    Who was once held out is never learned from, however many labels come later: a score before and after a training
    would else compare what was seen with what was not.

    Args:
        items: changed in place.
        file: which case has which fold; written.
    """
    known: dict[str, int] = json.loads(file.read_bytes()) if file.exists() else {}
    persons: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        persons[str(item["subject"])].append(item)
    size = Counter(known.values())
    for person in persons.values():
        cases = [str(item["case"]) for item in person]
        fold = next((known[case] for case in cases if case in known), None)
        if fold is None:
            fold = min(_ORDER, key=lambda each: size[each])
        for item, case in zip(person, cases, strict=True):
            item["fold"] = fold
            size[fold] += case not in known
            known[case] = fold
    write_json(file, dict(sorted(known.items())))


def in_values_of(labels: Scan, names: Mapping[int, str], wanted: Mapping[int, str]) -> Scan:
    """A label map in the values of a bundle, from those that a client gave its segments, by their names.

    Args:
        labels: as the client saved them.
        names: value to name, by the client; empty if it said nothing.
        wanted: value to name, by the bundle.

    Raises:
        InputError: if none of its segments is one of the bundle.
    """
    if not names:
        return labels
    known = {name.casefold(): value for value, name in wanted.items()}
    pairs = {value: known[name.casefold()] for value, name in names.items() if name.casefold() in known}
    if not pairs:
        cause = f"its segments are {', '.join(sorted(names.values()))}, and none is one of the bundle"
        raise InputError(cause, f"Name them {', '.join(wanted.values())}.")
    table = np.zeros(int(max(*pairs, labels.data.max())) + 1, np.uint8)
    for value, own in pairs.items():
        table[value] = own
    return Scan(table[labels.data.astype(np.intp)], labels.affine, labels.warnings, labels.form_code, labels.units)


def class_of(labels: Scan) -> int:
    """The class whose segment is outlined.

    Args:
        labels: value 1 is class 0.

    Raises:
        InputError: if nothing is outlined, or more than one class.
    """
    values = [int(value) for value in np.unique(labels.data) if value]
    if len(values) != 1:
        cause = f"segments {values} are outlined" if values else "nothing is outlined"
        raise InputError(cause, "Outline each tumour in the one segment that is its class.")
    return values[0] - 1


def _item(bundle: Path, store: StudyStore, one: Labelled, work: Path) -> Item:
    """An image and its label, as the bundle's training reads them."""
    missing: Literal["refuse", "fill"] = "fill" if can_fill(bundle) else "refuse"
    wanted = Wanted(channels_of(bundle), reference_of(bundle), missing=missing, pictures=takes_pictures(bundle))
    work.mkdir()
    with store.reading(one.case) as place:
        source = source_of(place, one.case, wanted, work)
        scan, person = source.read(), source.person()
    classes = answers_of(bundle)
    values = structures_of(bundle) if classes is None else dict(enumerate(classes, start=1))
    labels = on_grid(in_values_of(read_scan(one.file, LABEL), one.names, values), scan)
    label = save_label_map(work / "label.nii.gz", labels.data, scan.affine, form_code=scan.form_code, units=scan.units)
    image: str | list[str] = [str(path) for path in source.opened]
    item: Item = {
        "case": one.case,
        "subject": person,
        "image": image if len(image) > 1 else image[0],
        "label": str(label),
    }
    if classes is not None:
        item |= {"label": class_of(labels), "mask": str(label)}
    else:
        check_pair(item["image"], item["label"], [0, *values], case=one.case, allow_empty=True)
    return item


def _one_person_a_scan(items: list[Item]) -> list[Item]:
    """The entries, where those that share a file's content are one person's."""
    owner: dict[str, str] = {}
    for item in items:
        files = item["image"] if isinstance(item["image"], list) else [item["image"]]
        digests = [sha256_of(file) for file in files]
        item["subject"] = next((owner[digest] for digest in digests if digest in owner), str(item["subject"]))
        owner.update(dict.fromkeys(digests, str(item["subject"])))
    return items


def _lesson(bundle: Path, items: Sequence[Item], left_out: dict[str, str]) -> Lesson:
    sides = {held: [str(i["case"]) for i in items if (i["fold"] == HELD_OUT) is held] for held in (True, False)}
    if not sides[False]:
        cause = f"all {len(items)} labels are of persons who are held out, and nothing is learned from these"
        raise InputError(cause, "Save labels of others.")
    metric = "mean Dice" if answers_of(bundle) is None else "balanced accuracy"
    return Lesson(bundle.name, sides[False], sides[True], left_out, metric)


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
    if not lesson.held_out:
        run_plan(plan, [_BeginWith(model)])
        lesson.taken = True
        return kept / "final.pt"
    lesson.before = _score(bundle, datalist, model, kept / "before", settings)
    run_plan(plan, [_BeginWith(model)])
    new = kept / "models" / model.name
    lesson.after = _score(bundle, datalist, new, kept / "after", settings)
    lesson.taken = lesson.before is None or (lesson.after is not None and lesson.after >= lesson.before)
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
    announce(model.parent, make_entry(new, "trained-here", parent, name=model.name))
    write_atomic(model, new.read_bytes())
    write_entry(model.parent, model.name, "trained-here", parent)
    remove(model.parent, CALIBRATION_FILE)


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
