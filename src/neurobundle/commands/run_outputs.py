"""What ``neurobundle run`` writes of a label map: NIfTI, a DICOM segmentation, a DICOM report.

DICOM objects are made of a case that came from DICOM; any other is refused, by itself. They are written after the label
map and before the case's entry, and belong to it like any output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import answers_of, read_metadata
from neurobundle.bundle.journal import Journal, volumes_ml
from neurobundle.commands.sources import Source, StudySource
from neurobundle.errors import InputError, NeurobundleError, SettingError, closest, require
from neurobundle.export.dicom_codes import BLOCK, DicomCodes, Segment, read_codes, segments_of
from neurobundle.export.nifti import save_label_map
from neurobundle.export.uncertainty import CaseUncertainty
from neurobundle.geometry import same_grid
from neurobundle.load import salt
from neurobundle.load.scan import Scan

if TYPE_CHECKING:
    from neurobundle.load.dicom import DicomVolume

NIFTI, SEG, SR = "nifti", "dicom-seg", "dicom-sr"
KINDS = (NIFTI, SEG, SR)
#: Those of neurobundle.export.dicom_seg.
SEG_TYPES = ("binary", "labelmap", "fractional")
NO_DICOM = "it is no DICOM series, so there is nothing that a DICOM result could refer to"


@dataclass(frozen=True)
class Outputs:
    """What is wanted of each case.

    Attributes:
        kinds: of :data:`KINDS`.
        seg_type: of :data:`SEG_TYPES`.
        deidentify: DICOM objects without the patient.

    Raises:
        SettingError: for unknown words, nothing at all, or options of DICOM where none is wanted.
    """

    kinds: tuple[str, ...] = (NIFTI,)
    seg_type: str = "binary"
    deidentify: bool = False

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise SettingError(f"--output knows no {kind!r}{closest(kind, KINDS)}", f"Known: {', '.join(KINDS)}.")
        if not self.kinds:
            raise SettingError("--output names nothing", f"Known: {', '.join(KINDS)}.")
        if self.seg_type not in SEG_TYPES:
            raise SettingError(f"--seg-type must be one of {', '.join(SEG_TYPES)}, got {self.seg_type!r}")
        if self.seg_type != "binary" and SEG not in self.kinds:
            raise SettingError("--seg-type means nothing without dicom-seg", "Say --output dicom-seg, or leave it out.")
        if self.deidentify and not self.dicom:
            raise SettingError("--deidentify is of DICOM results", "Say --output dicom-seg, or leave it out.")

    @property
    def dicom(self) -> bool:
        """Whether any of it is DICOM."""
        return bool({SEG, SR} & set(self.kinds))


class CaseWriter:
    """Writes the results of a run's cases.

    Args:
        outputs: what is wanted.
        bundle_dir: the bundle.
        output: the folder.

    Raises:
        SettingError: for DICOM of a bundle that answers classes, has no codes, or whose regions cannot be a label map.
        MissingPackageError: for DICOM without its packages.
    """

    def __init__(self, outputs: Outputs, bundle_dir: Path, output: Path) -> None:
        self.outputs, self.output = outputs, output
        self.codes: DicomCodes | None = None
        self.regions: dict[str, list[int]] = {}
        if not outputs.dicom:
            return
        if answers_of(bundle_dir) is not None:
            raise SettingError(
                f"{bundle_dir.name} answers a class, and DICOM results are of label maps", "Leave --output out."
            )
        require("highdicom", extra="dicom", feature="writing DICOM")
        self.metadata = read_metadata(bundle_dir)
        self.codes = read_codes(self.metadata)
        if outputs.seg_type != "labelmap":
            pred: Any = next(iter(self.metadata["network_data_format"]["outputs"].values()))
            self.regions = {str(name): list(values) for name, values in pred.get("regions", {}).items()}

    def key(self) -> dict[str, Any]:
        """What a result depends on; nothing of NIfTI alone, so that cases that were finished before stay finished."""
        wanted = self.outputs
        if not wanted.dicom:
            return {}
        known = {"kinds": sorted(set(wanted.kinds)), "seg_type": wanted.seg_type, "codes": self.metadata[BLOCK]}
        known["version"] = self.metadata["version"]
        return {"outputs": known | ({"deidentify": salt.digest("dicom")} if wanted.deidentify else {})}

    def require(self, source: Source, scan: Scan) -> None:
        """Refuse a case that cannot be written as it is wanted.

        Raises:
            InputError: if it did not come from DICOM.
        """
        if self.outputs.dicom:
            volume = volumes_of(source)[0]
            if not same_grid(volume.shape, volume.affine, scan.data.shape, scan.affine):
                raise InputError("the scan does not lie on the grid of its series", "Report this.")

    def label_map(
        self, journal: Journal, source: Source, scan: Scan, labels: npt.NDArray[Any], result: CaseResult, ending: str
    ) -> Path:
        """Write the label map; where no NIfTI is wanted, into the case's own folder, which ends with the case."""
        name = f"{result.case}{ending}"
        target = (self.output if NIFTI in self.outputs.kinds else source.work) / name
        if target.parent != self.output:
            return save_label_map(target, labels, scan.affine, form_code=scan.form_code, units=scan.units)
        with journal.writing(result, target):
            save_label_map(target, labels, scan.affine, form_code=scan.form_code, units=scan.units)
        result.output = name
        return target

    def dicom(
        self,
        journal: Journal,
        source: Source,
        scan: Scan,
        labels: npt.NDArray[Any],
        structures: Mapping[int, str],
        shares: Path | None,
        result: CaseResult,
    ) -> None:
        """Write the DICOM objects of a case, if any are wanted.

        Args:
            journal: notes them.
            source: of the case.
            scan: whose grid it is.
            labels: ``(i, j, k)``.
            structures: the name of each label value.
            shares: the probabilities as the config wrote them; None if it did not.
            result: gets the files, and what is said of them.
        """
        if self.codes is None:
            return
        segments = segments_of(self.codes, structures, self.regions, result.side)
        try:
            self._write(journal, source, scan, labels, segments, shares, result)
        except (NeurobundleError, OSError):
            raise
        # What highdicom and pydicom say may quote a patient's data.
        except Exception as error:
            cause = f"its DICOM results could not be made ({type(error).__name__})"
            raise InputError(cause, "Report this; --output nifti writes the rest.") from None
        empty = not np.isin(labels, [value for segment in segments for value in segment.values]).any()
        wanted = self.outputs
        said = {
            "empty": empty,
            "deidentified": wanted.deidentify,
            "seg_type": wanted.seg_type if SEG in wanted.kinds else "",
        }
        result.study = {**result.study, "dicom": said}
        if empty:
            result.warn("nothing was found: its DICOM results are empty")

    def _write(
        self,
        journal: Journal,
        source: Source,
        scan: Scan,
        labels: npt.NDArray[Any],
        segments: Sequence[Segment],
        shares: Path | None,
        result: CaseResult,
    ) -> None:
        from neurobundle.export.dicom_seg import SEG_ENDING, make_seg, save_seg
        from neurobundle.export.dicom_source import read_source
        from neurobundle.export.dicom_sr import SR_ENDING, make_sr, save_sr

        first, *others = volumes_of(source)
        origin = read_source(first, others)
        algorithm = read_codes(self.metadata, str(result.key.get("weights", ""))).algorithm
        seg = None
        hidden = self.outputs.deidentify
        if SEG in self.outputs.kinds:
            steps = _steps(shares, len(segments)) if self.outputs.seg_type == "fractional" else None
            kind: Any = self.outputs.seg_type
            seg = make_seg(origin, segments, algorithm, labels=labels, shares=steps, kind=kind, deidentified=hidden)
            self._keep(journal, result, SEG_ENDING, lambda path: save_seg(path, seg))
        if SR in self.outputs.kinds:
            groups = {segment.name: segment.values for segment in segments}
            ml = volumes_ml(labels, scan.affine, {}, groups)
            unsure = CaseUncertainty(**result.uncertainty) if result.uncertainty else None
            sr = make_sr(origin, segments, algorithm, ml, seg=seg, uncertainty=unsure, deidentified=hidden)
            self._keep(journal, result, SR_ENDING, lambda path: save_sr(path, sr))

    def _keep(self, journal: Journal, result: CaseResult, ending: str, save: Any) -> None:
        target = self.output / f"{result.case}{ending}"
        with journal.writing(result, target):
            save(target)
        result.output = result.output or target.name


def volumes_of(source: Source) -> list[DicomVolume]:
    """The DICOM volumes that a case is made from, the one whose grid it is first.

    Raises:
        InputError: if it did not come from DICOM.
    """
    way_out = "Give the folder of the DICOM study, or leave dicom-seg and dicom-sr out of --output."
    if not isinstance(source, StudySource) or source.found is None:
        raise InputError(NO_DICOM, way_out)
    wanted, choices = source.wanted, source.found.choices
    order = dict.fromkeys([wanted.reference or wanted.channels[0], *wanted.channels])
    chosen = [choices[channel].source for channel in order if channel in choices]
    volumes = [one for one in chosen if not isinstance(one, Path)]
    if not chosen or chosen[0] not in volumes:
        raise InputError(NO_DICOM, way_out)
    return volumes


def _steps(shares: Path | None, wanted: int) -> npt.NDArray[np.uint8]:
    """The probabilities that a config wrote, ``(segment, i, j, k)`` in steps of 1/255."""
    if shares is None:
        raise InputError("the bundle gave no probabilities of this case", "Use --seg-type binary.")
    volume: Any = nib.load(shares)
    steps = np.asarray(volume.dataobj.get_unscaled())
    steps = steps[..., None] if steps.ndim == 3 else steps
    if steps.shape[-1] != wanted or steps.dtype != np.uint8:
        raise InputError(f"the bundle gave probabilities of {steps.shape[-1]} regions, not of {wanted}", "Report this.")
    return np.moveaxis(steps, -1, 0)
