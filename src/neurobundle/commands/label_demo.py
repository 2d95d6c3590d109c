"""``neurobundle label --demo``: a DICOM study of nobody, to try the server with.

Where Orthanc is installed the study lies in an archive, so that OHIF shows it too; else in a folder, for 3D Slicer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neurobundle.commands.demo import PAINTED
from neurobundle.commands.demo_tumour import BUNDLE, SUFFIXES, paint_template
from neurobundle.commands.label import label, require_monai_label
from neurobundle.export.dicom_series import save_series
from neurobundle.label.orthanc import find_orthanc, running

#: What is served where no bundle is named.
BUNDLES = (BUNDLE, "brain_anatomy_segmentation")

#: How a scanner would have acquired each: the rules of docs/concepts/studies.md tell them apart by this.
_INVERSION = {"ScanningSequence": ["GR", "IR"], "SequenceVariant": ["SP", "MP"], "MRAcquisitionType": "3D"}
_SPIN_ECHO = {"ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "3D"}
_T1 = {**_INVERSION, "RepetitionTime": "2300", "EchoTime": "3", "InversionTime": "900", "EchoTrainLength": 1}
ACQUISITIONS: dict[str, dict[str, Any]] = {
    "T1": {"SeriesNumber": 1, "SeriesDescription": "T1", **_T1},
    "T1c": {"SeriesNumber": 2, "SeriesDescription": "T1 with contrast", **_T1, "ContrastBolusAgent": "Gadolinium"},
    "T2": {
        "SeriesNumber": 3,
        "SeriesDescription": "T2",
        **_SPIN_ECHO,
        **{"RepetitionTime": "4500", "EchoTime": "95", "EchoTrainLength": 16},
    },
    "FLAIR": {
        "SeriesNumber": 4,
        "SeriesDescription": "FLAIR",
        **{**_SPIN_ECHO, "ScanningSequence": ["SE", "IR"]},
        **{"RepetitionTime": "9000", "EchoTime": "120", "InversionTime": "2500", "EchoTrainLength": 16},
    },
}


def sample_study(folder: Path) -> list[Path]:
    """Write the demo's head with its painted tumour as a DICOM study of four series.

    Args:
        folder: gets a folder a series.

    Returns:
        All files.

    Raises:
        EnvironmentFault: if they cannot be written.
        MissingPackageError: without highdicom's extra.
    """
    head, _, affine = paint_template()
    files: list[Path] = []
    for sequence in SUFFIXES:
        attributes = {"ScanOptions": "", **ACQUISITIONS[sequence]}
        files += save_series(folder / sequence, head[sequence], affine, "painted tumour", attributes)
    return files


def label_demo(
    bundles: Sequence[str] = (),
    store: Path = Path("label-demo"),
    host: str = "127.0.0.1",
    port: int = 8000,
    say: Callable[[str], object] = lambda line: None,
) -> int:
    """Serve bundles on the sample until the server is stopped.

    Args:
        bundles: names or folders; :data:`BUNDLES` if there are none.
        store: gets the study, the archive's files and what the app keeps.
        host: the address to listen on.
        port: the port.
        say: is told what is served, and at which addresses.

    Returns:
        The server's exit status.

    Raises:
        MissingPackageError: without MONAI Label, or without the packages for DICOM.
        EnvironmentFault: if something cannot be written, or Orthanc does not start.
    """
    require_monai_label()
    study = store / "study"
    files = sample_study(study)
    say(f"Sample     {PAINTED}")
    orthanc = find_orthanc()
    if orthanc is None:
        say("OHIF       wants an archive: install Orthanc with its DICOMweb plugin (make pacs), and start again.")
        return label(bundles or BUNDLES, study, store / "app-store", host, port, say=say)
    with running(orthanc, store / "archive") as archive:
        for file in files:
            archive.store(file.read_bytes())
        return label(bundles or BUNDLES, archive.address, store / "app-store", host, port, say=say)
