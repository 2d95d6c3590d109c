"""Configs are read strictly, merged as MONAI merges them, and unknown ids are refused."""

from __future__ import annotations

import pytest
import yaml

from neurobundle.bundle.configfile import lookup, merge, read_config, resolve, unknown_overrides
from neurobundle.errors import SettingError

CONFIG = {"max_cases": None, "train": {"handlers": [{"name": "a"}], "trainer": {"max_epochs": "@epochs"}}, "epochs": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_casse", "did you mean 'max_cases'"),
        ("train#trainer#max_epoch", "did you mean 'train::trainer::max_epochs'"),
        ("train::handlers::1", "a list of 1, without a part '1'"),
        ("epochs::x", "the value 2, without a part 'x'"),
        ("zzz", "unknown setting 'zzz'"),
    ],
)
def test_fault_53_unknown_override(override, message):
    """An id that the config does not have is refused, with the closest one that it has."""
    assert message in unknown_overrides(CONFIG, [override])[0]


@pytest.mark.parametrize("override", ["max_cases", "train#handlers#0#name", "train::trainer", "_meta_#version"])
def test_known_override(override):
    """An id that is there is accepted, with either separator."""
    assert unknown_overrides(CONFIG, {override: 1}) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"a": 1', "cannot be parsed"),
        ("a.json", '{"a": 1, "a": 2}', "'a' stands twice"),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "'a' stands twice in one mapping .line 3"),
        ("a.yaml", "a: &a [*a]\n", "refers to itself"),
        ("a.yaml", "- 1\n", "must be a mapping"),
        ("a.txt", "a: 1\n", "ends in one of"),
        ("a.yaml", "a: " + "[" * 3000, "nested too deeply|cannot be parsed"),
    ],
)
def test_fault_53_malformed(tmp_path, name, content, message):
    """A malformed config is refused with its own name."""
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingError, match=message) as caught:
        read_config(tmp_path / name)
    assert name in str(caught.value)


def test_fault_53_missing_file(tmp_path):
    with pytest.raises(SettingError, match="does not exist"):
        read_config(tmp_path / "a.yaml")


def test_merge_equals_monai(tmp_path):
    """Our merge gives what MONAI's gives."""
    from monai.bundle import ConfigParser

    base = {"a": {"b": [1, 2], "c": {"d": 1}}, "e": 1, "f": {"g": 1}}
    overlay = {"a::b::0": 5, "a#c#x": 2, "e": {"new": 1}, "+f": {"h": 2}, "z": [1]}
    paths = []
    for stem, content in (("base", base), ("overlay", overlay)):
        paths.append(tmp_path / f"{stem}.yaml")
        paths[-1].write_text(yaml.safe_dump(content))
    assert merge(base, overlay) == ConfigParser.load_config_files([str(path) for path in paths])


def test_resolve_follows_references():
    """What a reference leads to counts, not its name."""
    assert resolve(CONFIG, "@train::trainer::max_epochs") == 2
    assert resolve(CONFIG, {"a": "$@epochs + 1"}) == {"a": ("$@epochs + 1", {"epochs": 2})}
    assert lookup(CONFIG, "train#handlers#0#name") == "a"
