from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import InputError, SettingError
from neurobundle.load.datalist import write_datalist
from neurobundle.load.labels import PairFacts
from neurobundle.load.layouts import find_pairs
from neurobundle.load.pairs import Pair
from neurobundle.train.folds import Split, audit_folds, describe, make_folds
from neurobundle.train.grouping import case_number, group_cases


def pair(case: str, subject: str | None = None) -> Pair:
    return Pair(case, Path(f"images/{case}.nii.gz"), Path(f"labels/{case}.nii.gz"), subject)


def facts_of(content: dict[str, str], labels: dict[str, str] | None = None) -> dict[str, PairFacts]:
    """What the check would have learned, with a letter for each content."""
    return {c: PairFacts((2, 2, 2), frozenset({0}), (h,), (labels or {}).get(c)) for c, h in content.items()}


def deal(cases: list[str], n_folds: int = 2, group_by: str = "case", seed: int = 0, **more: object) -> Split:
    facts = more.pop("facts", facts_of({case: case for case in cases}))
    return make_folds([pair(case) for case in cases], n_folds, group_by, seed, facts=facts, **more)


def test_blocks_stay_together() -> None:
    """Ids 0-9 are one block, 10-19 the next."""
    split = deal(["a_3", "a_9", "a_10", "a_19", "a_20"], 3, "blocks:10")
    assert split.groups == {"a_3": "0", "a_9": "0", "a_10": "1", "a_19": "1", "a_20": "2"}
    assert split.folds["a_3"] == split.folds["a_9"] != split.folds["a_10"] == split.folds["a_19"]


def test_the_largest_group_goes_first() -> None:
    """Groups of 3, 2, 1 cases in two folds: 3 against 2 + 1."""
    split = deal(["a1", "a2", "a3", "b1", "b2", "c1"], 2, "regex:^([abc])")
    assert Counter(split.folds.values()) == {0: 3, 1: 3}
    assert split.folds["b1"] == split.folds["c1"] == 1


def test_the_same_seed_gives_the_same_folds() -> None:
    """In whatever order the cases come; another seed gives other folds."""
    cases = [f"c{n}" for n in range(40)]
    split = deal(cases, 4)
    assert deal(cases[::-1], 4).folds == split.folds
    assert deal(cases, 4, seed=1).folds != split.folds


def test_the_folds_of_today() -> None:
    """Neither another Python nor another machine changes a published split."""
    assert deal([f"c{n}" for n in range(6)], 3).folds == FOLDS_OF_TODAY


FOLDS_OF_TODAY = {"c0": 1, "c1": 2, "c2": 0, "c3": 1, "c4": 0, "c5": 2}


cases_and_groups = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30)


@given(
    cases_and_groups, st.integers(2, 5), st.integers(0, 9), st.sampled_from([0.0, 0.2, 0.5]), st.booleans(), st.data()
)
def test_no_subject_on_two_sides(
    groups: list[str], n_folds: int, seed: int, test_share: float, duplicates: bool, data: st.DataObject
) -> None:
    """Every case has one side, every fold a case, and no group, subject or content has two sides.

    For any grouping, number of folds, seed, test share and duplicates; what cannot be dealt is refused.
    """
    cases = [f"{group}{number}" for number, group in enumerate(groups)]
    content = {case: str(data.draw(st.integers(0, 60))) if duplicates else case for case in cases}
    try:
        split = deal(
            cases,
            n_folds,
            "regex:^([a-h])",
            seed,
            facts=facts_of(content),
            test_share=test_share,
            merge_duplicates=duplicates,
        )
    except SettingError:
        left = len(set(groups)) if not (duplicates or test_share) else 0
        assert left < n_folds, "only what has too few groups is refused"
        return
    sides = {**split.folds, **dict.fromkeys(split.test, -1)}
    assert sorted(sides) == sorted(cases)
    assert len(split.folds) + len(split.test) == len(cases)
    assert set(split.folds.values()) == set(range(n_folds))
    for key in ({case: case[0] for case in cases}, split.subjects, split.groups, content):
        seen = defaultdict(set)
        for case in cases:
            seen[key[case]].add(sides[case])
        assert all(len(its) == 1 for its in seen.values())


@given(cases_and_groups, st.integers(2, 4))
def test_folds_are_balanced(groups: list[str], n_folds: int) -> None:
    """No fold is larger than the smallest by more than the largest group."""
    cases = [f"{group}{number}" for number, group in enumerate(groups)]
    if len(set(groups)) >= n_folds:
        sizes = Counter(deal(cases, n_folds, "regex:^([a-h])").folds.values()).values()
        assert max(sizes) - min(sizes) <= max(Counter(groups).values())


def test_same_content_in_two_groups_is_refused() -> None:
    with pytest.raises(InputError, match="the same content is in two groups") as caught:
        deal(["a1", "a2", "b1"], 2, "regex:^(.)", facts=facts_of({"a1": "x", "a2": "y", "b1": "x"}))
    message = str(caught.value)
    assert "images/a1.nii.gz" in message
    assert "images/b1.nii.gz" in message
    assert "--merge-duplicates" in message


def test_same_content_in_one_group_is_none_of_our_business() -> None:
    assert deal(["a1", "a2", "b1"], 2, "regex:^(.)", facts=facts_of({"a1": "x", "a2": "x", "b1": "y"})).folds


def test_same_label_in_two_groups_is_refused() -> None:
    """An empty label map (no hash) is no duplicate."""
    content = {"a": "x", "b": "y", "c": "z"}
    with pytest.raises(InputError, match="the same content"):
        deal(["a", "b", "c"], facts=facts_of(content, {"a": "l", "b": "l"}))
    assert deal(["a", "b", "c"], facts=facts_of(content)).folds


def test_duplicates_merge_groups() -> None:
    """a-b by content and b-c by label make one group of three."""
    facts = facts_of({"a": "x", "b": "x", "c": "z", "d": "w"}, {"b": "l", "c": "l"})
    split = deal(list("abcd"), facts=facts, merge_duplicates=True)
    assert split.merged == [["a", "b", "c"]]
    assert split.folds["a"] == split.folds["b"] == split.folds["c"] != split.folds["d"]


def test_same_subject_in_two_groups_is_refused() -> None:
    """BIDS says who it is; a rule that parts one person's sessions is refused."""
    pairs = [pair("sub-1_ses-1", "sub-1"), pair("sub-1_ses-2", "sub-1"), pair("sub-2_ses-1", "sub-2")]
    facts = facts_of({p.case: p.case for p in pairs})
    with pytest.raises(InputError, match="the subject 'sub-1' is in two groups"):
        make_folds(pairs, 2, "case", facts=facts)
    assert make_folds(pairs, 2, "subject", facts=facts).subjects["sub-1_ses-2"] == "sub-1"
    assert make_folds(pairs, 2, "case", facts=facts, merge_duplicates=True).merged == [["sub-1_ses-1", "sub-1_ses-2"]]


def test_too_few_groups() -> None:
    with pytest.raises(SettingError, match="3 folds need 3 groups or more, there are 2"):
        deal(["a1", "a2", "b1"], 3, "regex:^(.)")


def test_the_test_share_is_whole_groups() -> None:
    split = deal([f"a_{n}" for n in range(50)], 3, "blocks:10", test_share=0.2)
    assert len(split.test) == 10
    assert len({split.groups[case] for case in split.test}) == 1
    assert not set(split.test) & set(split.folds)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"n_folds": 1}, "2 or more, got 1"),
        ({"test_share": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"test_share": 0.01}, "the smallest group has 1"),
        ({"group_by": "block:10"}, "did you mean 'blocks'"),
        ({"group_by": "blocks:0"}, "whole number of 1 or more, got '0'"),
        ({"group_by": "blocks:ten"}, "got 'ten'"),
        ({"group_by": "regex:("}, "not a regular expression"),
        ({"group_by": "regex:^."}, "has no group"),
        ({"group_by": "regex:^(x)"}, "does not find a subject"),
        ({"group_by": "column:site"}, "needs a table"),
        ({"group_by": "subject"}, "names no subject"),
        ({"subjects_file": "t.csv"}, "read by column:NAME only"),
        ({"cases": ["a", "b"], "group_by": "blocks:2"}, "needs a number in every case's name"),
    ],
)
def test_settings_that_cannot_be(settings: dict, cause: str) -> None:
    with pytest.raises(SettingError, match=cause):
        deal(**{"cases": ["c1", "c2", "c3"], **settings})


@pytest.mark.parametrize(
    ("case", "number"), [("hippocampus_025", 25), ("sub-01_T1w", 1), ("p3-scan12", 12), ("x1_2_y", 2)]
)
def test_case_number(case: str, number: int) -> None:
    assert case_number(case) == number


@pytest.mark.parametrize("text", ["case,site\na,north\nb,south\n", "\ufeffcase\tsite\nb\tsouth\na\tnorth\n"])
def test_a_column_of_a_table(tmp_path: Path, text: str) -> None:
    """CSV, or TSV with the mark that Excel writes."""
    (tmp_path / "table").write_text(text, encoding="utf-8")
    assert group_cases([pair("a"), pair("b")], "column:site", tmp_path / "table") == {"a": "north", "b": "south"}


def test_a_table_of_participants(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nsub-1\tnorth\n")
    pairs = [pair("sub-1_ses-1", "sub-1"), pair("sub-1_ses-2", "sub-1")]
    assert set(group_cases(pairs, "column:site", tmp_path / "participants.tsv").values()) == {"north"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("case,sit\na,north\n", "no column 'site'; did you mean 'sit'"),
        ("name,site\na,north\n", "no column 'case'"),
        ("case,site\na,north\n", "no 'site' for 'b'"),
        ("case,site\na,north\nb,n/a\n", "no 'site' for 'b'"),
        ("case,site\na,north\na,south\nb,x\n", "two values of 'site': 'north' and 'south'"),
        ("", "no column 'case'"),
    ],
)
def test_a_table_that_does_not_fit(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SettingError, match=cause):
        group_cases([pair("a"), pair("b")], "column:site", tmp_path / "t.csv")


def test_what_it_says() -> None:
    split = deal([f"a_{n}" for n in range(12)], 2, "blocks:4")
    assert describe(split, dropped=2) == (
        "12 cases in 3 groups (blocks:4) dealt to 2 folds with 8, 4 cases (seed 0). "
        "No group and no file content stands on two sides. 2 left out, each named above."
    )


def written(folder: Path, make_pair: Callable, folds: dict[str, int], seeds: dict[str, int]) -> Path:
    pairs = {case: make_pair(folder, case, seed) for case, seed in seeds.items()}
    entries = [
        {"case": case, "subject": case[0], "fold": folds[case], "image": str(image), "label": str(label)}
        for case, (image, label) in pairs.items()
    ]
    return write_datalist(folder / "d.json", entries)


def test_audit_of_a_sound_datalist(tmp_path: Path, make_pair: Callable) -> None:
    assert audit_folds(written(tmp_path, make_pair, {"a1": 0, "a2": 0, "b1": 1}, {"a1": 1, "a2": 2, "b1": 3})) == []


def test_audit_finds_a_subject_in_two_folds(tmp_path: Path, make_pair: Callable) -> None:
    path = written(tmp_path, make_pair, {"a1": 0, "a2": 1, "b1": 1}, {"a1": 1, "a2": 2, "b1": 3})
    (problem,) = audit_folds(path, read_files=False)
    assert "the subject 'a' is in two sides" in str(problem)


def test_audit_finds_a_recompressed_copy(tmp_path: Path, make_pair: Callable) -> None:
    """Two files of other bytes and the same voxels."""
    path = written(tmp_path, make_pair, {"a1": 0, "b1": 1}, {"a1": 1, "b1": 2})
    one, two = (tmp_path / f"images/{case}.nii.gz" for case in ("a1", "b1"))
    two.write_bytes(gzip.compress(gzip.decompress(one.read_bytes()), compresslevel=1))
    assert one.read_bytes() != two.read_bytes()
    (problem,) = audit_folds(path)
    assert "the same content is in two sides: a1" in str(problem)
    assert problem.file == str(two)


def test_audit_finds_a_case_in_training_and_test(tmp_path: Path, make_pair: Callable) -> None:
    path = written(tmp_path, make_pair, {"a1": 0, "b1": 1}, {"a1": 1, "b1": 2})
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "test": content["training"][:1]}))
    assert ["in 'training' (fold 0) and in 'test'" in str(problem) for problem in audit_folds(path)] == [True]


def test_audit_names_a_damaged_file(tmp_path: Path, make_pair: Callable) -> None:
    path = written(tmp_path, make_pair, {"a1": 0, "b1": 1}, {"a1": 1, "b1": 2})
    (tmp_path / "labels/a1.nii.gz").write_bytes(b"")
    (problem,) = audit_folds(path)
    assert (problem.case, problem.cause) == ("a1", "the file is empty (0 bytes)")


def test_files_are_read_where_no_facts_are_given(tmp_path: Path, make_pair: Callable) -> None:
    for case, seed in {"a": 1, "b": 1, "c": 2}.items():
        make_pair(tmp_path, case, seed)
    with pytest.raises(InputError, match="the same content is in two groups: a"):
        make_folds(find_pairs(tmp_path).pairs, 2, "case")


def test_real_hippocampus_blocks(real_data: Path) -> None:
    """202 cases in 32 blocks of ten ids: each block in one fold, folds within 4 cases of one another, no duplicates."""
    split = make_folds(find_pairs(real_data / "hippocampus").pairs, 5, "blocks:10")
    folds_of = defaultdict(set)
    for case, fold in split.folds.items():
        folds_of[int(case[-3:]) // 10].add(fold)
    assert len(folds_of) == 32
    assert all(len(folds) == 1 for folds in folds_of.values())
    sizes = np.bincount(list(split.folds.values()))
    assert sizes.sum() == 202
    assert np.ptp(sizes) <= 4
