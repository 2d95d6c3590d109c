"""Training-time chance: what may differ between two scans of the same anatomy.

Every transform here is random, is used in training only, and is reseeded by
:class:`neurobundle.train.ReseedHandler` at each epoch's start. A label map keeps its values: it is only ever
sampled with the nearest neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai.transforms import (
    Compose,
    Identityd,
    OneOf,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSpatialCropd,
    SpatialPadd,
    Transform,
)


def mri_augmentation(
    image_key: str,
    label_key: str,
    patch_size: Sequence[int],
    rotation_deg: float = 15.0,
    flip_axes: Sequence[int] = (),
) -> Compose:
    """Affine, elastic, bias field, gamma, noise and blur, ending in a random patch of a fixed size.

    Args:
        image_key: a z-scored volume ``(channel, i, j, k)``.
        label_key: its label map ``(1, i, j, k)``.
        patch_size: voxels of the patch; a smaller volume is padded to it, a larger one cropped at random.
        rotation_deg: largest rotation about each axis.
        flip_axes: spatial axes along which a mirror image is as plausible as the image (0 is left-right).

    Returns:
        A ``Compose`` of dictionary transforms.
    """
    keys = (image_key, label_key)
    pose: dict[str, Any] = {
        "rotate_range": (math.radians(rotation_deg),) * 3,
        "scale_range": (0.15,) * 3,
        "translate_range": (3.0,) * 3,
        "mode": ("bilinear", "nearest"),
        "padding_mode": "border",
    }
    spatial = OneOf(
        [
            Identityd(keys),
            RandAffined(keys, prob=1.0, shear_range=(0.05,) * 3, **pose),
            Rand3DElasticd(keys, prob=1.0, sigma_range=(4.0, 6.0), magnitude_range=(40.0, 120.0), **pose),
        ],
        weights=[0.4, 0.35, 0.25],
    )
    flips = [RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in flip_axes]
    return Compose(
        [
            SpatialPadd(keys, spatial_size=tuple(patch_size)),
            spatial,
            RandSpatialCropd(keys, roi_size=tuple(patch_size), random_size=False),
            *flips,
            *_intensities(image_key),
        ]
    )


def _intensities(key: str) -> list[Transform]:
    """What the scanner changes; probabilities and ranges are those of nnU-Net's order of magnitude (Isensee 2021)."""
    blur = (0.4, 0.9)
    return [
        RandBiasFieldd(key, prob=0.3, degree=3, coeff_range=(0.0, 0.1)),
        RandAdjustContrastd(key, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        RandScaleIntensityd(key, prob=0.3, factors=0.15),
        RandGaussianSmoothd(key, prob=0.15, sigma_x=blur, sigma_y=blur, sigma_z=blur),
        RandGaussianNoised(key, prob=0.2, mean=0.0, std=0.15),
    ]
