"""The words that facts are made of: the terms of DICOM, and what sites write into a series' description.

A description is free text and may hold a name. So it is never kept: only those of its words that stand in a fixed
table are, and what a patient may be called stands in none. Imports nothing heavy.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: Words of SeriesDescription, ProtocolName and SequenceName that say something of a scan. Sequence names are those of
#: the makers: Siemens (tfl, tse, fl2d, spc ...), GE (bravo, fspgr, propeller ...), Philips (vista, ffe, grase ...).
_SERIES_WORDS = """
    t1 t1w t1c t2 t2w t2star pd pdw flair dark fluid stir dir ir irse fatsat fs fsat spir spair dixon water fat inphase
    outphase opp opposed warp
    mprage mp2rage mpr rage bravo spgr fspgr irspgr tfl tfe ffe gre gr flash fl2d fl3d vibe lava thrive fiesta ciss
    fisp psif tse fse frfse frfse se tir tirm space spc cube vista brainview grase blade propeller multivane vane
    epi epse ep2d fmri bold rest task dwi dti dsi adc trace tracew fa colfa isotropic diffusion diff b0 b1000 b800
    swi swan swip venbold mip minip mag magnitude pha phase real imaginary
    qsm medic merge me2d asl pasl casl pcasl cbf cbv mtt ttp tmax perf perfusion dsc dce pwi relcbf relcbv
    tof mra mrv angio pca pc venc cine spectro svs csi mrs press
    gd gad gado gadolinium post pre contrast ce cemra km mdc native nativ postgad pregad postcontrast precontrast
    with without w wo plus
    ax axial tra trans transversal transverse sag sagittal cor coronal obl oblique tilted
    2d 3d 4d iso loc localizer localiser scout survey plan planning smartbrain aahead cal calibration asset ref
    reference fieldmap b1 map shim test smart
    mpr mprs reformat ref recon reconstruction reconstructed derived subtraction sub add mean avg average
    nd norm dis2d dis3d moco registered brain head neck spine orbit iac pituitary hippocampus stealth neuronav
    short long slow fast screen secondary capture report screensave
"""
VOCABULARY = frozenset(_SERIES_WORDS.split())

#: What is written for a contrast agent and is no word by itself: ``+C``, ``C+``, ``+GD``, ``w/C``, ``T1+``.
_PLUS = re.compile(r"(?:\+\s*(?:c|gd|km|contrast)\b)|(?:\bc\+)|(?:\bw/\s*c\b)|(?:\bt1w?\+)", re.IGNORECASE)
#: The word that stands for it.
PLUS_WORD = "+c"

#: Abbreviations that are no words by themselves, and what they stand for; ``sub-01`` is a person and no subtraction.
_SPELT_OUT = (
    # An exam "with and without" says nothing of the one series.
    (
        re.compile(
            r"\b(?:wwo|w/wo|w/?\s*(?:and|&|\+)\s*w/?o|with(?:out)?\s+and\s+with(?:out)?)\s+(?:iv\s+)?con(?:trast)?\b",
            re.IGNORECASE,
        ),
        " ",
    ),
    (re.compile(r"\bw/o\b", re.IGNORECASE), "without"),
    (re.compile(r"\bw/(?=\s)", re.IGNORECASE), "with"),
    (re.compile(r"\bsub-?\d+\b", re.IGNORECASE), " "),
)

#: Codes of ScanningSequence and SequenceVariant (PS3.3 C.8.3.1.1.2 and .3).
SCANNING_SEQUENCES = ("SE", "IR", "GR", "EP", "RM")
SEQUENCE_VARIANTS = ("SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "TOF")

#: Terms of ImageType: PS3.3 C.7.6.1.1.2, C.8.3.1.1.1, C.8.13.3.1.1 and C.8.16.1, and makers' own that sites rely on.
_IMAGE_TYPE_TERMS = (
    "ORIGINAL DERIVED PRIMARY SECONDARY MIXED LOCALIZER AXIAL MPR VOLUME OTHER NONE "
    "DENSITY_MAP DIFFUSION_MAP IMAGE_ADDITION MODULUS_SUBTRACT PHASE_MAP PHASE_SUBTRACT PROJECTION_IMAGE T1_MAP T2_MAP "
    "VELOCITY_MAP ADC ADC_UNSPECIFIED DIFFUSION DIFFUSION_ANISO TRACEW FA TENSOR PERFUSION CEREBRAL FLOW_ENCODED "
    "FLUID_ATTENUATED PROTON_DENSITY STIR TAGGING TEMPERATURE T1 T2 T2_STAR TOF ANGIO ANGIO_TIME CARDIAC DYNAMIC "
    "FUNCTIONAL FMRI MIN_IP MAX_IP MINIP MIP MAX MEAN ADDITION DIVISION SUBTRACTION FILTERED MULTIPLICATION RESAMPLED "
    "STD_DEVIATION WATER FAT IN_PHASE OUT_PHASE OPP_PHASE REFORMATTED PROJECTION SINGLE_PLANE MULTIPLE STATIC "
    "M P R I MAGNITUDE PHASE REAL IMAGINARY M_FFE M_SE M_IR ND NORM DIS2D DIS3D MFSPLIT MOSAIC EPI SWI MNIP "
    "SCREEN_SAVE CSA_RESAMPLED CBF CBV MTT TTP RCBF RCBV ASL MOCO SPIRIT PROPELLER FFE SE IR PERFUSION_FFE "
    "WHOLE_BODY SCREENSHOT"
)
IMAGE_TYPES = frozenset(_IMAGE_TYPE_TERMS.split())

#: Makers, by what their names begin with.
_MANUFACTURERS = {
    "SIEMENS": "Siemens",
    "GE": "GE",
    "GENERAL ELECTRIC": "GE",
    "PHILIPS": "Philips",
    "MARCONI": "Philips",
    "PICKER": "Philips",
    "CANON": "Canon",
    "TOSHIBA": "Canon",
    "HITACHI": "Hitachi",
    "FUJIFILM": "Hitachi",
    "UIH": "United Imaging",
    "UNITED IMAGING": "United Imaging",
    "SHANGHAI UNITED": "United Imaging",
    "BRUKER": "Bruker",
    "HYPERFINE": "Hyperfine",
    "ESAOTE": "Esaote",
    "MAGNETOM": "Siemens",
    "ALLTECH": "Alltech",
    "NEUSOFT": "Neusoft",
}

#: What is written into ContrastBolusAgent where there was none.
_NONE_GIVEN = "NO NONE N NIL NULL NA N/A 0 - WITHOUT W/O NATIVE NATIV OHNE KEINE KEIN UNENHANCED FALSE"
NO_AGENT = frozenset(_NONE_GIVEN.split())


def known_words(*texts: str) -> tuple[str, ...]:
    """The words of free texts that stand in :data:`VOCABULARY`, each once, in their order.

    A word that is made of known words counts as these; digits at a word's end and around known words do not matter.

    >>> known_words("AX T1 MPRAGE +C", "t1_tse_tra_Smith"), known_words("3DpCASL", "t2flair", "*fl2d1", "Anna 1970")
    (('ax', 't1', 'mprage', '+c', 'tse', 'tra'), ('3d', 'pcasl', 't2', 'flair', 'fl2d'))
    >>> known_words("T1 W/O CONTRAST"), known_words("Sub-01 T1")
    (('t1', 'without', 'contrast'), ('t1',))
    >>> known_words("MRI BRAIN W/WO CONTRAST"), known_words("head w & w/o contrast")
    (('brain',), ('head',))
    """
    found: dict[str, None] = {}
    for text in texts:
        plus = _PLUS.search(text) is not None
        for pattern, word in _SPELT_OUT:
            text = pattern.sub(word, text)
        for token in re.findall(r"[a-z0-9]+", _camel_apart(text)):
            found |= dict.fromkeys(_segment(token))
        if plus:
            found[PLUS_WORD] = None
    return tuple(found)


def _camel_apart(text: str) -> str:
    """Lower case, with a blank where a small letter is followed by a capital and two words may have met."""
    apart = re.sub(r"(?<=[a-z]{3})(?=[A-Z][a-z])", " ", text)
    return apart.lower()


#: What Philips' exam cards put before a weighting (sT1W, dADC, eT2W): SENSE, diffusion, exponential and others.
_PREFIXES = tuple("secdmb")
_PREFIXED = frozenset({"t1", "t1w", "t2", "t2w", "pdw", "flair", "dwi", "adc"})


@lru_cache(maxsize=4096)
def _segment(token: str) -> tuple[str, ...]:
    if token in VOCABULARY:
        return (token,)
    if token.startswith(_PREFIXES) and token[1:] in _PREFIXED:
        return (token[1:],)
    bare = token.rstrip("0123456789")
    if bare and bare != token and bare in VOCABULARY:
        return (bare,)
    for length in range(len(token) - 1, 1, -1):
        if token[:length] in VOCABULARY and (rest := _segment(token[length:])):
            return (token[:length], *rest)
    return ()


def maker(name: str) -> str | None:
    """A manufacturer in one word, or None for one that is not known.

    >>> maker("GE MEDICAL SYSTEMS"), maker("Philips Medical Systems"), maker("Anna's Scanner")
    ('GE', 'Philips', None)
    """
    upper = name.strip().upper()
    return next((short for start, short in _MANUFACTURERS.items() if upper.startswith(start)), None)
