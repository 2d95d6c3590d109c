"""Plain functions that several tests use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.bundle.find import answers_of, channels_of, structures_of

HIPPOCAMPUS = Path(__file__).resolve().parents[1] / "bundles" / "hippocampus_segmentation"

Maker = Callable[..., tuple[Path, Path]]


def small_datalist(folder: Path, make_pair: Maker, cases: int = 4, folds: int = 2, bundle: Path = HIPPOCAMPUS) -> Path:
    """A datalist of made-up crops, two folds, with the channels and labels, or classes, that a bundle wants."""
    classes = answers_of(bundle)
    channels, highest = channels_of(bundle), 1 if classes else max(structures_of(bundle))
    items = []
    for n in range(cases):
        image, label = make_pair(folder, f"case_{n}", seed=n, shape=(20, 24, 20))
        if highest == 1:
            labels = nib.load(label)
            one = np.minimum(np.asarray(labels.dataobj), 1)
            nib.save(nib.Nifti1Image(one, labels.affine), label)
        images: str | list[str] = str(image.relative_to(folder))
        if len(channels) > 1:
            images = [str(path.relative_to(folder)) for path in _as_channels(image, channels)]
        drawn = str(label.relative_to(folder))
        items.append(
            {
                "image": images,
                **({"label": n // folds % len(classes), "mask": drawn} if classes else {"label": drawn}),
                "case": f"case_{n}",
                "subject": f"person-{n}",
                "fold": n % folds,
            }
        )
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": items}))
    return path


def _as_channels(image: Path, channels: tuple[str, ...]) -> list[Path]:
    """A file in the place of another for each channel, each brighter than the one before."""
    scan, case = nib.load(image), image.name.removesuffix(".nii.gz")
    array = np.asarray(scan.dataobj)
    image.unlink()
    paths = []
    for n, channel in enumerate(channels):
        paths.append(image.parent / case / f"{case}_{channel}.nii.gz")
        paths[-1].parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array * (1 + n), scan.affine), paths[-1])
    return paths


#: Small enough that a training epoch of the full config takes a second.
TINY = {"network_size": "tiny", "patch_size": [16, 16, 16], "window": [16, 16, 16], "epochs": 1, "val_interval": 1}


def require_weights(bundle: Path) -> None:
    """Skip what needs weights of a bundle that has none yet."""
    if not (bundle / "models" / "model.pt").exists():
        pytest.skip(f"{bundle.name} has no weights yet: they are in docs/training-queue.md")
