"""``neurobundle convert``: the volumes of DICOM studies as NIfTI files, with what is known of how they were acquired.

A *sidecar* is the ``.json`` beside a volume: acquisition facts under the names that BIDS gives them, and a block
``neurobundle`` with what BIDS has no name for. Names of files and folders are keys, salted digests of UIDs. So nothing
that is written tells a patient, a date, a UID or free text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from neurobundle import __version__
from neurobundle.errors import ExitCode, InputError, MissingPackageError, NeurobundleError, exit_code
from neurobundle.export.nifti import save_volume
from neurobundle.files import require_writable, write_json
from neurobundle.load.dicom import (
    DicomStudy,
    DicomVolume,
    Facts,
    find_dicom,
    mixed_studies,
    read_series_4d,
    require_images,
    time_series,
)
from neurobundle.load.dicom.vocabulary import SCANNING_SEQUENCES, SEQUENCE_VARIANTS
from neurobundle.load.gate import STRICT, Finding, Policy, Verdict
from neurobundle.load.scan import Scan

logger = logging.getLogger(__name__)

#: Not a run's name: a run may write into the same folder.
REPORT_NAME = "conversion.json"

#: Facts that BIDS has a name for, in its unit: name, and what a fact's number is multiplied by.
#: bids-specification.readthedocs.io, "Magnetic Resonance Imaging"; EchoNumber and ImageType are dcm2niix's.
_BIDS_NAMES: dict[str, tuple[str, float | None]] = {
    "modality": ("Modality", None),
    "manufacturer": ("Manufacturer", None),
    "field_strength_t": ("MagneticFieldStrength", 1.0),
    "mr_acquisition_type": ("MRAcquisitionType", None),
    "repetition_time_ms": ("RepetitionTime", 1e-3),
    "echo_time_ms": ("EchoTime", 1e-3),
    "inversion_time_ms": ("InversionTime", 1e-3),
    "flip_angle_deg": ("FlipAngle", 1.0),
    "echo_train_length": ("EchoTrainLength", None),
    "slice_thickness_mm": ("SliceThickness", 1.0),
    "echo": ("EchoNumber", None),
    "image_type": ("ImageType", None),
}


@dataclass
class Entry:
    """How one volume, or one time series, ended; an entry of ``conversion.json``.

    Attributes:
        case: the study's key and the volume's.
        status: ``ok`` or ``failed``.
        output: the NIfTI file, relative to the output folder; empty if it failed.
        warnings: what was noticed and did not stop it.
        error: cause and way out; empty if it was written.
    """

    case: str
    status: str = "failed"
    output: str = ""
    warnings: list[str] = field(default_factory=list)
    error: str = ""


class Conversion:
    """What the reports of both conversions have: entries that ended well or did not."""

    cases: Sequence[Any]

    @property
    def n_written(self) -> int:
        """How many entries ended well."""
        return sum(entry.status == "ok" for entry in self.cases)

    @property
    def exit_code(self) -> ExitCode:
        """All, some or none."""
        return exit_code(entry.status == "ok" for entry in self.cases)


@dataclass
class Report(Conversion):
    """What a conversion did.

    Attributes:
        output: the folder that was written to.
        cases: an entry per volume, or time series.
        set_aside: reason -> number of files that are no image of a volume.
        warnings: what holds for the folder as a whole.
    """

    output: Path
    cases: list[Entry]
    set_aside: dict[str, int]
    warnings: list[str]

    def write(self) -> None:
        """Write it down as ``conversion.json``."""
        content = {key: value for key, value in asdict(self).items() if key != "output"}
        write_json(self.output / REPORT_NAME, {"neurobundle": __version__, **content})


def convert(
    path: str | Path,
    output: str | Path,
    policy: Policy = STRICT,
    *,
    series_as_4d: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
) -> Report:
    """Write each volume of a DICOM folder as ``<output>/<study key>/<volume key>.nii.gz`` with its sidecar.

    A volume that is refused is logged in one line and left out; the others go on.

    Args:
        path: a folder at any depth, or a file.
        output: made if need be; volumes of the same names are replaced.
        policy: what is allowed beyond the default.
        series_as_4d: write a time series as one file with four axes, instead of one file a time.
        progress: wraps the list of what is written, as tqdm does.

    Returns:
        What was done; the same is in ``<output>/conversion.json``.

    Raises:
        NoInputError: if there is no image series.
        EnvironmentFault: if the output cannot be written.
        MissingPackageError: if pydicom is not installed.
    """
    folder, out = find_dicom(path), Path(output)
    require_images(folder, path)
    mixed = mixed_studies(folder, path)
    require_writable(out)
    work = [job for study in folder.studies for job in _jobs(study, series_as_4d)]
    report = Report(out, [], folder.set_aside, folder.verdict.warnings)
    for case, volumes in progress(work) if progress else work:
        report.cases.append(_convert(case, volumes, out, policy, mixed.get(case.partition("/")[0])))
    report.write()
    return report


def sidecar(facts: Facts, warnings: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """What is known of a volume's acquisition, in BIDS's words and units.

    Args:
        facts: as the DICOM header has them.
        warnings: what the gate noticed.
        more: further entries of the block ``neurobundle``.

    >>> sidecar(Facts(modality="MR", echo_time_ms=2.5, sequence=("GR", "SP"), plane="axial"))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'Modality': 'MR', 'EchoTime': 0.0025, 'ScanningSequence': ['GR'], 'SequenceVariant': ['SP'],
     'neurobundle': {'version': '...', 'plane': 'axial', 'warnings': []}}
    """
    known = facts.as_json()
    named: dict[str, Any] = {}
    for fact, (name, factor) in _BIDS_NAMES.items():
        if fact in known:
            value = known.pop(fact)
            # Ten digits: 2.3 ms are 0.0023 s, and not 0.0022999999999999995.
            named[name] = value if factor is None else float(f"{value * factor:.10g}")
    codes = known.pop("sequence", [])
    for name, those in (("ScanningSequence", SCANNING_SEQUENCES), ("SequenceVariant", SEQUENCE_VARIANTS)):
        if present := [code for code in codes if code in those]:
            named[name] = present
    return {**named, "neurobundle": {"version": __version__, **known, **more, "warnings": list(warnings)}}


def _jobs(study: DicomStudy, series_as_4d: bool) -> list[tuple[str, list[DicomVolume]]]:
    """What becomes one file each: its case name and its volumes, several in a time series."""
    together = time_series(study.volumes) if series_as_4d else {}
    jobs: dict[str, list[DicomVolume]] = {}
    for volume in study.volumes:
        series = together.get(volume.stack_key, [])
        if volume in series:
            jobs[f"{study.key}/{volume.stack_key}"] = series
        else:
            jobs[f"{study.key}/{volume.key}"] = [volume]
    return list(jobs.items())


def _convert(case: str, volumes: list[DicomVolume], out: Path, policy: Policy, mixed: Finding | None) -> Entry:
    entry = Entry(case)
    path, beside = out / f"{case}.nii.gz", out / f"{case}.json"
    first = volumes[0]
    try:
        Verdict([] if mixed is None else [mixed]).require(first.files[0])
        scan = first.read(policy) if len(volumes) == 1 else read_series_4d(volumes, policy)
        entry.warnings = list(scan.warnings)
        save_volume(path, scan.data, scan.affine, form_code=scan.form_code, units=scan.units)
        write_json(beside, _sidecar(scan, volumes, entry.warnings))
        entry.status, entry.output = "ok", path.relative_to(out).as_posix()
    except (InputError, MissingPackageError) as error:
        # What an earlier conversion left under these names is not what this input gives.
        path.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
        _log(error, case, first)
        # The cause names no file, whose name may be a patient's; the line on the screen does.
        entry.error = f"{error.cause}. {error.way_out}".strip()
    return entry


def _sidecar(scan: Scan, volumes: list[DicomVolume], warnings: Sequence[str]) -> dict[str, Any]:
    """The sidecar of a volume, or of a time series, whose volumes share all facts but the time."""
    first = volumes[0]
    facts = replace(first.facts, time_index=None) if len(volumes) > 1 else first.facts
    number = {} if first.series_number is None else {"series_number": first.series_number}
    return sidecar(facts, warnings, **number, shape=list(scan.data.shape))


def _log(error: NeurobundleError, case: str, volume: DicomVolume) -> None:
    error.file = error.file or str(volume.files[0])
    logger.error("ERROR %s", error.for_case(case))
