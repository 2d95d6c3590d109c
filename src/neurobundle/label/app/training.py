"""Fine-tuning a bundle on the final labels, from MONAI Label's *Train* button."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list

from neurobundle.errors import InputError, NeurobundleError
from neurobundle.label.finals import Labelled
from neurobundle.label.learning import learn, read_lesson
from neurobundle.label.studies import StudyStore

logger = logging.getLogger(__name__)

EPOCHS = 10

#: In a label's info: the fingerprint of the study that it was drawn on.
STUDY = "study"

#: In a label's info: what its client calls its segments; the largest value that one may have.
NAMES, LARGEST = "label_info", 65535


class Learn(TrainTask):
    """Trains a bundle on from its weights, with a share of the persons held out to judge the new ones.

    Args:
        bundle: the store's copy.
        store: the studies.
    """

    def __init__(self, bundle: Path, store: StudyStore) -> None:
        super().__init__(f"{bundle.name}: learns from the final labels; a fifth of the persons judge")
        self.bundle, self.store = bundle, store

    def config(self) -> dict[str, Any]:
        """What a client shows for it."""
        return {"max_epochs": EPOCHS, "device": device_list()}

    def stats(self) -> dict[str, Any]:
        """The last lesson; 3D Slicer shows ``best_metric`` as the accuracy."""
        lesson = read_lesson(self.store.folder, self.bundle.name)
        return lesson if lesson.get("after") is None else {**lesson, "best_metric": lesson["after"]}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Learn, and say what came of it.

        Raises:
            MONAILabelException: with a sentence that says what to mend.
        """
        device = request.get("device") or "auto"
        try:
            epochs = _whole(request.get("max_epochs", EPOCHS))
            lesson = learn(self.bundle, self.store, final_labels(datastore), epochs=epochs, device=str(device))
        except NeurobundleError as error:
            logger.error("ERROR %s", error.brief())
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, error.brief()) from error
        logger.info("Training Finished: %s", lesson.in_words())
        return self.stats()


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError("max_epochs is no whole number", "As 10.") from None


def final_labels(datastore: Datastore) -> list[Labelled]:
    """The images with a final label."""
    return [final_label(datastore, image) for image in datastore.get_labeled_images()]


def final_label(datastore: Datastore, image: str) -> Labelled:
    """That of one image, with the names that the client gave its segments."""
    info = datastore.get_label_info(image, DefaultLabelTag.FINAL)
    file = Path(datastore.get_label_uri(image, DefaultLabelTag.FINAL))
    return Labelled(image, file, names_of(info), str(info.get(STUDY, "")))


def names_of(info: dict[str, Any]) -> dict[int, str]:
    """What a client calls the values of a label map; the background is nobody's.

    Raises:
        InputError: if it is no list of names and values.
    """
    named = info.get(NAMES) or []
    try:
        names = {int(one["idx"]): str(one["name"]) for one in named if "idx" in one and "name" in one}
    except (TypeError, ValueError, OverflowError, AttributeError):
        names = {-1: ""}
    if not all(0 <= value <= LARGEST for value in names):
        cause = f"{NAMES} is no list of names with idx from 0 to {LARGEST}"
        raise InputError(cause, 'As [{"name": "anterior", "idx": 1}].')
    return {value: name for value, name in names.items() if value}
