"""Writers that a config names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle.export.nifti import PROBABILITIES_ENDING, SCANNER_ANAT, save_label_map, save_probabilities
from neurobundle.load.names import case_name


class SaveLabelMapd(SaveImaged):
    """Writes ``<output_dir>/<case>_seg.nii.gz`` on the native grid, atomically.

    It is a ``SaveImaged`` so that MONAI Label, which writes results itself, takes it out of the chain.

    Args:
        keys: label maps ``(1, i, j, k)`` that carry the metadata of the file they came from.
        output_dir: where to write; made if need be.
        suffix: goes between the case's name and ``.nii.gz``.
        dtype: of the file, such as ``uint8``; the smallest of uint8 and int16 that holds the labels if None.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: str | Path, suffix: str = "_seg", dtype: str | None = None
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir = Path(output_dir)
        self.suffix = suffix
        self.dtype = dtype

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the label maps of one case; the data pass through unchanged."""
        result = dict(data)
        for key in self.key_iterator(result):
            self._save(result[key], str(result.get("case") or ""))
        return result

    def _save(self, labels: MetaTensor, case: str) -> None:
        place = destination_of(labels, case, f"{self.suffix}.nii.gz")
        array = labels.as_tensor()[0].cpu().numpy()
        target = self.output_dir / place.name
        path = save_label_map(target, array, place.affine, place.form_code, place.units, self.dtype)
        labels.meta["saved_to"] = str(path)  # the key under which MONAI's SaveImage says it too


class SaveProbabilitiesd(SaveImaged):
    """Writes ``<output_dir>/<case>_prob.nii.gz``, a volume a region or class, on the native grid, if asked to.

    Args:
        keys: probabilities ``(channel, i, j, k)`` that carry the metadata of the file they came from.
        output_dir: where to write; made if need be.
        enabled: false writes nothing.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path, enabled: bool = True) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir, self.enabled = Path(output_dir), enabled

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the probabilities of one case; the data pass through unchanged."""
        result = dict(data)
        for key in self.key_iterator(result) if self.enabled else ():
            place = destination_of(result[key], str(result.get("case") or ""), PROBABILITIES_ENDING)
            array = result[key].as_tensor().float().cpu().numpy()
            save_probabilities(self.output_dir / place.name, array, place.affine, place.form_code, place.units)
        return result


class Destination(NamedTuple):
    """Where a result goes, and on which grid."""

    name: str
    affine: np.ndarray
    form_code: int
    units: str


def destination_of(result: MetaTensor, case: str, ending: str) -> Destination:
    """Where a case's result goes: named after the case, else after the file that the image was read from."""
    name = case or case_name(str(result.meta["filename_or_obj"]))
    # The reader of ours gives these two; MONAI's readers do not.
    form_code, units = result.meta.get("form_code", SCANNER_ANAT), result.meta.get("units", "mm")
    affine = np.asarray(result.affine, dtype=np.float64)
    return Destination(f"{name}{ending}", affine, int(form_code), str(units))
