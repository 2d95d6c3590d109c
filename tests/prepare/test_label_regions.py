"""Labels as regions that overlap."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare import LabelsToRegionsd

BRATS = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}


def test_the_regions_of_brats() -> None:
    labels = torch.tensor([0, 1, 2, 3]).reshape(1, 4, 1, 1)
    regions = LabelsToRegionsd("label", BRATS)({"label": MetaTensor(labels, affine=torch.eye(4) * 2)})["label"]
    assert regions[:, :, 0, 0].tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert regions.dtype == torch.float32
    assert regions.affine[0, 0] == 2


def test_a_label_that_no_region_has() -> None:
    labels = MetaTensor(torch.tensor([0, 4]).reshape(1, 2, 1, 1), meta={"filename_or_obj": "old_brats_seg.nii.gz"})
    with pytest.raises(InputError, match=r"values \[4\]") as caught:
        LabelsToRegionsd("label", BRATS)({"label": labels})
    assert caught.value.file == "old_brats_seg.nii.gz"


@pytest.mark.parametrize("regions", [{}, {"WT": []}])
def test_regions_that_are_none(regions: dict) -> None:
    with pytest.raises(SettingError, match="regions are"):
        LabelsToRegionsd("label", regions)
