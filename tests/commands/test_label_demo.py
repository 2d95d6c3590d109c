"""The study of nobody that ``neurobundle label --demo`` serves."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from neurobundle.bundle.find import channels_of, find_bundle, reference_of
from neurobundle.commands.demo_tumour import BUNDLE, paint_template
from neurobundle.commands.label_demo import sample_study
from neurobundle.load.study import find_studies, read_study


@pytest.mark.slow
def test_the_rules_know_its_sequences(tmp_path: Path) -> None:
    """Each channel of the tumour bundle is the painted head's, voxel for voxel in the world."""
    files = sample_study(tmp_path)
    bundle = find_bundle(BUNDLE)
    channels = channels_of(bundle)
    (study,) = find_studies(tmp_path, channels)
    assert not study.missing
    scan = read_study(study, channels, reference_of(bundle))
    assert not scan.warnings, scan.warnings
    head, _, affine = paint_template()
    ras = [np.asarray(nib.as_closest_canonical(nib.Nifti1Image(data, scan.affine)).dataobj) for data in scan.data]
    for channel, data in zip(channels, ras, strict=True):
        assert np.array_equal(data, head[channel]), channel
    assert np.allclose(nib.as_closest_canonical(nib.Nifti1Image(scan.data[0], scan.affine)).affine, affine, atol=1e-3)
    assert {str(pydicom.dcmread(path, stop_before_pixels=True).PatientName) for path in files} == {"Nobody^Sample"}
