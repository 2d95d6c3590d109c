"""Noise taken out of magnitude images, whose noise is Rician.

A scanner shows the magnitude of a complex signal with Gaussian noise of standard deviation *sigma* in both parts
(Gudbjartsson & Patz 1995, Magn Reson Med 34:910). The mean of such magnitudes is above the true signal, the more so
the darker it is: in air it is 1.25 sigma. Non-local means (Buades 2005; scikit-image's) averages like patches, and so
finds that mean; it is then brought back to the signal that has it.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.channels import ChannelTransformd, Region

#: The median of |x| of a normal distribution of standard deviation 1.
MEDIAN_OF_NORMAL = 0.6745
#: Beyond so many sigma the excess of the mean is sigma^2 / 2A, to a thousandth of sigma.
LAST_SNR = 12.0


def noise_sigma(image: torch.Tensor, mask: torch.Tensor) -> float:
    """The noise's standard deviation, from what two neighbours along every axis do not share.

    It is the median absolute deviation of the finest diagonal Haar wavelet (Donoho & Johnstone 1994; for MR, Coupe et
    al. 2010, Med Image Anal 14:483) over blocks of two voxels a side that lie wholly in the mask. There the signal is
    well above the noise, so that the noise is nearly Gaussian.

    Args:
        image: ``(i, j, k)`` or ``(i, j)``.
        mask: boolean, the same shape: the head.

    Raises:
        InputError: if no whole block lies in the mask.
    """
    detail = image.double()
    inside = mask
    for axis, size in enumerate(image.shape):
        pairs = size // 2
        first, second = (torch.arange(start, 2 * pairs, 2, device=image.device) for start in (0, 1))
        detail = (detail.index_select(axis, first) - detail.index_select(axis, second)) / 2**0.5
        inside = inside.index_select(axis, first) & inside.index_select(axis, second)
    if not bool(inside.any()):
        raise InputError("no block of two voxels a side lies in the mask", "Give a larger mask, or sigma.")
    return float(detail[inside].abs().median()) / MEDIAN_OF_NORMAL


def without_rician_bias(mean: torch.Tensor, sigma: float) -> torch.Tensor:
    """The signals whose magnitudes have these means.

    The well-known sqrt(max(m^2 - 2 sigma^2, 0)) undoes the bias of a mean of *squares*. Non-local means here averages
    magnitudes, whose mean is sigma sqrt(pi/2) L(-A^2 / 2 sigma^2), L being the Laguerre function of order 1/2 (Koay &
    Basser 2006, J Magn Reson 179:317); this inverts it from a table, and far above the noise as sqrt(m^2 - sigma^2).

    Args:
        mean: of magnitudes, any shape.
        sigma: above 0.

    Returns:
        The same shape; 0 where the mean is not above that of noise alone.
    """
    from scipy.special import ive

    signal = np.linspace(0, LAST_SNR, 2049)
    quarter = signal**2 / 4
    seen = np.sqrt(np.pi / 2) * ((1 + 2 * quarter) * ive(0, quarter) + 2 * quarter * ive(1, quarter))
    ratio = mean.detach().cpu().double().numpy() / sigma
    near = np.interp(ratio, seen, signal, left=0.0)
    found = sigma * np.where(ratio > seen[-1], np.sqrt(np.maximum(ratio**2 - 1, 0)), near)
    return torch.as_tensor(found).to(mean)


class DenoiseNonLocalMeansd(ChannelTransformd):
    """Non-local means with the Rician bias taken back, channel by channel; slow: some minutes a head.

    It comes before whatever shifts intensities, since a magnitude's zero means something. Scikit-image's fast mode is
    used, whose cost grows with ``(2 patch_distance + 1)^3`` and not with the patch.

    Args:
        keys: magnitude images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        sigma: the noise's standard deviation; found by :func:`noise_sigma` over the region if None.
        strength: the larger, the less like patches may be; in units of sigma (scikit-image's h).
        patch_size: voxels along an edge of a patch.
        patch_distance: voxels, the farthest that like patches are looked for.
        rician: take the bias back.
        region: ``foreground`` or ``mask``: where sigma is found.
        mask_key: for ``mask``: a mask on the same grid.
        allow_empty: leave a channel that is 0 everywhere as it is.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a setting that means nothing.
        InputError: for a channel of one value, with voxels below 0 or not finite, or in which no noise can be found.
    """

    def __init__(
        self,
        keys: KeysCollection,
        sigma: float | None = None,
        strength: float = 0.8,
        patch_size: int = 3,
        patch_distance: int = 2,
        rician: bool = True,
        region: Region = "foreground",
        mask_key: str | None = None,
        allow_empty: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, region, mask_key, allow_empty, allow_missing_keys)
        if (sigma is not None and not sigma > 0) or not strength > 0:
            raise SettingError(f"sigma is {sigma} and strength {strength}", "Give numbers above 0, or leave them out.")
        if patch_size < 1 or patch_distance < 1:
            raise SettingError(f"patch_size is {patch_size} and patch_distance {patch_distance}", "Give 1 or more.")
        self.sigma, self.strength, self.rician = sigma, strength, rician
        self.patch_size, self.patch_distance = patch_size, patch_distance

    def one(self, channel: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        """Averaged, and the bias taken back."""
        from skimage.restoration import denoise_nl_means

        if float(channel.min()) < 0:
            raise InputError(f"its least voxel is {float(channel.min()):g}", "Denoise magnitudes, before normalising.")
        if float(channel.max()) == float(channel.min()):
            raise InputError(f"no signal: every voxel is {float(channel.min()):g}", "Is it a mask, or an empty scan?")
        sigma = noise_sigma(channel, mask) if self.sigma is None else self.sigma
        if sigma <= 0:
            # Voxels that equal their neighbours: there is nothing to take out.
            return channel.clone()
        averaged = denoise_nl_means(
            channel.detach().cpu().double().numpy(),
            patch_size=self.patch_size,
            patch_distance=self.patch_distance,
            h=self.strength * sigma,
            sigma=sigma,
            fast_mode=True,
        )
        found = torch.from_numpy(averaged).to(channel)
        return without_rician_bias(found, sigma) if self.rician else found
