"""What the app does with a bundle: answers, scores of how unsure it is, and the order to label in."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from neurobundle.bundle.find import answers_of, read_metadata, structures_of
from neurobundle.errors import NeurobundleError
from neurobundle.export.nifti import save_label_map
from neurobundle.label.answers import Answer, answer
from neurobundle.label.studies import StudyStore
from neurobundle.load.scan import Scan

logger = logging.getLogger(__name__)

#: In an image's info: the case score by bundle.
SCORES = "case_score"


class Ask(InferTask):
    """Asks a bundle about a study, by the code of ``neurobundle run``.

    Args:
        bundle: its folder.
        store: where the studies are.
    """

    def __init__(self, bundle: Path, store: StudyStore) -> None:
        classes = answers_of(bundle)
        labels = classes if classes is not None else {name: n for n, name in structures_of(bundle).items()}
        kind = InferType.SEGMENTATION if classes is None else InferType.CLASSIFICATION
        super().__init__(kind, labels, 3, str(read_metadata(bundle).get("description", bundle.name)))
        self.bundle, self.store = bundle, store

    def is_valid(self) -> bool:
        """Whether there are weights."""
        return (self.bundle / "models" / "model.pt").is_file()

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """A file with the label map, if there is one, and the numbers."""
        found = self.ask(Path(str(request["image"])), str(request.get("device", "auto")))
        if found.labels is None:
            return None, found.numbers
        return written(found.labels, str(request.get("result_extension") or ".nii.gz")), found.numbers

    def ask(self, image: Path, device: str = "auto") -> Answer:
        """The answer on one image of the store.

        Raises:
            MONAILabelException: with the message of ``neurobundle run``.
        """
        case = image.name.removesuffix(".nii.gz")
        try:
            return answer(self.bundle, self.store.path_of(case), self.store.image(case), device=device)
        except NeurobundleError as error:
            logger.error("ERROR %s", error.brief())
            raise MONAILabelException(MONAILabelError.INFERENCE_ERROR, error.brief()) from error


def written(labels: Scan, extension: str) -> str:
    """A temporary file with a label map, which MONAI Label removes; NRRD where a client wants it."""
    with tempfile.NamedTemporaryFile(prefix="neurobundle-", suffix=".nii.gz", delete=False) as file:
        path = Path(file.name)
    save_label_map(path, labels.data, labels.affine, form_code=labels.form_code, units=labels.units)
    if not extension.endswith(".nrrd"):
        return str(path)
    import SimpleITK as sitk

    other = path.with_name(path.name.removesuffix(".nii.gz") + ".nrrd")
    sitk.WriteImage(sitk.ReadImage(str(path)), str(other), useCompression=True)
    path.unlink()
    return str(other)


class CaseScores(ScoringMethod):
    """How unsure a bundle is of each image without a final label, for the strategy *uncertain*.

    Args:
        ask: of the bundle.
    """

    def __init__(self, ask: Ask) -> None:
        super().__init__(f"case score of {ask.bundle.name}: the larger the less sure")
        self.ask = ask

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score the images; one that is refused has none, and the others go on."""
        scores = {}
        for image in datastore.get_unlabeled_images():
            try:
                numbers = self.ask.ask(Path(datastore.get_image_uri(image)), str(request.get("device", "auto"))).numbers
            except MONAILabelException:
                continue
            if "uncertainty" in numbers:
                scores[image] = float(numbers["uncertainty"]["case_score"])
                known = datastore.get_image_info(image).get(SCORES, {})
                datastore.update_image_info(image, {SCORES: {**known, self.ask.bundle.name: scores[image]}})
        return scores


class Uncertain(Strategy):
    """The image that the bundles are least sure of, of those without a final label; one without a score comes first."""

    def __init__(self) -> None:
        super().__init__("the image that the network is least sure of")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The image's id, with its score as weight; None if all are labelled."""
        found = {image: self.score_of(datastore.get_image_info(image)) for image in datastore.get_unlabeled_images()}
        if not found:
            return None
        image = max(sorted(found), key=found.__getitem__)
        return {"id": image, "weight": found[image] if found[image] != float("inf") else None}

    def score_of(self, info: dict[str, Any]) -> float:
        """The largest over bundles; infinite where there is none."""
        return max(map(float, info.get(SCORES, {}).values()), default=float("inf"))
