"""The settings of N4, which a config may give: one that means nothing is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from neurobundle.errors import SettingError, closest
from neurobundle.prepare.separable import ORDER


@dataclass(frozen=True)
class N4Settings:
    """How the field is found; the defaults are ITK's.

    Attributes:
        shrink: every so many voxels along an axis are looked at; less where that would leave under 16.
        iterations: at most so many at each level; its length is the number of levels.
        tolerance: a level ends when the field's change, as a coefficient of variation, is below this.
        control_points: of the first level, along each axis; 4 are one piece.
        bins: of the histogram of log intensities.
        fwhm: full width at half maximum of the blur that is taken back, in log intensity.
        wiener_noise: of the deconvolution.
    """

    shrink: int = 4
    iterations: tuple[int, ...] = (50, 50, 50, 50)
    tolerance: float = 1e-3
    control_points: int = 4
    bins: int = 200
    fwhm: float = 0.15
    wiener_noise: float = 0.01

    def __post_init__(self) -> None:
        counts = self.iterations
        many = isinstance(counts, Sequence) and bool(counts) and all(_whole(n, 1) for n in counts)
        for name, right, wanted in (
            ("shrink", _whole(self.shrink, 1), "a whole number, 1 or more"),
            ("iterations", many, "a list of whole numbers, one a level, such as [50, 50, 50, 50]"),
            ("tolerance", _number(self.tolerance) and self.tolerance >= 0, "a number, 0 or more"),
            ("control_points", _whole(self.control_points, ORDER + 1), f"a whole number, {ORDER + 1} or more"),
            ("bins", _whole(self.bins, 2), "a whole number, 2 or more"),
            ("fwhm", _number(self.fwhm) and self.fwhm > 0, "a number above 0"),
            ("wiener_noise", _number(self.wiener_noise) and self.wiener_noise > 0, "a number above 0"),
        ):
            if not right:
                raise SettingError(f"{name} is {getattr(self, name)!r}", f"Give {wanted}.")
        # A config gives a list; the cache is keyed by what stands here.
        object.__setattr__(self, "iterations", tuple(self.iterations))

    @classmethod
    def of(cls, **settings: Any) -> N4Settings:
        """The settings of a config.

        Raises:
            SettingError: for a name that is none of the fields, or a value that means nothing.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise SettingError(f"N4 has no setting {name!r}{closest(name, known)}", f"It has {', '.join(known)}.")
        return cls(**settings)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
