"""What all tests share: where the real data lies, and small scans that are made here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import settings

from neurobundle.networks import residual_unet, save_weights
from neurobundle.prepare.register import template_path

# A loaded machine is slow, and a failure that nobody can repeat is no help.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
OVERLAYS = sorted(path.stem for path in ROOT.glob("configs/*.yaml"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that is not part of the repository."""
    folder = Path(os.environ.get("NEUROBUNDLE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data is not here: set NEUROBUNDLE_DATA to its folder")
    return folder


def blob(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """A ball as a mask."""
    grid = np.indices(shape)
    return sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2


@pytest.fixture
def template_crop(tmp_path: Path) -> Path:
    """A file with what a network of hippocampi knows: the left one of the template that nilearn carries."""
    pytest.importorskip("nilearn")
    template = nib.load(template_path())
    middle = nib.affines.apply_affine(np.linalg.inv(template.affine), (-26, -22, -15)).round().astype(int)
    low = middle - (24, 32, 24)
    crop = template.slicer[tuple(slice(a, a + n) for a, n in zip(low, (48, 64, 48), strict=True))]
    path = tmp_path / "template_crop.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(crop.dataobj, np.float32), crop.affine), path)
    return path


@pytest.fixture
def make_pair() -> Callable[..., tuple[Path, Path]]:
    """Writes a crop with two bright structures, and its label map; shapes like the hippocampus set's."""

    def make(folder: Path, case: str, seed: int = 0, shape: tuple[int, int, int] = (35, 50, 36)) -> tuple[Path, Path]:
        rng = np.random.default_rng(seed)
        labels = np.zeros(shape, np.uint8)
        middle = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
        labels[blob(shape, tuple(middle - np.array([0, 8, 0])), 6)] = 2
        labels[blob(shape, tuple(middle + np.array([0, 8, -3])), 6)] = 1
        image = 100 + 10 * rng.standard_normal(shape) + 40 * (labels == 1) + 70 * (labels == 2)
        paths = []
        for name, array in (("images", image.astype(np.float32)), ("labels", labels)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            paths.append(folder / name / f"{case}.nii.gz")
            nib.save(nib.Nifti1Image(array, np.eye(4)), paths[-1])
        return paths[0], paths[1]

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the hippocampus bundle with a tiny network that knows nothing: fast, and nobody's weights."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny_segmentation"
    shutil.copytree(
        ROOT / "bundles" / "hippocampus_segmentation", folder, ignore=shutil.ignore_patterns("*.pt", "M*256")
    )
    torch.manual_seed(0)
    save_weights(residual_unet(1, 3, size="tiny"), folder / "models" / "model.pt", origin="released")
    for name in ("train", "inference"):
        path = folder / "configs" / f"{name}.yaml"
        text = path.read_text().replace("network_size: full", "network_size: tiny")
        # What a network that knows nothing finds is never plausible.
        text = text.replace("plausible:\n  _target_: neurobundle.postprocess.HippocampusCheck\n", "")
        path.write_text(text.replace("window: [40, 56, 40]", "window: [24, 24, 24]"))
    return folder
