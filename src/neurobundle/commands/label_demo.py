"""``neurobundle label --demo``: a DICOM study of nobody, to try the server with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neurobundle.commands.demo_tumour import BUNDLE, SUFFIXES, paint_template
from neurobundle.export.dicom_series import save_series

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
