"""Bundles and overlays are found by name and by path, and described without torch or MONAI."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from neurobundle.bundle import find
from neurobundle.errors import SettingError


def test_environment_variable(bare_bundle, monkeypatch):
    """A folder of bundles and a bundle itself may both stand in NEUROBUNDLE_PATH."""
    for entry in (bare_bundle.root.parent, bare_bundle.root):
        monkeypatch.setenv(find.PATH_VARIABLE, os.pathsep.join(["/nowhere", str(entry)]))
        assert find.bundles()["tiny_segmentation"] == bare_bundle.root
        assert find.find_bundle("tiny_segmentation") == bare_bundle.root


def test_first_one_counts(bare_bundle, tmp_path):
    """Of two bundles of one name, the one in the earlier folder is taken."""
    from .conftest import make_bundle

    other = make_bundle(tmp_path / "other", weights=False)
    assert find.bundles([tmp_path / "other", tmp_path])["tiny_segmentation"] == other.root
    assert find.bundles([tmp_path, tmp_path / "other"])["tiny_segmentation"] == bare_bundle.root


def test_unknown_bundle(bare_bundle):
    """The closest known name is offered, and all known ones are listed."""
    with pytest.raises(SettingError, match=r"did you mean 'tiny_segmentation'.*known: .*tiny_segmentation"):
        find.find_bundle("tiny_segmentatoin", extra=[bare_bundle.root.parent])


def test_path_is_only_a_path(bare_bundle, monkeypatch):
    """A word with a slash never falls back to a known name."""
    monkeypatch.setenv(find.PATH_VARIABLE, str(bare_bundle.root.parent))
    with pytest.raises(SettingError, match="no such folder"):
        find.find_bundle("./tiny_segmentation")
    monkeypatch.chdir(bare_bundle.root.parent)
    assert find.find_bundle("./tiny_segmentation") == bare_bundle.root


def test_folder_without_metadata(tmp_path):
    with pytest.raises(SettingError, match="no bundle"):
        find.find_bundle(tmp_path)


def test_overlay(tmp_path):
    """Overlays are found by name and by path; an unknown one names the closest."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "gentle.yaml").write_text("epochs: 1\n")
    assert find.find_overlay("gentle", extra=[tmp_path]).name == "gentle.yaml"
    assert find.find_overlay(tmp_path / "configs" / "gentle.yaml").is_file()
    with pytest.raises(SettingError, match="did you mean 'gentle'"):
        find.find_overlay("gentel", extra=[tmp_path])
    with pytest.raises(SettingError, match="no such overlay"):
        find.find_overlay("./gentle.yaml")


def test_a_bundles_own_overlay(bare_bundle, tmp_path):
    """It is known for its bundle alone, before those of everybody; what runs, metadata and datalists are none."""
    configs = bare_bundle.root / "configs"
    (configs / "wider.yaml").write_text("epochs: 1\n")
    (configs / "datalist.json").write_text('{"training": []}')
    assert list(find.own_overlays(bare_bundle.root)) == ["wider"]
    assert find.find_overlay("wider", bundle=bare_bundle.root) == configs / "wider.yaml"
    with pytest.raises(SettingError, match="unknown overlay 'wider'"):
        find.find_overlay("wider")
    with pytest.raises(SettingError, match=r"did you mean .wider..*known: .*cpu.*wider"):
        find.find_overlay("widre", bundle=bare_bundle.root)
    (configs / "cpu.yaml").write_text("epochs: 1\n")
    assert find.find_overlay("cpu", bundle=bare_bundle.root) == configs / "cpu.yaml"
    assert find.find_overlay("cpu") != configs / "cpu.yaml"


def test_bundle_configs_are_no_overlays(bare_bundle):
    """A bundle's own train.yaml is not offered as an overlay."""
    assert "train" not in find.overlays([bare_bundle.root, bare_bundle.root.parent])


def test_info(bare_bundle):
    """The licences are stated apart, and labels and channels are named."""
    facts = find.info(bare_bundle.root)
    assert facts["licenses"] == {"code": "Apache-2.0", "weights": "CC0-1.0", "data": "CC0-1.0"}
    assert facts["labels"] == {"0": "background", "1": "blob"}
    assert facts["weights"] == []


def test_info_of_poor_metadata(bare_bundle):
    """What a stranger's bundle leaves out is 'not stated', not a traceback."""
    (bare_bundle.root / "configs/metadata.json").write_text('{"licenses": 3, "network_data_format": []}')
    facts = find.info(bare_bundle.root)
    assert facts["task"] == find.NOT_STATED
    assert facts["licenses"]["data"] == find.NOT_STATED


def test_info_is_light(bare_bundle):
    """Listing and describing bundles import neither torch nor MONAI."""
    code = (
        "import sys; from neurobundle.bundle import bundles, info; bundles(); info(sys.argv[1]); "
        "sys.exit(bool({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code, str(bare_bundle.root)], check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0
