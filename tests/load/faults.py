"""Each fault of a NIfTI file, built from a good one; the ids are the numbers of the project's list of bad input.

A *builder* takes the path of a good ``.nii.gz`` and gives the path of a bad file beside it. A *saying* is what the
refusal must say.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (6, 7, 8)
#: Unlike in every direction, oblique, and not cubic.
AFFINE = np.array([[-0.9, 0.2, 0.0, 11], [0.2, 0.9, 0.0, -7], [0, 0, 3.0, 5], [0, 0, 0, 1]])
AFFINE[:3, :2] /= np.linalg.norm(AFFINE[:3, 0])

Builder = Callable[[Path], Path]


@dataclass(frozen=True)
class Fault:
    """How to make it, and what its refusal says (a regular expression)."""

    build: Builder
    saying: str


def volume() -> np.ndarray:
    """Float voxels that all differ."""
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def good(folder: Path, name: str = "anna.nii.gz") -> Path:
    """A good scan with both forms coded."""
    path = folder / name
    image = nib.Nifti1Image(volume(), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def patched(**fields: object) -> Builder:
    """Overwrite fields of the header, whatever nibabel thinks of it."""

    def build(path: Path) -> Path:
        content = bytearray(gzip.decompress(path.read_bytes()))
        header = nib.Nifti1Header(bytes(content[:348]), check=False)
        for name, value in fields.items():
            header[name] = value
        content[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(content)))
        return path

    return build


def saved(data: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE) -> Builder:
    """Save other voxels under the same name."""

    def build(path: Path) -> Path:
        nib.save(nib.Nifti1Image(data(volume()), affine), path)
        return path

    return build


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def emptied(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def flipped_bit(path: Path) -> Path:
    """One bit of the stored checksum's data: here in the first byte of the checksum, so that the stream is whole."""
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    return path


def renamed_text(path: Path) -> Path:
    path.write_text("no image\n" * 99)
    return path


def unpacked(path: Path) -> Path:
    bare = path.with_suffix("")
    bare.write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    return bare


def truncated_bare(path: Path) -> Path:
    bare = unpacked(path)
    bare.write_bytes(bare.read_bytes()[:-8])
    return bare


def with_nan(data: np.ndarray) -> np.ndarray:
    data[0, 1, 2], data[0, 1, 3], data[3, 0, 0] = np.nan, np.nan, np.inf
    return data


def flipped_qform(path: Path) -> Path:
    image = nib.load(path)
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ AFFINE, 1)
    data = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    nib.save(data, path)
    return path


def lying(path: Path) -> Path:
    """1500^3 voxels in a hundred bytes."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((1500, 1500, 1500))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    return path


def endless(path: Path) -> Path:
    """A small file that unpacks to far more than its header says."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 24)))
    return path


def coloured(data: np.ndarray) -> np.ndarray:
    return np.zeros(data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])


def _row(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


#: What the gate refuses, by number.
REFUSED: dict[str, Fault] = {
    "1-truncated-gz": Fault(truncated, "truncated"),
    "2-zero-byte": Fault(emptied, r"empty \(0 bytes\)"),
    "3-bit-flip": Fault(flipped_bit, "CRC mismatch"),
    "4-text-renamed": Fault(renamed_text, "not a NIfTI file"),
    "5-truncated-nii": Fault(truncated_bare, "truncated or damaged"),
    "6-nonfinite": Fault(saved(with_nan), r"2 NaN and 1 infinite voxels, the first at \(0, 1, 2\)"),
    "7-all-zero": Fault(saved(np.zeros_like), "no signal: all voxels are 0"),
    "7-constant": Fault(saved(lambda data: np.full_like(data, 5)), "no signal: all voxels are 5"),
    "8-forms-disagree": Fault(flipped_qform, "qform and its sform disagree: corners are .* mm apart"),
    "9-no-form-codes": Fault(patched(qform_code=0, sform_code=0), "left and right cannot be known"),
    "10-singular-sform": Fault(patched(srow_z=_row(0, 0, 0, 0), qform_code=0), "sform is singular"),
    "10-zero-column": Fault(
        patched(srow_x=_row(0, 0, 0, 0), srow_y=_row(0, 1, 0, 0), qform_code=0), "sform is singular"
    ),
    "11-nan-sform": Fault(patched(srow_x=_row(np.nan, 0, 0, 0), qform_code=0), "sform has numbers that are not finite"),
    "11-nan-sform-good-qform": Fault(patched(srow_x=_row(np.nan, 0, 0, 0)), "sform has numbers that are not finite"),
    "12-four-dimensions": Fault(saved(lambda data: np.stack([data] * 6, -1)), "it is 4D .* one volume is wanted"),
    "14-flat": Fault(saved(lambda data: data[..., 0]), "it is 2D .* a volume is wanted"),
    "20-slope-nan": Fault(patched(scl_slope=np.nan), "scales by nan"),
    "20-slope-inf": Fault(patched(scl_slope=np.inf), "scales by inf"),
    "20-intercept-nan": Fault(patched(scl_slope=1, scl_inter=np.nan), "adds nan"),
    "20-slope-absurd": Fault(patched(scl_slope=1e30), "absurd range"),
    "21-header-lies": Fault(lying, "its header asks for 27000000352 bytes"),
    "21-bytes-without-end": Fault(endless, "bytes follow the 1696 that its header asks for"),
    "22-negative-dim": Fault(patched(dim=np.array([3, -5, 7, 8, 1, 1, 1, 1])), r"dim\[1\] = -5"),
    "22-ninth-axis": Fault(patched(dim=np.array([9, 6, 7, 8, 1, 1, 1, 1])), r"dim\[0\] = 9"),
    "23-rgb": Fault(saved(coloured), "RGB images are not supported"),
    "24-complex": Fault(saved(lambda data: data.astype(np.complex64)), "complex images are not supported"),
    "27-sheared": Fault(saved(np.copy, AFFINE + 0.1 * np.eye(4, k=1) * [1, 1, 0, 0]), "sform is sheared"),
    "unknown-type": Fault(patched(datatype=77), "datatype = 77"),
    "offset-nan": Fault(patched(vox_offset=np.nan), "vox_offset = nan"),
    "half-of-a-pair": Fault(patched(magic=b"ni1"), r"one half of a pair of files"),
    "header-cut": Fault(lambda path: _cut(unpacked(path), 200), "its header has 200 of 348 bytes"),
    "10-singular-with-a-good-qform": Fault(patched(srow_z=_row(0, 0, 0, 0)), "sform is singular"),
    "quaternion-too-long": Fault(
        patched(sform_code=0, quatern_b=2, quatern_c=2), "qform has a quaternion longer than 1"
    ),
    "origin-nowhere": Fault(patched(srow_x=_row(-0.976, 0.217, 0, 1e30), qform_code=0), "1e\\+30 mm away"),
}


def _cut(path: Path, length: int) -> Path:
    path.write_bytes(path.read_bytes()[:length])
    return path


def other_codes(path: Path) -> Path:
    """The qform is another space's, and its code says so."""
    path = flipped_qform(path)
    return patched(qform_code=2)(path)


#: What the gate lets through with a warning.
WARNED: dict[str, Fault] = {
    "8-other-codes": Fault(other_codes, "the sform speaks"),
    "20-slope-zero": Fault(patched(scl_slope=0, scl_inter=5), "scl_inter of 5 is not added"),
    "voxels-of-a-centimetre": Fault(saved(np.copy, np.diag([1.0, 1, 40, 1])), "is the unit right"),
    "pixdim-lies": Fault(patched(pixdim=_row(1, 9, 9, 9, 0, 0, 0, 0), qform_code=0), "the affine speaks"),
}

#: What the gate lets through without a word.
ACCEPTED: dict[str, Builder] = {
    "good": lambda path: path,
    "4-gz-named-nii": lambda path: path.rename(path.with_suffix("")),
    "13-one-volume-in-4d": saved(lambda data: data[..., None]),
    "20-slope-zero": patched(scl_slope=0),
    "negative-pixdim": lambda path: patched(pixdim=_row(-1, -1, -1, -3, 1, 1, 1, 1))(path),
    "27-uncoded-nan": patched(srow_x=_row(np.nan, 0, 0, 0), sform_code=0),
}
