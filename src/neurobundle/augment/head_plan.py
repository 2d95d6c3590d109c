"""What chance decides of a head that nobody has: settings, and a plan that is drawn from them.

*Settings* say how far heads may differ. A *plan* is one draw: the deformation, the brightness of each tissue in each
sequence, the lesions, the scanner. :mod:`neurobundle.augment.synthesis` makes the images that it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurobundle.augment.acquisition import Acquisition, draw_acquisition
from neurobundle.augment.deform import Deformation, DeformationRange, Shape, check_grid, draw_deformation
from neurobundle.augment.lesions import KINDS, RADIUS_MM, Lesion, check_tumours, draw_tumour, draw_white_matter_lesions
from neurobundle.augment.tissues import SEQUENCES, Contrast, check_sequences, draw_contrasts, draw_random_contrast
from neurobundle.errors import SettingError


@dataclass(frozen=True)
class HeadSettings:
    """What heads are drawn from.

    Attributes:
        shape: of the new images.
        spacing_mm: of their voxels, RAS+.
        sequences: names of :data:`neurobundle.augment.tissues.SEQUENCES`.
        contrast: ``priors``, or ``random``: any brightness for any tissue, any sequence.
        tumour: probability that there is one.
        tumour_kinds: how often each kind is drawn (:data:`neurobundle.augment.lesions.KINDS`).
        tumour_radius_mm: smallest and largest mean radius of a tumour, without oedema.
        white_matter_lesions: at most so many.
        skull: whether the head is there, or the brain alone; ``None`` draws one of the two.
        deformation: how far shapes differ.
        bias: largest standard deviation of the log field.
        noise: largest standard deviation of the noise, of white matter's brightness.
        thick_mm: largest slice thickness.
        thick: probability that a sequence has thick slices.
        gamma: largest absolute logarithm of the exponent.
    """

    shape: Shape = (160, 192, 160)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sequences: tuple[str, ...] = SEQUENCES
    contrast: str = "priors"
    tumour: float = 1.0
    tumour_kinds: Mapping[str, float] = field(default_factory=lambda: dict(KINDS))
    tumour_radius_mm: tuple[float, float] = RADIUS_MM
    white_matter_lesions: int = 6
    skull: bool | None = True
    deformation: DeformationRange = field(default_factory=DeformationRange)
    bias: float = 0.12
    noise: float = 0.05
    thick_mm: float = 5.0
    thick: float = 0.35
    gamma: float = 0.12

    def __post_init__(self) -> None:
        check_grid(self.shape, self.spacing_mm)
        check_sequences(self.sequences)
        check_tumours(self.tumour_kinds, self.tumour_radius_mm)
        for name, right, wanted in (
            ("contrast", self.contrast in ("priors", "random"), "priors or random"),
            ("tumour", 0 <= self.tumour <= 1, "a probability"),
            ("thick", 0 <= self.thick <= 1, "a probability"),
            ("white_matter_lesions", self.white_matter_lesions >= 0, "0 or more"),
            *((name, getattr(self, name) >= 0, "0 or more") for name in ("bias", "noise", "thick_mm", "gamma")),
        ):
            if not right:
                raise SettingError(f"{name} is {getattr(self, name)!r}", f"Give {wanted}.")


@dataclass(frozen=True, eq=False)
class Plan:
    """All that chance decided of one head.

    Attributes:
        settings: what it was drawn from.
        deformation: of the label map.
        contrasts: one a sequence.
        acquisitions: one a sequence.
        tumours: none, one or more foci.
        spots: white-matter lesions.
        skull: whether it is shown.
        strip_mm: how far a brain mask reaches beyond the brain.
        fat: ``(n, n, n)``: lattice of what parts fat from muscle.
        seed: of the texture and the noise.
    """

    settings: HeadSettings
    deformation: Deformation
    contrasts: tuple[Contrast, ...]
    acquisitions: tuple[Acquisition, ...]
    tumours: tuple[Lesion, ...]
    spots: tuple[Lesion, ...]
    skull: bool
    strip_mm: float
    fat: np.ndarray
    seed: int


def draw_head(rng: np.random.Generator, settings: HeadSettings) -> Plan:
    """Draw all that chance decides.

    Args:
        rng: what it is drawn from; the same state gives the same plan.
        settings: how far it goes.
    """
    deformation = draw_deformation(rng, settings.deformation)
    if settings.contrast == "random":
        contrasts = tuple(draw_random_contrast(rng) for _ in settings.sequences)
    else:
        contrasts = draw_contrasts(rng, settings.sequences)
    tumours: tuple[Lesion, ...] = ()
    if rng.random() < settings.tumour:
        tumours = draw_tumour(rng, None, settings.tumour_radius_mm, settings.tumour_kinds)
    spots = draw_white_matter_lesions(rng, settings.white_matter_lesions)
    scanner = {name: getattr(settings, name) for name in ("bias", "noise", "thick", "thick_mm", "gamma")}
    acquisitions = tuple(draw_acquisition(rng, settings.spacing_mm, **scanner) for _ in contrasts)
    skull = bool(rng.random() < 0.5) if settings.skull is None else settings.skull
    return Plan(
        settings=settings,
        deformation=deformation,
        contrasts=contrasts,
        acquisitions=acquisitions,
        tumours=tumours,
        spots=spots,
        skull=skull,
        strip_mm=float(rng.uniform(1, 3)),
        fat=rng.standard_normal((14, 14, 14)).astype(np.float32),
        seed=int(rng.integers(2**62)),
    )


def settings_of(given: HeadSettings | Mapping[str, Any] | None) -> HeadSettings:
    """Settings from a config's words; lists become tuples.

    Raises:
        SettingError: for a word that is none.
    """
    if isinstance(given, HeadSettings):
        return given
    words: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in (given or {}).items()
    }
    try:
        if isinstance(words.get("deformation"), Mapping):
            words["deformation"] = DeformationRange(**words["deformation"])
        return HeadSettings(**words)
    except TypeError as error:
        raise SettingError(str(error), "See neurobundle.augment.HeadSettings.") from error


def grid_affine(settings: HeadSettings) -> np.ndarray:
    """Voxel index to RAS+ millimetres, 0 in the image's middle."""
    affine = np.diag([*settings.spacing_mm, 1.0])
    affine[:3, 3] = -(np.asarray(settings.shape) - 1) / 2 * np.asarray(settings.spacing_mm)
    return affine
