"""A new bundle passes the doctor, and carries nothing that is only true of the old one."""

from __future__ import annotations

import json

import pytest

from neurobundle.bundle.doctor import examine
from neurobundle.bundle.scaffold import new_bundle
from neurobundle.errors import EnvironmentFault, SettingError


def test_passes_the_doctor(bundle, tmp_path):
    """Apart from the missing weights, nothing is wrong."""
    made = new_bundle("other_segmentation", tmp_path / "mine", bundle.root)
    assert [(f.check, f.message) for f in examine(made) if f.level != "ok"] == [
        ("manifest", "models/model.pt is missing")
    ]
    assert [path.name for path in made.parent.iterdir()] == ["other_segmentation"]


def test_claims_are_reset(bundle, tmp_path):
    """Weights, datalist, results, licences of data and weights, and the part for whole heads stay behind."""
    (bundle.root / "configs/datalist.json").write_text('{"training": []}')
    (bundle.root / "docs/results").mkdir()
    config = bundle.root / "configs/inference.yaml"
    config.write_text("head:\n  atlas: tiny_segmentation\n# kept\n" + config.read_text())
    made = new_bundle("other_segmentation", tmp_path, bundle.root)
    metadata = json.loads((made / "configs/metadata.json").read_text())
    assert metadata["licenses"] == {"code": "Apache-2.0", "weights": "not stated", "data": "not stated"}
    assert metadata["changelog"] == {"0.1.0": "made from tiny_segmentation 0.1.0"}
    assert list((made / "models").iterdir()) == []
    assert sorted(path.name for path in (made / "docs").iterdir()) == ["README.md", "data_license.txt"]
    assert not (made / "configs/datalist.json").exists()
    text = (made / "configs/inference.yaml").read_text()
    assert "head" not in text
    assert text.startswith("# kept")


@pytest.mark.parametrize("name", ["other", "Other_segmentation", "../x_segmentation", "a b_segmentation", ""])
def test_bad_name(bundle, tmp_path, name):
    with pytest.raises(SettingError, match="ends in one of"):
        new_bundle(name, tmp_path, bundle.root)


def test_other_task(bundle, tmp_path):
    with pytest.raises(SettingError, match="whose task is another"):
        new_bundle("other_classification", tmp_path, bundle.root)


def test_name_is_taken(bundle):
    with pytest.raises(SettingError, match="there already"):
        new_bundle("tiny_segmentation", bundle.root.parent, bundle.root)


def test_cannot_be_written(bundle, tmp_path):
    """A file in the folder's place is an environment fault."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        new_bundle("other_segmentation", tmp_path / "file", bundle.root)
