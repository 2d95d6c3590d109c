"""Every bundle on a whole head, as NIfTI and as a DICOM study, by ``neurobundle run`` and by stock MONAI.

The *head* is made here: four sequences with a tumour, voxels of 3 x 3 x 4 mm, and an oblique grid. The NIfTI files
hold what the DICOM series hold, stored in another order of axes. The weights are small and random, of the bundle's own
layout, but where a test says that it takes those of the bundle.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from neurobundle.augment.head_plan import HeadSettings, draw_head
from neurobundle.augment.synthesis import WHITE_LEVEL, synthesize_head
from neurobundle.bundle.find import channels_of, groups_of, structures_of
from neurobundle.cli import main
from neurobundle.geometry import corners_mm, same_grid
from neurobundle.networks import save_weights, strided_unet
from neurobundle.networks.slice_unet import slice_unet
from neurobundle.prepare.grid import network_grid
from neurobundle.prepare.slices import stacked_along

from ..augment.test_synthesis import nested_head
from ..conftest import ROOT
from ..helpers import require_weights
from ..load.dicom import make

SPACING_MM, SHAPE = (3.0, 3.0, 4.0), (65, 77, 51)
#: Channel -> how its NIfTI file ends, and what the scanner wrote into its DICOM files.
FACTS: dict[str, tuple[str, dict[str, Any]]] = {
    "T1": ("t1", {"SeriesNumber": 3, "SeriesDescription": "t1"}),
    "T1c": ("t1ce", {"SeriesNumber": 4, "SeriesDescription": "t1 post contrast", "ContrastBolusAgent": "Gadovist"}),
    "T2": (
        "t2",
        {
            **{"SeriesNumber": 5, "SeriesDescription": "t2 tse", "ScanningSequence": "SE", "SequenceVariant": "SK"},
            **{"EchoTime": "100", "RepetitionTime": "4000", "InversionTime": None},
        },
    ),
    "FLAIR": (
        "flair",
        {
            **{"SeriesNumber": 6, "SeriesDescription": "flair", "ScanningSequence": ["SE", "IR"]},
            **{"SequenceVariant": "SK", "EchoTime": "120", "RepetitionTime": "9000", "InversionTime": "2500"},
        },
    ),
}


class Bundle(NamedTuple):
    """A bundle, the network of its tiny layout, the sequences of the head that it is shown, and a grid for haste."""

    name: str
    network: Callable[[], torch.nn.Module]
    channels: tuple[str, ...]
    coarse: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return ROOT / "bundles" / self.name


COARSE = ("spacing=[4,4,4]", "window=[48,48,48]")
BUNDLES = (
    Bundle("brain_tumor_segmentation", lambda: strided_unet(4, 3, "tiny"), tuple(FACTS), COARSE),
    Bundle("brain_anatomy_segmentation", lambda: strided_unet(1, 33, "tiny", features=16), ("T2",), COARSE),
    Bundle("tumor_slice_segmentation", lambda: slice_unet(1, 1, "tiny", unshuffle=2), ("T1c",), ("pixel_mm=3.0",)),
)
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)


class Head(NamedTuple):
    """One head: its DICOM study, and the folder of its NIfTI files, with all sequences or one."""

    dicom: dict[str, make.Made]
    folder: Path

    def nifti_of(self, bundle: Bundle) -> Path:
        return self.folder / "nifti" / "-".join(bundle.channels)

    def dicom_of(self, bundle: Bundle) -> Path:
        return self.folder / "dicom" / "-".join(bundle.channels)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    """The head in all forms that the bundles are given."""
    folder = tmp_path_factory.mktemp("head")
    settings = HeadSettings(shape=SHAPE, spacing_mm=SPACING_MM, sequences=tuple(FACTS), thick=0.0)
    made = synthesize_head(nested_head(), draw_head(np.random.default_rng(4), settings), (4.0, 4.0, 4.0))
    images = dict(zip(FACTS, np.rint(made.images.numpy() * WHITE_LEVEL).clip(0, 4095), strict=True))
    dicom = {}
    for bundle in BUNDLES:
        for n, channel in enumerate(FACTS):
            if channel not in bundle.channels:
                continue
            word, facts = FACTS[channel]
            # DICOM's axes are L, P and S, and the head's are R, A and S; then both are tilted.
            size = {"slices": SHAPE[2], "rows": SHAPE[1], "columns": SHAPE[0], "step": SPACING_MM[2]}
            size |= {"spacing": SPACING_MM[:2], "data": images[channel][::-1, ::-1].astype(np.uint16)}
            place = folder / "dicom" / "-".join(bundle.channels) / channel
            dicom[channel] = make.series(place, **size, edit=edited(facts), uid=f"{make.SERIES}.{n}")
            stored = nib.Nifti1Image(dicom[channel].data, dicom[channel].affine)
            turn = nib.orientations.ornt_transform(
                nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt("PSR")
            )
            file = folder / "nifti" / "-".join(bundle.channels) / "anna" / f"anna_{word}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(stored.as_reoriented(turn), file)
    return Head(dicom, folder)


def edited(facts: dict[str, Any]) -> make.Edit:
    def edit(ds: Any, _: int) -> None:
        for name, value in facts.items():
            if value is None:
                delattr(ds, name)
            else:
                setattr(ds, name, value)

    return edit


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of weights a bundle, each with its manifest."""
    folders = {}
    for bundle in BUNDLES:
        torch.manual_seed(0)
        folders[bundle.name] = tmp_path_factory.mktemp(bundle.name)
        save_weights(bundle.network(), folders[bundle.name] / "model.pt", origin="trained-here")
    return folders


def run(bundle: Bundle, given: Path, out: Path, models: Path | None, *more: str) -> None:
    """``neurobundle run``, with the bundle's own weights if there are no others."""
    settings = ["--set", "network_size=tiny", f"ckpt_dir={models}", *more] if models else []
    assert main(["run", bundle.name, "-i", str(given), "-o", str(out), "--device", "cpu", *settings]) == 0


def stock(bundle: Bundle, given: Path, out: Path, models: Path) -> None:
    """``python -m monai.bundle run``, in a process of its own and from another folder."""
    configs = bundle.folder / "configs"
    files = {
        "config": configs / "inference.yaml",
        "meta": configs / "metadata.json",
        "logging": configs / "logging.conf",
    }
    values = {"bundle_root": bundle.folder, "dataset_dir": given, "output_dir": out, "ckpt_dir": models}
    values |= {f"{name}_file": file for name, file in files.items()} | {"device": "cpu", "network_size": "tiny"}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=out.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def entry(out: Path) -> dict[str, Any]:
    """The one case of a report."""
    (case,) = json.loads((out / "report.json").read_text())["cases"]
    assert case["status"] == "ok"
    return case


def label_map(out: Path) -> nib.Nifti1Image:
    return nib.load(out / entry(out)["output"])


def upright(image: nib.Nifti1Image) -> np.ndarray:
    """Its voxels, in RAS order."""
    return np.asarray(nib.as_closest_canonical(image).dataobj)


def reference(bundle: Bundle, head: Head) -> nib.Nifti1Image:
    """The NIfTI file whose grid is the native one: all have the same."""
    return nib.load(min(head.nifti_of(bundle).rglob("*.nii.gz")))


def check_volumes(bundle: Bundle, out: Path) -> None:
    """Millilitres of each structure and group are the voxels of the label map times their size."""
    labels = np.asarray(label_map(out).dataobj)
    assert len(np.unique(labels)) > 1, "a network of random weights finds something"
    assert set(np.unique(labels)) <= {0, *structures_of(bundle.folder)}
    expected = {name: [value] for value, name in structures_of(bundle.folder).items()} | groups_of(bundle.folder)
    volumes = entry(out)["volumes_ml"]
    assert set(volumes) == set(expected)
    for name, values in expected.items():
        assert volumes[name] == pytest.approx(np.isin(labels, values).sum() * np.prod(SPACING_MM) / 1000, abs=1e-3)
    with (out / "volumes.csv").open() as file:
        rows = {row["structure"]: float(row["ml"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx(volumes, abs=1e-3)


def check_picture(out: Path) -> None:
    """It is listed, it shows the head in grey, and outlines in colours."""
    case = entry(out)
    assert set(case["outputs"]) >= {f"{case['case']}.png", case["output"]}
    with Image.open(out / f"{case['case']}.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    grey = pixels[np.ptp(pixels, axis=-1) == 0][:, 0]
    assert min(pixels.shape[:2]) > 100
    assert grey.std() > 10
    assert len(np.unique(grey)) > 50
    assert (np.ptp(pixels, axis=-1) > 60).sum() > 100


@every_bundle
def test_nifti_and_dicom(bundle: Bundle, head: Head, models: dict[str, Path], tmp_path: Path) -> None:
    """Both lie on the grid of what was given, and say the same of every place."""
    given = {"nifti": head.nifti_of(bundle), "dicom": head.dicom_of(bundle)}
    for kind, folder in given.items():
        run(bundle, folder, tmp_path / kind, models[bundle.name], *bundle.coarse)
        check_volumes(bundle, tmp_path / kind)
        check_picture(tmp_path / kind)
    source, made = reference(bundle, head), head.dicom[bundle.channels[0]]
    nifti, dicom = (label_map(tmp_path / kind) for kind in given)
    assert nifti.shape == source.shape
    assert np.array_equal(nifti.affine, source.affine)
    assert dicom.shape == made.data.shape == SHAPE
    assert same_grid(dicom.shape, dicom.affine, made.data.shape, made.affine)
    assert np.abs(corners_mm(dicom.shape, dicom.affine) - corners_mm(SHAPE, made.affine)).max() < 1e-3
    assert np.array_equal(upright(nifti), upright(dicom))
    chosen = [choice["channel"] for choice in entry(tmp_path / "dicom")["study"]["chosen"]]
    assert chosen == list(channels_of(bundle.folder))


def test_rounded_headers_make_one_grid() -> None:
    """A head of 1 mm has 128.5 voxels of 2 mm: NIfTI's float32 and DICOM's decimals must round them alike."""
    shape = (256, 256, 176)
    for affine in tilted(np.eye(3)):
        exact, rounded = (network_grid(shape, one, (2, 2, 2)).shape for one in (affine, affine.astype(np.float32)))
        assert exact == rounded


def test_rounded_headers_make_one_stack() -> None:
    """Slices 1.5 mm apart, of pixels of 1 mm."""
    for affine in tilted(np.diag([1.5, 1, 1])):
        assert stacked_along(affine) == stacked_along(affine.astype(np.float32))


def tilted(voxel: np.ndarray) -> Iterator[np.ndarray]:
    """Affines of such voxels, turned at random."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn @ voxel, rng.uniform(-100, 100, 3)
        yield affine


@pytest.mark.slow
@every_bundle
def test_stock_monai(bundle: Bundle, head: Head, models: dict[str, Path], tmp_path: Path) -> None:
    """The same label map as by our command, of NIfTI and of DICOM, and a report with its volumes.

    A bundle of several channels takes NIfTI alone there: ``neurobundle convert`` makes it of a study.
    """
    dicom = head.dicom_of(bundle)
    if len(bundle.channels) > 1:
        dicom = tmp_path / "converted"
        words = ["--channels", ",".join(bundle.channels)]
        assert main(["convert", str(head.dicom_of(bundle)), "-o", str(dicom), *words]) == 0
    for kind, folder in {"nifti": head.nifti_of(bundle), "dicom": dicom}.items():
        stock(bundle, folder, tmp_path / kind, models[bundle.name])
        run(bundle, folder, tmp_path / f"our-{kind}", models[bundle.name])
        theirs, ours = label_map(tmp_path / kind), label_map(tmp_path / f"our-{kind}")
        assert np.array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj))
        assert np.array_equal(theirs.affine, ours.affine)
        check_volumes(bundle, tmp_path / kind)
    source, made = reference(bundle, head), head.dicom[bundle.channels[0]]
    nifti, dicom_map = label_map(tmp_path / "nifti"), label_map(tmp_path / "dicom")
    assert same_grid(nifti.shape, nifti.affine, source.shape, source.affine)
    assert same_grid(dicom_map.shape, dicom_map.affine, made.data.shape, made.affine)
    assert np.array_equal(upright(nifti), upright(dicom_map))


@pytest.mark.slow
@every_bundle
def test_the_bundles_own_weights(bundle: Bundle, head: Head, tmp_path: Path) -> None:
    require_weights(bundle.folder)
    run(bundle, head.dicom_of(bundle), tmp_path / "out", None)
    made, found = head.dicom[bundle.channels[0]], label_map(tmp_path / "out")
    assert same_grid(found.shape, found.affine, made.data.shape, made.affine)
    assert (tmp_path / "out" / f"{entry(tmp_path / 'out')['case']}.png").is_file()
