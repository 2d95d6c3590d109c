"""Fine-tuning a bundle on the final labels, from MONAI Label's *Train* button."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list

from neurobundle.errors import NeurobundleError
from neurobundle.label.learning import Labelled, learn, read_lesson
from neurobundle.label.studies import StudyStore

logger = logging.getLogger(__name__)

EPOCHS = 10


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
            epochs = int(request.get("max_epochs", EPOCHS))
            lesson = learn(self.bundle, self.store, final_labels(datastore), epochs=epochs, device=str(device))
        except NeurobundleError as error:
            logger.error("ERROR %s", error.brief())
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, error.brief()) from error
        logger.info("Training Finished: %s", lesson.in_words())
        return self.stats()


def final_labels(datastore: Datastore) -> list[Labelled]:
    """The images with a final label."""
    return [final_label(datastore, image) for image in datastore.get_labeled_images()]


def final_label(datastore: Datastore, image: str) -> Labelled:
    """That of one image, with the names that the client gave its segments."""
    info = datastore.get_label_info(image, DefaultLabelTag.FINAL)
    named = info.get("label_info") or []
    names = {int(entry["idx"]): str(entry["name"]) for entry in named if "idx" in entry and "name" in entry}
    return Labelled(image, Path(datastore.get_label_uri(image, DefaultLabelTag.FINAL)), names)
