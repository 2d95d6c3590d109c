"""A study, and how one of several candidates becomes a channel.

A *candidate* is a file or a series that rules recognised, with the *traits* by which it is compared with others. A
*choice* is what became of it: a channel, or passed over, and why. A *tie-break* compares two candidates by one trait.
Reasons hold numbers and words of fixed tables only: nothing that a person typed into a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neurobundle.load.gate import Finding, Level, Verdict, refuse, warn
from neurobundle.load.names import safe_name
from neurobundle.load.study.channels import ANY, CHANNELS

if TYPE_CHECKING:
    from neurobundle.load.dicom import DicomVolume

#: The longest over the shortest edge of a voxel that still counts as isotropic: 1 x 1 x 1.2 mm does, 0.5 x 0.5 x 1 not.
ISOTROPIC_RATIO = 1.5

#: Two voxel volumes that differ by less than this share are alike: 1.0000 mm and 1.0002 mm are one protocol.
SAME_VOLUME_SHARE = 0.01

#: So many of the scans that were passed over are named in a message.
_NAMED = 8


@dataclass(frozen=True)
class Choice:
    """What became of one file or series.

    Attributes:
        channel: what it is, chosen or not; None if no rule recognised it.
        source: a NIfTI file, or one volume of a DICOM study.
        reason: why it was chosen or passed over; privacy-safe.
        level: ``warn`` if evidence disagrees or is thin, ``refuse`` if its own verdict refuses it.
    """

    channel: str | None
    source: Path | DicomVolume
    reason: str
    level: Level = Level.OK

    @property
    def name(self) -> str:
        """The source for a message: a file's own name, ``series 5``, or a series key."""
        return source_name(self.source)

    def as_json(self) -> dict[str, Any]:
        """For ``report.json``: channel, source by a safe name (and the key of a DICOM volume), and why."""
        if isinstance(self.source, Path):
            return {"channel": self.channel, "source": safe_name(self.name), "why": self.reason}
        return {"channel": self.channel, "source": self.name, "key": self.source.key, "why": self.reason}


@dataclass
class Study:
    """The scans of one visit of one person, and which of them are channels.

    Attributes:
        case: its name, unique in the search.
        subject: the person, where the layout names one (BIDS, BraTS, visits in one folder); else the case.
        folder: where it lies.
        layout: ``dicom``, ``bids``, ``brats``, ``names``, ``nnunet``, ``file`` or ``mapping``.
        channels: those that were looked for, in the metadata's order.
        choices: channel -> what was chosen for it; a channel without candidates is not in it.
        passed_over: what was not chosen, and why.
        verdict: refuses if two candidates fit equally well; :func:`read_study` raises what it refuses.
        registered: whether the layout promises one grid for all channels, so that another grid is an error.
        candidates: every scan that was found, in the order in which they lie.
    """

    case: str
    subject: str
    folder: Path
    layout: str
    channels: tuple[str, ...]
    choices: dict[str, Choice] = field(default_factory=dict)
    passed_over: list[Choice] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    registered: bool = False
    candidates: list[Candidate] = field(default_factory=list, repr=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """The channels that were looked for and not found."""
        return tuple(channel for channel in self.channels if channel not in self.choices)

    def lacks(self, channel: str) -> str:
        """Why a channel is missing, as a sentence without a full stop: what there is instead.

        Args:
            channel: the missing one.
        """
        chosen = [f"{name} ({choice.name})" for name, choice in self.choices.items()]
        over = sorted(self.passed_over, key=lambda choice: not (choice.channel or "").startswith(channel[:2]))
        rest = [f"{choice.name} ({choice.reason})" for choice in over[:_NAMED]]
        more = f" and {len(over) - _NAMED} more" if len(over) > _NAMED else ""
        found = f"found {', '.join(chosen)}" if chosen else "no channel was found"
        passed = f"; passed over {', '.join(rest)}{more}" if rest else ""
        return f"no {'scan of a known sequence' if channel == ANY else channel}: {found}{passed}"

    def judge(self, missing: str = "refuse", channels: Sequence[str] | None = None) -> Verdict:
        """The study's verdict for some channels, with a finding for each that is missing.

        Args:
            missing: ``refuse``, or ``fill``: then a missing channel only warns.
            channels: those that matter; the study's own if None.
        """
        wanted = self.channels if channels is None else tuple(channels)
        about_others = {f"{check}_{name}" for check in _PER_CHANNEL for name in CHANNELS if name not in wanted}
        verdict = Verdict([finding for finding in self.verdict.findings if finding.check not in about_others])
        level = Level.REFUSE if missing == "refuse" else Level.WARN
        ambiguous = {finding.check for finding in verdict.refusals}
        for channel in wanted:
            if channel not in self.choices and f"two_fit_{channel}" not in ambiguous:
                verdict.add(Finding("missing_channel", level, self.lacks(channel), ADD_OR_MAP, str(self.folder)))
        return verdict


#: Checks that are about one channel: their findings end in its name.
_PER_CHANNEL = ("two_fit", "evidence")

#: The way out of a missing channel. Whether it may be filled with zeros hangs on the command and on the bundle.
ADD_OR_MAP = "Add the scan, or name it with --mapping."


class Traits(NamedTuple):
    """By what candidates for one channel are compared.

    Attributes:
        usable: its own verdict does not refuse it.
        agrees: no two kinds of evidence disagree.
        voxel_mm: a voxel's edges, mm, or None if unknown.
        original: acquired, not computed from other images.
        corrected: corrected for the gradients' distortion.
        contrast: after a contrast agent.
        fat_suppressed: by name.
        axial: acquired in axial planes.
        slices: along the slice axis; 0 if unknown.
    """

    usable: bool = True
    agrees: bool = True
    voxel_mm: tuple[float, float, float] | None = None
    original: bool = True
    corrected: bool = True
    contrast: bool = False
    fat_suppressed: bool = False
    axial: bool = False
    slices: int = 0

    @property
    def isotropic(self) -> bool:
        """Whether a voxel's edges are nearly alike."""
        return self.voxel_mm is not None and max(self.voxel_mm) <= ISOTROPIC_RATIO * min(self.voxel_mm)

    @property
    def volume_mm3(self) -> float:
        """A voxel's volume; infinite if unknown."""
        if self.voxel_mm is None:
            return float("inf")
        return self.voxel_mm[0] * self.voxel_mm[1] * self.voxel_mm[2]


class Candidate(NamedTuple):
    """A choice that was recognised as a channel, with its traits."""

    choice: Choice
    traits: Traits


class TieBreak(NamedTuple):
    """One comparison; the larger value wins.

    Attributes:
        words: what the winner is.
        value: of a candidate's traits.
        channels: the channels that it is for.
    """

    words: str
    value: Callable[[Traits], float]
    channels: tuple[str, ...] = CHANNELS


#: In this order; the first that tells two candidates apart decides.
TIE_BREAKS = (
    TieBreak("the one that the gate lets pass", lambda t: t.usable),
    TieBreak("the one whose words and numbers agree", lambda t: t.agrees),
    TieBreak("isotropic voxels", lambda t: t.isotropic),
    TieBreak("acquired, not derived", lambda t: t.original),
    TieBreak("corrected for distortion", lambda t: t.corrected),
    TieBreak("before contrast", lambda t: not t.contrast, ("T2", "FLAIR")),
    TieBreak("without fat suppression", lambda t: not t.fat_suppressed),
    TieBreak("smaller voxels", lambda t: -t.volume_mm3),
    TieBreak("axial", lambda t: t.axial),
    TieBreak("more slices", lambda t: t.slices),
)


def source_name(source: Path | DicomVolume) -> str:
    """A file's own name; ``series 5``; the key of a volume without a series number."""
    if isinstance(source, Path):
        return source.name
    return f"series {source.series_number}" if source.series_number is not None else source.key


def choose(study: Study) -> None:
    """Choose one candidate for each channel that a study looks for; the others are passed over, all in place.

    Two that no tie-break tells apart are both passed over, and the study's verdict refuses.

    Args:
        study: channels that it has choices for already (by a mapping) keep them.
    """
    mapped = set(study.choices)
    taken = [place_of(choice.source) for choice in study.choices.values()]
    free = [candidate for candidate in study.candidates if place_of(candidate.choice.source) not in taken]
    for channel in dict.fromkeys(candidate.choice.channel for candidate in free):
        fit = [candidate for candidate in free if candidate.choice.channel == channel]
        if channel is None:
            study.passed_over += _once_a_stack([candidate.choice for candidate in fit])
        elif channel not in study.channels or channel in mapped:
            why = "the mapping names another" if channel in mapped else f"{channel} is not wanted"
            study.passed_over += [_with_reason(one.choice, f"{one.choice.reason}; {why}") for one in fit]
        else:
            _choose_one(study, channel, fit)
    study.choices = {channel: study.choices[channel] for channel in study.channels if channel in study.choices}


def _once_a_stack(choices: Sequence[Choice]) -> list[Choice]:
    """Choices, of each time series only the first: it may have hundreds of volumes, and one reason."""
    stacks = {c.source.stack_key if not isinstance(c.source, Path) else str(c.source): c for c in reversed(choices)}
    return list(reversed(stacks.values()))


def place_of(source: Path | DicomVolume) -> object:
    """What two choices of one scan have in common."""
    return source.resolve() if isinstance(source, Path) else id(source)


def _choose_one(study: Study, channel: str, fit: Sequence[Candidate]) -> None:
    left, losers = list(fit), dict[int, str]()
    for tie_break in TIE_BREAKS:
        if channel in tie_break.channels and len(left) > 1:
            best = max(tie_break.value(candidate.traits) for candidate in left)
            lost = [candidate for candidate in left if not as_good(tie_break.value(candidate.traits), best)]
            losers |= {id(candidate): tie_break.words for candidate in lost}
            left = [candidate for candidate in left if id(candidate) not in losers]
    names = distinct_names([candidate.choice for candidate in left])
    if len(left) > 1:
        what = "files" if isinstance(left[0].choice.source, Path) else "series"
        cause = f"{len(left)} {what} fit {channel}: {' and '.join(names)}".replace("2 ", "two ", 1)
        study.verdict.add(refuse(f"two_fit_{channel}", cause, "Choose one with --mapping.", study.folder))
        study.passed_over += [_with_reason(one.choice, f"{one.choice.reason}; another fits as well") for one in left]
    else:
        study.choices[channel] = _winner(left[0].choice, [one for one in fit if id(one) in losers], losers)
        if left[0].choice.level is Level.WARN:
            study.verdict.add(warn(f"evidence_{channel}", f"{channel} is {names[0]}: {left[0].choice.reason}"))
    for candidate in fit:
        if id(candidate) in losers:
            why = f"{candidate.choice.reason}; a better one by: {losers[id(candidate)]}"
            study.passed_over.append(_with_reason(candidate.choice, why))


def _winner(choice: Choice, beaten: Sequence[Candidate], losers: dict[int, str]) -> Choice:
    if not beaten:
        return choice
    names = distinct_names([candidate.choice for candidate in beaten])
    over = ", ".join(f"{name} ({losers[id(one)]})" for name, one in zip(names, beaten, strict=True))
    return _with_reason(choice, f"{choice.reason}; preferred to {over}")


def distinct_names(choices: Sequence[Choice]) -> list[str]:
    """Names of sources for a message; volumes of one series are told apart by their keys."""
    names = [choice.name for choice in choices]
    keys = ["" if isinstance(choice.source, Path) else f" (key {choice.source.key})" for choice in choices]
    return [name + key * (names.count(name) > 1) for name, key in zip(names, keys, strict=True)]


def as_good(value: float, best: float) -> bool:
    """Whether a tie-break's value is the best one, or differs from it by what two exports of one protocol do."""
    return value == best or abs(value - best) <= SAME_VOLUME_SHARE * abs(best) < float("inf")


def _with_reason(choice: Choice, reason: str) -> Choice:
    return replace(choice, reason=reason)
