"""Segmentations and reports through an archive: what it gives back is what was written, on the grid of the images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import main
from neurobundle.export.dicom_seg import make_seg, save_seg
from neurobundle.export.dicom_source import read_source
from neurobundle.load.dicom import DicomVolume, find_dicom

from ..conftest import ROOT
from ..export.dicom_results import ALGORITHM, SEGMENTS, one_volume, read_back
from ..export.test_dicom_seg import MADE
from ..load.dicom import make
from .conftest import CALLED, CALLER, Archive, archive
from .test_dciodvfy import objects, program

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

PAGE = ROOT / "docs" / "how-to" / "dicom-seg.md"

#: Of the real data: each folder with volumes of MR or CT.
REAL = ["philips_pcasl/classic", "philips_pcasl/enhanced", "ge_fmri_4d/classic", "siemens_hfdl/classic", "seg"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive for all tests here: each sends series of its own."""
    with archive(tmp_path_factory.mktemp("archive")) as one:
        yield one


@pytest.fixture(scope="module")
def coarse_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a bundle at 4 mm: fast on a whole head."""
    folder = tmp_path_factory.mktemp("coarse") / "coarse_segmentation"
    shutil.copytree(tiny_bundle, folder)
    path = folder / "configs" / "inference.yaml"
    text = path.read_text()
    assert "[1.0, 1.0, 1.0]" in text
    path.write_text(text.replace("[1.0, 1.0, 1.0]", "[4.0, 4.0, 4.0]"))
    return folder


def with_uids_of_its_own(folder: Path, number: int) -> None:
    """Made series are all of one name, and an archive keeps one object a name."""
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(ds, keyword, f"{ds[keyword].value}.{number}")
        make.write(ds, path, ds.file_meta.TransferSyntaxUID)


def through(store: Archive, paths: list[Path], folder: Path) -> list[Path]:
    """Files of one series, sent to the archive and fetched from it: the same bytes under other names."""
    store.store(paths)
    ds = pydicom.dcmread(paths[0], stop_before_pixels=True)
    came = store.fetch_series(ds.StudyInstanceUID, ds.SeriesInstanceUID)
    assert sorted(came) == sorted(path.read_bytes() for path in paths)
    folder.mkdir(parents=True)
    for n, content in enumerate(came):
        (folder / f"{n}.dcm").write_bytes(content)
    return sorted(folder.iterdir())


def there_and_back(store: Archive, bundle: Path, volume: DicomVolume, folder: Path) -> None:
    """A series comes from the archive, `neurobundle run` segments it, and the results go there."""
    through(store, list(volume.files), folder / "series")
    came = one_volume(folder / "series")
    (folder / "mapping.json").write_text(json.dumps({"T1": came.key}))
    words = ["run", str(bundle), "-i", str(folder / "series"), "-o", str(folder / "out"), "--device", "cpu"]
    words += ["--mapping", str(folder / "mapping.json"), "--input", "crop", "--no-pictures"]
    assert main([*words, "--output", "nifti,dicom-seg,dicom-sr"]) == 0

    (nifti,) = (folder / "out").glob("*_seg.nii.gz")
    written = nib.load(nifti)
    labels = np.asarray(written.dataobj)
    assert labels.any(), "the network found something"
    (seg,) = through(store, list((folder / "out").glob("*_seg.dcm")), folder / "seg")
    assert np.array_equal(read_back(seg, written.affine, labels.shape), labels)
    assert np.array_equal(read_back(seg, volume.affine, volume.shape), labels)

    (sr,) = through(store, list((folder / "out").glob("*_sr.dcm")), folder / "sr")
    groups = highdicom.sr.srread(sr).content.get_volumetric_roi_measurement_groups()
    ml = {group.tracking_identifier: group.get_measurements()[0].value for group in groups}
    voxel_ml = abs(np.linalg.det(written.affine[:3, :3])) / 1000
    # The report's volumes have four decimals, as the table's.
    assert ml == pytest.approx(
        {name: (labels == n).sum() * voxel_ml for n, name in ((1, "anterior"), (2, "posterior"))}, abs=1e-3
    )
    same_study = {pydicom.dcmread(path).StudyInstanceUID for path in (seg, sr, *volume.files[:1])}
    assert len(same_study) == 1

    for path in (seg, sr):
        dumped = subprocess.run([program("dcmdump"), "+L", path], capture_output=True, text=True, check=False)
        assert (dumped.returncode, dumped.stderr) == (0, "")
    printed = subprocess.run([program("dsrdump"), sr], capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    assert '"Volume"' in printed.stdout


@pytest.mark.parametrize("name", MADE)
def test_a_made_series(store: Archive, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    MADE[name](tmp_path / "made")
    with_uids_of_its_own(tmp_path / "made", 1 + list(MADE).index(name))
    there_and_back(store, tiny_bundle, one_volume(tmp_path / "made"), tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("folder", REAL)
def test_a_real_scanners_series(coarse_bundle: Path, real_data: Path, tmp_path: Path, folder: str) -> None:
    """Each series of the folder that the gate lets pass; of a time series, the first time.

    In an archive of its own: two of the folders hold the same series, classic and enhanced.
    """
    if not (real_data / "dicom" / folder).is_dir():
        pytest.skip(f"{folder} is not here")
    volumes = [one for one in find_dicom(real_data / "dicom" / folder).volumes if not one.verdict.refusals]
    first = {one.series_key: one for one in reversed(volumes)}
    assert first
    with archive(tmp_path / "archive") as store:
        for volume in first.values():
            there_and_back(store, coarse_bundle, volume, tmp_path / volume.key)


PYDICOM = [
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_bigendian.dcm",
    "examples_overlay.dcm",
]


@pytest.mark.parametrize("name", PYDICOM)
def test_pydicoms_own_images(store: Archive, tmp_path: Path, name: str) -> None:
    """A slice each, which the gate refuses as a volume; a segmentation of one comes back as it was."""
    from pydicom.data import get_testdata_file

    (volume,) = find_dicom(get_testdata_file(name, download=False)).volumes
    assert [finding.check for finding in volume.verdict.refusals] == ["one_slice"]
    labels = np.zeros(volume.shape, np.uint8)
    labels[1, 2], labels[3, 5:9] = 1, 2
    path = save_seg(tmp_path / "x_seg.dcm", make_seg(read_source(volume), SEGMENTS, ALGORITHM, labels=labels))
    (came,) = through(store, [path], tmp_path / "came")
    assert np.array_equal(read_back(came, volume.affine, volume.shape), labels)


@pytest.mark.parametrize("name", ["oblique", "enhanced", "mosaic"])
def test_every_kind_of_object(store: Archive, tmp_path: Path, name: str) -> None:
    """Also probabilities, a label map (2024), an empty result, and the reports."""
    MADE[name](tmp_path / "made")
    with_uids_of_its_own(tmp_path / "made", 101 + list(MADE).index(name))
    for kind, path in objects(one_volume(tmp_path / "made"), tmp_path, hidden=False).items():
        (came,) = through(store, [path], tmp_path / kind)
        read = highdicom.sr.srread if kind.startswith("report") else highdicom.seg.segread
        assert read(BytesIO(came.read_bytes())).SOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID


def test_by_the_older_protocol(store: Archive, tmp_path: Path) -> None:
    """C-STORE by the command of the how-to page, and C-GET; a stranger is turned away."""
    make.series(tmp_path / "made")
    with_uids_of_its_own(tmp_path / "made", 200)
    files = objects(one_volume(tmp_path / "made"), tmp_path / "objects", hidden=False)
    (tmp_path / "out").mkdir()
    for kind in ("binary", "fractional", "report"):
        shutil.copy(files[kind], tmp_path / "out")
    (command,) = re.findall(r"```shell\n(storescu .*)\n```", PAGE.read_text())
    for words, ours in (("PACS", CALLED), ("pacs.example 11112", f"127.0.0.1 {store.port}")):
        assert words in command
        command = command.replace(words, ours)
    program("storescu")
    for caller, refused in ((CALLER, False), ("STRANGER", True)):
        sent = command.replace(" -aec ", f" -aet {caller} -aec ")
        done = subprocess.run(["bash", "-euc", sent], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == refused, done.stderr
    for path in (tmp_path / "out").iterdir():
        wanted = pydicom.dcmread(path)
        came = tmp_path / "came" / path.stem
        came.mkdir(parents=True)
        keys = [f"{key}={wanted[key].value}" for key in ("StudyInstanceUID", "SeriesInstanceUID")]
        words = [program("getscu"), "-aet", CALLER, "-aec", CALLED, "-od", str(came), "-k", "QueryRetrieveLevel=SERIES"]
        words += [word for key in keys for word in ("-k", key)] + ["127.0.0.1", str(store.port)]
        subprocess.run(words, check=True, capture_output=True)
        (one,) = came.iterdir()
        assert pydicom.dcmread(one) == wanted
