"""The writer of uncertainty that a config names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle.export.transforms import destination_of
from neurobundle.export.uncertainty import MAP_ENDING, NUMBERS_ENDING, save_map, save_numbers
from neurobundle.postprocess.uncertainty import NUMBERS, UNCERTAINTY

#: What is added to a key for the files that were written.
SAVED = "_uncertainty_saved"


class SaveUncertaintyd(SaveImaged):
    """Writes ``<case>_uncertainty.nii.gz`` and ``<case>_uncertainty.json``, atomically, where there is something to.

    It is a ``SaveImaged`` so that MONAI Label, which writes results itself, takes it out of the chain. The paths are in
    ``<key>_uncertainty_saved`` afterwards.

    Args:
        keys: those that went through :class:`neurobundle.postprocess.uncertainty.Uncertaintyd`; where that one is not
            enabled nothing is written.
        output_dir: where to write; made if need be.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the map and the numbers of one case; the data pass through unchanged."""
        result = dict(data)
        for key in self.key_iterator(result):
            if f"{key}{NUMBERS}" in result:
                found, numbers = result[f"{key}{UNCERTAINTY}"], result[f"{key}{NUMBERS}"]
                result[f"{key}{SAVED}"] = self._save(found, numbers, str(result.get("case") or ""))
        return result

    def _save(self, found: MetaTensor, numbers: Mapping[str, Any], case: str) -> list[str]:
        place = destination_of(found, case, MAP_ENDING)
        steps = found.as_tensor()[0].cpu().numpy()
        name = place.name.removesuffix(MAP_ENDING)
        written = save_numbers(self.output_dir / f"{name}{NUMBERS_ENDING}", name, numbers)
        path = save_map(self.output_dir / place.name, steps, place.affine, place.form_code, place.units)
        return [str(path), str(written)]
