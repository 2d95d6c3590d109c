"""``neurobundle run``: from a person's scans to label maps, volumes, pictures and a report."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import nibabel as nib
import numpy as np

from neurobundle.bundle import fingerprint
from neurobundle.bundle.case_uncertainty import Kept, kept_of, save_kept
from neurobundle.bundle.configfile import read_config
from neurobundle.bundle.entries import CaseResult, say_once
from neurobundle.bundle.find import (
    answers_of,
    can_fill,
    channels_of,
    find_bundle,
    groups_of,
    reference_of,
    structures_of,
    takes_pictures,
)
from neurobundle.bundle.journal import Journal, report_head, volumes_ml
from neurobundle.bundle.runner import CaseRunner
from neurobundle.bundle.workflow import Plan, config_file, make_plan
from neurobundle.commands.inputs import find_sources, one_of
from neurobundle.commands.run_key import parts_key
from neurobundle.commands.run_outputs import CaseWriter, Outputs
from neurobundle.commands.run_parts import Rest, close_ups, mirrored, move, timed
from neurobundle.commands.run_steps import RunSteps
from neurobundle.commands.sources import Source, Wanted, registering
from neurobundle.errors import ExitCode, InputError, SettingError, exit_code
from neurobundle.export.answers import ANSWER_ENDING
from neurobundle.export.nifti import PROBABILITIES_ENDING, save_volume
from neurobundle.export.pictures import View, save_png, stack, three_planes
from neurobundle.export.slices import LABEL_PICTURE_ENDING, save_label_picture
from neurobundle.files import write_atomic
from neurobundle.geometry import same_grid
from neurobundle.load.gate import LABEL, STRICT, Policy
from neurobundle.load.names import is_picture_name
from neurobundle.load.scan import Scan, read_scan
from neurobundle.prepare.locate import PlaceError, looks_like_crop, place_outline

if TYPE_CHECKING:
    from neurobundle.bundle.anatomy import Anatomy

logger = logging.getLogger(__name__)

#: More names of structures than this do not fit above a picture.
MOST_NAMED = 8
#: What a bundle that can write probabilities calls the switch for it.
PROBABILITIES_ID = "save_probabilities"
#: What one that can say how sure it is calls the switch for that.
UNCERTAINTY_ID = "uncertainty"
INPUT_KINDS = ("auto", "crop", "head")
SIDES = ("left", "right")


@dataclass(frozen=True)
class RunReport:
    """The cases of one run, with those that an earlier one had finished."""

    output: Path
    results: list[CaseResult]
    skipped: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return exit_code(result.passed for result in self.results)


class Run(RunSteps):
    """One call of ``neurobundle run``.

    Args:
        bundle: a name or a folder.
        output: where the results go.
        input_kind: ``crop``, ``head``, or ``auto`` to tell by the size of the field of view.
        side: of a crop; ``right`` is mirrored on its way in and back, since the network learned one side.
        overlays: names or paths of config overlays.
        settings: values by id.
        pictures: whether to draw ``<case>.png``.
        policy: what the gate allows.
        mapping: a file that says which scan is which channel.
        missing: ``refuse`` a study that lacks a channel, or ``fill`` it with zeros, if the bundle says that its network
            can do without; ``auto`` does what the bundle can. What is filled is in the report.
        register: bring the scans of a study onto its reference by rigid registrations.
        probabilities: also write ``<case>_prob.nii.gz``, a volume a region or class, if the bundle can.
        uncertainty: also say how sure the network is, in ``<case>_uncertainty.*`` and in the report, if the bundle can.
        redo: do cases again that an earlier run finished.
        salted_names: call the cases by hex digits, and name no file or folder of the input anywhere.
        debug: let any exception of a case through, with its traceback.
        overlap: prepare the next case and write the last one while the network runs; the results are the same.
        outputs: NIfTI, DICOM, or both; NIfTI if None.
    """

    #: What the name of a case's result ends in.
    ending = "_seg.nii.gz"
    #: What the names of other commands' results end in, ``strip``'s and those of bundles that answer a class.
    foreign: tuple[str, ...] = ("_brain.nii.gz", ANSWER_ENDING)

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
        policy: Policy = STRICT,
        mapping: Path | None = None,
        missing: Literal["auto", "refuse", "fill"] = "auto",
        register: bool = False,
        probabilities: bool = False,
        uncertainty: bool = False,
        redo: bool = False,
        salted_names: bool = False,
        debug: bool = False,
        overlap: bool = True,
        outputs: Outputs | None = None,
    ) -> None:
        if input_kind not in INPUT_KINDS:
            raise SettingError(f"--input must be one of {INPUT_KINDS}, got {input_kind!r}", "Leave it out for auto.")
        if side not in SIDES:
            raise SettingError(f"--side must be one of {SIDES}, got {side!r}", "Leave it out for left.")
        self.side = side
        self.bundle_dir = find_bundle(bundle)
        super().__init__(output, overlap=overlap, debug=debug)
        self.input_kind, self.pictures, self.redo, self.salted_names = input_kind, pictures, redo, salted_names
        filled = can_fill(self.bundle_dir)
        if missing == "fill" and not filled:
            raise SettingError(f"{self.bundle_dir.name} cannot do without a channel", "Leave --missing out.")
        if missing == "auto":
            missing = "fill" if filled else "refuse"
        channels, reference = channels_of(self.bundle_dir), reference_of(self.bundle_dir)
        place = registering(channels) if register else None
        self.wanted = Wanted(channels, reference, mapping, missing, policy, place, takes_pictures(self.bundle_dir))
        self.writer = CaseWriter(outputs or Outputs(), self.bundle_dir, output)
        self.settings = {**(settings or {}), "output_dir": str(output)}
        self.probabilities = probabilities
        if probabilities or self.writer.outputs.seg_type == "fractional":
            if PROBABILITIES_ID not in read_config(config_file(self.bundle_dir, "inference")):
                raise SettingError(
                    f"{self.bundle_dir.name} writes no probabilities", "Leave --probabilities or fractional out."
                )
            self.settings[PROBABILITIES_ID] = True
        if uncertainty:
            if UNCERTAINTY_ID not in read_config(config_file(self.bundle_dir, "inference")):
                raise SettingError(f"{self.bundle_dir.name} cannot say how sure it is", "Leave --uncertainty out.")
            self.settings[UNCERTAINTY_ID] = True
        self.overlays = overlays
        self.structures, self.groups = structures_of(self.bundle_dir), groups_of(self.bundle_dir)
        self.classes = self.plan().classes() if answers_of(self.bundle_dir) is not None else None
        self.journal = Journal(output, report_head(self.bundle_dir), self.classes)
        self._places: set[Path] = set()
        self._asked: Anatomy | None = None
        self._sure: Kept | None = None

    def plan(self, inputs: Sequence[str | Path] = ()) -> Plan:
        """The same work as a plan for stock MONAI; it takes one folder."""
        where = {"dataset_dir": str(inputs[0])} if inputs else {}
        return make_plan(self.bundle_dir, "inference", self.overlays, {**self.settings, **where})

    def __call__(
        self,
        inputs: Sequence[str | Path],
        progress: Callable[[list[Source]], Any] = lambda items: items,
        only: str | None = None,
    ) -> RunReport:
        """Run all inputs.

        Args:
            inputs: files and folders.
            progress: wraps the list of cases; a progress bar, for instance.
            only: the name of the one case to run, if not all.

        Raises:
            NoInputError: if there is nothing to run.
            InputError: if that case is not among them.
            WeightsError: if the weights cannot be trusted.
            EnvironmentFault: if the output folder cannot be written; what was done before stays, and is in the report.
        """
        results: list[CaseResult] = []
        new: list[CaseResult] = []
        places = [Path(each).resolve() for each in inputs]
        self._places = {place if place.is_dir() else place.parent for place in places}
        with tempfile.TemporaryDirectory(prefix="neurobundle-") as folder:
            work = Path(folder)
            sources = find_sources(inputs, self.output, work=work, wanted=self.wanted, salted=self.salted_names)
            sources = sources if only is None else [one_of(sources, only)]
            self.journal.open()
            self._refuse_another_command(sources)
            self._build(work)
            try:
                with contextlib.closing(self.cases(sources)) as cases:
                    for _, case in zip(progress(sources), cases, strict=True):
                        results.append(case.result)
                        new += [] if case.finished else [case.result]
            finally:
                say_once(new)
        return RunReport(self.output, results, len(results) - len(new))

    def _build(self, work: Path) -> None:
        """Build the workflow; it writes into a folder of its own, and what is believed goes on to the output folder."""
        settings = {**self.settings, "output_dir": str(work)}
        self.work, self.runner = work, CaseRunner(make_plan(self.bundle_dir, "inference", self.overlays, settings))
        if self.input_kind == "head" and not self.runner.has("head"):
            raise SettingError(f"{self.bundle_dir.name} cannot take whole heads", "Leave --input out.")
        self.key = {
            "weights": fingerprint.of_weights([*self.runner.loaders(), *self.runner.members()]),
            "config": fingerprint.of_config(
                self.runner.workflow.parser.get(),
                device=str(self.runner.part("device")),
                input_kind=self.input_kind,
                side=self.side,
                gate=[asdict(self.wanted.policy), self.wanted.missing],
                # Only where it is asked for, so that cases that were finished without it stay finished.
                **({"register": True} if self.wanted.place else {}),
                **parts_key(self.runner),
                **self.writer.key(),
            ),
            "versions": dict(fingerprint.versions()),
        }

    def _finished(self, source: Source, key: Mapping[str, Any]) -> CaseResult | None:
        """The entry of a case that needs not be done again."""
        if self.redo:
            return None
        entry = self.journal.finished(source.case, key)
        if entry is not None and (not self._draws(source) or f"{source.case}.png" in entry.outputs):
            logger.info("%s: finished before, skipped", source.case)
            return entry
        self.journal.refuse_another(source.case, source.shown, key)
        return None

    def _refuse_another_command(self, sources: Sequence[Source]) -> None:
        """A case's results replace its earlier ones; those of ``strip`` and of ``run`` do not replace each other."""
        entries = self.journal.entries()
        outputs = (entries[source.case].output for source in sources if source.case in entries)
        other = next((name for name in outputs if name.endswith(self.foreign)), None)
        if other is not None:
            cause = f"the output folder holds {other}, which another command wrote"
            raise SettingError(cause, "Choose another output folder with -o.", file=self.output)

    def _segment(self, source: Source, result: CaseResult) -> Rest | None:
        """A case's labels; what is returned writes them, and needs no network."""
        assert self.runner is not None
        self._sure = None
        scan = self._read(source, result)
        self.writer.require(source, scan)
        result.input = self._kind(scan)
        result.side = self.side if result.input == "crop" and self.runner.has("head") else ""
        structures = self.structures
        with timed(result, self.step):
            if result.input == "head":
                labels, structures = self._segment_head(source, result)
            else:
                labels = self._segment_crop(scan, source.opened, result)
        shares = self.work / f"{result.case}{PROBABILITIES_ENDING}"
        kept = move(shares, source.work) if shares.exists() else None  # the config was told to write them
        sure, self._sure = self._sure, None
        return lambda: self._write_labels(source, scan, labels, structures, kept, sure, result)

    def _write_labels(
        self,
        source: Source,
        scan: Scan,
        labels: np.ndarray,
        structures: Mapping[int, str],
        shares: Path | None,
        sure: Kept | None,
        result: CaseResult,
    ) -> None:
        with timed(result, "write"):
            target = self.writer.label_map(self.journal, source, scan, labels, result, self.ending)
        if shares is not None and self.probabilities:
            result.wrote(write_atomic(self.output / shares.name, shares.read_bytes()))
        if sure is not None:
            for path in save_kept(sure, self.output, result.case, scan):
                result.wrote(path)
            result.uncertainty = sure.numbers.entry()
            for text in sure.numbers.warnings():
                result.warn(text)
        with timed(result, "write"):
            self.writer.dicom(self.journal, source, scan, labels, structures, shares, result)
        if is_picture_name(source.path.name):
            result.wrote(save_label_picture(self.output / f"{result.case}{LABEL_PICTURE_ENDING}", labels))
        with timed(result, "describe"):
            self._describe(scan, target, structures, result, draw=self._draws(source))

    def _segment_crop(self, scan: Scan, images: list[Path], result: CaseResult) -> np.ndarray:
        assert self.runner is not None
        if self.side == "right":
            turned = self.work / f"{result.case}.nii.gz"
            images = [save_volume(turned, mirrored(scan.data, scan.affine), scan.affine)]
        self.runner.predict(images, result.case)
        found = read_scan(self.work / f"{result.case}_seg.nii.gz", LABEL)
        self._sure = kept_of(self.work, result.case, self.structures)
        if self.side == "right":
            found = Scan(mirrored(found.data, found.affine), found.affine)
            if self._sure is not None:
                self._sure = self._sure._replace(steps=mirrored(self._sure.steps, found.affine))
        if self.runner.has("plausible"):
            self._refuse_implausible(scan, found, result)
        if not same_grid(scan.data.shape, scan.affine, found.data.shape, found.affine):
            raise InputError("the result does not lie on the input's grid", "Report this.")
        return found.data

    def _refuse_implausible(self, scan: Scan, found: Scan, result: CaseResult) -> None:
        assert self.runner is not None
        upright = nib.as_closest_canonical(nib.Nifti1Image(found.data, found.affine))
        causes = self.runner.part("plausible").causes(np.asarray(upright.dataobj), upright.affine)
        if causes:
            picture = self._draw_refused(scan, found.data, result)
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

    def _segment_head(self, source: Source, result: CaseResult) -> tuple[np.ndarray, dict[int, str]]:
        from neurobundle.bundle.heads import segment_head  # torch comes with it

        assert self.runner is not None
        try:
            locator, image = self.runner.part("head"), source.opened[0]
            head = segment_head(self.runner, locator, image, self.work, self.structures, self._anatomy)
        except PlaceError as error:
            scan = source.read()
            boxes = place_outline(error.places, scan.data.shape, scan.affine)
            error.way_out += f" The picture: {self._draw_refused(scan, boxes, result)}."
            raise
        result.places, self._sure = head.places, head.uncertainty
        return head.labels, head.structures

    def _anatomy(self) -> Anatomy | None:
        """The bundle that finds a hippocampus where the registration is unsure; None where it has no weights."""
        from neurobundle.bundle.anatomy import Anatomy, weights_file

        if self._asked is None and weights_file() is not None:
            self._asked = Anatomy(settings={key: self.settings[key] for key in ("device",) if key in self.settings})
        return self._asked

    def _draw_refused(self, scan: Scan, labels: np.ndarray, result: CaseResult) -> Path:
        view = View.of(np.nan_to_num(scan.data), labels, scan.affine)
        picture = self.output / f"{result.case}_refused.png"
        result.wrote(save_png(picture, three_planes(view, title=f"{result.case}: refused")))
        return picture

    def _draws(self, source: Source) -> bool:
        """Whether ``<case>.png`` is drawn: among the pictures that it is drawn from it would be the next run's case."""
        return self.pictures and not (is_picture_name(source.path.name) and self.output.resolve() in self._places)

    def _describe(
        self, source: Scan, target: Path, structures: Mapping[int, str], result: CaseResult, draw: bool
    ) -> None:
        written = read_scan(target, LABEL)
        if not same_grid(source.data.shape, source.affine, written.data.shape, written.affine):
            raise InputError("the result does not lie on the input's grid", "Report this.")
        result.volumes_ml = volumes_ml(written.data, written.affine, structures, self.groups)
        self._warn_of_volumes(written, result)
        if draw:
            view = View.of(source.data, written.data, written.affine)
            rows = [three_planes(view, result.case, legend=structures if len(structures) <= MOST_NAMED else None)]
            if result.input == "head":
                rows += [three_planes(part, legend=structures) for part in close_ups(view)]
            result.wrote(save_png(self.output / f"{result.case}.png", stack(rows)))

    def _warn_of_volumes(self, labels: Scan, result: CaseResult) -> None:
        assert self.runner is not None
        if self.runner.has("quality"):
            for text in self.runner.part("quality").warnings(labels.data, labels.affine, self.structures):
                result.warn(text)
