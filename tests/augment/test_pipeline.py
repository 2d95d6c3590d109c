import torch

from neurobundle.augment import mri_augmentation


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
