"""The bundle ``brain_anatomy_segmentation`` from Python, on one scan at a time: its labels, and the brain's mask.

It is used as it is: a scan becomes a file that the inference config reads, and its label map is read back, so that a
scan that is held in memory is labelled by the very code that ``neurobundle run`` labels a file by.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle.bundle.find import bundles, find_bundle, structures_of
from neurobundle.bundle.runner import CaseRunner, guarded
from neurobundle.bundle.workflow import make_plan
from neurobundle.errors import InputError, WeightsError
from neurobundle.export.nifti import save_volume
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import Scan, read_scan
from neurobundle.postprocess import brain

BUNDLE = "brain_anatomy_segmentation"
WEIGHTS = Path("models") / "model.pt"

_CASE = "scan"


def weights_file(bundle: str = BUNDLE) -> Path | None:
    """The weights of the anatomy bundle, or None where there is no such bundle, or none in it.

    Args:
        bundle: the name of a known bundle.
    """
    folder = bundles().get(bundle)
    file = folder / WEIGHTS if folder is not None else None
    return file if file is not None and file.is_file() else None


class Anatomy:
    """The bundle, built once; it then labels scan after scan.

    Args:
        bundle: a name or a folder.
        overlays: names or paths of config overlays.
        settings: values by id, such as ``{"device": "cpu"}``.

    Raises:
        SettingError: if there is no such bundle, or a setting is none.
        WeightsError: if its weights are not there, or are not believed.
    """

    def __init__(
        self, bundle: str | Path = BUNDLE, *, overlays: Sequence[str] = (), settings: Mapping[str, Any] | None = None
    ) -> None:
        folder = find_bundle(bundle)
        if "ckpt_dir" not in (settings or {}) and not (folder / WEIGHTS).is_file():
            way_out = "Train it (docs/training-queue.md), or copy its weights there."
            raise WeightsError(f"{folder.name} has no weights", way_out, file=folder / WEIGHTS)
        self.structures = structures_of(folder)
        self._work = Path(tempfile.mkdtemp(prefix="neurobundle-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._work, ignore_errors=True)
        plan = make_plan(folder, "inference", overlays, {**(settings or {}), "output_dir": str(self._work)})
        self._runner = CaseRunner(plan)

    def labels(self, scan: Scan) -> npt.NDArray[np.uint8]:
        """The label map of a scan, on its own grid, in the bundle's numbers.

        Args:
            scan: ``(i, j, k)`` of any sequence and orientation, with its affine.

        Raises:
            InputError: if the gate refuses it, or memory does not suffice.
        """
        image = self._work / f"{_CASE}.nii"
        try:
            with guarded(_CASE, ""):
                save_volume(image, np.asarray(scan.data, np.float32), scan.affine)
                self._runner.predict([image], _CASE)
                found = read_scan(self._work / f"{_CASE}_seg.nii.gz", LABEL)
        except InputError as error:
            error.case = error.file = ""  # a file of our own, which is gone
            raise
        finally:
            for scrap in self._work.glob(f"{_CASE}*"):
                scrap.unlink()
        return np.asarray(found.data, np.uint8)

    def brain_mask(self, scan: Scan, margin_mm: float = 0.0) -> npt.NDArray[np.bool_]:
        """The brain's mask on a scan's own grid: see :func:`neurobundle.postprocess.brain.brain_mask`.

        Args:
            scan: as for :meth:`labels`.
            margin_mm: how far it reaches beyond the brain.

        Raises:
            InputError: if no brain is found, or the scan is refused.
        """
        mask = brain.brain_mask(self.labels(scan), scan.affine, margin_mm)
        if not mask.any():
            raise InputError(NO_BRAIN, NO_BRAIN_WAY_OUT)
        return mask


NO_BRAIN = "no brain was found"
NO_BRAIN_WAY_OUT = "Is this a scan of a whole head? Check its orientation, and look at it in a viewer."


def brain_mask(
    scan: Scan, margin_mm: float = 0.0, *, anatomy: Anatomy | None = None, settings: Mapping[str, Any] | None = None
) -> npt.NDArray[np.bool_]:
    """The brain's mask of one scan, for N4's ``mask``, for the tissue peak of a normalisation, or to strip the skull.

    Args:
        scan: ``(i, j, k)`` of any sequence and orientation, with its affine.
        margin_mm: how far the mask reaches beyond the brain.
        anatomy: the bundle, if it is built already: building takes seconds.
        settings: values by id for a bundle that is built here, such as ``{"device": "cpu"}``.

    Returns:
        ``(i, j, k)``, bool.

    Raises:
        WeightsError: if the bundle's weights are not there, or are not believed.
        InputError: if no brain is found, or the scan is refused.

    Example::

        scan = read_scan("head.nii.gz")
        corrected = n4(scan.data, mask=brain_mask(scan)).corrected
    """
    return (anatomy or Anatomy(settings=settings)).brain_mask(scan, margin_mm)


class BrainMaskd(MapTransform):
    """Adds the brain's mask of an image, for ``N4BiasFieldCorrectiond(mask_key=...)`` and for a ``region: mask``.

    The bundle is built when the first case comes.

    Args:
        keys: one image ``(channel, i, j, k)`` with an affine; its first channel is labelled.
        mask_key: where the mask ``(1, i, j, k)``, uint8, goes.
        margin_mm: how far it reaches beyond the brain.
        settings: values by id for the bundle, such as ``{"device": "cpu"}``.
        allow_missing_keys: as in MONAI.

    Raises:
        WeightsError: if the bundle's weights are not there, or are not believed.
        InputError: if no brain is found, or the image has no affine.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "brain",
        margin_mm: float = 0.0,
        settings: Mapping[str, Any] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key, self.margin_mm, self.settings = mask_key, margin_mm, dict(settings or {})
        self._anatomy: Anatomy | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The mask of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if not isinstance(image, MetaTensor):
                raise InputError(f"{key} has no affine", "Load it by a transform that keeps it, as LoadImaged does.")
            affine = np.asarray(image.affine, float)
            scan = Scan(image.as_tensor()[0].cpu().numpy(), affine)
            mask = torch.from_numpy(self._bundle().brain_mask(scan, self.margin_mm).astype(np.uint8))[None]
            result[self.mask_key] = MetaTensor(mask, affine=torch.from_numpy(affine))
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Without the built bundle: a worker builds its own."""
        return {**self.__dict__, "_anatomy": None}

    def _bundle(self) -> Anatomy:
        if self._anatomy is None:
            self._anatomy = Anatomy(settings=self.settings)
        return self._anatomy
