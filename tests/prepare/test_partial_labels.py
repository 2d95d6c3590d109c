"""What nobody drew is unknown."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.label_regions import LabelsToRegionsd
from neurobundle.prepare.partial_labels import UnknownRegionsd
from neurobundle.train import RegionLoss

#: Four voxels: two outside, two of the drawn region.
LABELS = torch.tensor([0, 0, 1, 1]).reshape(1, 4, 1, 1)
REGIONS = LabelsToRegionsd("label", {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]})


def test_a_mask_of_the_whole_tumour() -> None:
    """Core and enhancing part are unknown in it, and known to be absent outside."""
    regions = UnknownRegionsd("label", drawn=0, inside=[1, 2])(REGIONS({"label": LABELS}))["label"]
    assert regions.flatten(1).tolist() == [[0, 0, 1, 1], [0, 0, -1, -1], [0, 0, -1, -1]]


def test_a_mask_of_the_core() -> None:
    """How far the tumour goes around it is unknown; so is what of it enhances."""
    regions = UnknownRegionsd("label", drawn=1, inside=[2], outside=[0])(REGIONS({"label": LABELS}))["label"]
    assert regions.flatten(1).tolist() == [[-1, -1, 1, 1], [0, 0, 1, 1], [0, 0, -1, -1]]


def test_the_input_is_left_as_it_is_and_metadata_are_kept() -> None:
    given = MetaTensor(torch.ones(2, 1, 1, 1), meta={"filename_or_obj": "anna.nii"})
    result = UnknownRegionsd("label", drawn=0, inside=[1])({"label": given})["label"]
    assert given.min() == 1
    assert result[1].item() == -1
    assert result.meta["filename_or_obj"] == "anna.nii"


def test_the_loss_learns_nothing_of_it() -> None:
    regions = UnknownRegionsd("label", drawn=0, inside=[1, 2])(REGIONS({"label": LABELS}))["label"][None]
    logits = torch.zeros_like(regions, requires_grad=True)
    RegionLoss()(logits, regions).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, regions >= 0)


@pytest.mark.parametrize("settings", [{}, {"inside": [0]}, {"outside": [-1]}])
def test_settings_that_mean_nothing(settings: dict[str, list[int]]) -> None:
    with pytest.raises(SettingError, match="the drawn channel is 0"):
        UnknownRegionsd("label", drawn=0, **settings)


def test_a_region_that_is_not_there() -> None:
    with pytest.raises(InputError, match="there are 2 regions"):
        UnknownRegionsd("label", drawn=0, inside=[2])({"label": torch.ones(2, 1, 1, 1)})
