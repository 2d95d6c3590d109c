"""Regions that overlap, from the network's grid to labels on the native one."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from neurobundle.errors import SettingError
from neurobundle.postprocess import RegionsToLabelsd
from neurobundle.postprocess.native_labels import LogitsToNativeLabelsd, native_probabilities, native_regions
from neurobundle.prepare import ToNetworkGridd
from neurobundle.prepare.grid import Grid

LABELS = {"WT": 2, "TC": 1, "ET": 3}


def along(*values: float) -> torch.Tensor:
    """Logits of one region, of voxels along the first axis."""
    return torch.tensor(values)[None, :, None, None]


def test_on_the_same_grid() -> None:
    """A later region is drawn upon an earlier one; a logit of 0 is a probability of one half, which is not above it."""
    logits = torch.cat([along(-1, 1, 1, 0), along(-1, -1, 1, -1)])
    found = native_regions(logits, np.eye(4), Grid((4, 1, 1), np.eye(4)), [2, 1])
    assert found[:, 0, 0].tolist() == [0, 2, 1, 0]


def test_between_two_voxels() -> None:
    """From 2 mm to 1 mm: logits -1 and 3 are 1 in the middle; a quarter of the way they are 0, and not above."""
    fine = Grid((5, 1, 1), np.diag([0.5, 2, 2, 1]))
    found = native_regions(along(-1, 3), np.diag([2.0, 2, 2, 1]), fine, [7])
    assert found[:, 0, 0].tolist() == [0, 0, 7, 7, 7]


@pytest.mark.parametrize(("threshold", "expected"), [(0.2, [0, 5, 5, 5]), (0.5, [0, 0, 5, 5]), (0.8, [0, 0, 0, 5])])
def test_another_threshold(threshold: float, expected: list[int]) -> None:
    """Probabilities of .12, .27, .73 and .88; what the network's grid does not reach is no region at any of them."""
    native = Grid((6, 1, 1), np.eye(4))
    found = native_regions(along(-2, -1, 1, 2), np.eye(4), native, [5], threshold)
    assert found[:, 0, 0].tolist() == [*expected, 0, 0]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_as_by_probabilities_on_the_native_grid(threshold: float) -> None:
    """Grids of another spacing, flipped, of which one reaches further: the same labels, without the probabilities."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(3, 9, 8, 7)
    network = np.diag([2.0, 2.0, 2.0, 1.0])
    native = Grid((20, 15, 9), np.array([[-1.1, 0, 0, 18], [0, 0.9, 0, -1], [0, 0, 1.7, -2], [0, 0, 0, 1]]))
    shares = native_probabilities(logits, network, native)
    expected = RegionsToLabelsd("pred", LABELS, threshold)({"pred": shares})["pred"][0]
    found = native_regions(logits, network, native, list(LABELS.values()), threshold)
    assert torch.equal(found, expected)
    assert len(found.unique()) == 4


def test_as_a_transform() -> None:
    """The image says which grids; what comes out lies on the native one."""
    image = MetaTensor(torch.rand(1, 4, 6, 5), affine=torch.diag(torch.tensor([-1.0, 1.0, 2.0, 1.0])))
    data = ToNetworkGridd("image")({"image": image})
    data["pred"] = torch.full((3, *data["image"].shape[1:]), -4.0)
    data["pred"][0, 0] = 4.0
    labels = LogitsToNativeLabelsd("pred", "image", LABELS)(data)["pred"]
    assert labels.shape == image.shape
    assert torch.equal(labels.affine, image.affine)
    # The first plane of RAS+ is the last one here.
    assert (labels[0, -1] == 2).all()
    assert (labels[0, :-1] == 0).all()


@pytest.mark.parametrize("labels", [{}, {"WT": 0}, {"WT": 256}])
def test_labels_that_are_none(labels: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="Give each region a label"):
        LogitsToNativeLabelsd("pred", "image", labels)


def test_other_regions_than_channels() -> None:
    image = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.eye(4))
    data = ToNetworkGridd("image")({"image": image})
    data["pred"] = torch.zeros(2, *data["image"].shape[1:])
    with pytest.raises(SettingError, match="2 channels, and 3 regions"):
        LogitsToNativeLabelsd("pred", "image", LABELS)(data)
