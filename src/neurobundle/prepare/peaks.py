"""Where white matter lies in the histogram of a brain, and the stripe about it.

After Shinohara et al. 2014 (NeuroImage Clin 6:9). The histogram of a brain is smoothed; a *peak* is a maximum of it
that stands out. Which one is white matter depends on the sequence: in T1 and T1c it is the brightest tissue, so the
last peak; in T2 and FLAIR grey and white matter run together, and their common peak is the highest. The *white stripe*
is the voxels whose rank is within 5 % of the peak's; its mean is white matter, its standard deviation the unit.
"""

from __future__ import annotations

import numpy as np
import torch

from neurobundle.errors import InputError, SettingError, closest

#: Sequence -> which peak is white matter.
SEQUENCES = {"T1": "last", "T1c": "last", "T2": "highest", "FLAIR": "highest"}

#: Half the width of the stripe, as a share of the voxels (Shinohara's tau).
HALF_STRIPE = 0.05
#: Bins of the histogram, between the percentiles that leave stray voxels out.
BINS, TAILS = 512, (0.1, 99.9)
#: Standard deviation of the smoothing, in bins.
SMOOTHING = 8.0
#: A peak is at least so high, and stands out by so much, as shares of the highest. A tail of vessels and of enhancing
#: tumour is lower; Shinohara's own code asks for a fifth.
LEAST_HEIGHT, LEAST_PROMINENCE = 0.2, 0.02


def tissue_peak(values: torch.Tensor, sequence: str = "T1") -> float:
    """The intensity at which white matter's peak is.

    Args:
        values: of the brain's voxels, any shape.
        sequence: ``T1``, ``T1c``, ``T2`` or ``FLAIR``.

    Raises:
        SettingError: for another sequence.
        InputError: if there are no voxels, or all have one intensity.
    """
    if sequence not in SEQUENCES:
        raise SettingError(f"sequence is {sequence!r}{closest(sequence, SEQUENCES)}", f"One of {', '.join(SEQUENCES)}.")
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    counts, edges = _histogram(values)
    # Room at both ends, so that a peak at an end is one.
    room = int(4 * SMOOTHING)
    smooth = gaussian_filter1d(np.pad(counts.astype(np.float64), room), SMOOTHING, mode="constant")
    top = smooth.max()
    peaks = find_peaks(smooth, height=LEAST_HEIGHT * top, prominence=LEAST_PROMINENCE * top)[0]
    chosen = int(peaks[-1] if SEQUENCES[sequence] == "last" else peaks[np.argmax(smooth[peaks])]) - room
    width = edges[1] - edges[0]
    return float(np.clip(edges[0] + (chosen + 0.5) * width, edges[0], edges[-1]))


def white_stripe(values: torch.Tensor, sequence: str = "T1") -> tuple[float, float]:
    """Mean and standard deviation of the voxels about white matter's peak.

    Args:
        values: of the brain's voxels, any shape.
        sequence: ``T1``, ``T1c``, ``T2`` or ``FLAIR``.

    Returns:
        The mean, and the standard deviation, above 0.

    Raises:
        SettingError: for another sequence.
        InputError: if the voxels have no contrast, or all of the stripe have one intensity.
    """
    peak = tissue_peak(values, sequence)
    ordered = values.flatten().double().sort().values
    below = int((ordered < peak).sum())
    half = max(1, round(HALF_STRIPE * len(ordered)))
    stripe = ordered[max(0, below - half) : below + half + 1]
    mean, deviation = float(stripe.mean()), float(stripe.std(correction=0))
    if deviation <= 0:
        raise InputError(
            f"every voxel near white matter's peak is {mean:g}",
            "The scan has too few grey values: use method zscore or percentile.",
        )
    return mean, deviation


def _histogram(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    flat = values.detach().flatten().cpu().numpy().astype(np.float64)
    if not flat.size:
        raise InputError("there are no voxels to measure", "Mend the mask, or measure over the foreground.")
    low, high = np.percentile(flat, TAILS)
    if high <= low:
        low, high = flat.min(), flat.max()
    if high <= low:
        raise InputError(f"no signal: every voxel is {low:g}", "Is it a mask, or an empty scan? Exclude it.")
    return np.histogram(flat.clip(low, high), bins=BINS, range=(low, high))
