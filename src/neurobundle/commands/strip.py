"""``neurobundle strip``: the brain alone, and its mask, on the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.bundle import fingerprint
from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import channels_of, structures_of
from neurobundle.bundle.journal import volumes_ml
from neurobundle.commands.run import Run
from neurobundle.commands.run_parts import timed
from neurobundle.commands.sources import Source, StudySource
from neurobundle.errors import InputError, SettingError
from neurobundle.export.answers import ANSWER_ENDING
from neurobundle.export.nifti import save_label_map, save_volume
from neurobundle.export.pictures import View, save_png, three_planes
from neurobundle.geometry import same_grid
from neurobundle.load.gate import LABEL, STRICT, Policy
from neurobundle.load.scan import Scan, read_scan

BUNDLE = "brain_anatomy_segmentation"
BRAIN_ENDING, MASK_ENDING = "_brain.nii.gz", "_mask.nii.gz"

#: What the mask's volume is called.
MASK_NAME = "brain mask"


class Strip(Run):
    """One call of ``neurobundle strip``: a run of the anatomy bundle whose label maps become masks.

    Args:
        output: where the results go.
        margin_mm: how far the mask reaches beyond the brain.
        bundle: a name or a folder, with the structures of ``brain_anatomy_segmentation``.
        overlays: names or paths of config overlays.
        settings: values by id.
        pictures: whether to draw ``<case>.png``.
        policy: what the gate allows.
        mapping: a file that says which scan of a study it is.
        redo: do cases again that an earlier call finished.
        salted_names: call the cases by hex digits, and name no file or folder of the input anywhere.
        debug: let any exception of a case through, with its traceback.

    Raises:
        SettingError: for a margin below 0, or a bundle that does not take one scan of any sequence.
    """

    ending, foreign = BRAIN_ENDING, (Run.ending, ANSWER_ENDING)

    def __init__(
        self,
        output: Path,
        *,
        margin_mm: float = 0.0,
        bundle: str = BUNDLE,
        overlays: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        pictures: bool = True,
        policy: Policy = STRICT,
        mapping: Path | None = None,
        redo: bool = False,
        salted_names: bool = False,
        debug: bool = False,
    ) -> None:
        if not 0 <= margin_mm < np.inf:
            raise SettingError(f"--margin must be 0 or more millimetres, got {margin_mm:g}", "Leave it out for 0.")
        super().__init__(
            bundle,
            output,
            overlays=overlays,
            settings=settings,
            pictures=pictures,
            policy=policy,
            mapping=mapping,
            redo=redo,
            salted_names=salted_names,
            debug=debug,
        )
        if len(channels_of(self.bundle_dir)) != 1 or len(structures_of(self.bundle_dir)) < 2:
            raise SettingError(f"{self.bundle_dir.name} is no bundle of anatomy", f"Use {BUNDLE}.")
        self.margin_mm = float(margin_mm)

    def _build(self, work: Path) -> None:
        super()._build(work)
        self.key["config"] = fingerprint.of_value([self.key["config"], "strip", self.margin_mm])

    def _segment(self, source: Source, result: CaseResult) -> None:
        from neurobundle.postprocess.brain import brain_mask

        assert self.runner is not None
        scan = self._read(source, result)
        with timed(result, "segment"):
            self.runner.predict(source.opened, result.case)
            labels = read_scan(self.work / f"{result.case}_seg.nii.gz", LABEL)
            if not same_grid(scan.data.shape, scan.affine, labels.data.shape, labels.affine):
                raise InputError("the result does not lie on the input's grid", "Report this.")
            mask = brain_mask(labels.data, scan.affine, self.margin_mm)
        self._refuse_nothing(mask)
        self._warn_of_volumes(labels, result)
        with timed(result, "write"):
            self._write(source, scan, mask, result)
        with timed(result, "describe"):
            result.volumes_ml = volumes_ml(mask, scan.affine, {1: MASK_NAME})
            if self.pictures:
                view = View.of(np.nan_to_num(scan.data), mask.astype(np.uint8), scan.affine)
                result.wrote(save_png(self.output / f"{result.case}.png", three_planes(view, result.case)))

    def _refuse_nothing(self, mask: npt.NDArray[np.bool_]) -> None:
        from neurobundle.bundle.anatomy import NO_BRAIN, NO_BRAIN_WAY_OUT

        if not mask.any():
            raise InputError(NO_BRAIN, NO_BRAIN_WAY_OUT)

    def _write(self, source: Source, scan: Scan, mask: npt.NDArray[np.bool_], result: CaseResult) -> None:
        """Both files; the scan's voxels as they are in its own type, and 0 outside."""
        voxels = _own_voxels(source, scan)
        brain = np.where(mask, voxels, 0).astype(voxels.dtype.newbyteorder("="), copy=False)
        target = self.output / f"{result.case}{BRAIN_ENDING}"
        with self.journal.writing(result, target):
            save_volume(target, brain, scan.affine, form_code=scan.form_code, units=scan.units)
        target = self.output / f"{result.case}{MASK_ENDING}"
        with self.journal.writing(result, target):
            save_label_map(target, mask.astype(np.uint8), scan.affine, scan.form_code, scan.units)
        result.output = f"{result.case}{BRAIN_ENDING}"


def _own_voxels(source: Source, scan: Scan) -> npt.NDArray[Any]:
    """A scan's voxels in the type of its file; a study is read as float32, whatever its scans are."""
    if not isinstance(source, StudySource) or source.found is None:
        return scan.data
    (choice,) = source.found.choices.values()
    own, policy = choice.source, source.wanted.policy
    return read_scan(own, policy).data if isinstance(own, Path) else own.read(policy).data
