"""What a file's name says of its sequence: the rules for names, as tables.

A *token* is a run of letters and digits in a file's name, in small letters. A *prefix* is what stands before the first
token that the tables know: the case's, or the visit's. Only the tables' own words get into a reason, never the name.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from neurobundle.load.gate import Level
from neurobundle.load.names import stem
from neurobundle.load.study.channels import ALIASES

#: Family -> the tokens that mean it. BRAVO and FSPGR are GE's, MPRAGE and TFL Siemens's, TFE Philips's T1.
SEQUENCE_TOKENS: dict[str, frozenset[str]] = {
    "T1": frozenset((*ALIASES["T1"], "mprage", "rage", "mpr", "bravo", "fspgr", "spgr", "tfe", "tfl")),
    "T1c": frozenset(ALIASES["T1c"]),
    "T2": frozenset(ALIASES["T2"]),
    "FLAIR": frozenset((*ALIASES["FLAIR"], "darkfluid")),
}

#: Tokens that say after, and before, a contrast agent. A lone ``c`` counts right behind the sequence only: ``T1+C``.
AFTER_CONTRAST = frozenset(("post", "postcontrast", "postgd", "enhanced"))
BEFORE_CONTRAST = frozenset(("pre", "precontrast", "native", "unenhanced", "noncontrast", "non", "without", "nogd"))

#: The agent's names: after contrast, unless a word for before stands beside them.
AGENT_TOKENS = frozenset(("gd", "gad", "gado", "gadolinium", "ce", "contrast", "km"))

#: What is no channel -> the tokens that say so, and why it is passed over.
OTHER_TOKENS: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset(
            (
                *("seg", "segs", "dseg", "probseg", "mask", "masks", "brainmask", "gt", "label", "labels", "labelmap"),
                *("roi", "lesion", "lesions", "gold", "truth", "groundtruth", "consensus", "manual", "annotation"),
                "pred",
            )
        ),
        "its name says label map",
    ),
    (frozenset(("map", "t1map", "t2map", "mapping", "relaxometry")), "its name says map of a quantity"),
    (frozenset(("dwi", "dti", "adc", "trace", "bval", "b0", "b1000", "diffusion")), "its name says diffusion"),
    (frozenset(("swi", "swan", "t2star", "t2starw", "t2s", "qsm", "gre", "hemo")), "its name says susceptibility"),
    (frozenset(("asl", "pcasl", "pasl", "cbf", "dsc", "dce", "perfusion", "perf", "pwi")), "its name says perfusion"),
    (frozenset(("bold", "fmri", "func", "epi")), "its name says functional series"),
    (frozenset(("tof", "mra", "mrv", "angio", "mip", "minip")), "its name says angiography or projection"),
    (frozenset(("pd", "pdw", "pdt2", "stir", "dir", "unit1", "mp2rage")), "its name says another sequence"),
    (frozenset(("phase", "real", "imag", "imaginary")), "its name says phase, real or imaginary part"),
    (frozenset(("subtraction", "subtracted", "difference")), "its name says subtraction"),
    (frozenset(("localizer", "localiser", "scout", "survey")), "its name says localizer"),
    (frozenset(("xfm", "warp", "warpfield", "biasfield")), "its name says transform or field"),
)

#: Words of plane and kind; they name no sequence, and end a prefix.
PLAIN_TOKENS = frozenset(("ax", "axial", "tra", "sag", "sagittal", "cor", "coronal", "3d", "2d", "iso", "anat"))

#: What follows one of these names the space that an image was moved to: ``flair_to_t1``, ``t2_space-T1w``.
MOVED_TO = frozenset(("to", "onto", "in", "on", "space", "regto"))

#: Tokens that say that an image lies on another's grid; so do those that begin with ``regto``.
MOVED = frozenset(("to", "onto", "space", "reg", "coreg", "registered", "coregistered", "warped", "mni"))

#: A visit in a prefix: ``study1``, ``ses-02``, ``visit_3``, ``tp1``.
VISIT = re.compile(r"(?:^|[^a-z0-9])(?:study|visit|session|ses|timepoint|tp|exam)[-_ ]?[a-z]?\d+(?![a-z0-9])", re.I)

_TOKEN = re.compile(r"[A-Za-z0-9]+")
_KNOWN = frozenset().union(
    *SEQUENCE_TOKENS.values(),
    AFTER_CONTRAST,
    AGENT_TOKENS,
    BEFORE_CONTRAST,
    PLAIN_TOKENS,
    *(tokens for tokens, _ in OTHER_TOKENS),
)


class Recognised(NamedTuple):
    """What rules made of one file or series.

    Attributes:
        channel: T1, T1c, T2 or FLAIR; None if it is none of them.
        reason: why, in the rules' own words and in numbers.
        level: ``warn`` if two kinds of evidence disagree, or one is thin.
        silent: no rule had anything to say.
    """

    channel: str | None
    reason: str
    level: Level = Level.OK
    silent: bool = False


def recognise_name(name: str) -> Recognised:
    """What a file's name says of its sequence.

    Args:
        name: the file's name.

    >>> recognise_name("anna_T1POST_to_FLAIR.nii.gz").channel, recognise_name("t2_flair.nii").channel
    ('T1c', 'FLAIR')
    >>> recognise_name("t1_lesion_mask.nii.gz").reason
    'its name says label map'
    """
    tokens = _tokens(name)
    for words, reason in OTHER_TOKENS:
        if words & set(tokens):
            return Recognised(None, reason)
    said = {family for family, words in SEQUENCE_TOKENS.items() if words & set(tokens)}
    after, before = _contrast(tokens, said)
    if not said:
        return Recognised(None, "its name says no sequence", silent=True)
    if said == {"FLAIR"} or said == {"T2", "FLAIR"}:
        return Recognised("FLAIR", "its name says FLAIR")
    if said == {"T2"}:
        return Recognised("T2", "its name says T2")
    if said <= {"T1", "T1c"} and after and before:
        return Recognised(None, "its name says both before and after contrast", Level.WARN)
    if said <= {"T1", "T1c"}:
        return Recognised("T1c", "its name says T1 after contrast") if after else Recognised("T1", "its name says T1")
    both = " and ".join(family for family in SEQUENCE_TOKENS if family in said)
    return Recognised(None, f"its name says both {both}", Level.WARN)


def prefix_of(name: str) -> str:
    """What stands in a file's name before the first token that the tables know; the whole stem if there is none.

    >>> prefix_of("BraTS-GLI-00000-000-t1n.nii.gz"), prefix_of("study1_T1W.nii.gz"), prefix_of("T1_brain.nii.gz")
    ('BraTS-GLI-00000-000', 'study1', '')
    """
    plain = stem(name)
    start = next((match.start() for match in _TOKEN.finditer(plain) if match[0].lower() in _KNOWN), len(plain))
    return plain[:start].strip(" _-.+")


def says_moved(name: str) -> bool:
    """Whether a file's name says that the image was registered to another.

    >>> says_moved("T1_regtoMNI.nii.gz"), says_moved("flair_to_t1.nii"), says_moved("T1_brain.nii.gz")
    (True, True, False)
    """
    tokens = [token.lower() for token in _TOKEN.findall(stem(name))]
    return any(token in MOVED or token.startswith("regto") for token in tokens)


def says_after_contrast(name: str) -> bool:
    """Whether a file's name says that it was made after a contrast agent.

    >>> says_after_contrast("flair_post.nii.gz"), says_after_contrast("flair_pre_gd.nii.gz")
    (True, False)
    """
    return _contrast(_tokens(name), set())[0]


def _tokens(name: str) -> list[str]:
    """A name's tokens, up to where it says what space the image was moved to."""
    tokens = [token.lower() for token in _TOKEN.findall(stem(name))]
    end = next((n for n, token in enumerate(tokens) if n and token in MOVED_TO), len(tokens))
    return tokens[:end]


def _contrast(tokens: list[str], said: set[str]) -> tuple[bool, bool]:
    """Whether the tokens say after, and before, a contrast agent."""
    before = bool(BEFORE_CONTRAST & set(tokens))
    plus_c = any(one in SEQUENCE_TOKENS["T1"] and two == "c" for one, two in pairwise(tokens))
    named = bool(AGENT_TOKENS & set(tokens)) and not before
    return "T1c" in said or plus_c or named or bool(AFTER_CONTRAST & set(tokens)), before
