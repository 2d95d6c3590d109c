"""The brain's mask, the check of its volumes, the head's pose, and labels brought back class by class."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, Invertd
from scipy.spatial.transform import Rotation

from neurobundle.bundle import runner
from neurobundle.bundle.find import structures_of
from neurobundle.errors import InputError, SettingError
from neurobundle.postprocess.brain import CSF, LEAST_ML, PAIRS, VolumeCheck, brain_mask
from neurobundle.postprocess.brain_pose import HIPPOCAMPUS_MM, REFERENCE_MM, hippocampi_of, pose_of
from neurobundle.postprocess.native_labels import LogitsToNativeLabelsd
from neurobundle.prepare import ToNetworkGridd

from ..conftest import ROOT, blob

BUNDLE = ROOT / "bundles" / "brain_anatomy_segmentation"
STRUCTURES = structures_of(BUNDLE)
MM = np.eye(4)


# ----- the mask


def test_a_hole_is_filled_and_an_island_dropped() -> None:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[2:7, 2:7, 2:7] = 1
    labels[4, 4, 4] = 0
    labels[0, 0, 0] = 2
    mask = brain_mask(labels, MM, closing_mm=0)
    assert mask.sum() == 125
    assert mask[4, 4, 4]
    assert not mask[0, 0, 0]


def test_ventricles_are_brain_and_csf_is_not() -> None:
    labels = np.zeros((3, 3, 5), np.uint8)
    labels[1, 1] = (0, 1, 3, CSF, 0)
    assert brain_mask(labels, MM, closing_mm=0)[1, 1].tolist() == [False, True, True, False, False]


def test_a_sulcus_is_closed_up_to_twice_the_radius() -> None:
    """Two slabs, 4 voxels of 1 mm apart, joined at the bottom: closed by 3 mm, open by 1."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:18, 2:18, 2:18] = 1
    labels[8:12, 2:18, 6:18] = CSF
    assert brain_mask(labels, MM, closing_mm=3)[10, 10, 10]
    assert not brain_mask(labels, MM, closing_mm=1)[10, 10, 10]
    assert not brain_mask(labels, MM)[0, 10, 10], "closing does not grow the outside"


def test_a_margin_is_in_millimetres() -> None:
    """One voxel of 1 x 1 x 2 mm; 2 mm reach 2 voxels along i and one along k."""
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[3, 3, 3] = 1
    mask = brain_mask(labels, np.diag([1, 1, 2, 1]), margin_mm=2, closing_mm=0)
    assert mask[:, 3, 3].tolist() == [False, True, True, True, True, True, False]
    assert mask[3, 3].tolist() == [False, False, True, True, True, False, False]


def test_a_margin_stops_at_the_image() -> None:
    labels = np.ones((3, 3, 3), np.uint8)
    assert brain_mask(labels, MM, margin_mm=5).all()
    assert brain_mask(labels, MM, margin_mm=5).shape == (3, 3, 3)


def test_no_brain_is_an_empty_mask() -> None:
    assert not brain_mask(np.full((3, 3, 3), CSF, np.uint8), MM).any()


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_margin_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(SettingError, match="margin_mm must be 0 or more"):
        brain_mask(np.ones((3, 3, 3), np.uint8), MM, margin_mm=bad)


@given(st.integers(0, 2**32 - 1), st.floats(0, 4), st.floats(0, 4))
def test_a_larger_margin_holds_a_smaller_one(seed: int, margin: float, more: float) -> None:
    """And both hold the largest piece of the brain."""
    labels = (np.random.default_rng(seed).random((6, 7, 8)) < 0.4).astype(np.uint8)
    small, large = (brain_mask(labels, MM, margin_mm=mm, closing_mm=0) for mm in (margin, margin + more))
    assert (large | ~small).all()


# ----- the volumes

#: One voxel is a tenth of a millilitre.
TENTH = np.diag([10.0, 10.0, 1.0, 1.0])
SHAPE = (32, 32, 32)

#: Millilitres of a head in which nothing is odd: twice the least of everything, and a cortex of 500 ml.
USUAL = {value: 2 * LEAST_ML.get(left, 1.0) for left, right in PAIRS.items() for value in (left, right)}
USUAL |= {2: 250.0, 20: 250.0, 11: 1.0, 12: 1.5, 13: 20.0, 16: 300.0}


def labels_of(**changes: float) -> np.ndarray:
    """A label map with the usual volumes, but for those that are named ``v14=2.0``; nothing lies on the border."""
    ml = USUAL | {int(name[1:]): value for name, value in changes.items()}
    inner = np.repeat(list(ml), [round(10 * volume) for volume in ml.values()])
    out = np.zeros(SHAPE, np.uint8)
    core = np.zeros(tuple(n - 2 for n in SHAPE), np.uint8)
    core.flat[: len(inner)] = inner
    out[1:-1, 1:-1, 1:-1] = core
    return out


def said(labels: np.ndarray, affine: np.ndarray = TENTH) -> list[str]:
    return VolumeCheck().warnings(labels, affine, STRUCTURES)


def test_nothing_odd_nothing_said() -> None:
    assert said(labels_of()) == []


def test_wrong_voxel_sizes_are_seen() -> None:
    """Twice as large along each axis is eight times the brain; nothing is said of its parts."""
    (text,) = said(labels_of(v14=0.0), np.diag([20.0, 20.0, 2.0, 1.0]))
    assert text.startswith("the brain would have ")
    assert "outside 600 to 1900" in text
    assert "voxel sizes" in text


def test_what_is_missing_is_named() -> None:
    (text,) = said(labels_of(v14=0.1, v29=0.0))
    assert text.startswith("not found, or hardly: Left-Hippocampus, Right-Hippocampus: look at the picture")


def test_many_that_are_missing_are_counted() -> None:
    (text,) = said(labels_of(**{f"v{value}": 0.0 for value in (7, 8, 9, 10, 25, 26, 27, 28)}))
    assert text.startswith("not found, or hardly: Left-Thalamus, Left-Caudate, ")
    assert "Right-Caudate and 2 more: look" in text


@pytest.mark.parametrize(
    ("changes", "odd"),
    [
        ({"v14": 1.5, "v29": 3.0}, "hippocampus 1.5 and 3.0 ml"),
        ({"v14": 2.0, "v29": 3.0}, ""),
        ({"v2": 200.0, "v20": 250.0}, "cortex 200.0 and 250.0 ml"),
        ({"v2": 230.0}, ""),
        ({"v3": 5.0, "v21": 50.0}, ""),
    ],
    ids=["hippocampus", "as people differ", "cortex", "a little", "ventricles may"],
)
def test_sides_that_differ(changes: dict[str, float], odd: str) -> None:
    texts = said(labels_of(**changes))
    assert [odd in text and "look at the picture" in text for text in texts] == ([True] if odd else [])


def test_a_brain_that_is_cut_off() -> None:
    labels = labels_of()
    labels[:16, :, 0], labels[16:, :, 0] = 2, 20
    (text,) = said(labels)
    assert text.startswith("the brain reaches the border of the image")


def test_no_brain_is_said() -> None:
    (text,) = said(np.zeros(SHAPE, np.uint8))
    assert text.startswith("no brain was found: is this a scan")


# ----- the pose


def draw(labels: np.ndarray, where: np.ndarray, radius: float, value: int) -> None:
    """A ball in a label map, in voxels; what is there already stays, but for a hippocampus's sake."""
    low = np.floor(where - radius).astype(int)
    box = tuple(slice(a, a + int(2 * radius) + 3) for a in low)
    part = labels[box]
    part[blob(part.shape, tuple(where - low), radius) & ((part == 0) | (value in (14, 29)))] = value


def placed(
    matrix: np.ndarray, without: tuple[int, ...] = (), hippocampus_ml: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """A label map of 2 mm with a ball at each reference place, moved by a matrix; and its affine."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-90, -110, -90)
    labels = np.zeros((90, 100, 90), np.uint8)
    both = {**REFERENCE_MM, 14: HIPPOCAMPUS_MM}
    for left, (x, y, z) in both.items():
        radius = (hippocampus_ml * 1000 / 8 * 3 / (4 * np.pi)) ** (1 / 3) if left == 14 else 1.5
        for value, sign in ((left, 1), (PAIRS.get(left, left), -1)):
            if value not in without:
                where = nib.affines.apply_affine(np.linalg.inv(affine) @ matrix, (sign * x, y, z))
                draw(labels, where, radius, value)
    return labels, affine


def moved(degrees: float = 0.0, scale: float = 1.0, shift: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees], degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (20, 0.9), (-25, 1.1)])
def test_a_planted_pose_is_found(degrees: float, scale: float) -> None:
    matrix = moved(degrees, scale, (6, -4, 8))
    pose = pose_of(*placed(matrix))
    assert pose is not None
    assert pose.structures == 27
    assert pose.rms_mm < 1.0
    assert pose.scale == pytest.approx(scale, abs=0.01)
    assert np.degrees(np.arccos((np.trace(pose.rotation.T @ matrix[:3, :3] / scale) - 1) / 2)) < 1.5
    assert np.allclose(pose.apply((0, -20, 0)), nib.affines.apply_affine(matrix, (0, -20, 0)), atol=1.0)


def test_hippocampi_that_lie_as_in_a_brain_are_believed() -> None:
    matrix = moved(15)
    found = hippocampi_of(*placed(matrix))
    assert found.causes == []
    for side, sign in (("left", 1), ("right", -1)):
        there = nib.affines.apply_affine(matrix, np.array(HIPPOCAMPUS_MM) * (sign, 1, 1))
        assert np.linalg.norm(found.middles_mm[side] - there) < 1.0


def test_what_is_not_believed_says_why() -> None:
    assert hippocampi_of(*placed(np.eye(4), without=(14,))).causes == [
        "the left hippocampus would have 0 voxels, fewer than 30"
    ]
    (small, small_right) = hippocampi_of(*placed(np.eye(4), hippocampus_ml=0.5)).causes
    assert small.startswith("the left hippocampus would have 0.")
    assert "outside 1 to 8" in small_right
    few = hippocampi_of(*placed(np.eye(4), without=tuple(range(1, 14))))
    assert few.causes == ["fewer than 20 structures were found"]
    assert few.pose is None


def test_a_hippocampus_in_another_place_is_not_believed() -> None:
    """Its middle 14 mm further back than the other structures have it."""
    labels, affine = placed(np.eye(4))
    labels[labels == 14] = 0
    where = nib.affines.apply_affine(np.linalg.inv(affine), np.array(HIPPOCAMPUS_MM) - (0, 14, 0))
    draw(labels, where, 4.5, 14)
    (cause,) = hippocampi_of(labels, affine).causes
    assert cause == "the left hippocampus would lie 14 mm from where the other structures have it"


def test_a_jumble_is_no_brain() -> None:
    """The same structures, each anywhere."""
    labels, affine = placed(np.eye(4))
    others = np.setdiff1d(np.arange(33), (0, 14, 29))
    shuffled = np.arange(33, dtype=np.uint8)
    shuffled[others] = np.random.default_rng(0).permutation(others)
    causes = hippocampi_of(shuffled[labels], affine).causes
    assert any("do not lie as in a brain" in cause for cause in causes)


def test_mirrored_sides_are_no_brain() -> None:
    """A label map whose left and right are exchanged: no rotation makes it fit."""
    labels, affine = placed(np.eye(4))
    exchanged = np.arange(33, dtype=np.uint8)
    for left, right in PAIRS.items():
        exchanged[left], exchanged[right] = right, left
    causes = hippocampi_of(exchanged[labels], affine).causes
    assert any("do not lie as in a brain" in cause for cause in causes)


@pytest.mark.slow
def test_real_label_maps_lie_as_in_a_brain(real_data: Path) -> None:
    """13 of SynthSeg's 14; in the other one hippocampus is labelled in part, and that is seen."""
    table = yaml.safe_load((BUNDLE / "configs" / "train.yaml").read_text())["anatomy"]
    ours = np.zeros(1000, np.uint8)
    ours[list(table)] = list(table.values())
    refused = {}
    for path in sorted((real_data / "labelmaps").glob("*.nii.gz")):
        part = nib.load(path).slicer[::2, ::2, ::2]
        labels = ours[np.asarray(part.dataobj).astype(int)]
        found = hippocampi_of(labels, part.affine)
        if found.causes:
            refused[path.name] = found.causes
        assert [text for text in said(labels, part.affine) if not text.startswith("left and right")] == []
    assert list(refused) == ["training_seg_07.nii.gz"]


# ----- back to the native grid


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAR", "PIL"])
def test_class_by_class_is_all_at_once(axes: str) -> None:
    """As MONAI's Invertd and argmax, voxel for voxel, for any orientation and anisotropic voxels."""
    affine = np.diag([1.0, 1.5, 2.5, 1.0])
    affine[:3, 3] = (3, -7, 2)
    target = nib.orientations.axcodes2ornt(axes)
    native = nib.Nifti1Image(np.random.default_rng(1).random((30, 26, 16)).astype(np.float32), affine)
    native = native.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), target))
    image = MetaTensor(torch.from_numpy(np.array(native.dataobj)[None]), affine=torch.from_numpy(native.affine))
    chain = Compose([ToNetworkGridd(["image"], (2.0, 2.0, 2.0))])
    data = chain({"image": image})
    logits = 4 * torch.randn((6, *data["image"].shape[1:]), generator=torch.Generator().manual_seed(0))
    logits[5, 2:6, 3:8, 2:5] += 12  # a class that lies in one place
    logits[5, :, :, 6:] -= 20
    logits[4] -= 30  # and one that is nowhere
    data["pred"] = MetaTensor(logits).copy_meta_from(data["image"])
    found = LogitsToNativeLabelsd("pred", "image")(dict(data))["pred"]
    stock = Compose([Invertd("pred", chain, orig_keys="image", nearest_interp=False), AsDiscreted("pred", argmax=True)])
    expected = stock(dict(data))["pred"]
    assert found.shape == image.shape
    assert torch.equal(found.as_tensor(), expected.as_tensor().to(torch.uint8))
    assert np.allclose(found.affine, native.affine)
    assert 5 in found
    assert 4 not in found


def test_its_memory_is_that_of_a_few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """33 classes at 1 mm would be refused where they stood side by side; one by one they pass."""
    asked: list[tuple[tuple[int, ...], int]] = []

    def ask(shape: tuple[int, ...], classes: int, promised: int = 0) -> int:
        asked.append((tuple(shape), classes))
        return 0

    monkeypatch.setattr(runner, "require_memory", ask)
    images = MetaTensor(torch.zeros(1, 1, 8, 8, 8), meta={"spatial_shape": np.array([[16, 16, 16]])})
    for chain in (Compose([LogitsToNativeLabelsd("pred", "image")]), Compose([])):
        runner.require_memory_of(images, 33, chain)
    assert asked == [((8, 8, 8), 33), ((16, 16, 16), runner.CLASS_BY_CLASS), ((16, 16, 16), 33)]


def test_an_image_that_was_not_resampled_is_refused() -> None:
    data = {"image": MetaTensor(torch.zeros(1, 4, 4, 4)), "pred": torch.zeros(3, 4, 4, 4)}
    with pytest.raises(InputError, match="did not go through ToNetworkGridd"):
        LogitsToNativeLabelsd("pred", "image")(data)
