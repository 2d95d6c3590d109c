"""Good synthetic DICOM, made here: a classic MR series, an enhanced file, a Siemens mosaic. Faults are made from them.

Every voxel of a volume has its own value, so that no flip or swap goes unseen.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

MR, ENHANCED_MR, SR = (
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.88.33",
)
STUDY, SERIES = "1.2.826.0.1.3680043.10.1", "1.2.826.0.1.3680043.10.1.1"

#: An oblique pair: row and column directions of slices that are turned about two axes.
OBLIQUE = np.array([[0.96, 0.0, -0.28], [0.168, 0.8, 0.576]])
AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])

Edit = Callable[[Dataset, int], None]


class Made(NamedTuple):
    """A volume as it was meant: data (i, j, k) and affine (4, 4), RAS+."""

    data: np.ndarray
    affine: np.ndarray
    files: list[Path]


def voxels(shape: tuple[int, int, int]) -> np.ndarray:
    """A value of its own for each voxel, (i, j, k)."""
    values = np.random.default_rng(3).permutation(int(np.prod(shape)))
    return values.reshape(shape).astype(np.uint16) + 1


def affine_of(first: Sequence[float], orientation: np.ndarray, spacing: tuple[float, float], step: float) -> np.ndarray:
    """The affine by PS3.3's equation C.7.6.2.1-1 with a third column, and x and y turned to RAS+."""
    lps = np.eye(4)
    lps[:3, 0] = orientation[0] * spacing[1]
    lps[:3, 1] = orientation[1] * spacing[0]
    lps[:3, 2] = np.cross(*orientation) * step
    lps[:3, 3] = first
    return np.diag([-1.0, -1, 1, 1]) @ lps


def write(dataset: Dataset, path: Path, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Save with a preamble, whatever its values."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    with pydicom.config.disable_value_validation():
        dataset.save_as(path, enforce_file_format=True)
    return path


def decimals(numbers: Iterable[float]) -> list[str]:
    """Numbers as DICOM's decimal strings, 16 characters at most."""
    return [f"{number:.13f}"[:16] for number in numbers]


def header(sop_class: str = MR, number: int = 1, series: str = SERIES, study: str = STUDY) -> Dataset:
    """What all our instances have."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"{series}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, f"{study}.9"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "DOE^JANE", "MRN-12345", "19700131"
    ds.StudyDate, ds.Modality, ds.Manufacturer, ds.SeriesNumber = "20200229", "MR", "SIEMENS", 4
    ds.SeriesDescription, ds.ImageType = "t1_mprage_sag Jane", ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.InstanceNumber, ds.AcquisitionNumber = number, 1
    return ds


def put_pixels(ds: Dataset, planes: np.ndarray) -> None:
    """Store uint16 planes, (frames, rows, columns) or (rows, columns)."""
    ds.Rows, ds.Columns = planes.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = planes.astype("<u2").tobytes()


def series(
    folder: Path,
    slices: int = 20,
    step: float = 3.0,
    rows: int = 10,
    columns: int = 8,
    orientation: np.ndarray = OBLIQUE,
    first: Sequence[float] = (-30.5, -40.25, 12.125),
    spacing: tuple[float, float] = (1.5, 1.25),
    edit: Edit | None = None,
    data: np.ndarray | None = None,
    uid: str = SERIES,
    name: str = "IM{:04d}",
) -> Made:
    """A classic MR series.

    Args:
        folder: where to write it.
        slices: how many.
        step: mm from one to the next.
        rows: of a slice.
        columns: of a slice.
        orientation: (2, 3), LPS.
        first: position of the first slice, mm LPS.
        spacing: mm from row to row, and from column to column.
        edit: changes a slice's data set, given its number from 0, before it is written.
        data: (i, j, k); own values for each voxel if None.
        uid: of the series.
        name: of the files, without ending by default.
    """
    data = voxels((columns, rows, slices)) if data is None else data
    files = []
    for k in range(slices):
        ds = header(number=k + 1, series=uid)
        ds.ImagePositionPatient = decimals(np.asarray(first) + k * step * np.cross(*orientation))
        ds.ImageOrientationPatient = decimals(orientation.ravel())
        ds.PixelSpacing, ds.SliceThickness = decimals(spacing), f"{step:g}"
        ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = ["GR", "IR"], ["SP", "MP"], "3D"
        ds.RepetitionTime, ds.EchoTime, ds.InversionTime, ds.FlipAngle = "2300", "2.98", "900", "9"
        ds.MagneticFieldStrength, ds.EchoNumbers, ds.EchoTrainLength = "3", 1, 1
        put_pixels(ds, data[:, :, k].T)
        if edit is not None:
            edit(ds, k)
        files.append(write(ds, folder / name.format(k)))
    return Made(data, affine_of(first, orientation, spacing, step), files)


def enhanced(
    path: Path,
    volumes: int = 1,
    slices: int = 6,
    step: float = 3.0,
    order: Sequence[int] | None = None,
    edit: Callable[[Dataset], None] | None = None,
    edit_frame: Callable[[Dataset, int, int], None] | None = None,
) -> list[Made]:
    """An enhanced MR file of one or several times.

    Args:
        path: of the file.
        volumes: how many times.
        slices: of each.
        step: mm from one to the next.
        order: of the frames in the file, as numbers time x slices + slice; as they are if None.
        edit: changes the data set before it is written.
        edit_frame: changes a frame's functional groups, given time and slice from 0.
    """
    rows, columns, spacing, first = 7, 5, (1.5, 1.25), np.array([10.0, -20.0, 30.0])
    data = voxels((columns, rows, slices * volumes)).reshape(columns, rows, volumes, slices)
    ds = header(ENHANCED_MR)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "NONE"]
    shared = Dataset()
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=decimals(OBLIQUE.ravel()))]
    shared.PixelMeasuresSequence = [item(PixelSpacing=decimals(spacing), SliceThickness=f"{step:g}")]
    shared.MRTimingAndRelatedParametersSequence = [item(RepetitionTime="500", FlipAngle="90")]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.DimensionIndexSequence = [
        item(DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111)
        for pointer in (0x00209056, 0x00209057, 0x00209128)
    ]
    frames, planes = [], []
    for n in order if order is not None else range(volumes * slices):
        time, k = divmod(n, slices)
        frame = Dataset()
        position = first + k * step * np.cross(*OBLIQUE)
        frame.PlanePositionSequence = [item(ImagePositionPatient=decimals(position))]
        content = item(StackID="1", InStackPositionNumber=k + 1, TemporalPositionIndex=time + 1)
        content.DimensionIndexValues = [1, k + 1, time + 1]
        frame.FrameContentSequence = [content]
        frame.MREchoSequence = [item(EffectiveEchoTime=9.0)]
        frame.PixelValueTransformationSequence = [item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")]
        if edit_frame is not None:
            edit_frame(frame, time, k)
        frames.append(frame)
        planes.append(data[:, :, time, k].T)
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.NumberOfFrames = len(frames)
    put_pixels(ds, np.stack(planes))
    if edit is not None:
        edit(ds)
    write(ds, path)
    affine = affine_of(first, OBLIQUE, spacing, step)
    return [Made(data[:, :, time], affine, [path]) for time in range(volumes)]


def item(**values: Any) -> Dataset:
    """One item of a sequence."""
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def mosaic(
    path: Path,
    slices: int = 7,
    reverse: bool = False,
    number: int = 1,
    seed: int = 0,
    edit: Callable[[Dataset], None] | None = None,
    csa: bool = True,
) -> Made:
    """A Siemens mosaic of 3 x 3 tiles.

    Args:
        path: of the file.
        slices: how many of the tiles are used.
        reverse: the slices follow each other against the normal of row and column.
        number: the InstanceNumber and AcquisitionNumber.
        seed: added to the voxels.
        edit: changes the data set before it is written.
        csa: write the CSA header.
    """
    side, rows, columns, spacing, step = 3, 6, 5, (2.0, 2.5), 4.0
    data = voxels((columns, rows, slices)) + seed
    normal = np.cross(*OBLIQUE) * (-1 if reverse else 1)
    first = np.array([-50.0, 20.0, 5.0])
    picture = np.zeros((side * rows, side * columns), np.uint16)
    for n in range(slices):
        row, column = n // side * rows, n % side * columns
        picture[row : row + rows, column : column + columns] = data[:, :, n].T
    ds = header(number=number)
    ds.ImageType, ds.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], number
    corner = (
        first - OBLIQUE[0] * spacing[1] * (side - 1) * columns / 2 - OBLIQUE[1] * spacing[0] * (side - 1) * rows / 2
    )
    ds.ImagePositionPatient, ds.ImageOrientationPatient = decimals(corner), decimals(OBLIQUE.ravel())
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = decimals(spacing), "3", f"{step:g}"
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", slices)
    if csa:
        tags = {"NumberOfImagesInMosaic": ("US", [str(slices)]), "SliceNormalVector": ("FD", decimals(normal))}
        tags["AcquisitionMatrixText"] = ("SH", [f"{columns}*{rows}"])  # nibabel asks for it
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header(tags))
    put_pixels(ds, picture)
    if edit is not None:
        edit(ds)
    write(ds, path)
    if reverse:  # our slices are ordered along the normal of row and column
        return Made(data[:, :, ::-1], affine_of(first + (slices - 1) * step * normal, OBLIQUE, spacing, step), [path])
    return Made(data, affine_of(first, OBLIQUE, spacing, step), [path])


def csa_header(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """A CSA2 header with some tags (nipy.org/nibabel/dicom/siemens_csa.html)."""
    content = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, (vr, values) in tags.items():
        content += struct.pack("<64si4siii", name.encode(), len(values), vr.encode(), 0, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            content += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return content + bytes(len(content) % 2)


def nibabels(path: Path, voxels_too: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and RAS+ affine of a file by nibabel, whose first axis runs along a column of pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its readers experimental, and numpy parts of them deprecated
        from nibabel.nicom.dicomwrappers import wrapper_from_file

        theirs = wrapper_from_file(path)
        data = np.asarray(theirs.get_data()) if voxels_too else np.empty(0)
        return data, np.diag([-1.0, -1, 1, 1]) @ theirs.affine


def move(path: Path, offset: Sequence[float]) -> None:
    """Shift a slice, mm LPS."""
    ds = pydicom.dcmread(path)
    ds.ImagePositionPatient = decimals(np.array(ds.ImagePositionPatient, float) + offset)
    write(ds, path)


def change(path: Path, **values: Any) -> None:
    """Change elements of a file; None deletes one."""
    ds = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for name, value in values.items():
            if value is None:
                delattr(ds, name)
            else:
                setattr(ds, name, value)
    write(ds, path)
