from __future__ import annotations

import logging
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from neurobundle.errors import InputError
from neurobundle.load.dicom.pixels import read_pixels
from neurobundle.load.dicom.syntax import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, RLE

from .pixel_files import (
    BRAIN,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    carried,
    dataset,
    read,
    refused,
    save,
)

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "image_dfl.dcm",
        "examples_overlay.dcm",
        "rtdose.dcm",
        "rtdose_rle.dcm",
        "JPEG2000.dcm",
        "693_J2KI.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm",
        "JPEG-lossy.dcm",
        "JPGExtended.dcm",
    ],
)
def test_equals_simpleitk(name: str) -> None:
    path = carried(name)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(read(path), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "kind",
    ["implicit", "bigendian", "expb", "padded", "RLE", "jp2klossless", "jpeg_ls_lossless"],
)
def test_equals_its_uncompressed_twin(kind: str) -> None:
    values = read(carried(f"MR_small_{kind}.dcm"))
    expected = pydicom.dcmread(carried("MR_small.dcm")).pixel_array
    np.testing.assert_array_equal(values[0], expected)
    assert values.dtype == np.int16
    assert values.dtype.isnative


def test_32_bits_big_endian() -> None:
    np.testing.assert_array_equal(read(carried("rtdose_expb.dcm")), read(carried("rtdose.dcm")))


def test_several_files_of_several_syntaxes_share_a_child() -> None:
    names = ["MR_small_RLE.dcm", "MR_small.dcm", "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm"]
    values = list(read_pixels([carried(name) for name in names]))
    assert [array.shape for array in values] == [(1, 64, 64), (1, 64, 64), (1, 1024, 256), (1, 64, 64)]
    np.testing.assert_array_equal(values[0], values[3])


# Made files: every kind of cell


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG, RLE, JPEG_LS, JPEG_2000])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4"])
def test_cells_come_back(tmp_path: Path, syntax: str, kind: str) -> None:
    if syntax in (RLE, JPEG_LS, JPEG_2000) and kind == "u4":
        pytest.skip("not written here")
    info = np.iinfo(kind)
    cells = np.random.default_rng(1).integers(info.min, info.max, (3, 64, 48), kind, endpoint=True)
    made = dataset(cells.astype(cells.dtype.newbyteorder(">")) if syntax == EXPLICIT_BIG else cells)
    values = read(save(made, tmp_path / "a.dcm", syntax))
    np.testing.assert_array_equal(values, cells)
    assert values.dtype == cells.dtype
    assert values.dtype.isnative


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LOSSLESS_SV1])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_lossless(tmp_path: Path, syntax: str, signed: bool) -> None:
    gdcm = pytest.importorskip("gdcm")
    cells = (BRAIN.astype(np.int16) - 2000) if signed else BRAIN
    path = save(dataset(cells), tmp_path / "a.dcm")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "b.dcm"))
    assert writer.Write()
    np.testing.assert_array_equal(read(tmp_path / "b.dcm"), cells)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_float_pixel_data(tmp_path: Path, kind: str, order: str) -> None:
    cells = np.linspace(-1, 1, 12, dtype=order + kind).reshape(1, 3, 4)
    values = read(save(dataset(cells), tmp_path / "a.dcm", EXPLICIT_BIG if order == ">" else EXPLICIT_LITTLE))
    np.testing.assert_array_equal(values, cells)
    assert values.dtype == kind


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, RLE])
def test_only_the_bits_stored_count(tmp_path: Path, signed: bool, high_bit: int, syntax: str) -> None:
    """12 bits anywhere in 16, with overlays in the others (PS3.5 8.1.1)."""
    wanted = np.arange(-6, 6, dtype=np.int16).reshape(1, 3, 4) if signed else BRAIN[:, :3, :4]
    cells = (wanted.view(np.uint16) & 0xFFF) << (high_bit - 11)
    others = 0xFFFF & ~(0xFFF << (high_bit - 11))
    made = dataset(cells | np.uint16(others), BitsStored=12, HighBit=high_bit, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(read(save(made, tmp_path / "a.dcm", syntax)), wanted)


def test_bytes_in_big_endian_words(tmp_path: Path) -> None:
    """8-bit cells under OW come in swapped pairs (PS3.5 8.1.1, Annex D)."""
    made = dataset(np.arange(15, dtype=np.uint8).reshape(1, 3, 5))
    made.PixelData = np.frombuffer(made.PixelData, ">u2").astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    path = save(made, tmp_path / "a.dcm", EXPLICIT_BIG)
    np.testing.assert_array_equal(read(path).ravel(), np.arange(15))
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "truncated")


def test_monochrome_1_keeps_its_values(tmp_path: Path) -> None:
    """How it is shown is no part of what was measured."""
    path = save(dataset(BRAIN, PhotometricInterpretation="MONOCHROME1"), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read(path), BRAIN)


def test_no_transfer_syntax_stated(tmp_path: Path) -> None:
    """A bare data set, as some research exports are."""
    made = dataset(BRAIN)
    made.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm"), BRAIN)


def no_pixels(made: Dataset) -> None:
    del made.PixelData


def set_tag(keyword: str, value: Any) -> Callable[[Dataset], None]:
    def change(made: Dataset) -> None:
        setattr(made, keyword, value)

    return change


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        pytest.param(set_tag("Rows", 41), "its header lies: .* 41 x 36 pixels, 2952 bytes, and 2880", id="39-odd-rows"),
        pytest.param(set_tag("Rows", 0), "its Rows is 0, not 1 to 65535", id="no-rows"),
        pytest.param(set_tag("NumberOfFrames", 3), "promises 3 frames of", id="fewer-frames"),
        pytest.param(set_tag("Rows", 20), "it holds 2 frames, its header says 1", id="more-frames"),
        pytest.param(set_tag("PhotometricInterpretation", "RGB"), "RGB not supported", id="rgb"),
        pytest.param(set_tag("PhotometricInterpretation", "PALETTE COLOR"), "RGB not supported", id="palette"),
        pytest.param(set_tag("SamplesPerPixel", 3), "RGB not supported", id="three-samples"),
        pytest.param(set_tag("BitsAllocated", 12), "12-bit cells", id="12-bit-cells"),
        pytest.param(set_tag("BitsStored", 17), "BitsStored is 17", id="17-of-16-bits"),
        pytest.param(set_tag("HighBit", 3), "HighBit is 3, not 15 to 15", id="high-bit-too-low"),
        pytest.param(set_tag("PixelRepresentation", 2), "PixelRepresentation is 2", id="neither-signed-nor-not"),
        pytest.param(set_tag("ModalityLUTSequence", [Dataset()]), "Modality LUT", id="modality-lut"),
        pytest.param(set_tag("PerFrameFunctionalGroupsSequence", [Dataset()] * 2), "for 2 frames", id="two-groups"),
        pytest.param(no_pixels, "it holds no pixels", id="no-pixels"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, change: Callable[[Dataset], None], cause: str) -> None:
    made = dataset(BRAIN)
    change(made)
    refused(save(made, tmp_path / "a.dcm"), cause)


@pytest.mark.parametrize(
    "syntax", [pytest.param(EXPLICIT_LITTLE, id="38-native"), pytest.param(DEFLATED, id="38-deflated")]
)
@pytest.mark.parametrize("lost", [8, 100, 959])
def test_truncated(tmp_path: Path, syntax: str, lost: int) -> None:
    path = save(dataset(BRAIN), tmp_path / "a.dcm", syntax)
    path.write_bytes(path.read_bytes()[:-lost])
    refused(path, "truncated|header cannot be read|holds no pixels")


def test_38_every_length_of_a_file_is_refused_or_whole(tmp_path: Path) -> None:
    """Wherever a file ends, its error is ours, and names it."""
    content = carried("MR_small_RLE.dcm").read_bytes()
    for length in range(0, content.rindex(b"\xfe\xff\xdd\xe0"), 97):
        path = tmp_path / "a.dcm"
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.file == str(path)


@pytest.mark.parametrize(
    "syntax",
    [
        pytest.param(EXPLICIT_LITTLE, id="41-native"),
        pytest.param(DEFLATED, id="41-deflated"),
        pytest.param(RLE, id="41-rle"),
        pytest.param(JPEG_2000, id="41-jpeg-2000"),
    ],
)
def test_41_65535_by_65535(tmp_path: Path, syntax: str) -> None:
    path = save(dataset(BRAIN), tmp_path / "a.dcm", syntax)
    code = (
        "import sys, pathlib, resource\n"
        "from neurobundle.errors import InputError\n"
        "from neurobundle.load.dicom.pixels import read_pixels\n"
        "import pydicom.filereader\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try: next(read_pixels([pathlib.Path(sys.argv[1])]))\n"
        "except InputError as error: print(error.cause)\n"
    )
    made = pydicom.dcmread(path)
    made.Rows = made.Columns = 65535
    made.save_as(path)
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "65535 x 65535 pixels, 8589672450 bytes" in ended.stdout


def test_uncompressed_pixels_under_a_compressed_syntax(tmp_path: Path) -> None:
    path = save(dataset(BRAIN), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    refused(path, "says compressed")


def test_a_deflate_bomb(tmp_path: Path) -> None:
    """A header that unpacks to more than any header has is not unpacked to its end."""
    path = save(dataset(BRAIN), tmp_path / "a.dcm", DEFLATED)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(b"\x09\x00\x10\x00UN\0\0" + bytes(1 << 20)) for _ in range(300))
    path.write_bytes(content[:start] + bomb + packer.flush())
    refused(path, "no pixels|cannot be read")


def test_unknown_syntax(tmp_path: Path) -> None:
    path = save(dataset(BRAIN), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    refused(path, "transfer syntax is not supported")


def test_junk_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    refused(path, "cannot be read .no such file")
    for content in (b"", b"x", b"no image\n" * 99, bytes(range(256)) * 40):
        path.write_bytes(content)
        refused(path, "holds no pixels|header cannot be read|it has no ")


def test_flipped_bytes_of_a_header(tmp_path: Path) -> None:
    """Whatever a damaged header makes pydicom raise, it is an error of ours, or an array."""
    content = carried("MR_small.dcm").read_bytes()
    path = tmp_path / "a.dcm"
    rng = np.random.default_rng(2)
    for _ in range(200):
        flipped = bytearray(content)
        flipped[rng.integers(128, len(content) - 8192)] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with suppress(InputError):
            read(path)


def test_81_nothing_is_logged_or_warned(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Pydicom quotes values in its warnings, also in those of a file that is then refused."""
    caplog.set_level(logging.DEBUG)
    made = dataset(BRAIN)
    path = save(made, tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00DS"))
    refused(path, "Rows is no whole number")
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]
    assert not logging.getLogger("pydicom").disabled


def test_no_torch() -> None:
    code = (
        "import sys, pathlib\n"
        "from neurobundle.load.dicom.pixels import read_pixels\n"
        "next(read_pixels([pathlib.Path(sys.argv[1])]))\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, carried("MR_small_jp2klossless.dcm")], check=True)
