"""Training-time chance: what may differ between two scans of the same anatomy.

Every transform here is random, is used in training only, and is reseeded by
:class:`neurobundle.train.ReseedHandler` at each epoch's start. A label map keeps its values: it is only ever
sampled with the nearest neighbour.

Two recipes: :func:`mri_augmentation`, of MONAI's transforms, or with ``house: true`` the same steps by this library's,
several times as fast (the shipped weights'); :func:`mri_artefacts` is what a scanner may do to an image, for networks
that should bear it.
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

from neurobundle.augment.artefacts import RandBlurd, RandThickSlicesd, check_range
from neurobundle.augment.contrast import RandBiasFieldFastd, RandGammad, RandInvertIntensityd
from neurobundle.augment.kspace import RandGibbsd, RandMotionGhostd, RandSpikesd
from neurobundle.augment.noise import RandRicianNoised
from neurobundle.augment.spatial import RandSpatiald


def mri_augmentation(
    image_key: str,
    label_key: str,
    patch_size: Sequence[int],
    rotation_deg: float = 15.0,
    flip_axes: Sequence[int] = (),
    house: bool = False,
) -> Compose:
    """Affine, elastic, bias field, gamma, noise and blur, ending in a random patch of a fixed size.

    Args:
        image_key: a z-scored volume ``(channel, i, j, k)``.
        label_key: its label map ``(1, i, j, k)``.
        patch_size: voxels of the patch; a smaller volume is padded to it, a larger one cropped at random.
        rotation_deg: largest rotation about each axis.
        flip_axes: spatial axes along which a mirror image is as plausible as the image (0 is left-right).
        house: the same steps by this library's transforms. What is drawn differs in distribution, and what lies
            beyond the image is its edge, so that an inferer wants ``padding_mode: replicate``
            (docs/decisions/0008-inference-pads-as-training-does.md).

    Returns:
        A ``Compose`` of dictionary transforms.
    """
    keys = (image_key, label_key)
    if house:
        return Compose(_by_ours(keys, patch_size, rotation_deg, flip_axes))
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


def _by_ours(
    keys: tuple[str, str], patch_size: Sequence[int], rotation_deg: float, flip_axes: Sequence[int]
) -> list[Transform]:
    image_key = keys[0]
    return [
        RandSpatiald(keys, patch_size, 0.6, rotation_deg=rotation_deg, elastic_prob=0.4, flip_axes=flip_axes),
        RandBiasFieldFastd(image_key, 0.3, (0.05, 0.3)),
        RandGammad(image_key, 0.4),
        RandBlurd(image_key, 0.15, (0.4, 0.9)),
        RandRicianNoised(image_key, 0.2, (0.02, 0.15)),
    ]


def mri_artefacts(
    image_key: str, strength: float = 1.0, brain_extracted: bool = False, invert_prob: float = 0.0
) -> Compose:
    """What a scan may suffer, in the order in which it does: contrast, coil, resolution, motion, spikes, noise.

    Each comes by itself, with a probability of .05 to .3; three images in four have at least one. Boxes are cut
    out by :class:`neurobundle.augment.RandCutoutd` alone.

    Args:
        image_key: an image, channel first, normalised or not; channels are spoilt apart.
        strength: how bad: 1 is what a radiologist would still read, 0 is nothing, 2 twice as much; 5 at
            most.
        brain_extracted: air that was cut away stays without a signal.
        invert_prob: how often the contrast is turned round, for networks that should not care for the sequence.

    Returns:
        A ``Compose`` of dictionary transforms; shapes, and label maps, stay as they are.

    Raises:
        SettingError: for a strength below 0 or above 5.
    """
    check_range("strength", (0.0, strength), 0, 5)

    def up_to(low: float, high: float, neutral: float = 0.0) -> tuple[float, float]:
        """A range that is as far from what changes nothing as the strength says."""
        first, last = (neutral + strength * (value - neutral) for value in (low, high))
        return min(first, last), max(first, last)

    def factor(low: float, high: float) -> tuple[float, float]:
        return low**strength, high**strength

    kept = tuple(max(0.3, share) for share in up_to(0.6, 0.9, 1.0))
    keep: dict[str, Any] = {"keep_background": brain_extracted}
    return Compose(
        [
            RandInvertIntensityd(image_key, invert_prob if strength else 0.0, **keep),
            RandGammad(image_key, 0.3, factor(0.7, 1.4), factor(0.85, 1.15), **keep),
            RandBiasFieldFastd(image_key, 0.3, up_to(0.1, 0.4), **keep),
            RandThickSlicesd(image_key, 0.15, up_to(2.0, 5.0, 1.0), **keep),
            RandBlurd(image_key, 0.1, up_to(0.3, 1.0), **keep),
            RandGibbsd(image_key, 0.1, kept, **keep),
            RandMotionGhostd(image_key, 0.1, up_to(0.2, 1.0), jump=up_to(0.0, 1.5), **keep),
            RandSpikesd(image_key, 0.05, up_to(0.1, 0.3), **keep),
            RandRicianNoised(image_key, 0.2, up_to(0.02, 0.2), **keep),
        ]
    )
