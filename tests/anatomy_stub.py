"""The anatomy bundle with a network that tells tissues by their brightness, and a head that it gets right.

The *stub* is a copy of the bundle whose network is one convolution of 1 x 1 x 1. The *phantom* is a ball-like head: a
scalp that is darker than brain, and a brain whose left half (label 1) is darker than its right (label 19).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml

from neurobundle.networks import save_weights
from neurobundle.prepare import mri_preprocessing

from .conftest import ROOT

BUNDLE = "brain_anatomy_segmentation"
LEFT, RIGHT = 1, 19

#: Voxel sizes and shape of the phantom.
SPACING_MM, SHAPE = (2.0, 2.0, 2.5), (88, 104, 72)
#: Half the brain's length along each axis; the scalp lies 12 to 16 mm outside.
RADII_MM = np.array([60.0, 75.0, 55.0])
SCALP, DARK, BRIGHT = 70, 120, 200


def phantom() -> tuple[nib.Nifti1Image, np.ndarray]:
    """The head as int16, RAS+, and its labels."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -(np.array(SHAPE) - 1) / 2 * SPACING_MM
    place = nib.affines.apply_affine(affine, np.moveaxis(np.indices(SHAPE), 0, -1))
    inside = [(np.square(place / (RADII_MM + more)).sum(axis=-1) <= 1) for more in (0, 12, 16)]
    labels = np.where(inside[0], np.where(place[..., 0] < 0, LEFT, RIGHT), 0).astype(np.uint8)
    image = np.select([labels == LEFT, labels == RIGHT, inside[2] & ~inside[1]], [DARK, BRIGHT, SCALP], 0)
    return nib.Nifti1Image(image.astype(np.int16), affine), labels


def make_stub(folder: Path, **settings: Any) -> Path:
    """A folder of bundles with the stub, its weights and their manifest; ``settings`` change its inference.yaml."""
    bundle = folder / BUNDLE
    shutil.copytree(ROOT / "bundles" / BUNDLE, bundle, ignore=shutil.ignore_patterns("models"))
    config = bundle / "configs" / "inference.yaml"
    content = yaml.safe_load(config.read_text())
    content["network_def"] = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 33, "kernel_size": 1}
    config.write_text(yaml.safe_dump(content | settings, sort_keys=False))
    (bundle / "models").mkdir()
    save_weights(_network(folder), bundle / "models" / "model.pt", origin="trained-here")
    return folder


def _network(folder: Path) -> torch.nn.Module:
    """Takes the class whose brightness is nearest, as the phantom is prepared."""
    image, labels = phantom()
    file = folder / "phantom.nii.gz"
    nib.save(image, file)
    settings = {"spacing_mm": SPACING_MM, "region": "head", "allow_empty": True}
    prepared = mri_preprocessing(["image"], **settings)({"image": str(file)})["image"][0].numpy()
    file.unlink()
    middles = {
        0: prepared[labels == 0].min(),
        LEFT: prepared[labels == LEFT].mean(),
        RIGHT: prepared[labels == RIGHT].mean(),
    }
    network = torch.nn.Conv3d(1, 33, 1)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.fill_(-1e4)
        for value, middle in middles.items():
            network.weight[value], network.bias[value] = float(20 * middle), float(-10 * middle**2)
    return network


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))
