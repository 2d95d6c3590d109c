"""What the app does with a bundle: answers, scores of how unsure it is, and the order to label in."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from neurobundle.bundle.find import answers_of, channels_of, read_metadata, structures_of
from neurobundle.errors import NeurobundleError
from neurobundle.export.nifti import save_label_map
from neurobundle.label.answers import Answer, answer, on_grid_of, scan_names
from neurobundle.label.app.training import final_labels
from neurobundle.label.finals import require_same_study
from neurobundle.label.folds import learned_from
from neurobundle.label.scores import agreement
from neurobundle.label.studies import StudyStore
from neurobundle.load.scan import Scan

logger = logging.getLogger(__name__)

#: In an image's info: the case score by bundle.
SCORES = "case_score"

#: In a final label's info: how well each bundle agrees with it.
AGREEMENT = "agreement"

#: What a model's setting for a channel begins with, and its choice that leaves the scan to the rules.
PICK, BY_RULE = "scan_", "by rule"


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
        channels = channels_of(bundle)
        self.channels = channels if len(channels) > 1 else ()

    def is_valid(self) -> bool:
        """Whether there are weights."""
        return (self.bundle / "models" / "model.pt").is_file()

    def config(self) -> dict[str, Any]:
        """Of a bundle of several channels, which scan is which: by the rules, or the one that a person picks."""
        if not self.channels:
            return {}
        names = scan_names(self.store.entries.values())
        return {f"{PICK}{channel}": [BY_RULE, *names] for channel in self.channels}

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """A file with the label map, if there is one, and the numbers."""
        image, extension = Path(str(request["image"])), str(request.get("result_extension") or ".nii.gz")
        seg = extension == ".dcm"
        found = self.ask(image, str(request.get("device", "auto")), self._picked(request), dicom_seg=seg)
        if found.labels is None:
            return None, found.numbers
        if seg:
            return kept(found.dicom_seg, extension), found.numbers
        grid = self.store.grid_of(case_of(image), str(request.get("scan", "")))
        return written(found.labels if grid is None else on_grid_of(found.labels, grid), extension), found.numbers

    def ask(
        self,
        image: Path,
        device: str = "auto",
        scans: Mapping[str, str] | None = None,
        dicom_seg: bool = False,
    ) -> Answer:
        """The answer on one image of the store.

        Args:
            image: its file.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            scans: channel to the scan that a person picked for it.
            dicom_seg: also as a DICOM segmentation.

        Raises:
            MONAILabelException: with the message of ``neurobundle run``.
        """
        case = case_of(image)
        shown = self.store.image(case)
        try:
            with self.store.reading(case) as place:
                return answer(self.bundle, place, shown, device=device, scans=scans, dicom_seg=dicom_seg)
        except NeurobundleError as error:
            logger.error("ERROR %s", error.brief())
            raise MONAILabelException(MONAILabelError.INFERENCE_ERROR, error.brief()) from error

    def _picked(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Channel to scan, where a person picked one; a client sends a list of which nothing was chosen as it is."""
        picked = {channel: request.get(f"{PICK}{channel}") for channel in self.channels}
        return {
            channel: name for channel, name in picked.items() if isinstance(name, str) and name not in ("", BY_RULE)
        }


def case_of(image: Path) -> str:
    """Whose image a file of the store is."""
    return image.name.removesuffix(".nii.gz")


def kept(content: bytes, extension: str) -> str:
    """A temporary file, which MONAI Label removes."""
    with tempfile.NamedTemporaryFile(prefix="neurobundle-", suffix=extension, delete=False) as file:
        file.write(content)
    return file.name


def written(labels: Scan, extension: str) -> str:
    """A temporary file with a label map, which MONAI Label removes; NRRD where a client wants it."""
    path = Path(kept(b"", ".nii.gz"))
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


class Agreement(ScoringMethod):
    """How well a bundle agrees with each final label.

    Args:
        ask: of the bundle.
    """

    def __init__(self, ask: Ask) -> None:
        super().__init__(f"{ask.bundle.name} against the final labels")
        self.ask = ask

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """By image; one that cannot be compared is named with the cause, and the others go on.

        Of an image that a training here may have learned from, ``learned_from`` is true: its score is too good.
        """
        found: dict[str, Any] = {}
        learned = learned_from(self.ask.bundle, self.ask.store.folder)
        for final in final_labels(datastore):
            try:
                require_same_study(final, self.ask.store)
                said = self.ask.ask(self.ask.store.image(final.case), str(request.get("device", "auto")))
                scores = agreement(self.ask.bundle, said, final)
            except (MONAILabelException, NeurobundleError) as error:
                found[final.case] = {"error": error.brief() if isinstance(error, NeurobundleError) else error.msg}
                continue
            found[final.case] = {"scores": scores, "learned_from": final.case in learned}
            known = datastore.get_label_info(final.case, DefaultLabelTag.FINAL).get(AGREEMENT, {})
            both = {**known, self.ask.bundle.name: found[final.case]}
            datastore.update_label_info(final.case, DefaultLabelTag.FINAL, {AGREEMENT: both})
        return found


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
