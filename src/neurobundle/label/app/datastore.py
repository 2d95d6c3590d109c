"""MONAI Label's store over ours: images that were gathered, and ids and tags that are names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from neurobundle.label.guard import is_name, is_tag
from neurobundle.label.studies import IMAGES, StudyStore


class StudyDatastore(LocalDatastore):
    """A local store whose images are those of a :class:`~neurobundle.label.studies.StudyStore`.

    The guard looks at what stands in a request's first line; what stands in its body arrives here.

    Args:
        store: the studies.
        studies: where they lie.
    """

    def __init__(self, store: StudyStore, studies: Path) -> None:
        self.store, self.studies = store, studies
        store.gather([studies])
        super().__init__(str(store.folder), images_dir=IMAGES, extensions=("*.nii.gz", "*.nii"), auto_reload=False)

    def refresh(self) -> None:
        """Gather studies that are new."""
        self.store.gather([self.studies])
        super().refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: an image comes from a study that the gate has seen."""
        raise HTTPException(400, f"Images are gathered from {self.studies.name}; put the study there.")

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label, under the id of an image that is here and a tag that is a folder's name."""
        if not is_name(image_id) or image_id not in self.list_images():
            raise HTTPException(404, "There is no image of that id.")
        if not is_tag(str(getattr(label_tag, "value", label_tag))):
            raise HTTPException(400, "That is no tag: letters, digits, - and _.")
        return str(super().save_label(image_id, label_filename, label_tag, label_info))
