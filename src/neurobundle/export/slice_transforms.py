"""The writer of label pictures that a config names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle.export.slices import LABEL_PICTURE_ENDING, save_label_picture
from neurobundle.load.names import case_name, is_picture_name


class SaveLabelPictured(SaveImaged):
    """Writes ``<output_dir>/<case>_seg.png`` for a case that was a picture; does nothing for a volume.

    It is a ``SaveImaged`` so that MONAI Label, which writes results itself, takes it out of the chain.

    Args:
        keys: label maps ``(1, column, row, 1)`` that carry the metadata of the file they came from.
        output_dir: where to write; made if need be.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the label maps of one case; the data pass through unchanged."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels: MetaTensor = result[key]
            file = str(labels.meta.get("filename_or_obj", ""))
            if is_picture_name(file):
                name = str(result.get("case") or "") or case_name(file)
                array = labels.as_tensor()[0].cpu().numpy()
                save_label_picture(self.output_dir / f"{name}{LABEL_PICTURE_ENDING}", array)
        return result
