import itertools
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle.errors import EnvironmentFault, InputError
from neurobundle.export.nifti import compress, label_map_bytes, save_label_map, save_probabilities, save_volume
from neurobundle.export.transforms import SaveLabelMapd, SaveProbabilitiesd
from neurobundle.geometry import corners_mm
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan

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


@pytest.mark.parametrize("value", [300, -1, np.nan], ids=["26-300", "26-minus-1", "26-nan"])
def test_a_value_outside_the_type_is_an_error(value: float, tmp_path: Path) -> None:
    """Not 44, 255 or 0, which is what a cast makes of them; and no file is left."""
    pred = MetaTensor(torch.full((1, 3, 3, 3), value), affine=torch.eye(4), meta={"filename_or_obj": "anna.nii.gz"})
    with pytest.raises(InputError, match=r"outside uint8|not whole numbers"):
        SaveLabelMapd("pred", output_dir=tmp_path, dtype="uint8")({"pred": pred})
    assert list(tmp_path.iterdir()) == []


ORIENTATIONS = [
    np.array([[signs[row] * (axes[row] == column) for column in range(3)] for row in range(3)], float)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("turn", ORIENTATIONS, ids=lambda turn: "".join(nib.aff2axcodes(nib.affines.from_matvec(turn))))
def test_27_output_lies_where_the_input_lay(turn: np.ndarray, tmp_path: Path) -> None:
    """48 orientations with 1 x 1 x 6 mm: read, and written by us, read by nibabel: corners within 0.01 mm."""
    affine = nib.affines.from_matvec(turn * (1, 1, 6), (-90, 12.5, 77))
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), affine)
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    path = save_label_map(tmp_path / "a_seg.nii.gz", scan.data, scan.affine, scan.form_code, scan.units)
    written = nib.load(path)
    assert np.abs(corners_mm((3, 4, 5), written.affine) - corners_mm((3, 4, 5), affine)).max() < 0.01
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(image.dataobj))


@given(
    turn=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    sizes=st.lists(st.floats(0.4, 7), min_size=3, max_size=3),
    origin=st.lists(st.floats(-300, 300), min_size=3, max_size=3),
    mirrored=st.booleans(),
)
def test_27_oblique_outputs_too(
    turn: list[float],
    sizes: list[float],
    origin: list[float],
    mirrored: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    quaternion = np.add(turn, (2, 0, 0, 0))
    rotation = nib.quaternions.quat2mat(quaternion / np.linalg.norm(quaternion))
    affine = nib.affines.from_matvec(rotation * sizes * (-1 if mirrored else 1, 1, 1), origin)
    path = save_label_map(tmp_path_factory.mktemp("o") / "a.nii.gz", np.ones((30, 40, 20), np.uint8), affine)
    written = nib.load(path)
    for form in (written.get_qform(), written.get_sform(), read_scan(path, LABEL).affine):
        assert np.abs(corners_mm((30, 40, 20), form) - corners_mm((30, 40, 20), affine)).max() < 0.01


@pytest.mark.parametrize(("units", "code", "size"), [("mm", 2, 2.0), ("m", 1, 0.002), ("um", 3, 2000.0)])
def test_the_files_unit_is_kept(units: str, code: int, size: float, tmp_path: Path) -> None:
    path = save_label_map(tmp_path / "a.nii.gz", np.ones((3, 3, 3)), np.diag([2, 2, 2, 1]), units=units)
    header = nib.load(path).header
    assert int(header["xyzt_units"]) & 7 == code
    assert header.get_zooms() == pytest.approx((size,) * 3)
    np.testing.assert_allclose(read_scan(path, LABEL).affine, np.diag([2, 2, 2, 1]), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 2)])
def test_volumes_come_back_as_they_are(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    data = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    written = nib.load(save_volume(tmp_path / "a.nii.gz", data, np.eye(4)))
    assert np.array_equal(np.asarray(written.dataobj), data)
    assert written.get_data_dtype() == np.dtype(dtype)


def test_a_type_that_nifti_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no voxels of the type float16"):
        save_volume(tmp_path / "a.nii.gz", np.ones((2, 2, 2), np.float16), np.eye(4))


def test_a_disk_that_lies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads back as something else gets no name."""
    monkeypatch.setattr("neurobundle.export.nifti.compress", lambda content: compress(content[:-1] + b"x"))
    with pytest.raises(EnvironmentFault, match="differs from the result"):
        save_label_map(tmp_path / "a.nii.gz", np.ones((2, 2, 2)), np.eye(4))
    assert list(tmp_path.iterdir()) == []


def test_the_transform_names_its_file_by_the_case(tmp_path: Path) -> None:
    pred = MetaTensor(torch.ones(1, 3, 3, 3), affine=torch.eye(4), meta={"filename_or_obj": "x/anna.nii.gz"})
    SaveLabelMapd("pred", output_dir=tmp_path)({"pred": pred})
    SaveLabelMapd("pred", output_dir=tmp_path)({"pred": pred, "case": "study-1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anna_seg.nii.gz", "study-1_seg.nii.gz"]


def test_probabilities_are_a_byte_each_and_read_back_within_a_step(tmp_path: Path) -> None:
    shares = np.random.default_rng(0).random((3, 4, 5, 6)).astype(np.float32)
    shares[0, 0, 0, :2] = 0, 1
    written = nib.load(save_probabilities(tmp_path / "a.nii.gz", shares, OBLIQUE))
    assert written.get_data_dtype() == np.uint8
    back = np.moveaxis(written.get_fdata(), -1, 0)
    assert np.abs(back - shares).max() <= 0.5 / 255 + 1e-6
    assert back[0, 0, 0, :2].tolist() == pytest.approx([0, 1])
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_what_is_no_probability_is_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside 0 to 1"):
        save_probabilities(tmp_path / "a.nii.gz", np.full((1, 2, 2, 2), value), np.eye(4))
    assert list(tmp_path.iterdir()) == []


def test_probabilities_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    pred = MetaTensor(torch.full((2, 3, 3, 3), 0.5), affine=torch.eye(4), meta={"filename_or_obj": "x/anna.nii.gz"})
    SaveProbabilitiesd("pred", output_dir=tmp_path, enabled=False)({"pred": pred})
    assert list(tmp_path.iterdir()) == []
    SaveProbabilitiesd("pred", output_dir=tmp_path)({"pred": pred, "case": "study-1"})
    assert nib.load(tmp_path / "study-1_prob.nii.gz").shape == (3, 3, 3, 2)


@pytest.mark.parametrize("transform", [SaveLabelMapd, SaveProbabilitiesd])
def test_monai_label_can_take_it_out(transform: type) -> None:
    """It drops whatever is a SaveImaged from a bundle's postprocessing."""
    assert issubclass(transform, SaveImaged)


@pytest.mark.parametrize("module", ["neurobundle.export.nifti", "neurobundle.load", "neurobundle.cli"])
def test_light_doors_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'monai'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
