"""What was acquired, without a word of who."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from neurobundle.load.dicom import Facts, find_dicom
from neurobundle.load.dicom.elements import Elements
from neurobundle.load.dicom.facts import VOCABULARY, facts_of
from neurobundle.load.dicom.vocabulary import IMAGE_TYPES, known_words
from tests.load.dicom import make


def test_facts_of_a_series(tmp_path: Path) -> None:
    make.series(tmp_path)
    facts = find_dicom(tmp_path).volumes[0].facts
    assert facts == Facts(
        modality="MR",
        sequence=("IR", "GR", "SP", "MP"),
        mr_acquisition_type="3D",
        repetition_time_ms=2300,
        echo_time_ms=2.98,
        inversion_time_ms=900,
        flip_angle_deg=9,
        echo_train_length=1,
        field_strength_t=3,
        slice_thickness_mm=3,
        voxel_mm=(1.25, 1.5, 3.0),
        plane="oblique",
        component="magnitude",
        echo=1,
        image_type=("ORIGINAL", "PRIMARY", "M", "ND"),
        manufacturer="Siemens",
        words=("t1", "mprage", "sag"),
    )
    listed = facts.as_json()
    assert json.loads(json.dumps(listed)) == listed
    assert listed["sequence"] == ["IR", "GR", "SP", "MP"]
    assert "contrast_agent" not in listed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AX T2 FLAIR FS", ("ax", "t2", "flair", "fs")),
        ("t1_mprage_sag_p2_iso POST GD", ("t1", "mprage", "sag", "iso", "post", "gd")),
        ("Sag T1 SPACE +C", ("sag", "t1", "space", "+c")),
        ("AX T1 C+ Smith", ("ax", "t1", "+c")),
        ("3D BRAVO PostContrast", ("3d", "bravo", "post", "contrast")),
        ("sT1W_3D_TFE", ("t1w", "3d", "tfe")),
        ("T2W_TSE", ("t2w", "tse")),
        ("t2_spc_da-fl_sag", ("t2", "spc", "sag")),
        ("Anna Smith 31.1.1970 MRN 12345", ()),
        ("O'Post", ("post",)),
        ("", ()),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    """What stands in the table comes through, and nothing else."""
    assert known_words(text) == words
    assert set(words) <= VOCABULARY | {"+c"}


def facts(**values: object) -> Facts:
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return facts_of(Elements(ds))


@pytest.mark.parametrize(
    ("agent", "given"),
    [("GADOVIST", True), ("Dotarem 7.5ml", True), ("NONE", False), ("no contrast", False), ("N/A", False), ("", None)],
)
def test_contrast_agent(agent: str, given: bool | None) -> None:
    """Its name is free text; only whether there was one is kept. An empty element says nothing."""
    assert facts(ContrastBolusAgent=agent).contrast_agent is given


def test_contrast_agent_by_sequence() -> None:
    assert facts().contrast_agent is None
    assert facts(ContrastBolusAgentSequence=[make.item(CodeMeaning="Gadolinium")]).contrast_agent is True


def test_free_text_never_comes_through() -> None:
    """Not from any element that holds coded words."""
    name = "DOE^JANE"
    all_ = facts(
        ImageType=["ORIGINAL", "DOE JANE", "DOE JANE"],
        Manufacturer=name,
        SeriesDescription=name,
        ProtocolName=name,
        SequenceName=name,
        ContrastBolusAgent=name,
    )
    assert "DOE" not in repr(all_)
    assert all_.image_type == ("ORIGINAL",)
    assert all_.manufacturer is None


def test_odd_numbers() -> None:
    """0, negative and absurd values are no facts; gauss become tesla."""
    assert facts(InversionTime="0", RepetitionTime="-1", EchoTime="").as_json() == {}
    assert facts(MagneticFieldStrength="15000").field_strength_t == 1.5
    assert facts(EchoNumbers=0).echo is None


@pytest.mark.parametrize(
    ("creator", "tag", "vr", "value", "expected"),
    [
        ("GEMS_PARM_01", 0x00431039, "IS", [1000000800, 8, 0, 0], 800),
        ("GEMS_PARM_01", 0x00431039, "IS", [0, 268435456, 0, 0], None),
        ("Philips Imaging DD 001", 0x20011003, "FL", 1000.0, 1000),
        ("SIEMENS MR HEADER", 0x0019100C, "IS", "50", 50),
        ("SOMEBODY ELSE", 0x0019100C, "IS", "50", None),
    ],
)
def test_b_values_of_makers(creator: str, tag: int, vr: str, value: object, expected: float | None) -> None:
    ds = Dataset()
    ds.private_block(tag >> 16, creator, create=True).add_new(tag & 0xFF, vr, value)
    assert facts_of(Elements(ds)).b_value == expected


def test_derived_images_say_so() -> None:
    assert facts(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]).image_type[-1] == "ADC"
    assert facts(ImageType=["DERIVED", "SECONDARY", "MIP"]).image_type == ("DERIVED", "SECONDARY", "MIP")


def test_tables_hold_words_only() -> None:
    assert all(word == word.lower() and word.isalnum() for word in VOCABULARY)
    assert all(word == word.upper() for word in IMAGE_TYPES)


def test_facts_of_pydicoms_own_file() -> None:
    from pydicom.data import get_testdata_file

    path = get_testdata_file("MR_small.dcm", download=False)
    (volume,) = find_dicom(path).volumes
    stated = pydicom.dcmread(path)
    assert volume.facts.repetition_time_ms == float(stated.RepetitionTime)
    assert volume.facts.manufacturer == "Canon"
