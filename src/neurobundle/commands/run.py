"""``neurobundle run``: from a person's scans to label maps, volumes, pictures and a report."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurobundle import __version__
from neurobundle.bundle.find import find_bundle, info, structures_of
from neurobundle.bundle.heads import segment_head
from neurobundle.bundle.runner import CaseRunner
from neurobundle.bundle.workflow import Plan, make_plan
from neurobundle.errors import (
    EnvironmentFault,
    ExitCode,
    InputError,
    NeurobundleError,
    SettingError,
    exit_code,
    ours_in,
)
from neurobundle.export.nifti import save_label_map
from neurobundle.export.pictures import View, save_png, stack, three_planes
from neurobundle.export.tables import write_csv
from neurobundle.files import require_writable, write_json
from neurobundle.geometry import same_grid, voxel_volume_mm3
from neurobundle.load.inputs import find_images
from neurobundle.load.names import unique_case_names
from neurobundle.load.scan import Scan, read_scan
from neurobundle.prepare.locate import HEAD_LABELS, PlaceError, looks_like_crop, place_outline

logger = logging.getLogger(__name__)

#: Millimetres of image around the structures in a picture's second row.
ZOOM_MARGIN_MM = 18.0
INPUT_KINDS = ("auto", "crop", "head")
SIDES = ("left", "right")


@dataclass
class CaseResult:
    """How one case ended; an entry of ``report.json``."""

    case: str
    file: str
    status: str = "ok"
    input: str = ""
    output: str = ""
    volumes_ml: dict[str, float] = field(default_factory=dict)
    places: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the case gave a result."""
        return self.status == "ok"


@dataclass(frozen=True)
class RunReport:
    """All cases of one run."""

    output: Path
    results: list[CaseResult]

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return exit_code(result.passed for result in self.results)


class Run:
    """One call of ``neurobundle run``.

    Args:
        bundle: a name or a folder.
        output: where the results go.
        input_kind: ``crop``, ``head``, or ``auto`` to tell by the size of the field of view.
        side: of a crop; ``right`` is mirrored on its way in and back, since the network learned one side.
        overlays: names or paths of config overlays.
        settings: values by id.
        pictures: whether to draw ``<case>.png``.
        debug: let an unexpected exception through, with its traceback.
    """

    def __init__(
        self,
        bundle: str,
        output: Path,
        *,
        input_kind: str = "auto",
        side: str = "left",
        overlays: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        pictures: bool = True,
        debug: bool = False,
    ) -> None:
        if input_kind not in INPUT_KINDS:
            raise SettingError(f"--input must be one of {INPUT_KINDS}, got {input_kind!r}", "Leave it out for auto.")
        if side not in SIDES:
            raise SettingError(f"--side must be one of {SIDES}, got {side!r}", "Leave it out for left.")
        self.side = side
        self.bundle_dir = find_bundle(bundle)
        self.output, self.input_kind, self.pictures, self.debug = output, input_kind, pictures, debug
        self.settings = {**(settings or {}), "output_dir": str(output)}
        self.overlays = overlays
        self.runner: CaseRunner | None = None
        self.work = Path()
        self.structures = structures_of(self.bundle_dir)

    def plan(self, inputs: Sequence[str | Path] = ()) -> Plan:
        """The same work as a plan for stock MONAI; it takes one folder."""
        where = {"dataset_dir": str(inputs[0])} if inputs else {}
        return make_plan(self.bundle_dir, "inference", self.overlays, {**self.settings, **where})

    def __call__(
        self, inputs: Sequence[str | Path], progress: Callable[[list[Path]], Any] = lambda items: items
    ) -> RunReport:
        """Run all inputs.

        Args:
            inputs: files and folders.
            progress: wraps the list of images; a progress bar, for instance.

        Raises:
            NoInputError: if there is nothing to run.
            WeightsError: if the weights cannot be trusted.
            EnvironmentFault: if the output folder cannot be written.
        """
        names = unique_case_names(find_images(inputs, without=self.output))
        require_writable(self.output)
        results: list[CaseResult] = []
        with tempfile.TemporaryDirectory(prefix="neurobundle-") as folder:
            self._build(Path(folder))
            try:
                for image in progress(list(names)):
                    results.append(self._one(image, names[image]))
            finally:
                # What is done is reported, whatever ended the run.
                self._write(results)
        return RunReport(self.output, results)

    def _build(self, work: Path) -> None:
        """Build the workflow; it writes into a folder of its own, and what is believed goes on to the output folder."""
        settings = {**self.settings, "output_dir": str(work)}
        self.work, self.runner = work, CaseRunner(make_plan(self.bundle_dir, "inference", self.overlays, settings))
        if self.input_kind == "head" and not self.runner.has("head"):
            raise SettingError(f"{self.bundle_dir.name} cannot take whole heads", "Leave --input out.")

    def _one(self, image: Path, case: str) -> CaseResult:
        result = CaseResult(case=case, file=str(image))
        started = time.perf_counter()
        try:
            self._segment(image, result)
        except NeurobundleError as error:
            if error.exit_code is ExitCode.ENVIRONMENT or self.debug:
                raise
            error.file = error.file or str(image)
            self._failed(result, error.for_case(case))
        except MemoryError as error:
            raise EnvironmentFault("memory is exhausted", "Close other programs.", case=case, file=image) from error
        except Exception as error:
            if self.debug:
                raise
            self._failed(result, understood(error, case, image))
        result.timing["seconds"] = round(time.perf_counter() - started, 3)
        return result

    def _failed(self, result: CaseResult, error: NeurobundleError) -> None:
        result.status, result.error = "failed", str(error)
        logger.error("ERROR %s", error)

    def _segment(self, image: Path, result: CaseResult) -> None:
        assert self.runner is not None
        scan = read_scan(image)
        result.input = self._kind(scan)
        target = self.output / f"{result.case}_seg.nii.gz"
        structures = self.structures
        if result.input == "head":
            structures = self._segment_head(image, result, target)
        else:
            self._segment_crop(scan, image, result, target)
        result.output = target.name
        self._describe(scan, target, structures, result)

    def _segment_crop(self, scan: Scan, image: Path, result: CaseResult, target: Path) -> None:
        assert self.runner is not None
        if self.side == "right":
            image = self.work / f"{result.case}.nii.gz"
            nib.save(nib.Nifti1Image(_mirrored(scan.data, scan.affine), scan.affine), image)
        self.runner.predict(image, result.case)
        found = read_scan(self.work / target.name)
        if self.side == "right":
            found = Scan(_mirrored(found.data, found.affine), found.affine)
        if self.runner.has("plausible"):
            self._refuse_implausible(scan, found, result)
        save_label_map(target, found.data, found.affine)

    def _refuse_implausible(self, scan: Scan, found: Scan, result: CaseResult) -> None:
        assert self.runner is not None
        upright = nib.as_closest_canonical(nib.Nifti1Image(found.data, found.affine))
        causes = self.runner.part("plausible").causes(np.asarray(upright.dataobj), upright.affine)
        if causes:
            view = View.of(scan.data, found.data, scan.affine)
            drawn = three_planes(view, f"{result.case}: refused")
            picture = save_png(self.output / f"{result.case}_refused.png", drawn)
            raise InputError(
                f"what was found in this crop is no hippocampus: {'; '.join(causes)}",
                f"Look at {picture}. The network knows T1 crops of 4 cm at about 1 mm; a right hippocampus wants "
                "--side right.",
            )

    def _kind(self, scan: Scan) -> str:
        assert self.runner is not None
        if not self.runner.has("head"):
            return "crop"
        if self.input_kind != "auto":
            return self.input_kind
        return "crop" if looks_like_crop(scan.data.shape, scan.affine) else "head"

    def _segment_head(self, image: Path, result: CaseResult, target: Path) -> dict[int, str]:
        assert self.runner is not None
        try:
            head = segment_head(self.runner, self.runner.part("head"), image, self.work, self.structures)
        except PlaceError as error:
            error.way_out += f" The picture: {self._draw_places(image, error, result.case)}."
            raise
        save_label_map(target, head.labels, head.affine)
        result.places = head.places
        return head.structures

    def _draw_places(self, image: Path, error: PlaceError, case: str) -> Path:
        scan = read_scan(image)
        boxes = place_outline(error.places, scan.data.shape, scan.affine)
        view = View.of(np.nan_to_num(scan.data), boxes, scan.affine)
        return save_png(self.output / f"{case}_refused.png", three_planes(view, title=f"{case}: refused"))

    def _describe(self, source: Scan, target: Path, structures: Mapping[int, str], result: CaseResult) -> None:
        written = read_scan(target)
        if not same_grid(source.data.shape, source.affine, written.data.shape, written.affine):
            target.unlink()
            raise InputError("the result does not lie on the input's grid", "Report this.", file=result.file)
        labels = written.data
        ml = voxel_volume_mm3(written.affine) / 1000
        result.volumes_ml = {
            name: round(int(np.count_nonzero(labels == value)) * ml, 4) for value, name in structures.items()
        }
        if self.pictures:
            view = View.of(source.data, labels, written.affine)
            rows = [three_planes(view, result.case, legend=structures)]
            if result.input == "head":
                rows += [three_planes(part, legend=structures) for part in close_ups(view)]
            save_png(self.output / f"{result.case}.png", stack(rows))

    def _write(self, results: Sequence[CaseResult]) -> None:
        rows = [
            {"case": result.case, "structure": name, "ml": ml}
            for result in results
            for name, ml in result.volumes_ml.items()
        ]
        write_csv(self.output / "volumes.csv", ("case", "structure", "ml"), rows)
        write_json(
            self.output / "report.json",
            {
                "bundle": self.bundle_dir.name,
                "bundle_version": info(self.bundle_dir).get("version"),
                "neurobundle_version": __version__,
                "not_for_diagnosis": True,
                "cases": [vars(result) for result in results],
            },
        )


def _mirrored(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """An array flipped along the axis that runs left to right; its affine stays, so it lies in the same box."""
    axis = int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == 0)[0])
    return np.ascontiguousarray(np.flip(array, axis))


def close_ups(view: View) -> list[View]:
    """One close-up a side, left and right, so that both outlines can be judged."""
    sides = []
    for values in HEAD_LABELS.values():
        labels = np.where(np.isin(view.labels, list(values.values())), view.labels, 0)
        if labels.any():
            sides.append(View(view.image, labels, view.spacing_mm).zoom(ZOOM_MARGIN_MM))
    return sides


def understood(error: Exception, case: str, file: Path) -> NeurobundleError:
    """An exception of another library as an error of ours; our own cause, if there is one, wins."""
    ours = ours_in(error)
    if ours is not None:
        return ours.for_case(case)
    text = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"cannot be processed ({text[:200]})", "Run it again with --debug to see where.", case=case, file=file
    )
