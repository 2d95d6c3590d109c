"""What a head is made of, and how bright each part is in each sequence.

A *tissue* is a class whose voxels have one mean and one spread. A *label map* gives a label to each voxel, in
FreeSurfer's numbers; its head tissues from 500 on are those of SimNIBS' charm (Puonti et al. 2020, NeuroImage
219:117044). A *contrast* is the mean and the spread of every tissue in one sequence; white matter's mean is 1.

Means come from relaxation times and the signal equations of the sequences, so that T1, T1c, T2 and FLAIR of one head
belong together: all of them see the same tissues, drawn once.

Relaxation times are for 3 T, of the order of: Stanisz 2005 (MRM 54:507: white and grey matter, muscle, blood, optic
nerve, cord), Wansapura 1999 (JMRI 9:531: white and grey matter, basal ganglia), Bojorquez 2017 (MRI 35:69, a review),
Rooney 2007 and Spijkerman 2018 (MRM 57:308, MAGMA 31:415: cerebrospinal fluid), de Bazelaire 2004 (Radiology 230:652:
fat, marrow), Blystad 2017 (PLoS ONE 12:e0177135: oedema and tumour). Fat's T2 is what turbo spin echoes show. Where
no source has a number (dura, choroid, mucosa, the tumour's parts' contrast agent) it was set so that heads look right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from neurobundle.errors import InputError, SettingError, closest

#: The sequences that priors exist for.
SEQUENCES = ("T1", "T1c", "T2", "FLAIR")

#: Relaxivity of a gadolinium chelate in tissue at 3 T, per mM and second (Rohrer 2005, Invest Radiol 40:715).
RELAXIVITY = 4.5


class Tissue(NamedTuple):
    """One class.

    Attributes:
        name: in the tables here and in messages.
        t1_ms: longitudinal relaxation time.
        t2_ms: transverse relaxation time; 1 gives no signal.
        density: of protons, of water's.
        agent_mm: contrast agent in T1c, mmol/l.
        spread: of its voxels, of their mean.
        varies: standard deviation, between heads, of the logarithms of t1_ms and t2_ms.
    """

    name: str
    t1_ms: float
    t2_ms: float
    density: float
    agent_mm: float = 0.0
    spread: float = 0.03
    varies: float = 0.04


TISSUES = (
    Tissue("air", 1000, 1, 0),
    Tissue("fluid", 4200, 900, 0.98, 0.0, 0.06),
    Tissue("ventricle", 4300, 1000, 0.98, 0.0, 0.04),
    Tissue("white", 900, 76, 0.71, 0.004),
    Tissue("cortex", 1440, 93, 0.83, 0.012, 0.05),
    Tissue("caudate", 1380, 86, 0.82, 0.01),
    Tissue("putamen", 1280, 80, 0.81, 0.01),
    Tissue("pallidum", 1010, 62, 0.75, 0.01),
    Tissue("thalamus", 1170, 82, 0.77, 0.01, 0.04),
    Tissue("hippocampus", 1460, 102, 0.83, 0.01, 0.04),
    Tissue("brainstem", 1020, 80, 0.74, 0.006, 0.04),
    Tissue("cerebellar_white", 930, 78, 0.71, 0.005),
    Tissue("cerebellar_cortex", 1400, 94, 0.82, 0.015, 0.06),
    Tissue("optic", 1080, 78, 0.72, 0.01),
    Tissue("perivascular", 3500, 900, 0.97, 0.0, 0.06),
    Tissue("choroid", 2300, 240, 0.92, 0.35, 0.12, 0.10),
    Tissue("artery", 1930, 200, 0.90, 0.45, 0.15, 0.10),
    Tissue("vein", 1900, 120, 0.90, 0.50, 0.12, 0.10),
    Tissue("dura", 900, 26, 0.60, 0.12, 0.20, 0.15),
    Tissue("eye", 4000, 1200, 1.00, 0.0, 0.03),
    Tissue("muscle", 1410, 38, 0.80, 0.06, 0.08, 0.08),
    Tissue("fat", 380, 125, 0.80, 0.0, 0.10, 0.08),
    Tissue("mucosa", 1500, 120, 0.85, 0.25, 0.20, 0.15),
    Tissue("skin", 900, 40, 0.70, 0.10, 0.15, 0.15),
    Tissue("bone", 1000, 2, 0.15, 0.0, 0.30, 0.10),
    Tissue("marrow", 560, 60, 0.60, 0.02, 0.20, 0.15),
    Tissue("white_matter_lesion", 1380, 125, 0.82, 0.0, 0.05, 0.15),
    Tissue("necrosis", 2800, 300, 0.94, 0.02, 0.06, 0.15),
    Tissue("oedema", 1400, 148, 0.85, 0.0, 0.05, 0.08),
    Tissue("enhancing", 1550, 115, 0.86, 0.45, 0.12, 0.15),
    Tissue("solid", 1620, 175, 0.88, 0.01, 0.06, 0.18),
    Tissue("meningioma", 1480, 100, 0.84, 0.50, 0.05, 0.12),
)

#: Name -> number of a tissue.
INDEX: Mapping[str, int] = {tissue.name: number for number, tissue in enumerate(TISSUES)}

#: What the brain is made of: no fluid around it, but the ventricles.
BRAIN = tuple(
    INDEX[name]
    for name in (
        *("ventricle", "white", "cortex", "caudate", "putamen", "pallidum", "thalamus", "hippocampus", "brainstem"),
        *("cerebellar_white", "cerebellar_cortex", "perivascular", "choroid", "white_matter_lesion"),
    )
)
#: What lies inside the skull.
INTRACRANIAL = (*BRAIN, *(INDEX[name] for name in ("fluid", "dura", "optic", "vein", "artery")))
#: Where a glioma grows.
PARENCHYMA = tuple(i for i in BRAIN if TISSUES[i].name not in ("ventricle", "perivascular", "choroid"))
WHITE = (INDEX["white"], INDEX["cerebellar_white"])

_LEFT_RIGHT = {
    "Cerebral-White-Matter": (2, 41, "white"),
    "Cerebral-Cortex": (3, 42, "cortex"),
    "Lateral-Ventricle": (4, 43, "ventricle"),
    "Inf-Lat-Vent": (5, 44, "ventricle"),
    "Cerebellum-White-Matter": (7, 46, "cerebellar_white"),
    "Cerebellum-Cortex": (8, 47, "cerebellar_cortex"),
    "Thalamus": (10, 49, "thalamus"),
    "Caudate": (11, 50, "caudate"),
    "Putamen": (12, 51, "putamen"),
    "Pallidum": (13, 52, "pallidum"),
    "Hippocampus": (17, 53, "hippocampus"),
    "Amygdala": (18, 54, "hippocampus"),
    "Lesion": (25, 57, "white_matter_lesion"),
    "Accumbens-area": (26, 58, "putamen"),
    "VentralDC": (28, 60, "brainstem"),
    "vessel": (30, 62, "perivascular"),
    "choroid-plexus": (31, 63, "choroid"),
    # These two pairs are no FreeSurfer's: the maps that came with SynthSeg have them for the plexus of each ventricle.
    "Lateral-Ventricle plexus": (136, 163, "choroid"),
    "Inf-Lat-Vent plexus": (137, 164, "choroid"),
}
_MIDDLE = {
    0: "air",
    14: "ventricle",
    15: "ventricle",
    16: "brainstem",
    24: "fluid",
    72: "ventricle",
    77: "white_matter_lesion",
    85: "optic",
    251: "white",
    252: "white",
    253: "white",
    254: "white",
    255: "white",
    502: "artery",
    506: "eye",
    507: "muscle",  # and fat: see neurobundle.augment.synthesis
    508: "muscle",
    509: "mucosa",
    511: "skin",
    512: "brainstem",
    514: "vein",
    515: "bone",
    516: "marrow",
    530: "optic",
}

#: FreeSurfer's number of a label -> number of its tissue.
TISSUE_OF: Mapping[int, int] = {label: INDEX[name] for label, name in _MIDDLE.items()} | {
    label: INDEX[name] for left, right, name in _LEFT_RIGHT.values() for label in (left, right)
}
#: A label -> that of the other side.
MIRRORED: Mapping[int, int] = {
    a: b for left, right, _ in _LEFT_RIGHT.values() for a, b in ((left, right), (right, left))
}


def tissues_of(labels: torch.Tensor, table: Mapping[int, int] = TISSUE_OF) -> torch.Tensor:
    """The tissue of each voxel.

    Args:
        labels: whole numbers, any shape.
        table: label -> number of a tissue.

    Returns:
        uint8, the same shape and device.

    Raises:
        InputError: for a label that the table has not, or a value that is no whole number.

    >>> [TISSUES[i].name for i in tissues_of(torch.tensor([0, 2, 42]))]
    ['air', 'white', 'cortex']
    """
    if labels.is_floating_point() and not torch.equal(labels, labels.round()):
        raise InputError("the label map holds values that are no whole numbers", "Give a label map, not an image.")
    low, high = (int(value) for value in torch.aminmax(labels)) if labels.numel() else (0, 0)
    unknown = 255
    if low < 0 or high > max(table):
        raise _unknown(labels, table)
    look_up = torch.full((max(table) + 1,), unknown, dtype=torch.uint8)
    look_up[list(table)] = torch.tensor([table[label] for label in table], dtype=torch.uint8)
    found = look_up.to(labels.device)[labels.to(torch.int32)]
    if bool((found == unknown).any()):
        raise _unknown(labels, table)
    return found


def _unknown(labels: torch.Tensor, table: Mapping[int, int]) -> InputError:
    strange = [label for label in labels.unique().tolist() if label not in table]
    more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
    return InputError(
        f"the label map has labels without a tissue: {', '.join(f'{label:g}' for label in strange[:5])}{more}",
        "Give FreeSurfer's numbers, or a table of your own from labels to neurobundle.augment.tissues.INDEX.",
    )


@dataclass(frozen=True)
class Contrast:
    """How bright each tissue is in one sequence.

    Attributes:
        sequence: its name, or ``random``.
        means: one a tissue, in the order of :data:`TISSUES`; white matter's is 1 where it comes from priors.
        spreads: standard deviations of the voxels.
    """

    sequence: str
    means: tuple[float, ...]
    spreads: tuple[float, ...]


#: How much more a tissue's voxels differ in a sequence than in T1; measured in docs/concepts/synthesis.md's real heads.
_UNEVEN = {"T1": 1.0, "T1c": 1.1, "T2": 1.8, "FLAIR": 1.6}

Signal = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def spin_echo(tr_ms: float, te_ms: float) -> Signal:
    """(t1, t2, density) -> signal of a spin echo.

    >>> round(float(spin_echo(1e9, 0)(np.array(900.0), np.array(70.0), np.array(0.7))), 3)
    0.7
    """
    return lambda t1, t2, density: density * (1 - np.exp(-tr_ms / t1)) * np.exp(-te_ms / t2)


def inversion_spin_echo(tr_ms: float, te_ms: float, ti_ms: float) -> Signal:
    """Of a spin echo after an inversion, as FLAIR is: magnitude."""

    def signal(t1: np.ndarray, t2: np.ndarray, density: np.ndarray) -> np.ndarray:
        along = 1 - 2 * np.exp(-ti_ms / t1) + np.exp(-(tr_ms - te_ms) / t1)
        return density * np.abs(along) * np.exp(-te_ms / t2)

    return signal


def nulling_ti_ms(tr_ms: float, t1_ms: float) -> float:
    """The inversion time at which a spin echo sees nothing of a tissue.

    >>> round(nulling_ti_ms(1e9, 1000.0), 1)
    693.1
    """
    return t1_ms * (math.log(2) - math.log1p(math.exp(-tr_ms / t1_ms)))


def mprage(
    tr_ms: float, ti_ms: float, flip_deg: float, echo_spacing_ms: float = 7.5, echoes: int = 176, te_ms: float = 3.0
) -> Signal:
    """Of an inversion-prepared gradient echo train, in its steady state, at the train's middle: magnitude.

    Longitudinal magnetisation goes, over each phase, from m to a m + b; the steady state is where a cycle ends as
    it began. ``ti_ms`` is from the inversion to the middle of the train.
    """
    flip = math.cos(math.radians(flip_deg))

    def signal(t1: np.ndarray, t2: np.ndarray, density: np.ndarray) -> np.ndarray:
        half = echoes // 2

        def recover(m: tuple[np.ndarray, np.ndarray], time_ms: float) -> tuple[np.ndarray, np.ndarray]:
            decay = np.exp(-time_ms / t1)
            return m[0] * decay, m[1] * decay + 1 - decay

        def train(m: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            decay = np.exp(-echo_spacing_ms / t1)
            pulse = flip * decay
            grown = (1 - decay) * (1 - pulse**half) / (1 - pulse)
            return m[0] * pulse**half, m[1] * pulse**half + grown

        start = (-np.ones_like(t1), np.zeros_like(t1))
        middle = train(recover(start, max(ti_ms - half * echo_spacing_ms, 0)))
        end = recover(train(middle), max(tr_ms - ti_ms - half * echo_spacing_ms, 0))
        steady = end[1] / (1 - end[0])
        # T2* of the brain at 3 T is about two thirds of T2.
        return density * np.abs(middle[0] * steady + middle[1]) * np.exp(-te_ms / (0.67 * t2))

    return signal


def draw_contrasts(rng: np.random.Generator, sequences: Sequence[str] = SEQUENCES) -> tuple[Contrast, ...]:
    """Contrasts of one head: its tissues are drawn once, each sequence's own settings once each.

    Args:
        rng: what they are drawn from.
        sequences: names of :data:`SEQUENCES`.

    Raises:
        SettingError: for a sequence without priors.
    """
    check_sequences(sequences)
    count = len(TISSUES)
    varies = np.array([tissue.varies for tissue in TISSUES])
    # One factor for the field strength and the age, one a tissue.
    t1 = (
        np.array([tissue.t1_ms for tissue in TISSUES])
        * rng.uniform(0.85, 1.08)
        * np.exp(varies * rng.standard_normal(count))
    )
    t2 = (
        np.array([tissue.t2_ms for tissue in TISSUES])
        * rng.uniform(0.92, 1.1)
        * np.exp(varies * rng.standard_normal(count))
    )
    density = np.array([tissue.density for tissue in TISSUES]) * np.exp(0.015 * rng.standard_normal(count))
    agent = (
        np.array([tissue.agent_mm for tissue in TISSUES])
        * np.exp(0.25 * rng.standard_normal(count))
        * rng.uniform(0.7, 1.4)
    )
    gradient = bool(rng.random() < 0.6)
    contrasts = []
    for sequence in sequences:
        same = gradient if rng.random() < 0.7 else not gradient
        seen = 1 / (1 / t1 + RELAXIVITY * agent / 1000) if sequence == "T1c" else t1
        signal = _draw_signal(rng, sequence, same, float(t1[INDEX["ventricle"]]))
        means = (
            signal(seen, t2, density) * _flow_and_fat(rng, sequence, same) * np.exp(0.02 * rng.standard_normal(count))
        )
        means = means / means[INDEX["white"]]
        spreads = means * np.array([tissue.spread for tissue in TISSUES]) * rng.uniform(0.7, 1.3) * _UNEVEN[sequence]
        contrasts.append(Contrast(sequence, tuple(means.tolist()), tuple(spreads.tolist())))
    return tuple(contrasts)


def draw_random_contrast(rng: np.random.Generator) -> Contrast:
    """A contrast that no scanner has: each tissue's mean and spread uniform, air dark in half of the draws.

    After SynthSeg (Billot et al. 2023, Med Image Anal 86:102789), on a scale where 1 is the middle.
    """
    means = rng.uniform(0.1, 2.0, len(TISSUES))
    spreads = rng.uniform(0.01, 0.25, len(TISSUES))
    if rng.random() < 0.5:
        means[0] = spreads[0] = 0
    return Contrast("random", tuple(means.tolist()), tuple(spreads.tolist()))


def check_sequences(sequences: Sequence[str]) -> None:
    """Refuse names without priors, and no names.

    Raises:
        SettingError: for either.
    """
    strange = next((name for name in sequences if name not in SEQUENCES), None)
    if strange is not None or not sequences:
        cause = f"there is no sequence {strange!r}{closest(strange, SEQUENCES)}" if strange else "no sequence was named"
        raise SettingError(cause, f"Name some of {', '.join(SEQUENCES)}.")


def _draw_signal(rng: np.random.Generator, sequence: str, gradient: bool, fluid_t1_ms: float) -> Signal:
    if sequence == "T2":
        return spin_echo(rng.uniform(3000, 7000), rng.uniform(80, 120))
    if sequence == "FLAIR":
        tr = rng.uniform(6500, 11500)
        return inversion_spin_echo(tr, rng.uniform(85, 130), nulling_ti_ms(tr, fluid_t1_ms) * rng.uniform(0.93, 1.06))
    if gradient:
        return mprage(rng.uniform(1800, 2600), rng.uniform(880, 1150), rng.uniform(8, 12))
    return spin_echo(rng.uniform(450, 750), rng.uniform(8, 18))


def _flow_and_fat(rng: np.random.Generator, sequence: str, gradient: bool) -> np.ndarray:
    """Factors: blood that moves is dark in spin echoes and bright in gradient echoes; fat is suppressed sometimes."""
    factors = np.ones(len(TISSUES))
    fresh = sequence in ("T1", "T1c") and gradient
    factors[INDEX["artery"]] = rng.uniform(1.1, 1.8) if fresh else rng.uniform(0.05, 0.35)
    factors[INDEX["vein"]] = rng.uniform(0.9, 1.2) if fresh or sequence == "T1c" else rng.uniform(0.15, 0.7)
    if rng.random() < (0.15 if sequence == "T1" else 0.35):
        factors[[INDEX["fat"], INDEX["marrow"]]] = rng.uniform(0.1, 0.4)
    return factors
