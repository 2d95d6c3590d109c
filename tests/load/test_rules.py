"""The rules that recognise a DICOM series, on the facts of typical protocols."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from neurobundle.load.dicom.facts import Facts
from neurobundle.load.dicom.vocabulary import IMAGE_TYPES, PLUS_WORD, VOCABULARY, known_words
from neurobundle.load.gate import Level
from neurobundle.load.study import vocabulary
from neurobundle.load.study.choices import TIE_BREAKS
from neurobundle.load.study.rules import FEWEST_SLICES, WEIGHTINGS, recognise, traits_of, weighting_of

OK, WARN = Level.OK, Level.WARN


def facts(
    sequence: str = "",
    te: float | None = None,
    tr: float | None = None,
    ti: float | None = None,
    says: str = "",
    **more: object,
) -> Facts:
    """Facts of an MR series with codes as in ``"GR IR MP"``, times in ms, and a description."""
    return Facts(
        modality="MR",
        sequence=tuple(sequence.split()),
        echo_time_ms=te,
        repetition_time_ms=tr,
        inversion_time_ms=ti,
        **{"words": known_words(says), **more},  # type: ignore[arg-type]
    )


PROTOCOLS = {
    # name: (facts, channel, level)
    "siemens-mprage": (facts("GR IR SP MP", 2.98, 2300, 900, "t1_mprage_sag_p2_iso"), "T1", OK),
    "siemens-mprage-7T": (facts("GR IR MP", 2.5, 2500, 1100, "MPRAGE"), "T1", OK),
    "siemens-mprage-without-words": (facts("GR IR SP MP", 2.98, 2300, 900), "T1", OK),
    "siemens-mprage-without-ti": (facts("GR IR SP MP", 2.98, 2300, None, "t1_mprage"), "T1", OK),
    "ge-bravo-post": (facts("GR SS SP SK", 3.2, 8.2, 450, "Ax BRAVO +C", contrast_agent=True), "T1c", OK),
    "ge-fspgr-without-ti": (facts("GR SS SP SK", 3.2, 8.2, None, "SAG FSPGR 3D"), "T1", OK),
    "philips-3d-tfe": (facts("GR MP", 3.8, 8.1, None, "T1W_3D_TFE"), "T1", OK),
    "philips-3d-flair": (facts("SE IR SK", 340, 4800, 1650, "3D FLAIR VISTA"), "FLAIR", OK),
    "siemens-space-flair": (facts("SE IR SK SP MP", 388, 5000, 1800, "t2_spc_da-fl_sag"), "FLAIR", WARN),
    "siemens-space-dark-fluid": (facts("SE IR SK SP MP", 388, 5000, 1800, "t2_space_dark-fluid"), "FLAIR", OK),
    "siemens-2d-flair-tirm": (facts("SE IR SK", 90, 9000, 2500, "t2_tirm_tra_dark-fluid"), "FLAIR", OK),
    "ge-2d-flair": (facts("SE IR SK", 120, 8002, 2250, "Ax T2 FLAIR"), "FLAIR", OK),
    "ge-flair-without-words": (facts("SE IR SK", 120, 8002, 2250), "FLAIR", OK),
    "flair-without-ti": (facts("SE SK", 125, 11000, None, "FLAIR ax"), "FLAIR", OK),
    "flair-after-contrast": (facts("SE IR", 120, 9000, 2500, "FLAIR +C", contrast_agent=True), "FLAIR", OK),
    "tse-t2": (facts("SE SK", 100, 4000, None, "t2_tse_tra"), "T2", OK),
    "tse-t2-after-contrast": (facts("SE SK", 100, 4000, None, "T2 post", contrast_agent=True), "T2", OK),
    "ge-cube-t2": (facts("SE SK", 90, 2500, None, "Sag CUBE T2"), "T2", OK),
    "tse-t2-without-words": (facts("SE SK", 96, 5200), "T2", OK),
    "dual-echo-1": (facts("SE SK", 12, 3000, None, "PD/T2 dual", echo=1), None, WARN),
    "dual-echo-2": (facts("SE SK", 98, 3000, None, "PD/T2 dual", echo=2), "T2", OK),
    "proton-density": (facts("SE SK", 15, 2500, None, "PD ax"), None, OK),
    "t1-se-before": (facts("SE", 12, 550, None, "T1 SE ax pre"), "T1", OK),
    "t1-se-without-contrast": (facts("SE", 12, 550, None, "AX T1 without CONTRAST"), "T1", OK),
    "t1-se-perhaps-with-contrast": (facts("SE", 12, 550, words=("t1", "w", "contrast")), None, WARN),
    "t1-se-with-contrast-by-tag": (
        facts("SE", 12, 550, words=("t1", "w", "contrast"), contrast_agent=True),
        "T1c",
        OK,
    ),
    "t1-se-after": (facts("SE", 12, 550, None, "T1 SE ax post Gd"), "T1c", OK),
    "t1-se-after-by-tag": (facts("SE", 12, 550, None, "T1 SE ax", contrast_agent=True), "T1c", OK),
    "t1-fs-after": (facts("SE", 10, 620, None, "Ax T1 FS +C", contrast_agent=True), "T1c", OK),
    "t1-flair": (facts("SE IR", 9, 2200, 800, "Ax T1 FLAIR"), "T1", OK),
    "t1-flair-called-flair": (facts("SE IR", 9, 2200, 800, "Ax FLAIR"), "T1", WARN),
    "t1-flash-2d": (facts("GR SP", 2.5, 250, None, "t1_fl2d_tra"), "T1", OK),
    "t1-space": (facts("SE SK", 11, 600, None, "t1_space_sag"), "T1", OK),
    "dwi-b1000": (facts("SE EP", 80, 5000, None, "DWI b1000", b_value=1000.0), None, OK),
    "dwi-b0-without-words": (facts("SE EP", 80, 5000, b_value=0.0), None, OK),
    "adc": (facts("SE EP", 80, 5000, None, "ADC", image_type=("DERIVED", "PRIMARY", "ADC")), None, OK),
    "tof": (facts("GR SP", 3.6, 21, None, "TOF_3D_multi-slab"), None, OK),
    "short-gradient-echo-without-words": (facts("GR SP", 3.6, 21), "T1", WARN),
    "mip": (facts("GR", 3.6, 21, None, "", image_type=("DERIVED", "SECONDARY", "PROJECTION IMAGE")), None, OK),
    "swi": (facts("GR SP", 20, 28, None, "SWI_Images"), None, OK),
    "gre-t2star-called-t2": (facts("GR", 20, 700, None, "T2* GRE"), None, WARN),
    "localizer": (facts("GR", 4, 8, None, "3-plane localizer"), None, OK),
    "localizer-by-type": (facts("GR", 4, 8, None, "", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), None, OK),
    "asl": (facts("GR EP", 12, 4000, 1800, "3D pCASL"), None, OK),
    "bold": (facts("GR EP", 30, 2000, None, "rest_bold"), None, OK),
    "perfusion-dsc": (facts("GR EP", 30, 1500, None, "DSC perfusion", time_index=3), None, OK),
    "dce-by-time": (facts("GR SP", 1.5, 5, None, "t1_vibe_dyn", time_index=2), None, OK),
    "phase": (facts("GR", 5, 20, None, "t1_fl3d", component="phase"), None, OK),
    "subtraction": (facts("SE", 12, 550, None, "T1 SUB"), None, OK),
    "stir": (facts("SE IR", 60, 4000, 160), None, OK),
    "mp2rage": (facts("GR IR MP", 2.9, 5000, 700, "t1_mp2rage_sag_UNI"), None, OK),
    "spine": (facts("SE", 100, 3500, None, "T2 spine sag"), None, OK),
    "t1-before-and-after": (facts("SE", 12, 550, None, "T1 pre post"), None, WARN),
    "before-by-word-after-by-tag": (facts("SE", 12, 550, None, "T1 pre", contrast_agent=True), "T1", WARN),
    "after-by-word-before-by-tag": (facts("SE", 12, 550, None, "T1 post", contrast_agent=False), "T1c", WARN),
    "words-against-numbers": (facts("SE", 100, 4000, None, "T1 ax"), "T2", WARN),
    "words-only": (facts("", None, None, None, "t2_tse"), "T2", WARN),
    "nothing": (facts(), None, OK),
    "ct": (Facts(modality="CT"), None, OK),
}


@pytest.mark.parametrize(("given", "channel", "level"), PROTOCOLS.values(), ids=PROTOCOLS)
def test_protocol(given: Facts, channel: str | None, level: Level) -> None:
    found = recognise(given)
    assert (found.channel, found.level) == (channel, level), found.reason
    assert found.reason


def test_the_reason_has_the_numbers() -> None:
    assert recognise(PROTOCOLS["siemens-mprage"][0]).reason == "words and numbers say T1 (TE 2.98, TR 2300, TI 900 ms)"
    assert recognise(PROTOCOLS["words-against-numbers"][0]).reason == (
        "its words say T1, its numbers say T2 (TE 100, TR 4000 ms)"
    )


def test_every_word_of_the_rules_can_come() -> None:
    """A word that the facts' vocabulary lacks would never be heard."""
    rules = [*vocabulary.EXCLUSIONS]
    words = frozenset().union(
        *(rule.words | rule.unless for rule in rules),
        *vocabulary.FAMILY_WORDS.values(),
        vocabulary.T1_SEQUENCES | vocabulary.AFTER_WORDS | vocabulary.AGENT_WORDS | vocabulary.BEFORE_WORDS,
        vocabulary.DARK_FLUID | vocabulary.FAT_SUPPRESSED | vocabulary.DERIVED_WORDS,
    )
    # FAMILY_WORDS also hears values of ImageType.
    assert words - VOCABULARY - {PLUS_WORD} == {"fluid_attenuated", "proton_density"}
    types = frozenset().union(*(rule.image_types for rule in rules), vocabulary.DERIVED_TYPES)
    assert types <= IMAGE_TYPES


def test_no_numbers_fit_two_families() -> None:
    """The order of the rows decides between a channel and none, never between two channels."""
    times = product((3, 14, 25, 70, 400), (8, 300, 1000, 2300, 9000), (None, 150, 800, 1800, 2500))
    for (te, tr, ti), sequence in product(times, ("SE", "SE IR", "GR", "GR MP", "")):
        given = facts(sequence, te, tr, ti)
        row = weighting_of(given)
        later = [other for other in WEIGHTINGS if other.family and row and row.family and weighting_fits(other, given)]
        assert len({one.family for one in later}) <= 1, (te, tr, ti, sequence)


def weighting_fits(row: object, given: Facts) -> bool:
    """Whether one row fits by itself."""
    import neurobundle.load.study.rules as rules

    whole = rules.WEIGHTINGS
    try:
        rules.WEIGHTINGS = (row,)  # type: ignore[assignment]
        return weighting_of(given) is not None
    finally:
        rules.WEIGHTINGS = whole


def test_the_page_states_the_tables(root: Path) -> None:
    """What the rules are is written in docs/concepts/studies.md; a row that changes here changes there."""
    page = (root / "docs/concepts/studies.md").read_text(encoding="utf-8")
    whats = [rule.what for rule in vocabulary.EXCLUSIONS] + [tie_break.words for tie_break in TIE_BREAKS]
    assert [what for what in whats if what not in page] == []
    for row in WEIGHTINGS:
        (line,) = [line for line in page.splitlines() if line.startswith((f"| {row.what} |", f"| {row.what} ("))]
        for low, high in (bounds for bounds in (row.echo, row.repetition, row.inversion) if bounds and bounds[1] > 0):
            assert f"{low}-{high}" in line or (low == 0 and f"up to {high}" in line), row
    assert f"fewer than {FEWEST_SLICES} slices" in page


def test_traits() -> None:
    given = facts(
        "SE", 12, 550, None, "T1 fs post", voxel_mm=(1.0, 1.0, 5.0), plane="axial", image_type=("DERIVED", "ND")
    )
    traits = traits_of(given, recognise(given), slices=24)
    assert (traits.isotropic, traits.axial, traits.slices) == (False, True, 24)
    assert (traits.original, traits.corrected, traits.contrast, traits.fat_suppressed) == (False, False, True, True)
