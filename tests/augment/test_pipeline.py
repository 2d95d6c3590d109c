import pytest
import torch

from neurobundle.augment import mri_augmentation
from neurobundle.augment.pipeline import mri_artefacts
from neurobundle.errors import SettingError


def case() -> dict[str, torch.Tensor]:
    label = torch.zeros(1, 30, 40, 30)
    label[:, 10:20, 5:20, 10:20] = 1
    label[:, 10:20, 20:30, 10:20] = 2
    image = label + 0.1 * torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    return {"image": image, "label": label}


def test_patch_has_its_size_and_labels_keep_their_values() -> None:
    augment = mri_augmentation("image", "label", patch_size=(24, 48, 24))
    augment.set_random_state(seed=0)
    for _ in range(8):
        result = augment(case())
        assert result["image"].shape == result["label"].shape == (1, 24, 48, 24)
        assert set(result["label"].unique().tolist()) <= {0, 1, 2}
        assert bool(torch.isfinite(result["image"]).all())


def test_one_seed_one_result() -> None:
    results = []
    for _ in range(2):
        augment = mri_augmentation("image", "label", patch_size=(24, 24, 24))
        augment.set_random_state(seed=3)
        results.append([augment(case()) for _ in range(3)])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["label"], second["label"])


def test_front_and_back_are_never_mirrored() -> None:
    """Without flip axes label 1 stays behind label 2 along the second axis, whatever is drawn."""
    augment = mri_augmentation("image", "label", patch_size=(30, 40, 30))
    augment.set_random_state(seed=1)
    for _ in range(12):
        label = augment(case())["label"][0]
        means = [torch.nonzero(label == value)[:, 1].double().mean() for value in (1, 2)]
        assert means[0] < means[1]


def test_the_house_recipe_keeps_the_same_promises() -> None:
    results = []
    for _ in range(2):
        augment = mri_augmentation("image", "label", patch_size=(24, 48, 24), house=True)
        augment.set_random_state(seed=0)
        results.append([augment(case()) for _ in range(6)])
    for first, second in zip(*results, strict=True):
        assert first["image"].shape == first["label"].shape == (1, 24, 48, 24)
        assert set(first["label"].unique().tolist()) <= {0, 1, 2}
        assert bool(torch.isfinite(first["image"]).all())
        assert torch.equal(first["image"], second["image"])
    assert not torch.equal(results[0][0]["image"], results[0][1]["image"])


def test_the_shipped_recipe_is_as_it_was() -> None:
    """Weights were trained with it: the default is of MONAI's transforms, in this order."""
    names = [type(step).__name__ for step in mri_augmentation("image", "label", (8, 8, 8), flip_axes=(0,)).transforms]
    assert names == [
        "SpatialPadd",
        "OneOf",
        "RandSpatialCropd",
        "RandFlipd",
        "RandBiasFieldd",
        "RandAdjustContrastd",
        "RandScaleIntensityd",
        "RandGaussianSmoothd",
        "RandGaussianNoised",
    ]


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_artefacts_spoil_the_image_and_never_the_label(strength: float) -> None:
    augment = mri_artefacts("image", strength, brain_extracted=True, invert_prob=0.1)
    augment.set_random_state(seed=0)
    changed = 0
    for _ in range(12):
        data = case()
        result = augment(data)
        assert torch.equal(result["label"], case()["label"])
        assert torch.equal(data["image"], case()["image"])
        assert bool(torch.isfinite(result["image"]).all())
        changed += not torch.equal(result["image"], data["image"])
    assert 4 <= changed <= 12


def test_the_stronger_the_worse() -> None:
    errors = []
    for strength in (0.25, 1.0, 2.0):
        augment = mri_artefacts("image", strength)
        augment.set_random_state(seed=1)
        errors.append(sum(float((augment(case())["image"] - case()["image"]).abs().mean()) for _ in range(12)))
    assert errors[0] < errors[1] < errors[2]


def test_no_strength_is_no_artefact() -> None:
    augment = mri_artefacts("image", 0.0, invert_prob=1.0)
    augment.set_random_state(seed=0)
    for _ in range(6):
        torch.testing.assert_close(augment(case())["image"], case()["image"], atol=1e-4, rtol=0)
    with pytest.raises(SettingError, match="strength"):
        mri_artefacts("image", -1)


def test_a_strength_beyond_meaning_is_named() -> None:
    with pytest.raises(SettingError, match=r"strength is .*20"):
        mri_artefacts("image", strength=20)
