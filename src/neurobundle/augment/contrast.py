"""Artefacts of brightness: a bias field, another gamma, a contrast turned round.

They change how bright a tissue is, and move nothing. The bias field is a sum of cubic B-splines on a *lattice* of
control points; with four along an axis it is a polynomial of degree three along each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Unpack

import numpy as np
import torch
from monai.config import KeysCollection

from neurobundle.augment.artefacts import Common, RandArtefactd, Range, check_range
from neurobundle.augment.noise import mean_and_spread
from neurobundle.errors import SettingError
from neurobundle.prepare.separable import along_axes, spline_basis

#: Places along each axis where a field's range is looked for, the ends among them.
LOOKS = 33
#: Voxels of a field that a core's cache holds.
PIECE = 2**17


class Bias(NamedTuple):
    """A bias field: control points, any numbers, and the greatest |log field|."""

    lattice: np.ndarray
    amplitude: float


def log_field(shape: Sequence[int], bias: Bias, device: torch.device | str = "cpu") -> torch.Tensor:
    """The logarithm of a field on a grid: from -amplitude to amplitude.

    Both are reached to a hundredth: they are looked for at :data:`LOOKS` places along each axis.

    Args:
        shape: of the grid.
        bias: its lattice has as many axes.
        device: where.

    Returns:
        float32; 0 everywhere if the lattice is constant.
    """
    lattice, bases = _scaled(shape, bias, device)
    return along_axes(lattice, bases)


def biased(signal: torch.Tensor, bias: Bias, out: torch.Tensor | None = None) -> torch.Tensor:
    """A signal times the exponential of a log field.

    On a CPU piece by piece, so that the field stays in the cache and is never whole.

    Args:
        signal: ``(i, j, k)`` or ``(i, j)``.
        bias: its lattice has as many axes.
        out: where it is written to; a new tensor if None.
    """
    lattice, bases = _scaled(signal.shape, bias, signal.device)
    found = torch.empty_like(signal) if out is None else out
    each = math.prod(signal.shape[1:])
    rows = max(1, PIECE // each) if signal.device.type == "cpu" else len(signal)
    for start in range(0, len(signal), rows):
        piece = slice(start, start + rows)
        field = along_axes(lattice, (bases[0][piece], *bases[1:]))
        torch.mul(field.exp_(), signal[piece], out=found[piece])
    return found


def _scaled(
    shape: Sequence[int], bias: Bias, device: torch.device | str
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The lattice so that its field has the amplitude, and the splines' weights along each axis of a grid."""
    lattice = torch.as_tensor(bias.lattice, dtype=torch.float32, device=device)
    looks, bases = (
        tuple(
            spline_basis(torch.linspace(0, 1, size, device=device), points)
            for size, points in zip(sizes, lattice.shape, strict=True)
        )
        for sizes in ((LOOKS,) * len(shape), shape)
    )
    low, high = (float(value) for value in torch.aminmax(along_axes(lattice, looks)))
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return torch.zeros_like(lattice), bases
    # The weights of B-splines sum to 1: the lattice scaled is the field scaled.
    return (lattice - (high + low) / 2) * (2 * bias.amplitude / (high - low)), bases


class RandBiasFieldFastd(RandArtefactd):
    """Brightness that drifts through the image as a coil's sensitivity does.

    Args:
        keys: images, channel first; each channel has a field of its own.
        prob: how often.
        amplitude: range of the greatest |log field|: at .3 the brightest place is 1.8 times the darkest.
        control_points: along each axis, 4 or more; the more, the livelier.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        amplitude: Range = (0.1, 0.5),
        control_points: int = 4,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(keys, prob, **common)
        self.amplitude = check_range("amplitude", amplitude, 0)
        if control_points < 4:
            raise SettingError(f"control_points is {control_points}", "Give 4 or more: the splines are cubic.")
        self.control_points = control_points

    def draw(self, shape: Sequence[int]) -> Bias:
        """A lattice of normal numbers, and how strong."""
        return Bias(self.R.standard_normal((self.control_points,) * len(shape)), self.uniform(self.amplitude))

    def apply(self, signal: torch.Tensor, drawn: Bias) -> torch.Tensor:
        """Brighter here, darker there."""
        return biased(signal, drawn)

    def apply_into(self, signal: torch.Tensor, drawn: Bias, out: torch.Tensor) -> None:
        """The same, at once where it belongs."""
        biased(signal, drawn, out)


class Gamma(NamedTuple):
    """An exponent, and a factor of the spread."""

    exponent: float
    contrast: float


#: A voxel below this share of the signal's mean is air, or nearly; where air was cut away, one below the second is.
AIR, CUT_AIR = 0.25, 0.02


def with_dark_air(signal: torch.Tensor, changed: torch.Tensor, threshold: float, there: float) -> torch.Tensor:
    """A changed signal above a threshold; below it a straight line from 0 to what the change makes of the threshold."""
    return torch.where(signal > threshold, changed, signal * (max(there, 0.0) / threshold))


def gamma_corrected(signal: torch.Tensor, gamma: Gamma) -> torch.Tensor:
    """A power of the signal, on the scale from 0 to its greatest; then its mean and its spread as they were.

    Mean and spread are those of tissue, which is above a quarter of the signal's mean; the spread is multiplied by
    ``gamma.contrast``. What is darker goes to 0 in a straight line, so that air stays dark.
    """
    top = float(signal.max())
    threshold = AIR * mean_and_spread(signal)[0]
    if threshold <= 0:
        return signal.clone()
    powered = (signal / top).clamp_(min=0).pow_(gamma.exponent)
    tissue = signal > threshold
    (mean, spread), (new_mean, new_spread) = mean_and_spread(signal * tissue), mean_and_spread(powered * tissue)
    if not new_spread:
        return signal.clone()
    scale = gamma.contrast * spread / new_spread
    there = ((threshold / top) ** gamma.exponent - new_mean) * scale + mean
    return with_dark_air(signal, powered.sub_(new_mean).mul_(scale).add_(mean).clamp_(min=0), threshold, there)


class RandGammad(RandArtefactd):
    """Another gamma and another contrast, while the mean stays, on an image of any range.

    Args:
        keys: images, channel first.
        prob: how often.
        exponent: range; its logarithm is uniform, so that darker and brighter are as frequent.
        contrast: range of the factor of the spread, likewise.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        exponent: Range = (0.7, 1.4),
        contrast: Range = (0.85, 1.15),
        **common: Unpack[Common],
    ) -> None:
        super().__init__(keys, prob, **common)
        self.exponent, self.contrast = (
            tuple(np.log(check_range(name, limits, 1e-3)).tolist())
            for name, limits in (("exponent", exponent), ("contrast", contrast))
        )

    def draw(self, shape: Sequence[int]) -> Gamma:
        """How much."""
        return Gamma(*(float(np.exp(self.uniform(limits))) for limits in (self.exponent, self.contrast)))

    def apply(self, signal: torch.Tensor, drawn: Gamma) -> torch.Tensor:
        """Another contrast."""
        return gamma_corrected(signal, drawn)


def inverted(signal: torch.Tensor, air: float = AIR) -> torch.Tensor:
    """Dark tissue bright and bright tissue dark, about tissue's mean, which stays.

    Args:
        signal: ``(i, j, k)`` or ``(i, j)``.
        air: what is below this share of the signal's mean goes to 0 in a straight line, so that air stays dark.
    """
    threshold = air * mean_and_spread(signal)[0]
    if threshold <= 0:
        return signal.clone()
    mean = mean_and_spread(signal * (signal > threshold))[0]
    return with_dark_air(signal, (2 * mean - signal).clamp_(min=0), threshold, 2 * mean - threshold)


class RandInvertIntensityd(RandArtefactd):
    """A contrast turned round, for networks that should not care which sequence they see.

    Args:
        keys: images, channel first.
        prob: how often.
        keep_background: for brain-extracted images.
        allow_missing_keys: as in MONAI.
    """

    def draw(self, shape: Sequence[int]) -> None:
        """Nothing: it happens or not."""

    def apply(self, signal: torch.Tensor, drawn: None) -> torch.Tensor:
        """Turned round."""
        return inverted(signal, CUT_AIR if self.keep_background else AIR)
