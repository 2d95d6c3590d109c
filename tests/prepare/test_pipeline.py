from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.transforms import LoadImaged

from neurobundle.prepare import mri_preprocessing


def test_image_and_label_meet_on_the_ras_grid(tmp_path: Path, make_pair: Callable[..., tuple[Path, Path]]) -> None:
    image, label = make_pair(tmp_path, "one")
    for path in (image, label):
        scan = nib.load(path)
        flipped = scan.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
        nib.save(flipped, path)
    assert nib.aff2axcodes(nib.load(image).affine) == ("L", "A", "S")
    case = mri_preprocessing(["image"], ["label"])({"image": str(image), "label": str(label)})
    assert nib.aff2axcodes(case["image"].affine.numpy()) == ("R", "A", "S")
    assert case["image"].dtype == torch.float32
    assert case["image"].shape == case["label"].shape
    assert case["label"].unique().tolist() == [0, 1, 2]


def test_spacing_is_what_was_asked_for(tmp_path: Path) -> None:
    array = np.random.default_rng(0).uniform(1, 2, (20, 20, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 4, 1])), tmp_path / "thick.nii.gz")
    case = mri_preprocessing(["image"])({"image": str(tmp_path / "thick.nii.gz")})
    assert np.allclose(np.linalg.norm(case["image"].affine.numpy()[:3, :3], axis=0), 1)
    assert case["image"].shape == (1, 20, 20, 17)


def test_the_bias_field_is_divided_out_before_the_resampling(tmp_path: Path) -> None:
    """On the scan's own grid, so that a field that was found serves every spacing."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in (32, 32, 16)), indexing="ij")
    head = 100.0 * (i**2 + j**2 + k**2 < 0.8)
    scan = head * np.exp(0.3 * i) + np.random.default_rng(0).uniform(0, 2, head.shape)
    nib.save(nib.Nifti1Image(scan.astype(np.float32), np.diag([1, 1, 2, 1])), tmp_path / "head.nii.gz")
    spread = {}
    for method in ("none", "n4"):
        steps = mri_preprocessing(["image"], bias_field=method, bias_cache=str(tmp_path / "cache"))
        image = steps({"image": str(tmp_path / "head.nii.gz")})["image"]
        line = image[0, 4:-4, 16, 16]
        spread[method] = float(line.std() / (line.mean() - image.min()))
        assert image.meta.get("bias_field") == (None if method == "none" else "n4, shrink 4")
    assert spread["n4"] < 0.5 * spread["none"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    mri_preprocessing(["image"], spacing_mm=(2, 2, 2), bias_field="n4", bias_cache=str(tmp_path / "cache"))(
        {"image": str(tmp_path / "head.nii.gz")}
    )
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_one_4d_file_is_what_a_file_a_channel_is(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).uniform(1, 2, (3, 12, 10, 8)).astype(np.float32)
    for name, array in (("all", np.moveaxis(volumes, 0, -1)), *((f"c{n}", volume) for n, volume in enumerate(volumes))):
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), tmp_path / f"{name}.nii.gz")
    load = mri_preprocessing(["image"], channels=3)
    one, several = (
        load({"image": files})["image"]
        for files in (str(tmp_path / "all.nii.gz"), [str(tmp_path / f"c{n}.nii.gz") for n in range(3)])
    )
    assert one.shape == (3, 12, 10, 15)
    assert torch.equal(one, several)


def test_the_loader_stands_in_the_open() -> None:
    """MONAI Label looks through the list of transforms for the loader."""
    assert isinstance(mri_preprocessing(["image"]).transforms[0], LoadImaged)
