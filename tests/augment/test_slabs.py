"""Slices as slabs: what is known of each voxel, counted on a slice of four by four pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from neurobundle.augment import RandSlabd, tumour_slabs
from neurobundle.augment.slabs import CORE, ENHANCING, WHOLE, slab_regions
from neurobundle.errors import InputError, SettingError
from neurobundle.train import RegionLoss

SHAPE = (16, 20, 12)
STEP = (2.0, 2.0, 2.0)


def picture(size: int = 24) -> tuple[MetaTensor, MetaTensor]:
    """A slice that is brighter to the right and further down, and a core of 3 x 3 pixels in its middle."""
    image = (torch.arange(size)[:, None] * 100 + torch.arange(size) + 1).float()
    mask = torch.zeros(size, size)
    mask[11:14, 11:14] = 255
    return MetaTensor(image[None, ..., None]), MetaTensor(mask[None, ..., None])


def slab(seed: int, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    transform = RandSlabd("image", shape=SHAPE, spacing_mm=STEP, **settings)  # type: ignore[arg-type]
    transform.set_random_state(seed=seed)
    image, label = picture()
    made = transform({"image": image, "label": label})
    return made["image"], made["label"]


def test_what_is_known_of_four_by_four_pixels() -> None:
    """One pixel of core: the eight around it may be oedema, at most 1.5 pixels away; those further away are none."""
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, 1] = True
    whole, core, enhancing = slab_regions(mask, near=1.5)
    assert whole.tolist() == [[-1, -1, -1, 0], [-1, 1, -1, 0], [-1, -1, -1, 0], [0, 0, 0, 0]]
    assert core.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert enhancing.tolist() == [[0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_slice_whose_core_lies_elsewhere_has_none() -> None:
    """A window that lost it says so."""
    assert not slab_regions(torch.zeros(4, 4, dtype=torch.bool), near=2.0).any()


@pytest.mark.parametrize("seed", range(6))
def test_only_three_voxels_of_thickness_are_known(seed: int) -> None:
    image, label = slab(seed, thick_mm=6.0, near_mm=4.0)
    known = (label[CORE] >= 0).nonzero()
    extent = (known.max(dim=0).values - known.min(dim=0).values + 1).tolist()
    (stack,) = [axis for axis in range(3) if extent[axis] != SHAPE[axis]]
    assert extent[stack] == 3
    assert int((label[CORE] == 1).sum()) == 3 * 9
    assert int((label[WHOLE] == 1).sum()) == 3 * 9
    assert not (label[ENHANCING] == 1).any()
    assert torch.equal(label[ENHANCING][label[CORE] == 1], torch.full((27,), -1.0))
    # The picture is repeated along the stack, whatever is known of it.
    first = image[1].narrow(stack, 0, 1)
    assert torch.equal(image[1], first.expand_as(image[1]))


def test_all_three_planes_are_drawn() -> None:
    stacks = set()
    for seed in range(12):
        known = (slab(seed)[1][CORE] >= 0).nonzero()
        extent = (known.max(dim=0).values - known.min(dim=0).values + 1).tolist()
        stacks |= {axis for axis in range(3) if extent[axis] == 3}
    assert stacks == {0, 1, 2}


def test_other_channels_are_absent() -> None:
    image, _ = slab(0)
    assert image.shape == (4, *SHAPE)
    assert [bool(channel.any()) for channel in image] == [False, True, False, False]


@pytest.mark.parametrize("seed", range(4))
def test_the_display_is_radiological(seed: int) -> None:
    """The screen's right and its lower edge are the brighter ones: left and back, left and feet, or back and feet."""
    image, label = slab(seed)
    known = (label[CORE] >= 0).nonzero()
    extent = (known.max(dim=0).values - known.min(dim=0).values + 1).tolist()
    stack = extent.index(3)
    plane = image[1].select(stack, 0)
    assert bool((plane[1:] < plane[:-1]).all())
    assert bool((plane[:, 1:] < plane[:, :-1]).all())


def test_a_slice_smaller_than_the_volume_is_padded_with_its_edge() -> None:
    transform = RandSlabd("image", shape=(40, 40, 40), spacing_mm=STEP)
    image, label = picture()
    made = transform({"image": image, "label": label})
    assert float(made["image"][1].min()) == 1.0
    assert int((made["label"][CORE] == 1).sum()) == 3 * 9


def test_one_seed_one_slab() -> None:
    for a, b in zip(slab(3), slab(3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(slab(3)[0], slab(4)[0])


def test_the_loss_learns_from_the_slab_alone() -> None:
    _, label = slab(1)
    torch.manual_seed(0)
    logits = torch.randn(1, *label.shape, requires_grad=True)
    RegionLoss()(logits, label.as_tensor()[None]).backward()
    assert logits.grad is not None
    unknown = label.as_tensor()[None] < 0
    assert not logits.grad[unknown].any()
    assert logits.grad[~unknown].all()


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """Three slices of two persons, 64 pixels of 250 / 64 mm."""
    items = []
    for n, person in enumerate(("anna", "bert", "bert")):
        data = np.tile(np.arange(64, dtype=np.uint8) + n, (64, 1))
        mask = np.zeros_like(data)
        mask[30:36, 30:36] = 255
        for name, values in (("image", data), ("mask", mask)):
            Image.fromarray(values).save(tmp_path / f"{n}_{name}.png")
        names = {"image": f"{n}_image.png", "label": f"{n}_mask.png"}
        items.append({"case": str(n), "subject": person, "fold": int(person == "anna"), **names})
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": items}))
    return path


def chain() -> Compose:
    return Compose([RandSlabd("image", shape=SHAPE, spacing_mm=STEP)])


def test_persons_of_the_held_out_fold_give_none(slices: Path) -> None:
    dataset = tumour_slabs(slices, 6, chain(), fold=0)
    dataset.transform.set_random_state(seed=0)
    assert {dataset[n]["case"] for n in range(6)} == {"0"}


def test_a_person_is_drawn_first(slices: Path) -> None:
    """Anna has one slice of three, and half of the draws."""
    dataset = tumour_slabs(slices, 40, chain(), fold=-1)
    dataset.transform.set_random_state(seed=0)
    subjects = [dataset[n]["subject"] for n in range(40)]
    assert 13 <= subjects.count("anna") <= 27


def test_a_pixel_is_of_the_volume_s_size(slices: Path) -> None:
    """Six pixels of 250 / 64 mm are 23 mm: about 12 voxels of 2 mm."""
    label = tumour_slabs(slices, 1, Compose([RandSlabd("image", shape=(96, 96, 96), spacing_mm=STEP)]))[0]["label"]
    assert float((label[CORE] == 1).sum()) / 3 == pytest.approx((6 * 250 / 64 / 2) ** 2, rel=0.1)


def test_items_stand_in_one_batch_with_heads(slices: Path) -> None:
    assert set(tumour_slabs(slices, 1, chain())[0]) == {"image", "label", "case", "subject", "fold"}


def test_without_slices_there_are_none(slices: Path) -> None:
    assert len(tumour_slabs(None, 3, chain())) == len(tumour_slabs(slices, 0, chain())) == 0


def test_an_empty_mask_names_its_file() -> None:
    image, label = picture()
    label.meta["filename_or_obj"] = "masks/7.png"
    with pytest.raises(InputError, match="its mask is empty") as caught:
        RandSlabd("image", shape=SHAPE)({"image": image, "label": label * 0})
    assert "7.png" in caught.value.file
    assert caught.value.way_out


def test_a_volume_is_no_slice() -> None:
    image, label = picture()
    with pytest.raises(InputError, match="no single slice"):
        RandSlabd("image", shape=SHAPE)({"image": image.repeat(1, 1, 1, 2), "label": label})


def test_a_slice_without_a_mask_names_its_case(slices: Path) -> None:
    content = json.loads(slices.read_text())
    del content["training"][0]["label"]
    slices.write_text(json.dumps(content))
    with pytest.raises(SettingError, match="no mask") as caught:
        tumour_slabs(slices, 1, chain())
    assert caught.value.case == "0"


@pytest.mark.parametrize(
    "settings",
    [{"shape": (4, 4, 4)}, {"spacing_mm": (1.0, 2.0, 2.0)}, {"channel": 4}, {"thick_mm": -1.0}, {"keys": ("a", "b")}],
)
def test_settings_that_mean_nothing(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        RandSlabd(**{"keys": "image", **settings})  # type: ignore[arg-type]
