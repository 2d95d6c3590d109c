"""NIfTI files: the header first, then exactly the bytes that it promises, with the checksum verified.

nibabel reads the header; the data come through isal, since nibabel never compares a ``.nii.gz`` with its checksum. A
*promise* is the number of bytes that a header says its file holds; it is compared with the size of the file before
anything is allocated. While reading, memory holds the promise and about 2 MiB besides; a scaled file is held twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from neurobundle.errors import InputError
from neurobundle.load import checks
from neurobundle.load.gate import STRICT, Finding, Level, Policy, Verdict, refuse
from neurobundle.load.scan import Scan

#: A deflate stream expands at most 1032 times (zlib, "Maximum expansion factor", zlib.net/zlib_tech.html).
MOST_EXPANSION = 1032

#: Bytes that may follow the voxels of a file.
MOST_TRAILING = 1 << 20

#: Bytes inflated at once.
CHUNK = 1 << 20

#: Bytes inflated to learn whether a refused file is damaged; then it is left at that.
MOST_DRAINED = 1 << 26

#: Sizes of the headers of NIfTI-1 and NIfTI-2, which their first four bytes state (nifti1.h, nifti2.h).
HEADER_SIZES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}

#: Where the voxels of a single file begin at the earliest: behind the header and its four extension bytes.
_FIRST_VOXEL = {348: 352, 540: 544}

#: ``xyzt_units`` of a header, its lowest three bits, as a unit of length and its size in mm. 0 is unknown; mm is meant.
UNITS = {0: ("mm", 1.0), 1: ("m", 1000.0), 2: ("mm", 1.0), 3: ("um", 0.001)}

#: NIFTI_XFORM_ALIGNED_ANAT (nifti1.h): the code for results from files that state none.
ALIGNED_ANAT = 2

_AGAIN = "Copy or export the file again."
_RGB = {128: "RGB", 2304: "RGBA"}

#: isal's stub calls this class an instance.
_DAMAGED_STREAM: type[Exception] = isal_zlib.error  # type: ignore[assignment]


@dataclass(frozen=True)
class NiftiHeader:
    """What a header promises.

    Attributes:
        header: nibabel's, unchanged.
        packed: whether the file is gzipped, by its first bytes, whatever its name.
        shape: along each axis, as stated.
        dtype: of the voxels on disk.
        offset: where they begin.
        promise: bytes of the unpacked file.
    """

    header: Any
    packed: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    promise: int


def read_nifti(path: str | Path, policy: Policy = STRICT, *, case: str = "") -> Scan:
    """Read a NIfTI file through the gate.

    Args:
        path: a ``.nii`` or ``.nii.gz``.
        policy: what is allowed and expected.
        case: the case's name, for the message.

    Returns:
        Data ``(i, j, k)``, or ``(i, j, k, channel)`` where the policy says so, and ``(i, j)`` for flat images; in the
        file's type where it is not scaled, its memory writable.

    Raises:
        InputError: for the first check that refuses.
    """
    verdict, scan = judge_nifti(path, policy)
    verdict.require(path, case)
    assert scan is not None
    return scan


def judge_nifti(path: str | Path, policy: Policy = STRICT) -> tuple[Verdict, Scan | None]:
    """All that the gate has to say about a NIfTI file.

    Returns:
        The verdict, and the scan unless the verdict refuses.
    """
    path, verdict = Path(path), Verdict()
    try:
        promised = read_header(path)
        grid = _grid(promised, policy, path)
        verdict.extend(checks.check_shape(promised.shape, policy, path))
        verdict.add(checks.check_scaling(*_scaling(promised.header), path), *grid.findings)
        if verdict.refusals:
            return _explained(verdict, path), None
        data = _scaled(_voxels(path, promised), promised, policy)
    except InputError as error:
        verdict.add(refuse("file", error.cause, error.way_out, path))
        return _explained(verdict, path), None
    verdict.extend(checks.check_voxels(data, policy, path))
    if verdict.refusals:
        return verdict, None
    return verdict, Scan(data, grid.affine, tuple(verdict.warnings), grid.code, grid.unit)


def _explained(verdict: Verdict, path: Path) -> Verdict:
    """A verdict that names damage first: a header that makes no sense may be a header that was damaged."""
    if not path.is_file():
        return verdict
    known = any(word in finding.cause for finding in verdict.findings for word in ("CRC", "gzip stream", "truncated"))
    return verdict if known else Verdict([*_damage(path), *verdict.findings])


def _damage(path: Path) -> list[Finding]:
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return []
            file.seek(0)
            stream, inflated = isal_zlib.decompressobj(31), 0
            feed = file.read(CHUNK)
            while feed and not stream.eof and inflated < MOST_DRAINED:
                inflated += len(stream.decompress(feed, CHUNK))
                feed = stream.unconsumed_tail or file.read(CHUNK)
    except _DAMAGED_STREAM as error:
        return [refuse("file", _damaged(error, path).cause, _AGAIN, path)]
    except OSError:
        pass  # the caller has a better word for a file that cannot be read
    return []


def read_header(path: str | Path) -> NiftiHeader:
    """The header of a NIfTI file, after its promise was found possible.

    Raises:
        InputError: if the file is missing, empty, no NIfTI file, of an unknown or coloured or complex type, or cannot
            hold what its header promises.
    """
    path = Path(path)
    if not path.is_file():
        cause = "it is no regular file" if path.exists() else "there is no such file"
        raise InputError(cause, "Check the path.", file=path)
    size = path.stat().st_size
    if size == 0:
        raise InputError("the file is empty (0 bytes)", _AGAIN, file=path)
    with path.open("rb") as file:
        start = file.read(4096)
    packed = start[:2] == b"\x1f\x8b"
    head = _inflated_start(start, path) if packed else start
    promised = _promise(head, packed, path)
    most = size * MOST_EXPANSION if packed else size
    if promised.promise > most:
        cause = (
            f"it is truncated or damaged: its header asks for {promised.promise} bytes, and it can hold {most} at most"
        )
        raise InputError(cause, _AGAIN, file=path)
    scaled = _scaling(promised.header) not in ((1.0, 0.0), (0.0, 0.0))
    finding = checks.check_memory(promised.promise * (2 if scaled else 1), path)
    if finding is not None:
        raise InputError(finding.cause, finding.way_out, file=path)
    return promised


def _inflated_start(start: bytes, path: Path) -> bytes:
    try:
        return isal_zlib.decompressobj(31).decompress(start, max(_FIRST_VOXEL.values()))
    except (_DAMAGED_STREAM, ValueError, EOFError) as error:
        raise _damaged(error, path) from error


def _promise(head: bytes, packed: bool, path: Path) -> NiftiHeader:
    sizes = {int.from_bytes(head[:4], "little"): "<", int.from_bytes(head[:4], "big"): ">"}
    length = next((n for n in HEADER_SIZES if n in sizes), None)
    if length is None:
        cause = "it is not a NIfTI file: its header does not begin with 348 or 540"
        raise InputError(cause, "Give a .nii or .nii.gz file.", file=path)
    if len(head) < length:
        raise InputError(f"it is truncated: its header has {len(head)} of {length} bytes", _AGAIN, file=path)
    header = HEADER_SIZES[length](head[:length], endianness=sizes[length], check=False)
    if bytes(header["magic"])[:2] == b"ni":
        cause = "it is one half of a pair of files, .hdr and .img"
        raise InputError(cause, "Convert the pair to one .nii.gz.", file=path)
    shape = _shape(header, path)
    dtype = _dtype(header, path)
    offset = _offset(header, _FIRST_VOXEL[length], path)
    count = 1
    for number in shape:
        count *= number
    return NiftiHeader(header, packed, shape, dtype, offset, offset + count * dtype.itemsize)


def _shape(header: Any, path: Path) -> tuple[int, ...]:
    dim = [int(number) for number in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(f"its header is damaged: dim[0] = {dim[0]}, not 1 to 7", _AGAIN, file=path)
    for axis in range(1, dim[0] + 1):
        if dim[axis] < 1:
            raise InputError(f"its header is damaged: dim[{axis}] = {dim[axis]}", _AGAIN, file=path)
    return tuple(dim[1 : dim[0] + 1])


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    code = int(header["datatype"])
    way_out = "Export it as one number a voxel."
    if code in _RGB:
        raise InputError(f"{_RGB[code]} images are not supported", way_out, file=path)
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise InputError(f"its header is damaged: datatype = {code}", _AGAIN, file=path) from error
    if dtype.kind == "c":
        raise InputError("complex images are not supported", "Export the magnitude.", file=path)
    if dtype.kind not in "iuf" or dtype.itemsize == 0:
        raise InputError(f"voxels of the type {dtype} are not supported", way_out, file=path)
    return dtype


def _offset(header: Any, first: int, path: Path) -> int:
    offset = float(header["vox_offset"])
    if offset == 0:  # what some writers leave, meaning "right behind the header"
        return first
    if not first <= offset < 2**31 or offset != int(offset):
        raise InputError(f"its header is damaged: vox_offset = {offset:g}", _AGAIN, file=path)
    return int(offset)


def _scaling(header: Any) -> tuple[float, float]:
    # The fields themselves: nibabel's own method takes NaN and infinity for "not scaled".
    return float(header["scl_slope"]), float(header["scl_inter"])


@dataclass(frozen=True)
class _Grid:
    affine: npt.NDArray[np.float64]
    code: int
    unit: str
    findings: list[Finding]


def _grid(promised: NiftiHeader, policy: Policy, path: Path) -> _Grid:
    header = promised.header
    unit, mm = UNITS.get(int(header["xyzt_units"]) & 7, UNITS[0])
    to_mm = np.diag([mm, mm, mm, 1.0])
    pixdim = mm * np.abs(np.asarray(header["pixdim"][1:4], float))
    qform = _qform(header)
    forms = {
        "qform": (None if qform is None else to_mm @ qform, int(header["qform_code"])),
        "sform": (to_mm @ header.get_sform(), int(header["sform_code"])),
        # NIfTI's "method 1" (nifti1.h): voxel sizes and nothing else.
        "none": (np.diag([*pixdim, 1.0]), ALIGNED_ANAT),
    }
    findings, chosen = checks.check_forms(forms["qform"], forms["sform"], (*promised.shape, 1, 1)[:3], policy, path)
    affine, code = forms[chosen]
    if affine is None or any(finding.level is Level.REFUSE for finding in findings):
        return _Grid(np.eye(4), code, unit, findings)
    verdict = Verdict([*findings, *checks.check_affine(affine, chosen if chosen != "none" else "affine", path)])
    verdict.add(checks.check_pixdim(pixdim, affine, path))
    return _Grid(affine, code, unit, verdict.findings)


def _qform(header: Any) -> npt.NDArray[np.float64] | None:
    header = header.copy()
    # pixdim[0] is 1 or -1; 0 is what old writers leave and means 1, and a length has no sign (nifti1.h, METHOD 2).
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    try:
        return np.asarray(header.get_qform(), float)
    except (HeaderDataError, ValueError):  # its quaternion is longer than 1
        return None


def _voxels(path: Path, promised: NiftiHeader) -> npt.NDArray[Any]:
    """The voxels as the file has them, not scaled, in Fortran's order, in memory that can be written."""
    content = np.empty(promised.promise, np.uint8)
    try:
        with igzip.open(path, "rb") if promised.packed else path.open("rb") as file:
            _read_into(content, file, path)
    except EOFError as error:
        raise InputError("it is truncated: its gzip stream ends in the middle", _AGAIN, file=path) from error
    except (_DAMAGED_STREAM, igzip.BadGzipFile) as error:
        raise _damaged(error, path) from error
    voxels = np.frombuffer(content.data, promised.dtype, offset=promised.offset).reshape(promised.shape, order="F")
    return voxels if voxels.dtype.isnative else voxels.astype(voxels.dtype.newbyteorder("="))


def _read_into(content: npt.NDArray[np.uint8], file: BinaryIO, path: Path) -> None:
    """Fill a buffer that is as long as the header promises, and go on to the end, where gzip's checksum is."""
    view, got = content.data, 0
    while got < content.size:
        # readinto1 of a few MiB inflates straight into the buffer; more at once, or readinto, is half as fast.
        count = file.readinto1(view[got : got + CHUNK])  # type: ignore[attr-defined]
        if not count:
            cause = f"it is truncated: expected {content.size} bytes, got {got}"
            raise InputError(cause, _AGAIN, file=path)
        got += count
    if len(file.read(MOST_TRAILING + 1)) > MOST_TRAILING:
        cause = f"it is damaged: over {MOST_TRAILING} bytes follow the {content.size} that its header asks for"
        raise InputError(cause, _AGAIN, file=path)


def _damaged(error: Exception, path: Path) -> InputError:
    text = str(error)
    cause = (
        "CRC mismatch: its bytes are not those that were written"
        if ("checksum" in text.lower() or "crc" in text.lower())
        else (f"its gzip stream is damaged ({text})")
    )
    return InputError(cause, _AGAIN, file=path)


def _scaled(data: npt.NDArray[Any], promised: NiftiHeader, policy: Policy) -> npt.NDArray[Any]:
    """The voxels as the header scales them, without trailing axes of length 1."""
    shape = data.shape
    while len(shape) > policy.spatial_dims and shape[-1] == 1:
        shape = shape[:-1]
    data = data.reshape(shape, order="F")
    slope, intercept = _scaling(promised.header)
    if slope == 0 or (slope, intercept) == (1, 0):
        return data
    return np.asarray(apply_read_scaling(data, slope, intercept))
