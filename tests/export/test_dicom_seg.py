"""Segmentation objects, read back by highdicom and pydicom."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from neurobundle.errors import EnvironmentFault, InputError, SettingError
from neurobundle.export import dicom_seg
from neurobundle.export.dicom_files import encode, quiet
from neurobundle.export.dicom_seg import make_seg, save_seg, voxels_of
from neurobundle.export.dicom_source import read_source
from neurobundle.load.dicom import DicomVolume, find_dicom
from neurobundle.load.gate import Policy

from ..load.dicom import make
from .dicom_results import ALGORITHM, NAME, NUMBER, REGIONS, SEGMENTS, one_volume, read_back, result_on, source_of

pytest.importorskip("highdicom")

#: The normal of row and column points down.
HEAD_LAST = np.array([[1.0, 0, 0], [0, -1, 0]])
SAGITTAL = np.array([[0.0, 1, 0], [0, 0, -1]])
#: 20 digits that no decimal string of 16 characters holds.
TURNED = np.array([[np.cos(0.3), np.sin(0.3), 0], [-np.sin(0.3) * np.cos(0.7), np.cos(0.3) * np.cos(0.7), np.sin(0.7)]])

MADE: dict[str, Callable[[Path], Any]] = {
    "oblique": lambda folder: make.series(folder),
    "axial": lambda folder: make.series(folder, orientation=make.AXIAL),
    "axial, files from the top down": lambda folder: make.series(folder, orientation=make.AXIAL, step=-3.0),
    "axial, normal to the feet": lambda folder: make.series(folder, orientation=HEAD_LAST),
    "sagittal": lambda folder: make.series(folder, orientation=SAGITTAL),
    "turned about two axes": lambda folder: make.series(folder, orientation=TURNED, step=1.1, spacing=(0.7, 0.9)),
    "enhanced": lambda folder: make.enhanced(folder / "one.dcm"),
    "enhanced, frames out of order": lambda folder: make.enhanced(folder / "one.dcm", order=[3, 1, 5, 0, 4, 2]),
    "mosaic": lambda folder: make.mosaic(folder / "one.dcm"),
}


def written(folder: Path, volume: DicomVolume, labels: np.ndarray, **options: Any) -> Path:
    options.setdefault("segments", SEGMENTS)
    seg = make_seg(read_source(volume), algorithm=ALGORITHM, labels=labels, **options)
    return save_seg(folder / "result_seg.dcm", seg)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("name", MADE)
def test_the_mask_is_the_result_in_voxels_and_mm(tmp_path: Path, name: str, kind: Any) -> None:
    """Whatever the grid, each voxel of the result is where it was, to 1e-3 mm."""
    MADE[name](tmp_path / "study")
    volume = one_volume(tmp_path / "study")
    labels = result_on(volume.shape)
    path = written(tmp_path, volume, labels, kind=kind)
    assert np.array_equal(read_back(path, volume.affine, volume.shape), labels)


@pytest.mark.parametrize("name", MADE)
def test_frames_refer_to_the_frames_that_they_lie_on(tmp_path: Path, name: str) -> None:
    """Each frame names the file, and the frame of it, whose position is its own; a tile has no position of its own."""
    MADE[name](tmp_path / "study")
    volume = one_volume(tmp_path / "study")
    seg = pydicom.dcmread(written(tmp_path, volume, result_on(volume.shape)))
    files = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / "study").iterdir())}
    listed = {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert listed == set(files)
    assert len(seg.PerFrameFunctionalGroupsSequence) == seg.NumberOfFrames == 3
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        there = files[image.ReferencedSOPInstanceUID]
        assert image.ReferencedSOPClassUID == there.SOPClassUID
        assert image.SpatialLocationsPreserved == ("NO" if name == "mosaic" else "YES")
        if name == "mosaic":
            continue
        if "PerFrameFunctionalGroupsSequence" in there:
            there = there.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        mine = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.abs(np.array(mine, float) - np.array(there.ImagePositionPatient, float)).max() < 1e-3


def test_regions_overlap(tmp_path: Path) -> None:
    """WT holds TC, and TC holds ET: three masks, and a label map of them is refused."""
    make.series(tmp_path / "study")
    volume = one_volume(tmp_path / "study")
    labels = result_on(volume.shape, values=3)
    path = written(tmp_path, volume, labels, segments=REGIONS)
    assert pydicom.dcmread(path).SegmentsOverlap == "YES"
    assert voxels_of(pydicom.dcmread(path)) == {1: 8, 2: 5, 3: 4}
    for region in REGIONS:
        found = read_back(path, volume.affine, volume.shape, region.number)
        assert np.array_equal(found > 0, np.isin(labels, region.values))
    with pytest.raises(SettingError, match="overlap"):
        written(tmp_path, volume, labels, segments=REGIONS, kind="labelmap")


def test_probabilities_are_steps_of_a_byte(tmp_path: Path) -> None:
    import highdicom

    make.series(tmp_path / "study")
    volume = one_volume(tmp_path / "study")
    labels = result_on(volume.shape)
    shares = np.stack([100 * (labels == 1), 201 * (labels > 0)]).astype(np.uint8)
    path = written(tmp_path, volume, labels, shares=shares, kind="fractional")
    seg = highdicom.seg.segread(path)
    assert (seg.SegmentationType, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert sorted({*np.unique(seg.pixel_array)}) == [0, 100, 201]
    assert voxels_of(seg) == {1: 1, 2: 8}
    found = seg.get_volume(rescale_fractional=True)
    assert np.isclose(found.array.max(), 201 / 255)


@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional"])
def test_nothing_was_found(tmp_path: Path, kind: Any) -> None:
    """An empty result is an object with all slices of the source, and nothing in them."""
    made = make.series(tmp_path / "study")
    volume = one_volume(tmp_path / "study")
    shares = np.zeros((2, *volume.shape), np.uint8) if kind == "fractional" else None
    seg = pydicom.dcmread(written(tmp_path, volume, np.zeros(volume.shape, np.uint8), kind=kind, shares=shares))
    assert not seg.pixel_array.any()
    assert voxels_of(seg) == {}
    assert seg.NumberOfFrames == len(made.files) * (1 if kind == "labelmap" else 2)
    assert [str(item.SegmentLabel) for item in seg.SegmentSequence][-2:] == ["anterior", "posterior"]


def test_a_filled_slice_refers_to_no_image(tmp_path: Path) -> None:
    make.series(tmp_path / "study").files[3].unlink()
    volume = one_volume(tmp_path / "study")
    assert volume.judge(Policy(allow_gaps=True)).refusals == []
    seg = pydicom.dcmread(written(tmp_path, volume, result_on(volume.shape)))
    referring = [len(frame.DerivationImageSequence) for frame in seg.PerFrameFunctionalGroupsSequence]
    assert sorted(referring) == [0, 1, 1]


def test_the_same_result_is_the_same_file(tmp_path: Path) -> None:
    """No clock and no chance: byte for byte the same, and another UID for another result."""
    make.series(tmp_path / "study")
    volume = one_volume(tmp_path / "study")
    labels = result_on(volume.shape)
    first, again = (written(tmp_path / name, volume, labels).read_bytes() for name in "ab")
    assert first == again
    labels[5, 5, 5] = 1
    other = pydicom.dcmread(written(tmp_path / "c", volume, labels))
    one = pydicom.dcmread(tmp_path / "a" / "result_seg.dcm")
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.StudyInstanceUID == other.StudyInstanceUID == make.STUDY
    assert one.SegmentSequence[0].TrackingUID == other.SegmentSequence[0].TrackingUID
    assert all(len(uid) <= 64 for uid in (one.SOPInstanceUID, one.SeriesInstanceUID))


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    """The patient is the source's, the algorithm and the codes are the plan's, and what it is for is said."""
    make.series(tmp_path / "study", edit=with_a_private_element)
    seg = pydicom.dcmread(written(tmp_path, one_volume(tmp_path / "study"), result_on((8, 10, 20))))
    assert seg.ContentDescription.startswith("RESEARCH USE ONLY")
    assert (str(seg.PatientName), seg.PatientID, seg.PatientBirthDate) == (NAME, NUMBER, "19700131")
    assert (seg.StudyDate, seg.ContentDate, seg.FrameOfReferenceUID) == ("20200229", "20200229", f"{make.STUDY}.9")
    described = seg.SegmentSequence[1]
    kind = described.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("5366008", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Posterior"
    (made_by,) = described.SegmentationAlgorithmIdentificationSequence
    assert (made_by.AlgorithmName, made_by.AlgorithmVersion) == ("A network", "1.2")
    assert "ab" * 32 in made_by.AlgorithmParameters
    assert not any(element.tag.is_private for element in seg.iterall())
    assert "PatientIdentityRemoved" not in seg


def with_a_private_element(ds: Any, _: int) -> None:
    ds.private_block(0x0029, "A MAKER", create=True).add_new(0x10, "LO", NAME)


def test_no_word_of_the_patient_is_logged(tmp_path: Path, caplog: Any, capfd: Any) -> None:
    """Also where highdicom would warn of the name, or of an empty result."""
    caplog.set_level("DEBUG")
    make.series(tmp_path / "study", edit=lambda ds, _: setattr(ds, "PatientName", "Jane Doe"))
    written(tmp_path, one_volume(tmp_path / "study"), np.zeros((8, 10, 20), np.uint8))
    assert "Jane" not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_highdicom_is_silent_while_it_works(caplog: Any, capfd: Any) -> None:
    """Its modules have loggers of their own; afterwards they speak as before."""
    with quiet():
        logging.getLogger("highdicom.image").warning("of JANE")
        logging.getLogger("pydicom").warning("of JANE")
        warnings.warn("of JANE", stacklevel=1)
    assert (caplog.text, capfd.readouterr()) == ("", ("", ""))
    logging.getLogger("highdicom.image").warning("of nobody")
    assert "of nobody" in caplog.text


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_what_cannot_be_referred_to(tmp_path: Path, keyword: str) -> None:
    """An image with a malformed UID is refused; the value is not told."""
    for path in make.series(tmp_path / "study").files:
        make.change(path, **{keyword: "1.2.x"})
    with pytest.raises(InputError, match=f"its {keyword} is malformed") as error:
        source_of(tmp_path / "study")
    assert "1.2.x" not in str(error.value)


def test_a_result_of_another_grid(tmp_path: Path) -> None:
    make.series(tmp_path / "study")
    with pytest.raises(InputError, match="voxels"):
        make_seg(source_of(tmp_path / "study"), SEGMENTS, ALGORITHM, labels=np.zeros((3, 3, 3), np.uint8))


def test_no_file_that_does_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.series(tmp_path / "study")
    source = source_of(tmp_path / "study")
    seg = make_seg(source, SEGMENTS, ALGORITHM, labels=result_on(source.shape))
    monkeypatch.setattr(dicom_seg, "encode", lambda seg: encode(other))
    other = make_seg(source, SEGMENTS, ALGORITHM, labels=np.ones(source.shape, np.uint8))
    with pytest.raises(EnvironmentFault, match="differs"):
        save_seg(tmp_path / "out" / "x_seg.dcm", seg)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("series", ["philips_pcasl", "ge_fmri_4d/classic", "siemens_hfdl", "seg"])
def test_real_scanners(real_data: Path, tmp_path: Path, series: str) -> None:
    """Of each volume of a real series: the mask is the result, voxel for voxel and in mm."""
    if not (real_data / "dicom" / series).is_dir():
        pytest.skip(f"{series} is not here")
    volumes = [one for one in find_dicom(real_data / "dicom" / series).volumes if not one.verdict.refusals]
    assert volumes
    for volume in volumes[:3]:
        labels = result_on(volume.shape)
        path = written(tmp_path / volume.key, volume, labels)
        assert np.array_equal(read_back(path, volume.affine, volume.shape), labels)
