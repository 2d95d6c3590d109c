"""The deterministic way from a file to the network's grid, as one block that a config names.

Training, evaluation and inference name the same factory with the same settings; only the keys differ. What it
returns is a flat ``Compose``, since MONAI Label looks through its list for the loader.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import Compose, EnsureTyped, LoadImaged, Transform

from neurobundle.prepare.bias_correction import Method, N4BiasFieldCorrectiond
from neurobundle.prepare.channels import Region
from neurobundle.prepare.intensity import NormalizeForegroundd
from neurobundle.prepare.space import ToNetworkGridd


def mri_preprocessing(
    image_keys: Sequence[str],
    label_keys: Sequence[str] = (),
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    lower: float = 0.5,
    upper: float = 99.5,
    allow_empty: bool = False,
    region: Region = "foreground",
    bias_field: Method = "none",
    bias_cache: str | None = None,
    channels: int | None = None,
) -> Compose:
    """Load, bring to the network's grid in one sampling, clip at two percentiles and z-score over a region.

    Args:
        image_keys: keys of the images; each is a file, or a list of files that become channels.
        label_keys: keys of the label maps, resampled with the nearest neighbour.
        spacing_mm: voxel sizes of the network's grid along R, A and S.
        lower: percentile to clip at from below.
        upper: percentile to clip at from above.
        allow_empty: let a channel without a signal pass, for a network that can do without one.
        region: what percentiles, mean and spread are measured over: ``foreground``, or ``head`` where air has noise.
        bias_field: divide the bias field out before the resampling: ``n4``, ``simpleitk`` or ``none``.
        bias_cache: a folder that keeps the fields that were found.
        channels: of a case that is one file, 4D; None refuses 4D. MONAI Label has one file a case.

    Returns:
        A flat ``Compose``: images become ``(channel, i, j, k)`` float32, label maps the same with whole numbers.
    """
    keys = [*image_keys, *label_keys]
    modes = ["bilinear"] * len(image_keys) + ["nearest"] * len(label_keys)
    corrections: list[Transform] = []
    if bias_field != "none":
        corrections = [
            N4BiasFieldCorrectiond(image_keys, method=bias_field, cache_dir=bias_cache, allow_empty=allow_empty)
        ]
    steps: list[Transform] = [
        *_loaders(image_keys, label_keys, allow_empty, channels=channels),
        EnsureTyped(keys, dtype=torch.float32),
        *corrections,
        ToNetworkGridd(keys, spacing_mm, modes),
        NormalizeForegroundd(image_keys, lower, upper, region, allow_empty),
    ]
    return Compose(steps)


def _loaders(
    image_keys: Sequence[str],
    label_keys: Sequence[str],
    allow_empty: bool,
    pictures: bool = False,
    channels: int | None = None,
) -> list[Transform]:
    """Through the gate: an image must have a signal, a label map may be empty; pictures are slices, if taken at all."""
    slices: dict[str, Any] = {"pictures": True} if pictures else {}
    plugin = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = plugin.level
    with warnings.catch_warnings():
        # Where pydicom is installed, MONAI 1.6.1 says at each LoadImage that an NVIDIA decoder is not.
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        plugin.setLevel(logging.ERROR)
        loaders = [
            LoadImaged(keys, reader="neurobundle.load.Reader", image_only=True, ensure_channel_first=True, **expected)
            for keys, expected in (
                (image_keys, {"kind": "image", "allow_empty": allow_empty, "channels": channels, **slices}),
                (label_keys, {"kind": "label", **slices}),
            )
            if keys
        ]
    plugin.setLevel(level)
    return list(loaders)
