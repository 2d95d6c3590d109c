"""One temperature for the voxels of many cases, and what it does to each case.

The *region* is that of :mod:`neurobundle.measure.calibration`: a reference's foreground and what lies within 5 mm of
it. A *group* is what has one region: a case where the network answers classes (``softmax``), and one structure of a
case where it answers structures that overlap (``sigmoid``). The temperature minimises the mean over groups of the mean
NLL of their voxels: **all groups weigh alike**, so that large structures do not outvote small ones. Of each group at
most :data:`MOST_VOXELS` voxels are drawn, fewer where there are many groups, always the same ones: no fit holds more
than :data:`MOST_LOGITS` logits, an eighth of a GiB, however many cases there are.

*Marginal* errors are those of MONAI's ``CalibrationErrorMetric``, and of the tutorial on calibrated segmentation
(Project-MONAI/tutorials, pull request 2072): each foreground class is one question, 20 bins of equal width hold its
probabilities in **all** voxels of the image, and the ACE is the mean gap of the bins that hold any (Barfoot et al.
2025, arXiv:2506.03942). Where that tutorial pads an image with zeros, nothing is padded here.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurobundle.errors import InputError, SettingError
from neurobundle.infer.uncertainty import ACTIVATIONS, Activation
from neurobundle.measure.calibration import (
    DILATION_MM,
    CaseCalibration,
    binary_probabilities,
    case_calibration,
    dilated_region,
)
from neurobundle.measure.logits import CaseLogits
from neurobundle.measure.regions import codes_of, translate
from neurobundle.measure.temperature import Temperature, fit_temperature

#: The structure under which a softmax over all classes stands.
ALL = "all"

#: Voxels of a group that a fit draws at most, and logits that it holds at most in all.
MOST_VOXELS = 20_000
MOST_LOGITS = 2**25

#: Bins of a marginal error (MONAI's default).
MARGINAL_BINS = 20


@dataclass(frozen=True)
class Structures:
    """What a network's channels are.

    Attributes:
        values: the label values of each structure, by name.
        activation: ``softmax``: the background, then each value of the structures in their order; ``sigmoid``: one
            channel a structure.
        region_mm: how far the region reaches beyond a reference's foreground.
    """

    values: Mapping[str, Sequence[int]]
    activation: Activation
    region_mm: float = DILATION_MM

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise SettingError(f"the activation is {self.activation!r}", "Say softmax or sigmoid.")

    @property
    def classes(self) -> list[int]:
        """The label values behind the channels of a softmax, but for the background."""
        return list(dict.fromkeys(value for values in self.values.values() for value in values))

    @property
    def channels(self) -> int:
        """How many channels the logits have."""
        return 1 + len(self.classes) if self.activation == "softmax" else len(self.values)


@dataclass(frozen=True)
class Samples:
    """Voxels of one group that a temperature is fitted on.

    Attributes:
        logits: ``(C, n)``; of a sigmoid two rows, the first of them zeros.
        truth: ``(n,)`` from 0 to C - 1.
    """

    logits: np.ndarray
    truth: np.ndarray


def case_groups(
    case: CaseLogits, structures: Structures, name: str = ""
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """The groups of a case whose region is not empty.

    Args:
        case: its logits.
        structures: what its channels are.
        name: the case's id, for errors.

    Yields:
        The structure's name or :data:`ALL`; logits ``(C, i, j[, k])``, of a sigmoid two rows of which the first are
        zeros; the true class ``(i, j[, k])``; and the region.

    Raises:
        InputError: if there are other channels than the structures need.
    """
    if len(case.logits) != structures.channels:
        cause = f"its network has {len(case.logits)} outputs, and {structures.channels} are scored"
        raise InputError(cause, "Score all that the network tells apart, and nothing else.", case=name)
    if structures.activation == "softmax":
        truth = translate(case.reference, {v: n for n, v in enumerate(structures.classes, start=1)}, np.uint8)
        region = dilated_region(truth > 0, case.spacing_mm, structures.region_mm)
        if region.any():
            yield ALL, case.logits, truth, region
        return
    for channel, (structure, values) in zip(case.logits, structures.values.items(), strict=True):
        truth = codes_of(case.reference, [values])
        region = dilated_region(truth > 0, case.spacing_mm, structures.region_mm)
        if region.any():
            yield structure, np.stack([np.zeros_like(channel), channel]), truth, region


def draw_samples(case: CaseLogits, structures: Structures, name: str, most: int = MOST_VOXELS) -> list[Samples]:
    """Voxels of each group of a case, drawn without replacement; the same ones whenever they are drawn.

    Args:
        case: its logits.
        structures: what its channels are.
        name: the case's id: what is drawn hangs on it.
        most: voxels of a group; all of a smaller one are taken.
    """
    found = []
    for structure, logits, truth, region in case_groups(case, structures, name):
        inside = np.flatnonzero(region)
        if len(inside) > most:
            random = np.random.default_rng(zlib.crc32(f"{name}/{structure}".encode("utf-8", "backslashreplace")))
            inside = np.sort(random.choice(inside, most, replace=False))
        found.append(Samples(logits.reshape(len(logits), -1)[:, inside], truth.reshape(-1)[inside]))
    return found


def voxels_a_group(groups: int, structures: Structures) -> int:
    """How many voxels of each group a fit may draw.

    >>> voxels_a_group(100, Structures({"a": [1]}, "softmax"))
    20000
    """
    rows = structures.channels if structures.activation == "softmax" else 2
    return max(2, min(MOST_VOXELS, MOST_LOGITS // (max(groups, 1) * rows)))


def fit_pooled(samples: Sequence[Samples]) -> Temperature:
    """The temperature of many groups, each of which weighs alike.

    Args:
        samples: of validation cases only.

    Raises:
        InputError: if there are none.
    """
    if not samples:
        way_out = "Is the structure in any reference? Evaluate cases that have it."
        raise InputError("a temperature cannot be fitted: no case has a voxel in the region", way_out)
    weights = np.concatenate([np.full(len(one.truth), 1 / len(one.truth)) for one in samples])
    logits = np.concatenate([one.logits for one in samples], axis=1)
    return fit_temperature(logits, np.concatenate([one.truth for one in samples]), weights=weights)


def calibrate_case(case: CaseLogits, structures: Structures, name: str, temperature: float) -> list[CaseCalibration]:
    """The calibration of a case at a temperature, a result a group.

    Args:
        case: its logits.
        structures: what its channels are.
        name: the case's id.
        temperature: divides the logits.
    """
    return [
        case_calibration(_softmax(logits[:, region], temperature), truth[region], case=name, structure=structure)
        for structure, logits, truth, region in case_groups(case, structures, name)
    ]


def marginal_errors(case: CaseLogits, structures: Structures, temperature: float) -> dict[str, tuple[float, float]]:
    """ECE and ACE of each foreground class or structure over the whole image, in MONAI's bins.

    Args:
        case: its logits.
        structures: what its channels are.
        temperature: divides the logits.

    Returns:
        ``(ece, ace)`` by structure; of a softmax by the label value, as text.
    """
    import torch
    from monai.metrics import calibration_binning

    scaled = case.logits / temperature
    if structures.activation == "softmax":
        names = [str(value) for value in structures.classes]
        probabilities = _softmax(scaled, 1.0)[1:]
        truth = [case.reference == value for value in structures.classes]
    else:
        names = list(structures.values)
        probabilities = binary_probabilities(_sigmoid(scaled))[1]
        truth = [codes_of(case.reference, [values]) > 0 for values in structures.values.values()]
    p, y = (torch.from_numpy(np.asarray(part, dtype=np.float32))[None] for part in (probabilities, np.stack(truth)))
    confidence, share, counts = (part[0].numpy() for part in calibration_binning(p, y, MARGINAL_BINS))
    gaps = np.abs(confidence - share)
    ece = np.nansum(gaps * counts, axis=1) / counts.sum(axis=1)
    ace = np.nanmean(gaps, axis=1)
    return {name: (float(ece[n]), float(ace[n])) for n, name in enumerate(names)}


def _softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities along the first axis."""
    from scipy.special import softmax

    values: np.ndarray = softmax(logits / temperature, axis=0)
    return values


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    values: np.ndarray = expit(logits)
    return values


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are defined; NaN of none.

    >>> mean_of([1.0, math.nan, 2.0])
    1.5
    """
    defined = [value for value in values if math.isfinite(value)]
    return sum(defined) / len(defined) if defined else math.nan
