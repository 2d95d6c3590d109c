import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle.errors import InputError
from neurobundle.export.nifti import label_map_bytes, save_label_map
from neurobundle.export.transforms import SaveLabelMapd

OBLIQUE = np.array([[0.9, -0.3, 0.1, -20], [0.3, 1.1, -0.2, 5], [0.0, 0.2, 2.0, 7.5], [0, 0, 0, 1]])


def test_grid_and_values_come_back(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (7, 6, 5))
    written = nib.load(save_label_map(tmp_path / "a_seg.nii.gz", labels, OBLIQUE))
    assert np.array_equal(np.asarray(written.dataobj), labels)
    assert np.allclose(written.affine, OBLIQUE, atol=1e-5)
    assert written.get_data_dtype() == np.uint8


@pytest.mark.parametrize(("affine", "codes"), [(np.diag([2.0, 1.0, 3.0, 1.0]), (1, 1)), (OBLIQUE, (0, 1))])
def test_two_forms_never_disagree(tmp_path: Path, affine: np.ndarray, codes: tuple[int, int]) -> None:
    """A qform cannot hold a shear, so a sheared map has none."""
    written = nib.load(save_label_map(tmp_path / "a_seg.nii.gz", np.ones((3, 3, 3)), affine))
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == codes
    if codes[0]:
        assert np.allclose(written.get_qform(), written.get_sform(), atol=1e-3)


def test_equal_maps_are_equal_files() -> None:
    labels = np.arange(60).reshape(3, 4, 5)
    assert label_map_bytes(labels, np.eye(4)) == label_map_bytes(labels.copy(), np.eye(4))


@pytest.mark.parametrize("value", [0.5, np.nan, 1e6])
def test_values_that_are_no_labels_are_refused(value: float) -> None:
    with pytest.raises(InputError):
        label_map_bytes(np.full((2, 2, 2), value), np.eye(4))


def test_the_transform_names_its_file_by_the_case(tmp_path: Path) -> None:
    pred = MetaTensor(torch.ones(1, 3, 3, 3), affine=torch.eye(4), meta={"filename_or_obj": "x/anna.nii.gz"})
    SaveLabelMapd("pred", output_dir=tmp_path)({"pred": pred})
    SaveLabelMapd("pred", output_dir=tmp_path)({"pred": pred, "case": "study-1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anna_seg.nii.gz", "study-1_seg.nii.gz"]


def test_monai_label_can_take_it_out() -> None:
    """It drops whatever is a SaveImaged from a bundle's postprocessing."""
    assert issubclass(SaveLabelMapd, SaveImaged)


@pytest.mark.parametrize("module", ["neurobundle.export.nifti", "neurobundle.load", "neurobundle.cli"])
def test_light_doors_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'monai'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
