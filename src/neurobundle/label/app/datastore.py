"""MONAI Label's store over ours: images that were gathered, and ids and tags that are names."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

from neurobundle.errors import InputError, NeurobundleError
from neurobundle.export.nifti import save_label_map
from neurobundle.files import folder_lock, write_atomic, write_json
from neurobundle.geometry import same_grid
from neurobundle.label.app.training import NAMES, STUDY, final_label, names_of
from neurobundle.label.finals import Labelled
from neurobundle.label.guard import is_name, is_tag
from neurobundle.label.studies import IMAGES, StudyStore
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import Scan, read_scan

logger = logging.getLogger(__name__)

#: In an image's info: the bundle whose answer an annotator saw last.
ANSWERED_BY = "answered_by"

#: What a label may come as: NIfTI; NRRD, which 3D Slicer can be told to send; a viewer's bytes, one a voxel.
_NIFTI, _NRRD, _RAW = (".nii.gz", ".nii"), (".nrrd",), (".bin",)

#: Of an NRRD header (teem.sourceforge.net/nrrd/format.html), without those that name other files or places in them.
_NRRD_FIELDS = frozenset(
    b"content,type,block size,dimension,space,space dimension,space units,space origin,space directions,sizes,spacings,"
    b"thicknesses,axis mins,axis maxs,centers,centerings,labels,units,kinds,min,max,old min,old max,endian,encoding,"
    b"measurement frame,number,sample units".split(b",")
)
_LONGEST_HEAD = 1 << 20


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
        with self._alone():
            if image_id in super().list_images():
                super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something of a label.

        Raises:
            MONAILabelException: if the names of its segments are none.
        """
        _require_names(info)
        with self._alone():
            super().update_label_info(label_id, label_tag, info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label, and what its segments are called."""
        if is_name(label_id) and is_tag(str(label_tag)):
            self._names_file(label_id, str(label_tag)).unlink(missing_ok=True)
        super().remove_label(label_id, label_tag)

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
        _require_names(label_info)
        image = Path(self.get_image_uri(image_id))
        kept = Path(label_filename).with_name(f"{image_id}-{Path(label_filename).stem}.nii.gz")
        try:
            as_label_of(read_scan(image), Path(label_filename), kept)
            with self._alone():
                info = {**(label_info or {}), STUDY: entry.key if (entry := self.store.entries.get(image_id)) else ""}
                done = str(super().save_label(image_id, str(kept), label_tag, info))
                write_json(self._names_file(image_id, tag), {key: info[key] for key in (NAMES, STUDY) if key in info})
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
        self._reconcile_datastore()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Around a change of the lists, which a scoring or a training writes too: what they wrote is read before."""
        with self._shared, folder_lock(self.store.folder / "labels"):
            self._init_from_datastore_file()
            yield

    def _reconcile_datastore(self) -> None:
        with self._alone():
            super()._reconcile_datastore()

    def _add_non_existing_labels(self, tag: str) -> int:
        """A label whose image was away is known again with the names of its segments."""
        found = int(super()._add_non_existing_labels(tag))
        for image, entry in self._datastore.objects.items():
            label, file = entry.labels.get(tag), self._names_file(image, tag)
            if label is not None and NAMES not in label.info and file.is_file():
                label.info |= json.loads(file.read_bytes())
                found += 1
        return found

    def _update_datastore_file(self, lock: bool = True) -> None:
        """At once: a scoring may be killed at any time."""
        content = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        write_atomic(Path(self._datastore_config_path), content.encode())
        self._config_ts = Path(self._datastore_config_path).stat().st_mtime

    def _names_file(self, image: str, tag: str) -> Path:
        return self.store.folder / "labels" / tag / f"{image}.json"


def _require_names(info: dict[str, Any] | None) -> None:
    try:
        names_of(info or {})
    except InputError as error:
        raise refusal(error) from error


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
        _convert_nrrd(image, sent, kept)
        return read_scan(kept, LABEL)
    if not name.endswith(_RAW):
        raise InputError("the label is of no kind that is known here", "Send NIfTI (.nii.gz) or NRRD (.nrrd).")
    voxels = np.fromfile(sent, np.uint8)
    if voxels.size != image.data.size:
        cause = f"the label has {voxels.size} bytes, and the image {image.data.size} voxels"
        raise InputError(cause, "Draw it on the series that the next sample names; one byte a voxel.")
    return Scan(voxels.reshape(image.data.shape, order="F"), image.affine)


def _convert_nrrd(image: Scan, sent: Path, kept: Path) -> None:
    """NRRD as NIfTI. Its header may name another file of this machine as the voxels, and claim any size."""
    import SimpleITK as sitk

    with sent.open("rb") as stream:
        head = stream.read(_LONGEST_HEAD).replace(b"\r\n", b"\n").partition(b"\n\n")
    fields = [line.partition(b":")[0] for line in head[0].split(b"\n")[1:] if b":=" not in line and line[:1] != b"#"]
    unknown = not head[1] or any(field not in _NRRD_FIELDS for field in fields)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(sent))
    try:
        if unknown or not head[0].startswith(b"NRRD"):
            raise InputError("the label is no NRRD file that holds its voxels itself", "Send NIfTI (.nii.gz).")
        reader.ReadImageInformation()
        if reader.GetSize() != image.data.shape or reader.GetNumberOfComponents() != 1:
            cause = f"the label lies on another grid ({reader.GetSize()} voxels) than the image ({image.data.shape})"
            raise InputError(cause, "Draw it on the image that the server gave.")
        sitk.WriteImage(reader.Execute(), str(kept))
    except RuntimeError:
        raise InputError("the label cannot be read as NRRD", "Send NIfTI (.nii.gz).") from None
