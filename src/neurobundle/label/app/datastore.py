"""MONAI Label's store over ours: images that were gathered, and ids and tags that are names."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

from neurobundle.errors import InputError, NeurobundleError
from neurobundle.export.nifti import save_label_map
from neurobundle.geometry import same_grid
from neurobundle.label.app.training import final_label
from neurobundle.label.guard import is_name, is_tag
from neurobundle.label.learning import Labelled
from neurobundle.label.studies import IMAGES, StudyStore
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import Scan, read_scan

logger = logging.getLogger(__name__)

#: In an image's info: the bundle whose answer an annotator saw last.
ANSWERED_BY = "answered_by"

#: What a label may come as: NIfTI; NRRD, which 3D Slicer can be told to send; a viewer's bytes, one a voxel.
_NIFTI, _NRRD, _RAW = (".nii.gz", ".nii"), (".nrrd",), (".bin",)


class Refused(MONAILabelException):
    """An image that is not to be had: its study is refused, or its archive did not hand it over."""


class StudyDatastore(LocalDatastore):
    """A local store whose images are those of a :class:`~neurobundle.label.studies.StudyStore`.

    The guard looks at what stands in a request's first line; what stands in its body arrives here. An image of an
    archive is *waiting* until it is first wanted; it is listed like any other.

    Args:
        store: the studies.
    """

    def __init__(self, store: StudyStore) -> None:
        self.store = store
        # The base class empties its lists before it fills them again, and requests come in threads.
        self._shared = threading.RLock()
        store.refresh()
        super().__init__(str(store.folder), images_dir=IMAGES, extensions=("*.nii.gz", "*.nii"), auto_reload=False)

    def refresh(self) -> None:
        """Gather studies that are new."""
        self.store.refresh()
        self._reconcile()

    def relist(self) -> None:
        """Look for studies that are new, where that takes a moment only, and for what another process brought.

        Raises:
            ArchiveFault: if an archive cannot be asked.
        """
        self.store.relist()
        self._reconcile()

    def list_images(self) -> list[str]:
        """The ids of all images, with those that wait."""
        with self._shared:
            return sorted({*super().list_images(), *self.store.waiting()})

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The ids of images with a final label."""
        with self._shared:
            return sorted(super().get_labeled_images(label_tag, labels))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The ids of images without a final label, with those that wait."""
        with self._shared:
            labelled = {*super().get_labeled_images(label_tag, labels)}
            return sorted({*super().get_unlabeled_images(label_tag, labels), *self.store.waiting()} - labelled)

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image, which is brought if it waits; empty if there is none of that id.

        Raises:
            Refused: if its study is refused.
            MONAILabelException: if its archive cannot be used.
        """
        waits = image_id in self.store.waiting()
        try:
            if waits or image_id in self.store.entries:
                self.store.bring(image_id)
        except NeurobundleError as error:
            raise refusal(error) from error
        finally:
            if waits:
                self._reconcile()
        with self._shared:
            return str(super().get_image_uri(image_id))

    def status(self) -> dict[str, Any]:
        """What ``/info`` says of the store: also which studies are no images, and why."""
        out = {entry.case: entry.error for entry in self.store.entries.values() if entry.status != "ok"}
        return {**super().status(), "refused": out}

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: an image comes from a study that the gate has seen."""
        raise HTTPException(400, "Images are gathered from studies; put the study beside the others.")

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of an image; of none that waits."""
        with self._shared:
            if image_id in super().list_images():
                super().update_image_info(image_id, info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label, under the id of an image that is here and a tag that is a folder's name.

        A final one also goes to where its study came from, if that is an archive. If that does not take it, it is
        kept all the same.

        Raises:
            HTTPException: if there is no such image, or the tag is none.
            MONAILabelException: if it is no label of the image, or the archive does not take it.
        """
        if not is_name(image_id) or image_id not in self.list_images():
            raise HTTPException(404, "There is no image of that id.")
        tag = str(getattr(label_tag, "value", label_tag))
        if not is_tag(tag):
            raise HTTPException(400, "That is no tag: letters, digits, - and _.")
        image = Path(self.get_image_uri(image_id))
        kept = Path(label_filename).with_name(f"{image_id}-{Path(label_filename).stem}.nii.gz")
        try:
            as_label_of(read_scan(image), Path(label_filename), kept)
            with self._shared:
                done = str(super().save_label(image_id, str(kept), label_tag, label_info))
        except NeurobundleError as error:
            raise refusal(error) from error
        finally:
            kept.unlink(missing_ok=True)
        if tag == DefaultLabelTag.FINAL.value:
            self._hand_back(final_label(self, image_id))
        return done

    def _hand_back(self, final: Labelled) -> None:
        made_by = str(self.get_image_info(final.case).get(ANSWERED_BY, ""))
        try:
            self.store.hand_back(final.case, final.file, final.names, made_by)
        except NeurobundleError as error:
            logger.error("ERROR %s: its label is kept, and not in the archive: %s", final.case, error.brief())
            said = f"The label is kept here, and is not in the archive: {error.brief()}"
            raise MONAILabelException(MONAILabelError.SERVER_ERROR, said) from error

    def _reconcile(self) -> None:
        with self._shared:
            self._reconcile_datastore()


def refusal(error: NeurobundleError) -> MONAILabelException:
    """An error of ours, as MONAI Label has them."""
    kind = Refused if isinstance(error, InputError) else MONAILabelException
    return kind(MONAILabelError.INVALID_INPUT, error.brief())


def as_label_of(image: Scan, sent: Path, kept: Path) -> None:
    """Write what a client sent as a label map of an image.

    Args:
        image: the store's.
        sent: NIfTI, NRRD, or a byte a voxel in the order of the image's, columns first.
        kept: gets it, as NIfTI.

    Raises:
        InputError: if it is none of these, or lies on another grid.
    """
    labels = _read(image, sent, kept)
    if not same_grid(image.data.shape, image.affine, labels.data.shape, labels.affine):
        raise InputError(
            f"the label lies on another grid ({labels.data.shape} voxels) than the image ({image.data.shape})",
            "Draw it on the image that the server gave.",
        )
    save_label_map(kept, labels.data, image.affine, form_code=image.form_code, units=image.units)


def _read(image: Scan, sent: Path, kept: Path) -> Scan:
    name = sent.name.lower()
    if name.endswith(_NIFTI):
        return read_scan(sent, LABEL)
    if name.endswith(_NRRD):
        import SimpleITK as sitk

        sitk.WriteImage(sitk.ReadImage(str(sent)), str(kept))
        return read_scan(kept, LABEL)
    if not name.endswith(_RAW):
        raise InputError("the label is of no kind that is known here", "Send NIfTI (.nii.gz) or NRRD (.nrrd).")
    voxels = np.fromfile(sent, np.uint8)
    if voxels.size != image.data.size:
        cause = f"the label has {voxels.size} bytes, and the image {image.data.size} voxels"
        raise InputError(cause, "Draw it on the series that the next sample names; one byte a voxel.")
    return Scan(voxels.reshape(image.data.shape, order="F"), image.affine)
