import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import FgBgToIndicesd, RandCropByPosNegLabeld
from scipy import stats

from neurobundle.augment.crops import FindForegroundIndicesd, RandPosNegCropd, find_places
from neurobundle.errors import InputError, SettingError


def case() -> dict[str, torch.Tensor]:
    """Every voxel says where it is."""
    where = torch.stack(torch.meshgrid(*map(torch.arange, (12, 10, 9)), indexing="ij")).float()
    label = torch.zeros(1, 12, 10, 9)
    label[:, 5:8, 4:6, 3:5] = 2
    return {"image": MetaTensor(where, affine=torch.diag(torch.tensor([2.0, 3, 4, 1]))), "label": label}


def test_places_of_five_voxels() -> None:
    label = torch.tensor([[[0, 1, 0, 2, 0]]])
    assert [p.tolist() for p in find_places(label)] == [[1, 3], [0, 2, 4]]
    image = torch.tensor([[[5.0, 5.0, 0.0, 5.0, 5.0]]])
    assert find_places(label, image).background.tolist() == [0, 4]
    assert find_places(label, image, 5.0).background.tolist() == []


def test_foreground_is_that_of_any_channel() -> None:
    """Regions lie in each other and are not one-hot: the first one counts as well."""
    assert find_places(torch.tensor([[[1, 0, 0]], [[0, 0, 1]]])).foreground.tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_places_of_any_type(dtype: torch.dtype) -> None:
    """MONAI 1.6.1 takes every voxel of a uint8 label map for background, since its ~ is bitwise there."""
    assert [p.tolist() for p in find_places(torch.tensor([[[0, 1, 0]]]).to(dtype))] == [[1], [0, 2]]


def test_places_are_monais() -> None:
    data = case()
    ours, theirs = FindForegroundIndicesd("label")(data), FgBgToIndicesd("label")(data)
    for name in ("label_fg_indices", "label_bg_indices"):
        assert ours[name].tolist() == theirs[name].tolist()
    assert "label_fg_indices" not in data


@pytest.mark.parametrize("size", [(4, 4, 4), (5, 3, 7), (12, 10, 9)])
@pytest.mark.parametrize("found_before", [False, True])
def test_crops_are_monais_for_one_seed(size: tuple[int, ...], found_before: bool) -> None:
    data = FindForegroundIndicesd("label")(case()) if found_before else case()
    settings = {"pos": 2.0, "neg": 1.0, "num_samples": 5}
    ours = RandPosNegCropd(["image", "label"], "label", size, **settings).set_random_state(4)
    theirs = RandCropByPosNegLabeld(["image", "label"], "label", size, **settings).set_random_state(4)
    pairs = list(zip(ours(data), theirs(case()), strict=True))
    assert len(pairs) == 5
    for a, b in pairs:
        assert set(a) == {"image", "label"}
        for key in a:
            assert torch.equal(torch.as_tensor(a[key]).as_subclass(torch.Tensor), b[key].as_subclass(torch.Tensor))
        assert torch.equal(a["image"].affine, b["image"].affine)


def test_centres_are_distributed_as_monais() -> None:
    """Other seeds: chi-square over the axes, Kolmogorov-Smirnov over the flat place."""
    data = FindForegroundIndicesd("label")(case())
    settings = {"pos": 1.0, "neg": 1.0, "num_samples": 1500}
    keys, size = ["image"], (3, 3, 3)
    ours = RandPosNegCropd(keys, "label", size, **settings).set_random_state(0)(data)
    theirs = RandCropByPosNegLabeld(keys, "label", size, **settings).set_random_state(1)(case())
    first, second = (
        np.array([crop["image"].numpy()[:, 1, 1, 1] for crop in crops]).astype(int) for crops in (ours, theirs)
    )
    for axis in range(3):
        counts = np.stack([np.bincount(c[:, axis], minlength=12) for c in (first, second)])
        assert stats.chi2_contingency(counts[:, counts.sum(axis=0) > 0]).pvalue > 0.01
    flat = [np.ravel_multi_index(tuple(c.T), (12, 10, 9)) for c in (first, second)]
    assert stats.ks_2samp(*flat).pvalue > 0.01


def test_centres_are_in_the_foreground_if_only_it_is_asked_for() -> None:
    crops = RandPosNegCropd("label", "label", (3, 3, 3), pos=1, neg=0, num_samples=20).set_random_state(0)(case())
    assert all(crop["label"][0, 1, 1, 1] == 2 for crop in crops)


def test_a_label_without_foreground_gives_background() -> None:
    data = case() | {"label": torch.zeros(1, 12, 10, 9)}
    assert len(RandPosNegCropd(["image"], "label", (3, 3, 3), pos=1, neg=0, num_samples=2)(data)) == 2


def test_one_seed_one_result() -> None:
    crop = RandPosNegCropd(["image"], "label", (3, 3, 3), num_samples=3)
    first, second, other = (torch.stack([c["image"] for c in crop.set_random_state(n)(case())]) for n in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match="pos is 0 and neg 0"):
        RandPosNegCropd("image", "label", (3, 3, 3), pos=0, neg=0)
    with pytest.raises(SettingError, match="patch_size is"):
        RandPosNegCropd("image", "label", (3, 0, 3))
    with pytest.raises(SettingError, match="num_samples is 0"):
        RandPosNegCropd("image", "label", (3, 3, 3), num_samples=0)
    with pytest.raises(InputError, match=r"\(3, 11, 3\) voxels does not fit into \(12, 10, 9\)"):
        RandPosNegCropd("image", "label", (3, 11, 3))(case())
    with pytest.raises(InputError, match="does not fit"):
        RandPosNegCropd("image", "label", (3, 3))(case())
    nothing = {"image": torch.zeros(1, 12, 10, 9), "label": torch.zeros(1, 12, 10, 9)}
    with pytest.raises(InputError, match="no voxel to put a crop about"):
        RandPosNegCropd("image", "label", (3, 3, 3), image_key="image")(nothing)
    with pytest.raises(InputError, match=r"the image is \(3, 3\) and the label map \(3, 4\)"):
        find_places(torch.zeros(1, 3, 4), torch.zeros(1, 3, 3))


def test_a_label_map_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="there is no label map 'mask'"):
        RandPosNegCropd("image", "mask", (2, 2, 2))({"image": torch.ones(1, 4, 4, 4)})
