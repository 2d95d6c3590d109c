"""From logits to label maps. This is the only room where a class is decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai.transforms import AsDiscreted, Compose, InvertibleTransform, Invertd

from neurobundle.export.nifti import SaveLabelMapd


def label_map(
    preprocessing: InvertibleTransform,
    image_key: str,
    pred_key: str,
    output_dir: str | Path,
) -> Compose:
    """Logits on the network's grid to a label map file on the native grid.

    Logits are taken back first, with linear interpolation where the grids differ, and the largest one is chosen
    afterwards: a label map resampled by its nearest neighbour would lose half a voxel at every border.

    Args:
        preprocessing: what was applied to the image, to be inverted.
        image_key: the prepared image ``(channel, i, j, k)``, whose applied operations say how to go back.
        pred_key: logits ``(class, i, j, k)``; becomes ``(1, i, j, k)`` uint8 classes on the native grid.
        output_dir: where ``<case>_seg.nii.gz`` is written.

    Returns:
        A flat ``Compose``; its last item is a ``SaveImaged``, which MONAI Label takes out.
    """
    return Compose(
        [
            Invertd(pred_key, transform=preprocessing, orig_keys=image_key, nearest_interp=False, to_tensor=True),
            AsDiscreted(pred_key, argmax=True),
            SaveLabelMapd(pred_key, output_dir=output_dir),
        ]
    )


def one_hot(pred_keys: Sequence[str], label_keys: Sequence[str], num_classes: int) -> Compose:
    """Predictions and labels as one-hot classes on the network's grid, as MONAI's metrics want them.

    Args:
        pred_keys: logits ``(class, i, j, k)``.
        label_keys: label maps ``(1, i, j, k)``.
        num_classes: classes, the background among them.
    """
    return Compose(
        [
            AsDiscreted(pred_keys, argmax=True, to_onehot=num_classes),
            AsDiscreted(label_keys, to_onehot=num_classes),
        ]
    )
