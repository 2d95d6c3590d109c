"""Enhanced multi-frame files."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from neurobundle.errors import InputError
from neurobundle.load.dicom import find_dicom, read_series_4d, read_volume, time_series
from neurobundle.load.gate import Level, Policy
from tests.load.dicom import make


def test_one_volume(tmp_path: Path) -> None:
    (made,) = make.enhanced(tmp_path / "a")
    (volume,) = find_dicom(tmp_path).volumes
    assert volume.verdict.findings == []
    scan = volume.read()
    assert np.array_equal(scan.data, made.data)
    assert np.allclose(scan.affine, made.affine, atol=1e-6)
    facts = volume.facts
    assert (facts.repetition_time_ms, facts.echo_time_ms, facts.flip_angle_deg) == (500, 9, 90)
    assert facts.image_type == ("ORIGINAL", "PRIMARY", "T1", "NONE")


def test_frames_in_any_order(tmp_path: Path) -> None:
    (made,) = make.enhanced(tmp_path / "a", order=[3, 0, 5, 1, 4, 2])
    scan = read_volume(tmp_path)
    assert np.array_equal(scan.data, made.data)
    assert np.allclose(scan.affine, made.affine, atol=1e-6)


def test_times(tmp_path: Path) -> None:
    """Slices of all times lie mixed in one file; together they are read as 4D."""
    made = make.enhanced(tmp_path / "a", volumes=3, order=np.random.default_rng(0).permutation(18).tolist())
    volumes = find_dicom(tmp_path).volumes
    assert [volume.key[-6:] for volume in volumes] == ["_t-001", "_t-002", "_t-003"]
    for volume, one in zip(volumes, made, strict=True):
        assert np.array_equal(volume.read().data, one.data)
    (series,) = time_series(volumes).values()
    assert np.array_equal(read_series_4d(series).data, np.stack([one.data for one in made], -1))


def test_an_own_dimension(tmp_path: Path) -> None:
    """A dimension that nobody knows parts the frames all the same."""

    def private(ds: pydicom.Dataset) -> None:
        ds.DimensionIndexSequence[2].DimensionIndexPointer = 0x20051413

    def no_time(frame: pydicom.Dataset, *_: int) -> None:
        del frame.FrameContentSequence[0].TemporalPositionIndex

    made = make.enhanced(tmp_path / "a", volumes=2, edit=private, edit_frame=no_time)
    volumes = find_dicom(tmp_path).volumes
    assert [volume.key[-6:] for volume in volumes] == ["_dim-1", "_dim-2"]
    for volume, one in zip(volumes, made, strict=True):
        assert np.array_equal(volume.read().data, one.data)


def test_components_and_echoes(tmp_path: Path) -> None:
    def edit_frame(frame: pydicom.Dataset, time: int, _: int) -> None:
        del frame.FrameContentSequence[0].TemporalPositionIndex
        frame.FrameContentSequence[0].DimensionIndexValues = [1, 1, 1]
        frame.MREchoSequence[0].EffectiveEchoTime = 5.0 * (1 + time // 2)
        component = ["MAGNITUDE", "PHASE"][time % 2]
        frame.MRImageFrameTypeSequence = [
            make.item(FrameType=["ORIGINAL", "PRIMARY", "T1", "NONE"], ComplexImageComponent=component)
        ]

    make.enhanced(tmp_path / "a", volumes=4, edit_frame=edit_frame)
    volumes = find_dicom(tmp_path).volumes
    assert [(volume.facts.component, volume.facts.echo_time_ms) for volume in volumes] == [
        ("magnitude", 5),
        ("magnitude", 10),
        ("phase", 5),
        ("phase", 10),
    ]
    assert all(volume.verdict.level is Level.OK for volume in volumes)


def test_scaling_of_each_frame(tmp_path: Path) -> None:
    def edit_frame(frame: pydicom.Dataset, _: int, k: int) -> None:
        frame.PixelValueTransformationSequence[0].RescaleSlope = str(k + 1)

    (made,) = make.enhanced(tmp_path / "a", edit_frame=edit_frame)
    assert np.array_equal(read_volume(tmp_path).data, made.data * np.arange(1.0, 7))


def test_faults_of_frames(tmp_path: Path) -> None:
    """A frame that lies nowhere, a missing one, one too few groups: refused, with the file."""

    def nowhere(frame: pydicom.Dataset, _: int, k: int) -> None:
        if k == 2:
            frame.PlanePositionSequence[0].ImagePositionPatient = ["1e999", "0", "0"]

    def one_group_less(ds: pydicom.Dataset) -> None:
        del ds.PerFrameFunctionalGroupsSequence[5]

    make.enhanced(tmp_path / "a", edit_frame=nowhere)
    make.enhanced(tmp_path / "b", order=[0, 1, 2, 4, 5])
    make.enhanced(tmp_path / "c", edit=one_group_less)
    for name, cause in {
        "a": "no finite number",
        "b": "gap of 6 mm between slices 3 and 5, expected 3; 1 slice is missing",
        "c": "it has functional groups for 5 frames, and 6 frames",
    }.items():
        with pytest.raises(InputError, match=cause) as caught:
            read_volume(tmp_path / name)
        assert caught.value.file == str(tmp_path / name)
    assert read_volume(tmp_path / "b", Policy(allow_gaps=True)).data.shape == (5, 7, 6)


def test_classic_and_enhanced_in_one_series(tmp_path: Path) -> None:
    """The same volume in both forms is two volumes, not one with duplicates."""
    (made,) = make.enhanced(tmp_path / "a")
    make.series(tmp_path, slices=6)
    volumes = find_dicom(tmp_path).volumes
    assert [volume.key.removeprefix(volume.series_key) for volume in volumes] == ["", "_enhanced"]
    assert np.array_equal(volumes[1].read().data, made.data)


def test_many_frames_without_groups(tmp_path: Path) -> None:
    ds = make.header()
    make.put_pixels(ds, np.ones((4, 5, 6)))
    ds.NumberOfFrames = 4
    make.write(ds, tmp_path / "a")
    with pytest.raises(InputError, match="it has 4 frames, and does not say where each lies"):
        read_volume(tmp_path)


def test_contrast_agent(tmp_path: Path) -> None:
    def edit_frame(frame: pydicom.Dataset, *_: int) -> None:
        frame.ContrastBolusUsageSequence = [make.item(ContrastBolusAgentAdministered="NO")]

    make.enhanced(tmp_path / "a", edit_frame=edit_frame)
    assert find_dicom(tmp_path).volumes[0].facts.contrast_agent is False


def test_nibabels_enhanced_file(tmp_path: Path) -> None:
    """A Philips MPRAGE of 176 frames that nibabel brings: its wrapper gives the same grid. Its pixels are all 0."""
    packed = Path(nibabel.__file__).parent / "nicom/tests/data/philips_mprage.dcm.gz"
    if not packed.is_file():
        pytest.skip("this nibabel does not bring its test data")
    (tmp_path / "a").write_bytes(gzip.decompress(packed.read_bytes()))
    (volume,) = find_dicom(tmp_path).volumes
    assert volume.verdict.level is Level.OK
    _, affine = make.nibabels(tmp_path / "a", voxels_too=False)
    assert volume.shape == (256, 256, 176)
    assert (volume.facts.plane, volume.facts.words) == ("sagittal", ("mprage", "t1", "tfe"))
    # nibabel's first axis runs along a column of pixels, and its slices may run the other way.
    both = np.linalg.inv(volume.affine) @ affine
    assert np.allclose(np.abs(both[:3, :3]).round(4), [[0, 1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-4)
