from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from neurobundle.errors import InputError, MissingPackageError
from neurobundle.load.dicom import decoding
from neurobundle.load.dicom.decoder import Refused, read_code_stream
from neurobundle.load.dicom.pixels import read_pixels
from neurobundle.load.dicom.syntax import RLE

from .pixel_files import (
    BRAIN,
    JPEG_2000,
    JPEG_LS,
    NAME,
    carried,
    code_stream,
    compressed,
    dataset,
    decode,
    large_jpeg_2000,
    read,
    refused,
    save,
    save_as_is,
)

pydicom = pytest.importorskip("pydicom")

from pydicom.encaps import encapsulate  # noqa: E402


def test_46_a_code_stream_of_another_size(tmp_path: Path) -> None:
    stream = large_jpeg_2000(tmp_path / "b.dcm", 60000, 60000)
    path = compressed([stream], tmp_path / "a.dcm", JPEG_2000)
    refused(path, "its compressed image is 60000 x 60000, its header says 40 x 36")


def test_46_bomb(tmp_path: Path) -> None:
    """Header and code stream agree on 7 GB, in a few hundred bytes."""
    stream = large_jpeg_2000(tmp_path / "b.dcm", 60000, 60000)
    path = compressed([stream], tmp_path / "a.dcm", JPEG_2000, (1, 10, 10), Rows=60000, Columns=60000)
    refused(path, "60000 x 60000 pixels, 7200000000 bytes, and .* compressed bytes cannot hold them")


def test_46_bomb_of_a_real_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenJPEG under a limit that it does not meet: the file is refused, and this process is well."""
    monkeypatch.setattr(decoding, "MEMORY", 1 << 20)
    monkeypatch.setattr(decoding, "MEMORY_A_BYTE", 0)
    stream = large_jpeg_2000(tmp_path / "b.dcm", 5500, 5500)
    path = compressed([stream], tmp_path / "a.dcm", JPEG_2000, (1, 5500, 5500))
    refused(path, "cannot be decoded|crash their decoder")


def test_46_a_code_stream_cut_short(tmp_path: Path) -> None:
    """OpenJPEG would fill the rest with zeros."""
    for syntax in (JPEG_LS, JPEG_2000):
        stream = code_stream(tmp_path / "b.dcm", syntax)
        path = compressed([stream[: len(stream) // 2]], tmp_path / "a.dcm", syntax, BRAIN.shape)
        refused(path, "truncated: its compressed image has no end")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        pytest.param(
            lambda b, at: b[: at + 4] + b"\xff\xff\xff\x7f" + b[at + 8 :], "truncated: a fragment", id="46-long"
        ),
        pytest.param(lambda b, at: b[: at + 40], "truncated: a fragment", id="46-fragment-beyond-file"),
        pytest.param(lambda b, at: b[:-8], "have no end", id="46-no-delimiter"),
        pytest.param(lambda b, at: b[:at] + b"\0\0\0\0" + b[at + 4 :], "are damaged at byte", id="46-no-item"),
        pytest.param(lambda b, at: b[: at - 4] + b"\x08\0\0\0" + b[at:], "offset table", id="46-wrong-offset-table"),
        pytest.param(lambda b, at: b[: at + 8] + b"\0" * 64 + b[at + 72 :], "cannot be decoded", id="46-no-segments"),
        pytest.param(lambda b, at: b[: at + 8] + b"\xff" * 64 + b[at + 72 :], "cannot be decoded", id="46-segments"),
    ],
)
def test_lying_fragments(tmp_path: Path, change: Callable[[bytes, int], bytes], cause: str) -> None:
    path = save(dataset(BRAIN), tmp_path / "a.dcm", RLE)
    content = path.read_bytes()
    item = b"\xfe\xff\x00\xe0"
    fragment = content.index(item, content.index(item) + 4)
    path.write_bytes(change(content, fragment))
    refused(path, cause)


@pytest.mark.parametrize("count", [pytest.param(1, id="46-fewer-frames"), pytest.param(4, id="46-more-frames")])
def test_frames_unlike_the_header(tmp_path: Path, count: int) -> None:
    stream = code_stream(tmp_path / "b.dcm", RLE)
    path = compressed([stream] * count, tmp_path / "a.dcm", RLE, (3, 40, 36))
    refused(path, f"it holds {count} compressed frames, its header says 3")


def test_46_a_frame_of_another_size_in_rle(tmp_path: Path) -> None:
    path = compressed([code_stream(tmp_path / "b.dcm", RLE)], tmp_path / "a.dcm", RLE, (1, 40, 37))
    refused(path, "cannot be decoded")


def test_a_frame_in_several_fragments(tmp_path: Path) -> None:
    """With an offset table, without one, and of several frames told apart by where a code stream ends."""
    streams = [code_stream(tmp_path / "b.dcm", JPEG_LS, BRAIN + np.uint16(n)) for n in range(2)]
    for n, has_table in ((1, False), (1, True), (2, True), (2, False)):
        made = dataset(np.zeros((n, 40, 36), np.uint16))
        made.PixelData = encapsulate(streams[:n], fragments_per_frame=3, has_bot=has_table)
        made["PixelData"].is_undefined_length = True
        values = read(save_as_is(made, tmp_path / "a.dcm", JPEG_LS))
        np.testing.assert_array_equal(values, np.concatenate([BRAIN, BRAIN + np.uint16(1)][:n]))


def test_an_extended_offset_table(tmp_path: Path) -> None:
    streams = [code_stream(tmp_path / "b.dcm", RLE, BRAIN + np.uint16(n)) for n in range(2)]
    made = dataset(np.zeros((2, 40, 36), np.uint16))
    made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = pydicom.encaps.encapsulate_extended(
        streams
    )
    made["PixelData"].is_undefined_length = True
    path = save_as_is(made, tmp_path / "a.dcm", RLE)
    np.testing.assert_array_equal(read(path), np.concatenate([BRAIN, BRAIN + np.uint16(1)]))
    content = path.read_bytes()
    path.write_bytes(content.replace(made.ExtendedOffsetTable, b"\0" * 8 + b"\x02" + b"\0" * 7))
    refused(path, "offset table")


def test_flipped_bytes_of_code_streams(tmp_path: Path) -> None:
    """The same of decoders, all in one child."""
    rng = np.random.default_rng(3)
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"):
        content = carried(name).read_bytes()
        with decoding.DecoderProcess() as decoder:
            for n in range(12):
                path = tmp_path / f"{n}.dcm"
                flipped = bytearray(content)
                flipped[rng.integers(len(content) - 3000, len(content))] ^= 1 << rng.integers(8)
                path.write_bytes(flipped)
                with suppress(InputError):
                    decode(decoder, path)


CHILD = """
import importlib.util, sys, time, os, ctypes
import numpy as np
spec = importlib.util.spec_from_file_location("decoder", {script!r})
decoder = importlib.util.module_from_spec(spec)
sys.modules["decoder"] = decoder
spec.loader.exec_module(decoder)
def decode(frame, packed):
    {body}
    return np.full((frame.rows, frame.columns), 7, "u2")
decoder.serve(decode)
"""


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        pytest.param("ctypes.string_at(0)", r"crash their decoder \(SIGSEGV\)", id="46-segfault"),
        pytest.param("os.abort()", r"crash their decoder \(SIGABRT\)", id="46-abort"),
        pytest.param("os._exit(3)", r"crash their decoder \(exit code 3\)", id="46-exit"),
        pytest.param("exec('while True: pass')", "busy for longer", id="46-endless-loop"),
        pytest.param("time.sleep(60)", "make their decoder hang", id="46-hangs"),
        pytest.param("bytearray(1 << 30)", r"cannot be decoded \(MemoryError\)", id="46-memory"),
        pytest.param(f"raise ValueError({NAME!r})", r"cannot be decoded \(ValueError\)", id="46-error"),
        pytest.param(
            "os.write(os.open(__file__ + '.x', os.O_CREAT | os.O_WRONLY), b'x')",
            r"cannot be decoded \(OSError\)",
            id="46-writes-a-file",
        ),
        pytest.param("return np.zeros((9, 9), 'u2')", "decode to another size", id="46-decoded-size"),
        pytest.param("return np.zeros((40, 36), 'u4')", "decode to another size", id="46-decoded-type"),
    ],
)
def test_a_decoder_gone_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, cause: str) -> None:
    """It is an error of its file, and the next file gets a decoder that works."""
    monkeypatch.setattr(decoding, "CPU_S", 1.0)
    monkeypatch.setattr(decoding, "WALL", 1.0)
    monkeypatch.setattr(decoding, "WALL_S", 2.0)
    path = compressed([b"12"], tmp_path / "a.dcm", RLE)
    script, good = tmp_path / "bad.py", tmp_path / "good.py"
    script.write_text(CHILD.format(script=str(decoding.DECODER), body=f"if packed == b'12': {body}"))
    good = compressed([b"34"], tmp_path / "b.dcm", RLE)
    with decoding.DecoderProcess(script) as decoder:
        with pytest.raises(InputError, match=cause) as caught:
            decode(decoder, path)
        assert caught.value.file == str(path)
        assert "DOE" not in str(caught.value)
        assert (decode(decoder, good) == 7).all()
    assert not [left for left in tmp_path.glob("*.x") if left.read_bytes()]


def test_what_a_decoder_prints_disturbs_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "loud.py"
    script.write_text(CHILD.format(script=str(decoding.DECODER), body="os.write(1, b'x' * 99); os.write(2, b'x')"))
    with decoding.DecoderProcess(script) as decoder:
        assert (decode(decoder, compressed([b"12"], tmp_path / "a.dcm", RLE)) == 7).all()
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_stops_early_leaves_no_child() -> None:
    values = read_pixels([carried("MR_small_RLE.dcm")] * 3)
    next(values)
    values.close()


def test_46_code_streams_without_a_header() -> None:
    for junk in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00", b"\xff\xd8" + b"\xff" * 50, b"\xff\x4f\xff\x51\x00"):
        with pytest.raises(Refused):
            read_code_stream(junk)


def test_a_missing_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "openjpeg", None)
    with pytest.raises(MissingPackageError, match="JPEG 2000 compressed DICOM needs the package 'openjpeg'") as caught:
        read(carried("JPEG2000.dcm"))
    assert "neurobundle[dicom]" in caught.value.way_out
