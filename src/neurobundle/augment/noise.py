"""The noise of a scanner: Gaussian in both parts of a complex signal, Rician in the magnitude that is shown.

Gudbjartsson & Patz 1995 (Magn Reson Med 34:910). A magnitude's zero means something, which an image after a z-score
no longer has; so noise is added to the signal above the floor (:mod:`neurobundle.augment.artefacts`), and where there
is no signal it lifts the image above the floor, as the noise of air does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import torch
from monai.config import KeysCollection

from neurobundle.augment.artefacts import Common, RandArtefactd, Range, check_range


class Noise(NamedTuple):
    """How much, in standard deviations of the signal, and which."""

    sigma: float
    seed: int


def spread_of(signal: torch.Tensor) -> float:
    """The standard deviation of the voxels that have a signal; 0 if none has.

    >>> round(spread_of(torch.tensor([0.0, 0.0, 1.0, 3.0])), 6)
    1.0
    """
    return mean_and_spread(signal)[1]


def mean_and_spread(signal: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the voxels that have a signal, without a copy of them."""
    count = int(torch.count_nonzero(signal > 0))
    if not count:
        return 0.0, 0.0
    inside = signal.clamp(min=0)
    mean = float(inside.sum(dtype=torch.float64)) / count
    square = float(torch.linalg.vector_norm(inside, dtype=torch.float64)) ** 2 / count
    return mean, max(square - mean**2, 0.0) ** 0.5


def rician(signal: torch.Tensor, sigma: float, seed: int) -> torch.Tensor:
    """The magnitude of a signal with noise in both parts.

    Args:
        signal: any shape, 0 or more.
        sigma: standard deviation of either part, in units of the signal.
        seed: the same gives the same noise on the same kind of device.
    """
    generator = torch.Generator(device=signal.device).manual_seed(seed)
    real = torch.randn(signal.shape, generator=generator, device=signal.device).mul_(sigma).add_(signal)
    imaginary = torch.randn(signal.shape, generator=generator, device=signal.device).mul_(sigma)
    return torch.hypot(real, imaginary)


class RandRicianNoised(RandArtefactd):
    """The noise of a magnitude image.

    MONAI's transform of this name takes the image itself for a magnitude, and so folds one that was z-scored.

    Args:
        keys: images, channel first.
        prob: how often.
        sigma: range of the noise's standard deviation, relative to that of the voxels that have a signal.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self, keys: KeysCollection, prob: float = 0.1, sigma: Range = (0.02, 0.25), **common: Unpack[Common]
    ) -> None:
        super().__init__(keys, prob, **common)
        self.sigma = check_range("sigma", sigma, 0)

    def draw(self, shape: Sequence[int]) -> Noise:
        """How much."""
        return Noise(self.uniform(self.sigma), self.seed())

    def apply(self, signal: torch.Tensor, drawn: Noise) -> torch.Tensor:
        """Noisy."""
        return rician(signal, drawn.sigma * spread_of(signal), drawn.seed)
