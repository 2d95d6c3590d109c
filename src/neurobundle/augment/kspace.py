"""Artefacts of k-space, where a scanner measures: motion ghosts, spikes, Gibbs ringing.

A scanner fills k-space line by line along the *phase-encoding axis*, from one end through the middle (where contrast
is) to the other. What happens to whole lines acts along that one axis alone, and so it is one matrix, the product of
Fourier transform, change and inverse transform: no transform of the volume is needed. What is shown is a magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import numpy as np
import torch
from monai.config import KeysCollection

from neurobundle.augment.artefacts import Common, RandArtefactd, Range, check_range, draw_axis
from neurobundle.augment.noise import spread_of
from neurobundle.prepare.separable import along_axis


def line_matrix(factors: np.ndarray) -> np.ndarray:
    """What a factor for each line of k-space does to an image along that axis.

    Args:
        factors: ``(n,)``, complex; from the lowest frequency to the highest, in the order in which they are measured.

    Returns:
        ``(n, n)``, complex.
    """
    spectrum = np.fft.fft(np.eye(len(factors)), axis=0)
    return np.fft.ifft(np.fft.ifftshift(factors)[:, None] * spectrum, axis=0)


def frequencies(size: int) -> np.ndarray:
    """Of the lines, in the order in which they are measured: cycles a voxel, -.5 to .5.

    >>> frequencies(4).tolist()
    [-0.5, -0.25, 0.0, 0.25]
    """
    return np.fft.fftshift(np.fft.fftfreq(size))


def displaced(signal: torch.Tensor, axis: int, displacement: np.ndarray) -> torch.Tensor:
    """What is seen of a head that was elsewhere when each line was measured.

    Args:
        signal: ``(i, j, k)`` or ``(i, j)``.
        axis: of phase encoding, along which it moved.
        displacement: ``(n,)``, voxels, in the order of the lines.

    Returns:
        A magnitude of the same shape.
    """
    matrix = line_matrix(np.exp(-2j * np.pi * frequencies(len(displacement)) * displacement))
    real, imaginary = (
        along_axis(signal, torch.as_tensor(part, dtype=torch.float32), axis) for part in (matrix.real, matrix.imag)
    )
    return torch.hypot(real, imaginary)


class Motion(NamedTuple):
    """A head that nods to and fro, and once moves for good.

    Attributes:
        axis: of phase encoding.
        amplitude: of the nodding, voxels.
        cycles: in the whole scan: ghosts are so many voxels away, and multiples.
        phase: where a cycle begins.
        jump: voxels, for good.
        moment: of the jump, 0 to 1 of the scan.
    """

    axis: int
    amplitude: float
    cycles: float
    phase: float
    jump: float
    moment: float

    def displacement(self, size: int) -> np.ndarray:
        """Voxels, for each line; none on average over the middle lines, so that the head stays where it is."""
        time = (np.arange(size) + 0.5) / size
        moved = self.amplitude * np.sin(2 * np.pi * self.cycles * time + self.phase)
        moved = moved + self.jump * (time > self.moment)
        return moved - moved[np.abs(time - 0.5) <= max(0.05, 0.5 / size)].mean()


class RandMotionGhostd(RandArtefactd):
    """Ghosts and smear from a head that moved along the phase-encoding axis while it was scanned.

    Args:
        keys: images, channel first.
        prob: how often.
        amplitude: range of the periodic motion, voxels.
        cycles: range of its periods in the scan.
        jump: range of one sudden motion, voxels, either way.
        axes: that may be phase-encoding; all if None.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        amplitude: Range = (0.2, 1.2),
        cycles: Range = (2.0, 12.0),
        jump: Range = (0.0, 2.0),
        axes: Sequence[int] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(keys, prob, **common)
        self.amplitude, self.cycles = check_range("amplitude", amplitude, 0), check_range("cycles", cycles, 0)
        self.jump = check_range("jump", jump, 0)
        self.axes = tuple(axes) if axes is not None else None

    def draw(self, shape: Sequence[int]) -> Motion:
        """A motion; the jump is outside the middle fifth of the scan, where it would show the head twice."""
        early, late = self.R.uniform(0.05, 0.4), self.R.uniform(0.6, 0.95)
        return Motion(
            draw_axis(self, self.axes, len(shape)),
            self.uniform(self.amplitude),
            self.uniform(self.cycles),
            float(self.R.uniform(0, 2 * np.pi)),
            self.uniform(self.jump) * (1 if self.R.rand() < 0.5 else -1),
            float(early if self.R.rand() < 0.5 else late),
        )

    def apply(self, signal: torch.Tensor, drawn: Motion) -> torch.Tensor:
        """Moved."""
        return displaced(signal, drawn.axis, drawn.displacement(signal.shape[drawn.axis]))


class Spike(NamedTuple):
    """One wrong sample of k-space.

    Attributes:
        frequency: cycles a voxel along each axis, -.5 to .5.
        strength: of its wave, in spreads of the signal.
        phase: of its wave in the first voxel.
    """

    frequency: tuple[float, ...]
    strength: float
    phase: float


def spiked(signal: torch.Tensor, spikes: Sequence[Spike]) -> torch.Tensor:
    """A magnitude with the wave of each spike in it; a frequency is the nearest that k-space has."""
    spread = spread_of(signal)
    total = torch.zeros(signal.shape, dtype=torch.complex64, device=signal.device)
    for spike in spikes:
        wave = torch.full((1,) * signal.ndim, spread * spike.strength * np.exp(1j * spike.phase), dtype=torch.complex64)
        for axis, (size, frequency) in enumerate(zip(signal.shape, spike.frequency, strict=True)):
            turns = round(frequency * size) * np.arange(size) / size
            line = torch.as_tensor(np.exp(2j * np.pi * turns), dtype=torch.complex64)
            wave = wave.to(signal.device) * line.to(signal.device).reshape(
                [-1 if a == axis else 1 for a in range(signal.ndim)]
            )
        total += wave
    return torch.hypot(signal + total.real, total.imag)


class RandSpikesd(RandArtefactd):
    """Stripes through the whole image, from single wrong samples of k-space.

    Args:
        keys: images, channel first.
        prob: how often.
        strength: range of a stripe's amplitude, in standard deviations of the signal.
        spikes: range of their number.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    #: Nearer the middle of k-space, cycles a voxel, a spike is a shading and no stripe.
    LEAST_FREQUENCY = 0.04

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        strength: Range = (0.1, 0.4),
        spikes: Sequence[int] = (1, 2),
        **common: Unpack[Common],
    ) -> None:
        super().__init__(keys, prob, **common)
        self.strength, self.spikes = check_range("strength", strength, 0), check_range("spikes", spikes, 1)

    def draw(self, shape: Sequence[int]) -> list[Spike]:
        """Where in k-space, how strong."""
        count = self.R.randint(int(self.spikes[0]), int(self.spikes[1]) + 1)
        return [self._spike(len(shape)) for _ in range(count)]

    def _spike(self, ndim: int) -> Spike:
        frequency = self.R.uniform(-0.5, 0.5, ndim)
        length = max(float(np.linalg.norm(frequency)), 1e-6)
        frequency *= max(1.0, self.LEAST_FREQUENCY / length)
        return Spike(tuple(frequency.tolist()), self.uniform(self.strength), float(self.R.uniform(0, 2 * np.pi)))

    def apply(self, signal: torch.Tensor, drawn: list[Spike]) -> torch.Tensor:
        """Striped."""
        return spiked(signal, drawn)


def truncated(signal: torch.Tensor, kept: Sequence[float]) -> torch.Tensor:
    """A magnitude of which k-space's outer lines are missing, as of a scan that was interpolated to a finer grid.

    Args:
        signal: ``(i, j, k)`` or ``(i, j)``.
        kept: the share of the lines about the middle, one an axis; 1 keeps all.
    """
    for axis, (size, share) in enumerate(zip(signal.shape, kept, strict=True)):
        if share >= 1:
            continue
        inside = np.abs(frequencies(size)) <= share / 2
        if size % 2 == 0:
            # Half of a pair of opposite lines would leave an imaginary part.
            inside[0] = False
        matrix = torch.as_tensor(line_matrix(inside.astype(float)).real, dtype=torch.float32)
        signal = along_axis(signal, matrix, axis)
    return signal.abs()


class RandGibbsd(RandArtefactd):
    """Ringing beside edges, and less resolution, where k-space was measured less far out.

    Args:
        keys: images, channel first.
        prob: how often.
        kept: range of the share of k-space that is measured, of another size along each axis.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self, keys: KeysCollection, prob: float = 0.1, kept: Range = (0.5, 0.9), **common: Unpack[Common]
    ) -> None:
        super().__init__(keys, prob, **common)
        self.kept = check_range("kept", kept, 0, 1)

    def draw(self, shape: Sequence[int]) -> tuple[float, ...]:
        """A share for each axis; one axis, the readout, keeps all of it."""
        whole = self.R.randint(len(shape))
        return tuple(1.0 if axis == whole else self.uniform(self.kept) for axis in range(len(shape)))

    def apply(self, signal: torch.Tensor, drawn: tuple[float, ...]) -> torch.Tensor:
        """Ringing."""
        return truncated(signal, drawn)
