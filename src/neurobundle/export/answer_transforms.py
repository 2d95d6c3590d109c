"""The writer of answers that a config names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle.export.answers import ANSWER_ENDING, answer_of, save_answer
from neurobundle.load.names import case_name
from neurobundle.postprocess.answers import SLICES, read_answer_calibration


class SaveAnswerd(SaveImaged):
    """Writes ``<output_dir>/<case>_class.json``, atomically.

    It is a ``SaveImaged`` so that MONAI Label, which writes results itself, takes it out of the chain.

    Args:
        keys: probabilities ``(class,)`` that carry the metadata of the image they came from, as
            :class:`~neurobundle.postprocess.answers.LogitsToAnswerd` gives them.
        output_dir: where to write; made if need be.
        classes: their names, in the network's order.
        calibration: a ``calibration.json``, which says when to abstain; never where it does not exist.

    Raises:
        SettingError: for a calibration that is none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        classes: Sequence[str],
        calibration: str | Path | None = None,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir, self.classes = Path(output_dir), [str(name) for name in classes]
        self.abstain_below = read_answer_calibration(calibration).abstain_below

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the answer for one case; the data pass through unchanged."""
        result = dict(data)
        for key in self.key_iterator(result):
            found: MetaTensor = result[key]
            slices = result.get(f"{key}{SLICES}")
            answer = answer_of(
                _numbers(found), self.classes, self.abstain_below, None if slices is None else _numbers(slices)
            )
            case = str(result.get("case") or "") or case_name(str(found.meta["filename_or_obj"]))
            path = save_answer(self.output_dir / f"{case}{ANSWER_ENDING}", case, answer)
            found.meta["saved_to"] = str(path)  # the key under which MONAI's SaveImage says it too
        return result


def _numbers(value: Any) -> Any:
    return torch.as_tensor(value).detach().cpu().numpy()
