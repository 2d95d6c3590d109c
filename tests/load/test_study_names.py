"""The rules for names, as a table of names that people gave."""

from __future__ import annotations

import pytest

from neurobundle.errors import SettingError
from neurobundle.load.gate import Level
from neurobundle.load.study.channels import ALIASES, CHANNEL_OF, CHANNELS, channel_named, channels_named
from neurobundle.load.study.filenames import OTHER_TOKENS, SEQUENCE_TOKENS, prefix_of, recognise_name

NAMES = [
    ("BraTS20_Training_001_t1.nii.gz", "T1", "BraTS20_Training_001"),
    ("BraTS20_Training_001_t1ce.nii.gz", "T1c", "BraTS20_Training_001"),
    ("BraTS20_Training_001_flair.nii", "FLAIR", "BraTS20_Training_001"),
    ("BraTS20_Training_001_seg.nii.gz", None, "BraTS20_Training_001"),
    ("BraTS-GLI-00000-000-t1n.nii.gz", "T1", "BraTS-GLI-00000-000"),
    ("BraTS-GLI-00000-000-t1c.nii.gz", "T1c", "BraTS-GLI-00000-000"),
    ("BraTS-GLI-00000-000-t2w.nii.gz", "T2", "BraTS-GLI-00000-000"),
    ("BraTS-GLI-00000-000-t2f.nii.gz", "FLAIR", "BraTS-GLI-00000-000"),
    ("UPENN-GBM-00001_11_T1GD.nii.gz", "T1c", "UPENN-GBM-00001_11"),
    ("T1_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz", "T1", ""),
    ("T1POST_N4_noneck_reduced_winsor_regtoFLAIR_brain.nii.gz", "T1c", ""),
    ("GOLD_STANDARD_N4_noneck_regtoMNI.nii.gz", None, ""),
    ("study1_T1W.nii.gz", "T1", "study1"),
    ("gt.nii.gz", None, ""),
    ("anna_T1+C.nii.gz", "T1c", "anna"),
    ("anna_T1_post.nii.gz", "T1c", "anna"),
    ("pre_T1.nii.gz", "T1", ""),
    ("post_Gd_T1.nii.gz", "T1c", ""),
    ("Ax_T2_FLAIR.nii.gz", "FLAIR", ""),
    ("flair_to_t1.nii.gz", "FLAIR", ""),
    ("anna_3D_MPRAGE.nii", "T1", "anna"),
    ("t1_flair.nii.gz", None, ""),
    ("t1_t2.nii.gz", None, ""),
    ("t1_pre_post.nii.gz", None, ""),
    ("t2star.nii.gz", None, ""),
    ("sub-01_PDw.nii.gz", None, "sub-01"),
    ("t1_brain_mask.nii.gz", None, ""),
    ("t1map.nii.gz", None, ""),
    ("dwi_b1000.nii.gz", None, ""),
    ("scan17.nii.gz", None, "scan17"),
]


@pytest.mark.parametrize(("name", "channel", "prefix"), NAMES, ids=[name for name, *_ in NAMES])
def test_name(name: str, channel: str | None, prefix: str) -> None:
    assert recognise_name(name).channel == channel
    assert prefix_of(name) == prefix


@pytest.mark.parametrize("name", ["t1_flair.nii.gz", "t1_t2.nii.gz", "t1_pre_post.nii.gz"])
def test_a_name_that_says_two_things_warns(name: str) -> None:
    found = recognise_name(name)
    assert found.level is Level.WARN
    assert "both" in found.reason


def test_a_reason_holds_no_word_of_the_name() -> None:
    """faults.md 79: the reason goes into reports, and a name may name a person."""
    for name in ("DOE_JANE_t1.nii.gz", "DOE_JANE_seg.nii.gz", "DOE_JANE.nii.gz", "DOE_JANE_t1_t2.nii.gz"):
        assert "JANE" not in recognise_name(name).reason.upper()


def test_no_token_means_two_things() -> None:
    """A sequence's token is no other sequence's, and nothing that is passed over."""
    tables = [*SEQUENCE_TOKENS.values(), *(tokens for tokens, _ in OTHER_TOKENS)]
    assert sum(len(table) for table in tables) == len(frozenset().union(*tables))
    assert len(CHANNEL_OF) == sum(len(aliases) for aliases in ALIASES.values())


@pytest.mark.parametrize(
    ("name", "channel"), [("T1", "T1"), ("t1w", "T1"), ("T1-Gd", "T1c"), ("T1post", "T1c"), ("t2 flair", "FLAIR")]
)
def test_alias(name: str, channel: str) -> None:
    assert channel_named(name) == channel


def test_every_channel_is_its_own_alias() -> None:
    assert channels_named(CHANNELS) == CHANNELS


@pytest.mark.parametrize(
    ("names", "match"), [(["FLAR"], "did you mean 'FLAIR'"), ([], "no channels"), (["T1", "t1w"], "T1 is named twice")]
)
def test_channels_that_are_refused(names: list[str], match: str) -> None:
    with pytest.raises(SettingError, match=match):
        channels_named(names)
