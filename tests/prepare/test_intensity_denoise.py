import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.denoise import DenoiseNonLocalMeansd, noise_sigma, without_rician_bias


def magnitudes(signal: torch.Tensor, sigma: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    real, imaginary = (sigma * torch.randn(signal.shape, generator=generator) for _ in range(2))
    return torch.hypot(signal + real, imaginary)


def test_sigma_of_two_by_two_voxels() -> None:
    """One block of two by two: its diagonal detail is (a - b - c + d) / 2, so 3 here."""
    block = torch.tensor([[6.0, 0.0], [0.0, 0.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert noise_sigma(block, mask) == pytest.approx(3 / 0.6745)


def test_sigma_is_found_beside_edges() -> None:
    signal = torch.zeros(40, 40, 40)
    signal[8:32, 8:32, 8:32] = 100
    signal[16:24] *= 2
    noisy = magnitudes(signal, 5.0)
    assert noise_sigma(noisy, noisy > 50) == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("snr", [1.0, 2.0, 5.0, 20.0])
def test_the_mean_of_magnitudes_comes_back_to_its_signal(snr: float) -> None:
    mean = magnitudes(torch.full((400_000,), 3 * snr), 3.0).mean()
    assert float(without_rician_bias(mean, 3.0)) == pytest.approx(3 * snr, rel=0.01)


def test_air_comes_back_to_nothing() -> None:
    """The mean of pure noise is sigma times the root of pi / 2; what is below is no signal either."""
    noise = torch.tensor([2 * (np.pi / 2) ** 0.5, 1.0, 0.0])
    assert without_rician_bias(noise, 2.0).abs().max() < 1e-6


def test_nearer_to_the_truth_than_before_and_without_bias() -> None:
    signal = torch.zeros(24, 24, 24)
    signal[4:20, 4:20, 4:20] = 40
    signal[8:16, 8:16, 8:16] = 90
    image = MetaTensor(magnitudes(signal, 6.0)[None], affine=2 * torch.eye(4))
    before = image.clone()
    mask = (signal > 0)[None]
    found = DenoiseNonLocalMeansd("image", region="mask", mask_key="mask")({"image": image, "mask": mask})["image"]
    assert torch.equal(image.as_tensor(), before.as_tensor())
    assert torch.equal(found.affine, image.affine)
    error, old = ((x[0] - signal).square().mean().sqrt() for x in (found.as_tensor(), image.as_tensor()))
    assert error < 0.6 * old
    assert float(found[0][signal == 0].mean()) < 0.5 * float(image[0][signal == 0].mean())


def test_nothing_to_take_out() -> None:
    image = torch.zeros(1, 8, 8)
    image[:, 2:6, 2:6] = 5
    assert torch.equal(DenoiseNonLocalMeansd("image")({"image": image})["image"], image)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="its least voxel is -1"):
        DenoiseNonLocalMeansd("image")({"image": torch.linspace(-1, 1, 64).reshape(1, 8, 8)})
    specks = torch.zeros(1, 8, 8)
    specks[0, ::3, ::3] = 1
    with pytest.raises(InputError, match="no block of two voxels"):
        DenoiseNonLocalMeansd("image")({"image": specks})
    with pytest.raises(SettingError, match="sigma is 0"):
        DenoiseNonLocalMeansd("image", sigma=0)
    with pytest.raises(SettingError, match="patch_size is 0"):
        DenoiseNonLocalMeansd("image", patch_size=0)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_channel_of_one_value_is_refused(value: float) -> None:
    image = MetaTensor(torch.full((1, 8, 8, 8), value), meta={"filename_or_obj": "flat.nii.gz"})
    with pytest.raises(InputError, match="no signal: every voxel is") as caught:
        DenoiseNonLocalMeansd("image")({"image": image})
    assert caught.value.file == "flat.nii.gz"
