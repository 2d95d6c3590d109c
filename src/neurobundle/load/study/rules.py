"""The rules that recognise a sequence by its facts: exclusions first, then words, then numbers, as tables.

A *family* is T1, T2 or FLAIR, whatever the contrast agent. A *weighting* is a row of numbers that means a family. The
tables are read from top to bottom, and each answer has one reason. Where words and numbers disagree the numbers win,
with a warning: the scanner wrote them.

Sources of the ranges: FLAIR with TE 100-150, TR 8000-12000, TI 2200-2800 ms and T2 with TE 80-120, TR 2000-4000 ms are
a multi-centre protocol at 1.5 and 3 T (Parelsnoer, BMC Neurol 2014, 10.1186/s12883-014-0254-4, box 2);
inversion-prepared 3D gradient echo T1, and T2 after the agent, are the consensus for tumours (Ellingson 2015, Neuro
Oncol 17:1188; Kaufmann 2020, Neuro Oncol 22:757). 3D FLAIR has a shorter TI and a much longer effective TE, T1 FLAIR a
TI of about 0.8 s: the ranges here are wider than any protocol's, and no two channels share numbers. Codes are those of
DICOM PS3.3 C.8.3.1 (ScanningSequence SE, IR, GR, EP; SequenceVariant MP: magnetization prepared); enhanced files
(C.8.13) state the same in other attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from neurobundle.load.gate import Level
from neurobundle.load.study.choices import Traits
from neurobundle.load.study.filenames import Recognised
from neurobundle.load.study.vocabulary import (
    DERIVED_TYPES,
    DERIVED_WORDS,
    EXCLUSIONS,
    FAT_SUPPRESSED,
    contrast_said,
    families_said,
)

if TYPE_CHECKING:
    from neurobundle.load.dicom.facts import Facts

#: A FLAIR whose inversion time is not stated has at least this repetition time; few T2 have.
FLAIR_LEAST_TR_MS = 4000.0

#: A series with fewer slices is no volume of a head: a scout has 1 to 7 a plane.
FEWEST_SLICES = 8

Range = tuple[float, float]

#: Any value, stated or not.
ANY = None

#: Not stated: nothing is inverted.
NONE: Range = (-1.0, -1.0)


class Weighting(NamedTuple):
    """One row of numbers, in ms; both bounds of a range belong to it.

    Attributes:
        what: for the reason.
        family: T1, T2 or FLAIR; None for what is no channel.
        echo: range of the echo time, TE.
        repetition: of the repetition time, TR.
        inversion: of the inversion time, TI.
        gradient: for gradient echoes only, for others only (False), or for all (None).
        prepared: for gradient echoes with inversion or preparation (IR, MP) only.
        thin: other sequences share these numbers: without a word of the family it is a warning.
    """

    what: str
    family: str | None
    echo: Range | None
    repetition: Range | None
    inversion: Range | None
    gradient: bool | None = None
    prepared: bool = False
    thin: bool = False


#: In this order; the first that fits decides.
WEIGHTINGS = (
    Weighting("FLAIR", "FLAIR", (60, 1000), ANY, (1500, 3000), gradient=False),
    Weighting("T1 with inversion", "T1", (0, 30), ANY, (300, 1300)),
    Weighting("short-TI inversion recovery", None, ANY, ANY, (0, 299)),
    Weighting("T2* gradient echo", None, (15, 1000), ANY, NONE, gradient=True),
    Weighting("T1 prepared gradient echo", "T1", (0, 15), ANY, NONE, gradient=True, prepared=True),
    Weighting("T1 gradient echo", "T1", (0, 15), (0, 1200), NONE, gradient=True, thin=True),
    Weighting("T1 spin echo", "T1", (0, 30), (200, 1200), NONE, gradient=False),
    Weighting("T2", "T2", (60, 1000), (2000, 30000), NONE, gradient=False),
    Weighting("proton density", None, (0, 45), (1500, 30000), NONE, gradient=False),
)


def recognise(facts: Facts) -> Recognised:
    """What a series is, by its facts.

    Args:
        facts: of one volume.

    >>> from neurobundle.load.dicom.facts import Facts
    >>> mprage = Facts("MR", ("IR", "GR", "MP"), "3D", 2300.0, 2.98, 900.0, words=("t1", "mprage"))
    >>> recognise(mprage).channel, recognise(mprage).reason
    ('T1', 'words and numbers say T1 (TE 2.98, TR 2300, TI 900 ms)')
    """
    what = exclusion_of(facts)
    if what:
        return Recognised(None, f"it is {what}")
    found = _by_words_and_numbers(facts)
    return _with_contrast(facts, found) if found.channel == "T1" else found


def exclusion_of(facts: Facts) -> str:
    """What a series is that is no channel, as the end of "it is"; empty if no rule says so."""
    if facts.modality != "MR":
        return f"no MR image but {facts.modality}" if facts.modality else "no MR image"
    words, types = frozenset(facts.words), image_types(facts)
    for rule in EXCLUSIONS:
        if (rule.words & words or rule.image_types & types) and not rule.unless & words:
            return rule.what
    if facts.component not in (None, "magnitude"):
        return f"the {facts.component} part"
    if facts.b_value:
        return f"diffusion-weighted (b = {facts.b_value:.0f} s/mm2)"
    if "EP" in facts.sequence:
        return "echo planar"
    if "TOF" in facts.sequence:
        return "angiography or flow"
    return "one of a time series" if facts.time_index is not None else ""


def weighting_of(facts: Facts) -> Weighting | None:
    """The first row of :data:`WEIGHTINGS` that fits a series' numbers, or None."""
    gradient = "GR" in facts.sequence and "SE" not in facts.sequence
    prepared = bool({"IR", "MP"} & set(facts.sequence))
    for row in WEIGHTINGS:
        if (
            _within(facts.echo_time_ms, row.echo)
            and _within(facts.repetition_time_ms, row.repetition)
            and _within(facts.inversion_time_ms, row.inversion)
            and row.gradient in (None, gradient)
            and (prepared or not row.prepared)
        ):
            return row
    return None


def traits_of(facts: Facts, found: Recognised, slices: int = 0, usable: bool = True) -> Traits:
    """By what a series is compared with others that fit the same channel.

    Args:
        facts: of one volume.
        found: what the rules made of it.
        slices: how many there are.
        usable: whether the gate lets it pass.
    """
    words, types = frozenset(facts.words), image_types(facts)
    return Traits(
        usable=usable,
        agrees=found.level is Level.OK,
        voxel_mm=facts.voxel_mm,
        original=not (types & DERIVED_TYPES or words & DERIVED_WORDS),
        # Siemens writes ND where the gradients' distortion was not corrected, DIS2D or DIS3D where it was.
        corrected="ND" not in types and "nd" not in words,
        contrast=bool(facts.contrast_agent) or contrast_said(words).after,
        fat_suppressed=bool(words & FAT_SUPPRESSED),
        axial=facts.plane == "axial",
        slices=slices,
    )


def image_types(facts: Facts) -> frozenset[str]:
    """ImageType's values with underscores for spaces."""
    return frozenset(value.replace(" ", "_") for value in facts.image_type)


def _within(value: float | None, bounds: Range | None) -> bool:
    if bounds is NONE or bounds is ANY:
        return bounds is ANY or value is None
    return value is not None and bounds[0] <= value <= bounds[1]


def _numbers(facts: Facts) -> str:
    stated = (("TE", facts.echo_time_ms), ("TR", facts.repetition_time_ms), ("TI", facts.inversion_time_ms))
    known = ", ".join(f"{name} {value:g}" for name, value in stated if value is not None)
    return f"({known} ms)" if known else "(TE, TR and TI are not stated)"


def _by_words_and_numbers(facts: Facts) -> Recognised:
    types = {value.lower() for value in image_types(facts)}
    said, row, numbers = families_said(frozenset(facts.words) | types), weighting_of(facts), _numbers(facts)
    words = " and ".join(sorted(said))
    if row is None:
        if len(said) == 1 and said != {"PD"}:
            return Recognised(words, f"its words say {words}, its numbers fit no rule {numbers}", Level.WARN)
        return Recognised(None, f"no rule fits its numbers {numbers}", silent=not said)
    if row.family is None:
        against = said - {"PD"}
        reason = f"its numbers say {row.what} {numbers}"
        return Recognised(None, f"its words say {words}, {reason}" if against else reason, _warn_if(bool(against)))
    if row.family in said:
        return Recognised(row.family, f"words and numbers say {row.family} {numbers}")
    if not said:
        return Recognised(row.family, f"its numbers say {row.what} {numbers}", _warn_if(row.thin))
    if said == {"FLAIR"} and row.family == "T2" and (facts.repetition_time_ms or 0) >= FLAIR_LEAST_TR_MS:
        return Recognised("FLAIR", f"its words say FLAIR, its TI is not stated {numbers}")
    # Numbers that many sequences share do not outweigh a word.
    family = None if row.thin else row.family
    return Recognised(family, f"its words say {words}, its numbers say {row.what} {numbers}", Level.WARN)


def _with_contrast(facts: Facts, found: Recognised) -> Recognised:
    """T1 or T1c."""
    after, before, unsure = contrast_said(frozenset(facts.words))
    agent = facts.contrast_agent
    if after and before:
        return Recognised(None, f"{found.reason}; its words say both before and after contrast", Level.WARN)
    if unsure and agent is None:
        return Recognised(None, f"{found.reason}; its words may say with or without contrast", Level.WARN)
    if before:
        if agent:
            return Recognised("T1", f"{found.reason}; its words say before contrast, a tag says after", Level.WARN)
        return found._replace(reason=f"{found.reason}; before contrast")
    if not (after or agent):
        return found
    if agent is False:
        return Recognised("T1c", f"{found.reason}; its words say after contrast, a tag says before", Level.WARN)
    by = "a word and a tag say" if after and agent else "a word says" if after else "a tag says"
    return found._replace(channel="T1c", reason=f"{found.reason}; {by} after contrast")


def _warn_if(condition: bool) -> Level:
    return Level.WARN if condition else Level.OK
