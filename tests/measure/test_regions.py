"""Structures from every way of writing them, and label maps as codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.regions import (
    as_structures,
    by_eights,
    codes_of,
    foreground_box,
    parse_structures,
    translate,
    whole_numbers,
)


def test_a_file_may_name_regions(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('{"WT": [3, 1, 2], "ET": 3}')
    assert parse_structures(str(path)) == {"WT": (1, 2, 3), "ET": (3,)}


def test_the_dataset_file_of_nnu_net_is_one(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "whole tumor": [1, 2], "core": 2}, "numTraining": 3}))
    assert parse_structures(str(path)) == {"whole tumor": (1, 2), "core": (2,)}


def test_the_dataset_file_of_the_decathlon_is_one(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}))
    assert parse_structures(str(path)) == {"Anterior": (1,), "Posterior": (2,)}


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({}, "no structure"),
        ({"background": 0}, "no structure"),
        ({"WT": []}, "'WT'"),
        ({"WT": [1.5]}, "'WT'"),
        ({"WT": [0, 1]}, "'WT'"),
        ({"WT": "one"}, "'WT'"),
        ({"WT": True}, "'WT'"),
        ({1: "front", 2: "front"}, "two structures are called 'front'"),
    ],
    ids=["nothing", "background-only", "no-values", "half", "zero", "word", "bool", "twice"],
)
def test_structures_that_mean_nothing_are_refused(given_: dict[Any, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        as_structures(given_)


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"WT": "x"}'], ids=["list", "broken", "word"])
def test_a_file_that_names_none_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(SettingError, match=r"labels\.json") as error:
        parse_structures(str(path))
    assert error.value.way_out


def test_what_is_neither_numbers_nor_a_file_is_refused() -> None:
    with pytest.raises(SettingError, match="neither numbers nor a file"):
        parse_structures("1,two")


def test_nine_structures_make_two_codes() -> None:
    lots = list(by_eights(as_structures({n: str(n) for n in range(1, 10)})))
    assert [len(lot) for lot in lots] == [8, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_codes_of_every_type(dtype: Any) -> None:
    assert codes_of(np.array([0, 1, 2, 3], dtype), [(1, 3), (2, 3)]).tolist() == [0, 1, 2, 3]


@given(st.lists(st.integers(-5, 90_000), min_size=1, max_size=30), st.sets(st.integers(1, 90_000), min_size=1))
def test_a_table_and_a_search_say_the_same(labels: list[int], known: set[int]) -> None:
    """Small values are looked up in a table, others searched for."""
    table = {value: 1 + n for n, value in enumerate(sorted(known))}
    assert translate(np.array(labels), table, np.uint16).tolist() == [table.get(value, 0) for value in labels]


@given(st.integers(0, 2**20), st.sampled_from(["C", "F"]), st.sampled_from([2, 3]))
def test_the_box_holds_all_and_no_more(seed: int, order: Any, ndim: int) -> None:
    rng = np.random.default_rng(seed)
    maps = [np.asarray(rng.random(rng.integers(1, 9, ndim)) < 0.1, order=order).astype(np.int16)]
    maps.append(np.asarray(rng.random(maps[0].shape) < 0.1).astype(np.int16) * -3)
    where = np.argwhere((maps[0] != 0) | (maps[1] != 0))
    found = foreground_box(*maps)
    if not len(where):
        assert found is None
    else:
        assert found == tuple(slice(a, b + 1) for a, b in zip(where.min(axis=0), where.max(axis=0), strict=True))


def test_whole_floats_are_taken_and_others_are_not() -> None:
    assert whole_numbers(np.array([0.0, 3.0], np.float32), "it").tolist() == [0, 3]
    for bad in (0.5, np.nan, np.inf, 1e12):
        with pytest.raises(InputError, match="the prediction is no label map"):
            whole_numbers(np.array([0.0, bad]), "the prediction")
