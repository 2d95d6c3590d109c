"""The mapping file: what a person says goes over every rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurobundle.errors import InputError, SettingError
from neurobundle.load.study import find_studies
from neurobundle.load.study.mapping import LARGEST_BYTES, read_mapping


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def write(root: Path, text: str, name: str = "map.yaml") -> Path:
    (root / name).write_text(text)
    return root / name


def test_one_study(tmp_path: Path) -> None:
    """Paths are relative to the file; what the mapping does not name is chosen by the rules."""
    touch(tmp_path, "p/T1.nii.gz", "p/odd.nii.gz", "p/T2.nii.gz", "p/FLAIR.nii.gz")
    mapping = write(tmp_path, "t1w: p/odd.nii.gz\nFLAIR: p/FLAIR.nii.gz\n")
    (study,) = find_studies(tmp_path / "p", ("T1", "T2", "FLAIR"), mapping)
    assert {channel: choice.name for channel, choice in study.choices.items()} == {
        "T1": "odd.nii.gz",
        "T2": "T2.nii.gz",
        "FLAIR": "FLAIR.nii.gz",
    }
    assert list(study.choices) == ["T1", "T2", "FLAIR"]
    assert study.choices["T1"].reason == "the mapping file names it"
    assert [(choice.name, choice.reason) for choice in study.passed_over] == [
        ("T1.nii.gz", "its name says T1; the mapping names another")
    ]


def test_t1_after_contrast_as_t1_is_the_users_word(tmp_path: Path) -> None:
    touch(tmp_path, "p/T1_post.nii.gz")
    (study,) = find_studies(tmp_path / "p", ("T1",), write(tmp_path, "T1: p/T1_post.nii.gz"))
    assert study.choices["T1"].name == "T1_post.nii.gz"


def test_a_tie_is_solved(tmp_path: Path) -> None:
    touch(tmp_path, "p/T1.nii", "p/T1_brain.nii")
    (study,) = find_studies(tmp_path / "p", ("T1",), write(tmp_path, "T1: p/T1_brain.nii"))
    assert (study.choices["T1"].name, study.verdict.refusals) == ("T1_brain.nii", [])


def test_several_cases(tmp_path: Path) -> None:
    """A case that is found gets its channels, one that is not is made; 001 stays 001."""
    touch(tmp_path, "d/001_T1.nii.gz", "d/002_T1.nii.gz", "x.nii.gz", "y.nii.gz")
    mapping = write(tmp_path, "001: {T1: x.nii.gz}\nnew: {T1: y.nii.gz}\n")
    found = find_studies(tmp_path / "d", ("T1",), mapping)
    assert [(study.case, study.choices["T1"].name) for study in found] == [
        ("001", "x.nii.gz"),
        ("002", "002_T1.nii.gz"),
        ("new", "y.nii.gz"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cases.yaml", "a: {T1: x.nii.gz, FLAIR: y.nii.gz}"),
        ("cases.json", '{"a": {"T1": "x.nii.gz", "FLAIR": "y.nii.gz"}}'),
    ],
)
def test_a_mapping_alone(tmp_path: Path, name: str, text: str) -> None:
    """The file itself may be what a user points at."""
    touch(tmp_path, "x.nii.gz", "y.nii.gz")
    (study,) = find_studies(write(tmp_path, text, name), ("T1", "FLAIR"))
    assert (study.case, study.layout, study.missing) == ("a", "mapping", ())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("FLAR: x.nii.gz", "'FLAR' is no channel.*did you mean 'FLAIR'"),
        ("a: {T3: x.nii.gz}", "'T3' of the case 'a' is no channel"),
        ("T1: x\nt1w: y", "the channel T1 is named twice"),
        ("T1: x\nT1: y", "a name stands in it twice"),
        ("T1: x\nT2: x", "one scan is named for T1 and T2"),
        ("T1: x\nT2: ./p/../x", "one scan is named for T1 and T2"),
        ("a: {T1: x}\nb: {T1: x}", "one scan is named for T1 of a and T1 of b"),
        ("a: {T1: x}\nb: {FLAIR: p/../x}", "one scan is named for T1 of a and FLAIR of b"),
        ("T1: {}", "the case 'T1' names no channel"),
        ("a: {T1: x}\nb: {}", "the case 'b' names no channel"),
        ("a b: {T1: x}\na_b: {T1: p/T1.nii.gz}", "the cases 'a b' and 'a_b' are one name: a_b"),
        ("T1: [x, y]", "the value of T1 is"),
        ("T1: ''", "the value of T1 is"),
        ("a: {T1: x}\nT2: y", "both cases and the channel 'T2'"),
        ("- T1", "no mapping of channels"),
        ("{}", "no mapping of channels"),
        ("T1: [", "is not readable"),
        ("a: &x {T1: p}\nb: *x", "aliases are not taken"),
        ("T1: x\n#" + "x" * LARGEST_BYTES, "larger than"),
    ],
    ids=lambda text: str(text)[:24],
)
def test_refused(tmp_path: Path, text: str, match: str) -> None:
    touch(tmp_path, "p/T1.nii.gz", "x")
    with pytest.raises(SettingError, match=match):
        find_studies(tmp_path / "p", ("T1",), write(tmp_path, text))


def test_json_with_a_name_twice(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="twice"):
        read_mapping(write(tmp_path, '{"T1": "x", "T1": "y"}', "map.json"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        read_mapping(tmp_path / "typo.yaml")


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """The case and the channel are named."""
    touch(tmp_path, "p/T1.nii.gz")
    with pytest.raises(InputError, match=r"names it for T1, and it is not there") as caught:
        find_studies(tmp_path / "p", ("T1",), write(tmp_path, "p: {T1: p/typo.nii.gz}"))
    assert (caught.value.case, Path(caught.value.file).name) == ("p", "typo.nii.gz")


def test_one_mapping_for_two_studies(tmp_path: Path) -> None:
    touch(tmp_path, "d/a_T1.nii.gz", "d/b_T1.nii.gz")
    with pytest.raises(SettingError, match="it is for one study, and 2 were found: a, b"):
        find_studies(tmp_path / "d", ("T1",), write(tmp_path, "T1: d/a_T1.nii.gz"))


def test_series_without_a_study(tmp_path: Path) -> None:
    touch(tmp_path, "d/anna_T1.nii.gz")
    with pytest.raises(InputError, match="the mapping names series 5, which is not there; the series are none"):
        find_studies(tmp_path / "d", ("T1",), write(tmp_path, "T1: {series: 5}"))
    with pytest.raises(SettingError, match="names series of the case 'ana', which was not found; did you mean 'anna'"):
        find_studies(tmp_path / "d", ("T1",), write(tmp_path, "ana: {T1: 'series: 5'}"))
