"""The gate that a scan passes before anything else reads it: findings, verdicts and policies.

A *finding* is what one check saw: a level, a cause and a way out. A *verdict* is all findings of one scan, series or
study. A *policy* is what a user allowed beyond the default. Checks (:mod:`neurobundle.load.checks`) return findings and
never raise; whoever wants a scan calls :meth:`Verdict.require`, which raises the first refusal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, get_args

from neurobundle.errors import InputError, SettingError, closest


class Level(StrEnum):
    """How a finding ends."""

    OK = "ok"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    Attributes:
        check: the check's name, a word or two with underscores.
        level: ``ok``, ``warn`` or ``refuse``.
        cause: what is wrong, with the offending value.
        way_out: what the user can do about it, as a sentence.
        file: the file it is about, if it is one file.
    """

    check: str
    level: Level
    cause: str
    way_out: str = ""
    file: str = ""


@dataclass
class Verdict:
    """All findings of one scan, series or study.

    >>> verdict = Verdict([Finding("spacing", Level.WARN, "voxels of 12 mm")])
    >>> verdict.level.value, verdict.warnings
    ('warn', ['voxels of 12 mm'])
    """

    findings: list[Finding] = field(default_factory=list)

    @property
    def level(self) -> Level:
        """The worst level among the findings; ``ok`` if there are none."""
        levels = {finding.level for finding in self.findings}
        return next((level for level in (Level.REFUSE, Level.WARN) if level in levels), Level.OK)

    @property
    def refusals(self) -> list[Finding]:
        """The findings that refuse."""
        return [finding for finding in self.findings if finding.level is Level.REFUSE]

    @property
    def warnings(self) -> list[str]:
        """The causes of the findings that warn, for reports."""
        return [finding.cause for finding in self.findings if finding.level is Level.WARN]

    def add(self, *findings: Finding | None) -> None:
        """Take in what checks returned; None is a check that saw nothing."""
        self.findings += [finding for finding in findings if finding is not None]

    def extend(self, findings: Iterable[Finding]) -> None:
        """Take in several findings."""
        self.add(*findings)

    def require(self, file: str | Path, case: str = "") -> None:
        """Raise the first refusal.

        Args:
            file: named where the finding names none.
            case: the case's name, if one is known.

        Raises:
            InputError: if a finding refuses.
        """
        if self.refusals:
            first = self.refusals[0]
            raise InputError(first.cause, first.way_out, case=case, file=first.file or file)


#: What a scan is expected to be.
Kind = Literal["image", "label"]

#: What becomes of voxels that are no numbers.
Nonfinite = Literal["refuse", "zero"]

#: Which of a NIfTI file's affines counts.
Form = Literal["auto", "sform", "qform"]


@dataclass(frozen=True)
class Policy:
    """What a user allows beyond the default, and what kind of scan is expected.

    Attributes:
        kind: ``image``, or ``label``: whole numbers, and it may be empty.
        nonfinite: ``refuse`` NaN and infinite voxels, or set them to ``zero`` with a warning.
        form: which of a NIfTI file's two affines speaks where both have a code: ``auto``, ``sform`` or ``qform``.
        assume_ras: take the sform or the voxel sizes of a NIfTI file without form codes as RAS+.
        channels: how many channels a 4D file must have; None refuses 4D unless its last axis is 1.
        spatial_dims: 3, or 2 where a flat image is wanted.
        allow_gaps: fill a DICOM stack's missing slices by interpolation, with a warning.
        allow_empty: let an image without a signal pass: a channel that a study lacks and that was filled with zeros.
        real_world: take a DICOM file's real-world values where it maps to some.

    Raises:
        SettingError: for a word that is none of these.
    """

    kind: Kind = "image"
    nonfinite: Nonfinite = "refuse"
    form: Form = "auto"
    assume_ras: bool = False
    channels: int | None = None
    spatial_dims: int = 3
    allow_gaps: bool = False
    allow_empty: bool = False
    real_world: bool = False

    def __post_init__(self) -> None:
        for name, known in (("kind", Kind), ("nonfinite", Nonfinite), ("form", Form)):
            value = getattr(self, name)
            if value not in get_args(known):
                words = ", ".join(get_args(known))
                raise SettingError(
                    f"{name} must be one of {words}, got {value!r}{closest(str(value), get_args(known))}"
                )
        if self.spatial_dims not in (2, 3):
            raise SettingError(f"spatial_dims must be 2 or 3, got {self.spatial_dims!r}")


#: What every command does where the user allowed nothing.
STRICT = Policy()

#: What a label map may be besides: empty.
LABEL = Policy(kind="label")


def refuse(check: str, cause: str, way_out: str, file: str | Path = "") -> Finding:
    """A finding that refuses."""
    return Finding(check, Level.REFUSE, cause, way_out, str(file))


def warn(check: str, cause: str, way_out: str = "", file: str | Path = "") -> Finding:
    """A finding that warns."""
    return Finding(check, Level.WARN, cause, way_out, str(file))
