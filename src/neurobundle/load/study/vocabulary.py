"""The words that rules listen to, as tables: what is no channel, what is a family, what is a contrast agent.

A *family* is T1, T2, FLAIR or PD (proton density), whatever the contrast agent. Words are those of
:data:`neurobundle.load.dicom.vocabulary.VOCABULARY`, and ImageType's values in small letters.
"""

from __future__ import annotations

from typing import NamedTuple


class Exclusion(NamedTuple):
    """What a series is that is no channel.

    Attributes:
        what: the end of "it is".
        words: one of them tells it, of the series' words.
        image_types: or one of these, of ImageType's values.
        unless: words that take it back.
    """

    what: str
    words: frozenset[str] = frozenset()
    image_types: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()


def _of(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: In this order; the first that tells decides. ImageType's values: PS3.3 C.8.3.1.1.1, C.8.13.3.1.1, C.8.16.1, makers'.
EXCLUSIONS = (
    Exclusion("a localizer", _of("loc localizer localiser scout survey smartbrain aahead"), _of("LOCALIZER")),
    Exclusion("a calibration", _of("cal calibration asset fieldmap b1 shim")),
    Exclusion("a screenshot", _of("screen capture report screensave"), _of("SCREEN_SAVE SCREENSHOT")),
    Exclusion("spectroscopy", _of("spectro svs csi mrs press")),
    Exclusion(
        "diffusion, or a map of it",
        _of("dwi dti dsi adc trace tracew colfa diffusion diff b0 b800 b1000"),
        _of("ADC ADC_UNSPECIFIED DIFFUSION DIFFUSION_ANISO DIFFUSION_MAP TRACEW FA TENSOR"),
    ),
    Exclusion("susceptibility-weighted", _of("swi swan swip venbold qsm"), _of("SWI")),
    Exclusion("T2*-weighted", _of("t2star medic merge me2d"), _of("T2_STAR")),
    Exclusion(
        "perfusion or arterial spin labelling",
        _of("asl pasl casl pcasl cbf cbv mtt ttp tmax perf perfusion dsc dce pwi relcbf relcbv"),
        _of("ASL PERFUSION PERFUSION_FFE CBF CBV MTT TTP RCBF RCBV"),
    ),
    Exclusion("functional", _of("bold fmri rest task"), _of("FMRI FUNCTIONAL")),
    Exclusion(
        "angiography or flow",
        _of("tof mra mrv angio pca pc venc cine cemra"),
        _of("TOF ANGIO ANGIO_TIME FLOW_ENCODED VELOCITY_MAP"),
    ),
    Exclusion(
        "a projection", _of("mip minip"), _of("PROJECTION_IMAGE PROJECTION MIP MINIP MIN_IP MAX_IP MNIP STD_DEVIATION")
    ),
    Exclusion(
        "a subtraction",
        _of("sub subtraction"),
        _of("SUBTRACTION MODULUS_SUBTRACT PHASE_SUBTRACT DIVISION MULTIPLICATION"),
    ),
    Exclusion("a map of a quantity", _of("map"), _of("T1_MAP T2_MAP DENSITY_MAP TEMPERATURE")),
    Exclusion("a phase, real or imaginary part", _of("pha phase real imaginary"), _of("PHASE_MAP")),
    Exclusion("a fat or opposed-phase image", _of("outphase opp opposed"), _of("FAT OUT_PHASE OPP_PHASE")),
    Exclusion("echo planar", _of("epi epse ep2d"), _of("EPI MOSAIC")),
    Exclusion("a double inversion recovery", _of("dir")),
    Exclusion("a short-TI inversion recovery", _of("stir"), _of("STIR")),
    Exclusion("balanced steady state", _of("fiesta ciss fisp psif")),
    Exclusion("MP2RAGE, several images in one series", _of("mp2rage")),
    Exclusion("of another part than the whole head", _of("neck spine orbit iac pituitary"), unless=_of("brain head")),
)

#: Family -> the words that say it.
FAMILY_WORDS = {
    "T1": _of("t1 t1w t1c"),
    "T2": _of("t2 t2w"),
    "FLAIR": _of("flair fluid_attenuated"),
    "PD": _of("pd pdw proton_density"),
}

#: Two words that together say FLAIR: Siemens's name for it.
DARK_FLUID = _of("dark fluid")

#: Names of sequences that are T1-weighted, where no word of a family stands beside them.
T1_SEQUENCES = _of("mprage rage bravo spgr fspgr irspgr tfl tfe vibe lava thrive")

#: Words that say after a contrast agent by themselves.
AFTER_WORDS = _of("post postgad postcontrast t1c +c")

#: The agent's names: after contrast, unless a word of :data:`BEFORE_WORDS` stands beside them ("pre Gd", "w/o KM").
AGENT_WORDS = _of("gd gad gado gadolinium contrast ce km mdc")

BEFORE_WORDS = _of("pre pregad precontrast native nativ without wo")

FAT_SUPPRESSED = _of("fs fat fatsat fsat spir spair")

#: Words and values of ImageType that say that an image was computed from others.
DERIVED_WORDS = _of("mprs reformat derived recon reconstruction reconstructed registered")
DERIVED_TYPES = _of("DERIVED SECONDARY MPR REFORMATTED RESAMPLED CSA_RESAMPLED")


def families_said(words: frozenset[str]) -> frozenset[str]:
    """The families that a series' words allow; none if they say nothing of it.

    FLAIR beside T1 is T1 FLAIR, which is T1; beside T2 it is the FLAIR. PD beside T2 is a double echo: both.

    >>> sorted(families_said(frozenset({"t1", "flair"}))), sorted(families_said(frozenset({"t2", "pd"})))
    (['T1'], ['PD', 'T2'])
    """
    said = {family for family, known in FAMILY_WORDS.items() if known & words}
    if words >= DARK_FLUID:
        said.add("FLAIR")
    if "FLAIR" in said:
        return frozenset({"T1"} if "T1" in said and "T2" not in said else {"FLAIR"})
    if not said and T1_SEQUENCES & words:
        return frozenset({"T1"})
    return frozenset(said)


class Contrast(NamedTuple):
    """What words say of a contrast agent.

    Attributes:
        after: after it.
        before: before it, or without.
        unsure: the agent is named beside a lone ``w``, which is what is left of "w/" and of "w/o".
    """

    after: bool
    before: bool
    unsure: bool


def contrast_said(words: frozenset[str]) -> Contrast:
    """What words say of a contrast agent.

    >>> contrast_said(frozenset({"pre", "gd"})).before, contrast_said(frozenset({"gd"})).after
    (True, True)
    >>> contrast_said(frozenset({"t1", "w", "contrast"}))
    Contrast(after=False, before=False, unsure=True)
    """
    named, before = bool(AGENT_WORDS & words), bool(BEFORE_WORDS & words)
    said = bool(AFTER_WORDS & words)
    unsure = named and "w" in words and not before and not said
    return Contrast(said or (named and not before and not unsure), before, unsure)
