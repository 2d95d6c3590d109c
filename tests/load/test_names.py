from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.load.names import (
    LONGEST_NAME,
    case_name,
    find_label,
    is_image_name,
    safe_name,
    unique_case_names,
    without_label_suffix,
)


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("hippocampus_025.nii.gz", "hippocampus_025"),
        ("anna.nii", "anna"),
        ("0001.png", "0001"),
        ("0001.JPG", "0001"),
        ("Anna.NII.GZ", "Anna"),
        ("v1.2_scan.nii.gz", "v1.2_scan"),
        ("my scan.nii.gz", "my_scan"),
        ("line\nbreak.nii.gz", "line_break"),
        ("Zoë.nii.gz", "Zoe"),
        ("a..b.nii.gz", "a.b"),
        ("-rf.nii.gz", "rf"),
        ("_own_.nii.gz", "_own_"),
        ("$(reboot);'\".nii.gz", "reboot"),
    ],
)
def test_case_name(file: str, case: str) -> None:
    assert case_name(Path("folder") / file) == case


def test_a_folder_study_keeps_its_whole_name(tmp_path: Path) -> None:
    (tmp_path / "visit 2.nii").mkdir()
    assert case_name(tmp_path / "visit 2.nii") == "visit_2.nii"


@pytest.mark.parametrize("text", ["..", "...", " ", "\n", "日本", "", "-.-"])
def test_nothing_left_is_told_apart(text: str) -> None:
    assert re.fullmatch(r"case-[0-9a-f]{8}", safe_name(text))


def test_other_scripts_do_not_collide() -> None:
    assert safe_name("日本") != safe_name("中国")


@given(st.text(max_size=300))
def test_any_text_becomes_safe(text: str) -> None:
    """A name is never empty, never climbs, never looks like an option or a hidden file, and fits a file system."""
    name = safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    assert ".." not in name
    assert len(name) <= LONGEST_NAME
    assert safe_name(name) == name


def test_a_long_name_keeps_its_difference() -> None:
    names = [safe_name("x" * 200 + end) for end in "ab"]
    assert names[0] != names[1]
    assert max(map(len, names)) == LONGEST_NAME


def test_same_basename_in_two_folders() -> None:
    """faults.md 25: both are renamed, and the one that does not collide is not."""
    paths = [Path("anna/t1.nii.gz"), Path("bert/t1.nii.gz"), Path("bert/t2.nii.gz")]
    assert list(unique_case_names(paths).values()) == ["anna-t1", "bert-t1", "t2"]


def test_same_parents_too() -> None:
    paths = [Path("a/x/t1.nii"), Path("b/x/t1.nii")]
    assert list(unique_case_names(paths).values()) == ["a-x-t1", "b-x-t1"]


def test_same_folder_other_ending() -> None:
    names = list(unique_case_names([Path("x/a.nii"), Path("x/a.nii.gz")]).values())
    assert len(set(names)) == 2
    assert all(name.startswith("x-a-") for name in names)


def test_names_that_differ_in_capitals_collide() -> None:
    """On Windows and macOS ``Anna_seg.nii.gz`` would overwrite ``anna_seg.nii.gz``."""
    assert list(unique_case_names([Path("p/Anna.nii"), Path("q/anna.nii")]).values()) == ["p-Anna", "q-anna"]


def test_a_new_name_that_is_taken() -> None:
    paths = [Path("a/t1.nii"), Path("b/t1.nii"), Path("c/a-t1.nii")]
    names = list(unique_case_names(paths).values())
    assert len({name.casefold() for name in names}) == 3


parts = st.lists(st.sampled_from(["a", "b", "A", "a-b", "é", ".."]), min_size=1, max_size=4)


@given(st.lists(st.tuples(parts, st.sampled_from([".nii", ".nii.gz", ""])), max_size=8), st.randoms())
def test_names_are_unique_in_any_order(items: list, random: object) -> None:
    """No two paths share a name, and the order in which they come does not matter."""
    paths = [Path(*folders[:-1], folders[-1] + end) for folders, end in items]
    names = unique_case_names(paths)
    assert len({name.casefold() for name in names.values()}) == len(set(paths))
    random.shuffle(paths)
    assert unique_case_names(paths) == names


@pytest.mark.parametrize("place", ["anna.nii.gz", "anna_seg.nii", "anna/anna_seg.nii.gz", "anna/anna.png"])
def test_a_label_is_found(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    assert find_label(tmp_path, "anna") == tmp_path / place


def test_no_label(tmp_path: Path) -> None:
    (tmp_path / "anna2.nii.gz").touch()
    assert find_label(tmp_path, "anna") is None


def test_label_suffix() -> None:
    assert [without_label_suffix(name) for name in ("a_seg", "a_seg_seg", "a", "_seg")] == ["a", "a_seg", "a", "_seg"]


@pytest.mark.parametrize("name", [".DS_Store", "._a.nii.gz", ".a.nii", "a.txt", "a.nii.gz.tmp", "nii"])
def test_not_an_image(name: str) -> None:
    assert not is_image_name(name)
