from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.errors import InputError
from neurobundle.load.gate import Policy
from neurobundle.load.labels import check_pair, content_hash, label_values, read_volume

SHAPE = (4, 5, 6)
IMAGE = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
LABEL = (IMAGE % 3).astype(np.uint8)


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None, kind: type = nib.Nifti1Image) -> Path:
    nib.save(kind(data, np.diag([1.0, 1, 2, 1]) if affine is None else affine), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "anna.nii.gz", IMAGE)


@pytest.fixture
def label(tmp_path: Path) -> Path:
    return save(tmp_path / "anna_seg.nii.gz", LABEL)


def refused(cause: str, image: object, label: Path, known: object = None) -> InputError:
    with pytest.raises(InputError, match=cause) as caught:
        check_pair(image, label, known)
    assert caught.value.case == "anna"
    assert caught.value.way_out
    return caught.value


def test_a_good_pair(image: Path, label: Path) -> None:
    facts = check_pair(image, label, {0, 1, 2})
    assert (facts.shape, facts.values) == (SHAPE, {0, 1, 2})
    assert facts.image_hashes == (content_hash(IMAGE),)
    assert facts.label_hash == content_hash(LABEL)


def test_an_empty_label_map_has_no_hash(image: Path, tmp_path: Path) -> None:
    """Empty label maps of one shape are all alike, which makes no two cases duplicates."""
    assert check_pair(image, save(tmp_path / "e.nii", LABEL * 0)).label_hash is None


def test_trailing_axis_of_one(tmp_path: Path, label: Path) -> None:
    assert check_pair(save(tmp_path / "anna.nii", IMAGE[..., None]), label).shape == SHAPE


def test_what_the_gate_refuses_is_refused_in_a_pair(tmp_path: Path, label: Path) -> None:
    data = IMAGE.copy()
    data[0, 0, :3] = np.nan, np.nan, np.inf
    refused("2 NaN and 1 infinite", save(tmp_path / "anna.nii", data), label)


def test_four_dimensions(tmp_path: Path, label: Path) -> None:
    refused("it is 4D", save(tmp_path / "anna.nii", np.stack([IMAGE] * 6, -1)), label)


def test_15_channels_of_other_shape(image: Path, label: Path, tmp_path: Path) -> None:
    """Both files are named."""
    other = save(tmp_path / "anna_t2.nii", IMAGE[1:])
    error = refused("the channel has shape", (image, other), label)
    assert "anna.nii.gz" in error.cause
    assert error.file == str(other)


def test_an_absent_channel_is_allowed_where_the_network_can_do_without(
    image: Path, label: Path, tmp_path: Path
) -> None:
    """Not all of them: something must be there to learn from."""
    absent = save(tmp_path / "t2.nii", np.zeros_like(IMAGE))
    refused("no signal", (image, absent), label)
    assert check_pair((image, absent), label, allow_empty=True).shape == SHAPE
    with pytest.raises(InputError, match="no signal in any channel"):
        check_pair((absent, absent), label, allow_empty=True)


def test_16_channels_shifted(image: Path, label: Path, tmp_path: Path) -> None:
    affine = np.diag([1.0, 1, 2, 1])
    affine[1, 3] = 30
    refused("30.00 mm apart", (image, save(tmp_path / "anna_t2.nii", IMAGE, affine)), label)


def test_17_label_flipped(image: Path, tmp_path: Path) -> None:
    """The last voxel lies at -3 mm instead of 3 mm."""
    refused("6.00 mm apart", image, save(tmp_path / "l.nii", LABEL, np.diag([-1.0, 1, 2, 1])))


@pytest.mark.parametrize(("shift_mm", "good"), [(0.009, True), (0.011, False)])
def test_the_tolerance(image: Path, tmp_path: Path, shift_mm: float, good: bool) -> None:
    affine = np.diag([1.0, 1, 2, 1])
    affine[0, 3] = shift_mm
    moved = save(tmp_path / "l.nii", LABEL, affine)
    assert check_pair(image, moved) if good else refused("0.01 mm apart", image, moved)


def test_18_label_of_other_shape(image: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "l.nii", LABEL[:, :, 1:])
    refused(r"the label has shape \(4, 5, 5\), its image anna.nii.gz \(4, 5, 6\)", image, other)


def test_19_unknown_label(image: Path, tmp_path: Path) -> None:
    data = LABEL.copy()
    data[0, 0, 0] = 7
    path = save(tmp_path / "l.nii", data)
    refused(r"labels \{7\} not in \{0\.\.2\}", image, path, {0, 1, 2})
    refused(r"labels \{1, 7\} not in \{0, 2\}", image, path, [0, 2])
    assert check_pair(image, path).values == {0, 1, 2, 7}


def test_smoothed_label(image: Path, tmp_path: Path) -> None:
    refused("whole numbers, it has 0.5", image, save(tmp_path / "l.nii", LABEL.astype(np.float32) * 0.5))


def test_float_labels_that_are_whole(image: Path, tmp_path: Path) -> None:
    assert check_pair(image, save(tmp_path / "l.nii", LABEL.astype(np.float64)), {0, 1, 2}).values == {0, 1, 2}


def test_missing_file(tmp_path: Path, label: Path) -> None:
    refused("no such file", tmp_path / "anna.nii.gz", label)


def test_content_is_the_same_however_it_is_stored(tmp_path: Path) -> None:
    """Compression, data type, scaling, name and affine do not hide a copy; one voxel does make another scan."""
    stored = [
        save(tmp_path / "a.nii", LABEL),
        save(tmp_path / "b.nii.gz", LABEL.astype(np.float64), np.eye(4)),
        save(tmp_path / "c.nii.gz", LABEL[..., None].astype(np.int16)),
    ]
    assert len({content_hash(read_volume(path).data) for path in stored}) == 1
    other = LABEL.copy()
    other[0, 0, 0] += 1
    assert content_hash(other) != content_hash(LABEL)
    assert content_hash(LABEL.reshape(5, 4, 6)) != content_hash(LABEL)


def test_pictures(tmp_path: Path) -> None:
    """PNG skips the affine; a mask of 0 and 255 says so through its values."""
    pillow = pytest.importorskip("PIL.Image")
    image, mask = tmp_path / "anna.png", tmp_path / "m.png"
    pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image)
    pillow.fromarray((np.eye(8) * 255).astype(np.uint8)).save(mask)
    assert check_pair(image, mask).values == {0, 255}
    refused(r"labels \{255\} not in \{0..1\}", image, mask, {0, 1})
    pillow.fromarray(np.arange(192, dtype=np.uint8).reshape(3, 8, 8).transpose(1, 2, 0).copy()).save(image)
    refused("RGB", image, mask)
    pillow.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    refused("no signal", image, mask)
    image.write_bytes(b"x")
    refused("cannot be read", image, mask)


def test_the_published_dirt(real_data: Path) -> None:
    """Label 281 is a 512 x 512 x 94 mask of something else: no pair for any crop."""
    folder = real_data / "hippocampus"
    with pytest.raises(
        InputError, match=r"the label has shape \(512, 512, 94\), its image hippocampus_118.nii.gz \(37, 52, 33\)"
    ):
        check_pair(folder / "dirty/images/hippocampus_118.nii.gz", folder / "dirty/labels/hippocampus_281.nii.gz")


def test_real_whole_head(real_data: Path) -> None:
    """LAS, qform only."""
    folder = real_data / "ms_lesions/patient07"
    (mask,), (flair,) = folder.glob("GOLD*"), folder.glob("FLAIR*")
    assert check_pair(flair, mask, {0, 1}).shape == (182, 218, 182)
    with pytest.raises(InputError, match=r"labels \{1\} not in \{0\}"):
        label_values(read_volume(mask, Policy(kind="label")).data, mask, {0})
