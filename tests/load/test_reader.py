"""The gate inside stock MONAI: nothing of ours is used here but the reader's name."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, SaveImage

from neurobundle.errors import InputError, SettingError

from . import faults

READER = "neurobundle.load.Reader"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return faults.good(tmp_path)


@pytest.mark.parametrize("fault", faults.REFUSED.values(), ids=faults.REFUSED.keys())
def test_a_stock_pipeline_refuses(fault: faults.Fault, good: Path) -> None:
    """With MONAI's own readers registered behind it, none of which gets a say."""
    pipeline = Compose([LoadImaged("image", reader=READER), EnsureChannelFirstd("image")])
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        pipeline({"image": str(fault.build(good))})
    error: BaseException = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert re.search(fault.saying, str(error))


@pytest.mark.parametrize("build", faults.ACCEPTED.values(), ids=faults.ACCEPTED.keys())
def test_a_good_file_is_what_stock_monai_loads(build: faults.Builder, good: Path) -> None:
    path = build(good)
    image = LoadImage(reader=READER, image_only=True, ensure_channel_first=True)(path)
    assert isinstance(image, MetaTensor)
    np.testing.assert_array_equal(image[0], faults.volume())
    np.testing.assert_allclose(image.affine, faults.AFFINE, atol=1e-5)
    assert image.meta["space"] == "RAS"
    assert image.meta["filename_or_obj"] == str(path)
    assert image.meta["original_affine"].tolist() == image.affine.tolist()
    assert list(image.meta["spatial_shape"]) == list(faults.SHAPE)


def test_equal_to_the_stock_reader(good: Path) -> None:
    ours, theirs = (LoadImage(reader=reader)(good) for reader in (READER, "NibabelReader"))
    assert torch.equal(ours, theirs)
    assert torch.equal(ours.affine, theirs.affine)
    for key in ("space", "spatial_shape", "original_channel_dim"):
        np.testing.assert_equal(ours.meta[key], theirs.meta[key])


def test_several_files_become_channels(good: Path, tmp_path: Path) -> None:
    other = faults.good(tmp_path, "t2.nii.gz")
    image = LoadImage(reader=READER, ensure_channel_first=True)([good, other])
    assert image.shape == (2, *faults.SHAPE)


@pytest.mark.parametrize(
    ("build", "saying"),
    [
        pytest.param(faults.saved(lambda data: data[1:]), r"has shape \(5, 7, 8\), its image anna", id="15"),
        pytest.param(faults.saved(np.copy, faults.AFFINE + 30 * np.eye(4, k=3)), r"image anna.*30\.00 mm", id="16"),
    ],
)
def test_channels_that_do_not_fit_name_both_files(
    build: faults.Builder, saying: str, good: Path, tmp_path: Path
) -> None:
    other = build(faults.good(tmp_path, "t2.nii.gz"))
    with pytest.raises(Exception, match=rf"t2\.nii\.gz: the channel.*{saying}"):
        LoadImage(reader=READER)([good, other])


def test_12_a_4d_file_whose_channels_are_wanted(good: Path) -> None:
    path = faults.saved(lambda data: np.stack([data, data + 1], -1))(good)
    image = LoadImage(reader=READER, channels=2, ensure_channel_first=True)(path)
    assert image.shape == (2, *faults.SHAPE)
    np.testing.assert_array_equal(image[1], faults.volume() + 1)


def test_12_one_volume_where_channels_are_wanted(good: Path) -> None:
    """One path a case, as MONAI Label has it: named here, before a network says it by its shapes."""
    with pytest.raises(Exception, match="it holds one volume, and 2 channels are wanted"):
        LoadImage(reader=READER, channels=2)(good)
    assert LoadImage(reader=READER, channels=2, ensure_channel_first=True)([good, good]).shape == (2, *faults.SHAPE)


def test_options_reach_the_gate(good: Path) -> None:
    path = faults.saved(faults.with_nan)(good)
    image = LoadImage(reader=READER, nonfinite="zero")(path)
    assert torch.isfinite(image).all()
    assert "set to 0" in image.meta["warnings"]


@pytest.mark.parametrize("settings", [{"kind": "labels"}, {"form": "s"}, {"assumeras": True}, {"spatial_dims": 4}])
def test_a_setting_that_is_none_is_refused(settings: dict[str, object]) -> None:
    """MONAI would warn, and go on with a reader that knows none of the settings."""
    with pytest.raises(SettingError):
        LoadImage(reader=READER, **settings)


def test_smoothed_labels(good: Path) -> None:
    path = faults.saved(lambda data: data / 2)(good)
    with pytest.raises(InputError, match=r"whole numbers, it has 0\.5"):
        LoadImage(reader=READER, kind="label")(path)


def test_78_no_text_of_the_header_reaches_the_metadata(good: Path, tmp_path: Path) -> None:
    image = nib.load(good)
    image.header["descrip"] = image.header["intent_name"] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "b.nii.gz")
    loaded = LoadImage(reader=READER, ensure_channel_first=True)(tmp_path / "b.nii.gz")
    assert "DOE" not in repr(loaded.meta)
    SaveImage(output_dir=tmp_path / "out", print_log=False, separate_folder=False, resample=False)(loaded)
    (written,) = (tmp_path / "out").iterdir()
    assert b"DOE" not in nib.load(written).to_bytes()


def test_a_file_of_another_kind_is_no_stock_readers_business(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(Exception, match="not a NIfTI file"):
        LoadImage(reader=READER)(path)
