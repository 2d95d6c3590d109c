"""Reading and writing against stock MONAI: .nii.gz, label maps, and a DICOM series. Needs no data."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, SaveImage

from harness import Result, arguments, compare, cost, report
from neurobundle.export.nifti import compress, encode, save_label_map
from neurobundle.load import checks
from neurobundle.load.dicom import read_volume
from neurobundle.load.nifti import read_nifti

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

#: Like a BraTS scan: the brain is a fifth of the box, the rest is 0.
SHAPE, SMALL_SHAPE = (240, 240, 155), (24, 24, 16)
#: A 1 mm T1 of 192 sagittal slices.
SERIES, SMALL_SERIES = (256, 256, 192), (16, 16, 8)
AFFINE = np.array([[-1.0, 0, 0, 90], [0, 1.2, 0, -126], [0, 0, 1.2, -72], [0, 0, 0, 1]])


def head(shape: tuple[int, ...]) -> np.ndarray:
    """A noisy ball, int16: what compresses neither too well nor too badly."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    inside = sum(axis**2 for axis in grid) < 0.55
    noise = np.random.default_rng(0).normal(400, 60, shape)
    return np.where(inside, noise, 0).astype(np.int16)


def labels(shape: tuple[int, ...]) -> np.ndarray:
    """Nested balls with labels 0 to 3."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    return np.digitize(-sum(axis**2 for axis in grid), [-0.4, -0.2, -0.1]).astype(np.uint8)


def reading(folder: Path, shape: tuple[int, ...], rounds: int) -> list[Result]:
    """The same file through both doors: in its own type, and as float32, which LoadImage gives by default."""
    results = []
    for dtype in (np.int16, np.float32):
        path = folder / f"{np.dtype(dtype)}.nii.gz"
        nib.save(nib.Nifti1Image(head(shape).astype(dtype), AFFINE), path)
        name, scan = f"read .nii.gz, {np.dtype(dtype)}", read_nifti(path)

        def race(
            case: str, kind: Any, ours: Any, path: Path = path, goal: float | None = None, name: str = name
        ) -> Result:
            stock = LoadImage(image_only=True, dtype=kind)
            baseline = "LoadImage" if kind else "LoadImage(dtype=None)"
            return compare(f"{name}: {case}", ours, baseline, lambda: stock(path), same_image, rounds, goal)

        def own(path: Path = path) -> tuple[np.ndarray, np.ndarray]:
            return read_nifti(path)[:2]

        def as_float(path: Path = path) -> tuple[np.ndarray, np.ndarray]:
            data, affine, *_ = read_nifti(path)
            return data.astype(np.float32, copy=False), affine

        with mock.patch.object(checks, "check_voxels", return_value=[]):
            results.append(race("header and CRC checked", None, own, goal=4))
        results.append(race("and the voxels checked", None, own))
        results.append(race("and the voxels checked, as float32", np.float32, as_float))
        reader = LoadImage(reader="neurobundle.load.Reader", image_only=True)
        results.append(race("LoadImage with our reader", np.float32, lambda r=reader, p=path: with_affine(r(p))))
        results.append(cost(f"{name}: the voxel checks alone", lambda d=scan.data: checks.check_voxels(d), rounds))
    return results


def with_affine(image: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`same_image` compares."""
    return image.numpy(), image.affine.numpy()


def same_image(ours: tuple[np.ndarray, np.ndarray], theirs: MetaTensor) -> bool:
    """Equal voxels and affines."""
    return np.array_equal(ours[0], theirs.numpy()) and np.allclose(ours[1], theirs.affine)


def writing(folder: Path, shape: tuple[int, ...], rounds: int) -> list[Result]:
    """A label map: from ready bytes, and with everything that makes it safe."""
    array, target = labels(shape), folder / "ours_seg.nii.gz"
    content = encode(array, AFFINE)
    image = MetaTensor(torch.from_numpy(array)[None], affine=AFFINE, meta={"filename_or_obj": "theirs.nii.gz"})
    save = SaveImage(
        output_dir=folder,
        output_postfix="seg",
        separate_folder=False,
        output_dtype=np.uint8,
        resample=False,
        print_log=False,
    )
    stock = folder / "theirs_seg.nii.gz"

    def theirs() -> Path:
        save(image)
        return stock

    def ready_bytes() -> Path:
        target.write_bytes(compress(content))
        return target

    return [
        compare("write a label map: ready bytes", ready_bytes, "SaveImage", theirs, same_file, rounds, 15),
        compare(
            "write a label map: checked, atomic, read back",
            lambda: save_label_map(target, array, AFFINE),
            "SaveImage",
            theirs,
            same_file,
            rounds,
            2,
        ),
    ]


def same_file(ours: Path, theirs: Path) -> bool:
    """Equal voxels, affines and types."""
    a, b = nib.load(ours), nib.load(theirs)
    same_type = a.get_data_dtype() == b.get_data_dtype()
    return same_type and np.array_equal(a.dataobj, b.dataobj) and np.allclose(a.affine, b.affine)


def series(folder: Path, shape: tuple[int, ...], rounds: int) -> list[Result]:
    """One file a slice, uncompressed, against MONAI's two DICOM readers."""
    from tests.load.dicom.make import series as make_series  # the suite's maker of good series

    place = folder / "series"
    make_series(
        place, slices=shape[2], rows=shape[1], columns=shape[0], step=1.0, data=head(shape).clip(0).astype(np.uint16)
    )
    results = []
    for name in ("ITKReader", "PydicomReader"):
        try:
            stock = LoadImage(reader=name, image_only=True)
        except Exception as error:  # what is not installed is not compared
            print(f"{name} left out: {error}")
            continue

        def theirs(stock: Any = stock) -> MetaTensor:
            return stock(place)

        case = f"read a DICOM series of {shape[2]} slices"
        results.append(compare(case, lambda: read_volume(place), name, theirs, same_place, max(3, rounds // 3)))
    return results


def same_place(ours: Any, theirs: MetaTensor) -> bool:
    """Each voxel of ours is in theirs, at the same millimetres, whatever the order of the axes."""
    a = nib.as_closest_canonical(nib.Nifti1Image(ours.data.astype(np.float32), ours.affine))
    b = nib.as_closest_canonical(nib.Nifti1Image(theirs.numpy(), theirs.affine.numpy()))
    return np.array_equal(a.dataobj, b.dataobj) and np.allclose(a.affine, b.affine, atol=1e-3)


def main() -> None:
    """Run all, and print."""
    options = arguments(__doc__ or "")
    shape, slices = (SMALL_SHAPE, SMALL_SERIES) if options.small else (SHAPE, SERIES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = reading(folder, shape, options.rounds) + writing(folder, shape, options.rounds)
        results += series(folder, slices, options.rounds)
    report("io", results)


if __name__ == "__main__":
    main()
