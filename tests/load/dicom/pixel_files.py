"""DICOM files with pixels of any kind, for tests: those of pydicom's wheel, and made ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobundle.errors import InputError
from neurobundle.load.dicom import decoding
from neurobundle.load.dicom.header import open_pixels
from neurobundle.load.dicom.pixels import read_pixels
from neurobundle.load.dicom.syntax import EXPLICIT_LITTLE, RLE

pydicom = pytest.importorskip("pydicom")
jpeg_ls, openjpeg, rle = (pytest.importorskip(name) for name in ("jpeg_ls", "openjpeg.utils", "rle"))

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate, generate_frames  # noqa: E402

JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
JPEG_LOSSLESS, JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"
BRAIN = np.random.default_rng(0).integers(0, 4096, (1, 40, 36)).astype(np.uint16)
NAME = "DOE^JANE"


def carried(name: str) -> Path:
    """A file of pydicom's wheel."""
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"this pydicom does not carry {name}")
    return Path(found)


def dataset(cells: np.ndarray, **tags: Any) -> Dataset:
    """An image with a patient's name, whose pixels are these cells, (frames, rows, columns)."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    made.PatientName = NAME
    made.NumberOfFrames, made.Rows, made.Columns = cells.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = bits = 8 * cells.dtype.itemsize
    made.HighBit, made.PixelRepresentation = bits - 1, int(cells.dtype.kind == "i")
    content = cells.tobytes()
    if cells.dtype.kind == "f":
        setattr(made, "FloatPixelData" if bits == 32 else "DoubleFloatPixelData", content)
    else:
        made.PixelData = content + b"\0" * (len(content) % 2)
        made["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


def save(made: Dataset, path: Path, syntax: str = EXPLICIT_LITTLE) -> Path:
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = made.SOPClassUID, "1.2.3"
    made.file_meta.TransferSyntaxUID = syntax
    if syntax in ENCODERS:
        cells = np.frombuffer(made.PixelData, f"<{'ui'[made.PixelRepresentation]}{made.BitsAllocated // 8}")
        cells = cells[: int(made.NumberOfFrames) * made.Rows * made.Columns].reshape(-1, made.Rows, made.Columns)
        made.PixelData = encapsulate([bytes(ENCODERS[syntax](frame, made)) for frame in cells])
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)
    return path


def rle_segments(frame: np.ndarray, made: Dataset) -> bytes:
    size = {"rows": made.Rows, "columns": made.Columns, "samples_per_pixel": 1, "number_of_frames": 1}
    return rle.encode_pixel_data(frame.tobytes(), **size, bits_allocated=made.BitsAllocated, byteorder="<")


ENCODERS = {
    RLE: rle_segments,
    JPEG_LS: lambda frame, made: jpeg_ls.encode_array(frame.view(frame.dtype.str.replace("i", "u"))),
    JPEG_2000: lambda frame, made: openjpeg.encode_array(np.ascontiguousarray(frame), photometric_interpretation=2),
}


def read(path: Path, **options: Any) -> np.ndarray:
    (values,) = read_pixels([path], **options)
    return values


def refused(path: Path, cause: str, **options: Any) -> InputError:
    """The error: it names the file and a way out, and says nothing of the patient."""
    with pytest.raises(InputError, match=cause) as caught:
        read(path, **options)
    assert caught.value.file == str(path)
    assert caught.value.way_out
    assert "DOE" not in str(caught.value)
    return caught.value


def compressed(frames: list[bytes], path: Path, syntax: str, shape: tuple[int, ...] = (1, 40, 36), **tags: Any) -> Path:
    """A file whose pixels are these code streams, whatever they are."""
    made = dataset(np.zeros(shape, np.uint16), **tags)
    made.PixelData = encapsulate(frames)
    made["PixelData"].is_undefined_length = True
    return save_as_is(made, path, syntax)


def save_as_is(made: Dataset, path: Path, syntax: str) -> Path:
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = made.SOPClassUID, "1.2.3"
    made.file_meta.TransferSyntaxUID = syntax
    made["PixelData"].VR = "OB"
    made.save_as(path, enforce_file_format=True)
    return path


def code_stream(path: Path, syntax: str, cells: np.ndarray = BRAIN) -> bytes:
    made = pydicom.dcmread(save(dataset(cells), path, syntax))
    return next(generate_frames(made.PixelData, number_of_frames=1))


def large_jpeg_2000(path: Path, rows: int, columns: int) -> bytes:
    """A code stream of one small image that says it is a large one of one tile (ISO 15444-1 A.5.1)."""
    stream = bytearray(code_stream(path, JPEG_2000))
    at = stream.index(b"\xff\x51") + 6
    for place, size in ((at, columns), (at + 4, rows), (at + 16, columns), (at + 20, rows)):
        stream[place : place + 4] = size.to_bytes(4, "big")
    return bytes(stream)


def decode(decoder: decoding.DecoderProcess, path: Path) -> np.ndarray:
    with open_pixels(path) as opened:
        return decoder.decode(opened)
