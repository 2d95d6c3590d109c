"""Regions back to labels."""

from __future__ import annotations

import pytest
import torch

from neurobundle.errors import SettingError
from neurobundle.postprocess import RegionsToLabelsd
from neurobundle.prepare import LabelsToRegionsd

BRATS = {"WT": 2, "TC": 1, "ET": 3}


def test_a_later_region_is_drawn_upon_an_earlier_one() -> None:
    regions = torch.tensor([[0.1, 0.9, 0.9, 0.9, 0.2], [0.0, 0.1, 0.8, 0.9, 0.9], [0.0, 0.2, 0.1, 0.7, 0.1]])
    labels = RegionsToLabelsd("pred", BRATS)({"pred": regions.reshape(3, 5, 1, 1)})["pred"]
    assert labels.dtype == torch.uint8
    assert labels[0, :, 0, 0].tolist() == [0, 2, 1, 3, 1]


def test_there_and_back() -> None:
    labels = torch.randint(0, 4, (1, 6, 5, 4), generator=torch.Generator().manual_seed(0))
    regions = LabelsToRegionsd("x", {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]})({"x": labels})["x"]
    assert torch.equal(RegionsToLabelsd("x", BRATS)({"x": regions})["x"], labels.to(torch.uint8))


def test_what_is_refused() -> None:
    with pytest.raises(SettingError, match="labels are"):
        RegionsToLabelsd("x", {})
    with pytest.raises(SettingError, match="threshold"):
        RegionsToLabelsd("x", BRATS, 1.0)
    with pytest.raises(SettingError, match="has 2 channels, and 3 regions"):
        RegionsToLabelsd("x", BRATS)({"x": torch.zeros(2, 3, 3, 3)})
