"""``neurobundle info NAME --blocks``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neurobundle.cli import main
from neurobundle.commands.blocks import blocks_text, network_blocks
from neurobundle.errors import SettingError
from neurobundle.networks.slice_unet import slice_unet

from ..helpers import HIPPOCAMPUS


def test_a_table_with_a_line_of_totals() -> None:
    rows = [{"block": 1, "name": "conv1", "tensors": 3, "parameters": 90}]
    rows += [{"block": 2, "name": "head", "tensors": 2, "parameters": 10}]
    assert blocks_text(rows).splitlines() == [
        "block  name   tensors  parameters",
        "1      conv1  3        90",
        "2      head   2        10",
        "       all    5        100",
    ]


def test_the_blocks_of_a_bundle_are_all_of_its_network(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["info", "tumor_slice_segmentation", "--blocks", "--set", "network_size=tiny"]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["block"] for row in rows] == [1, 2, 3, 4]
    assert [row["name"] for row in rows] == ["stem", "down", "up", "head"]
    network = slice_unet(1, 1, "tiny", unshuffle=2)
    assert sum(row["parameters"] for row in rows) == sum(parameter.numel() for parameter in network.parameters())
    assert main(words) == 0
    assert "head" in capsys.readouterr().out


def test_info_without_it_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "hippocampus_segmentation"]) == 0
    assert "licence of the code" in capsys.readouterr().out


def test_settings_are_of_the_blocks(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["info", "hippocampus_segmentation", "--set", "network_size=tiny"]) == 1
    assert "--config and --set are for --blocks" in caplog.text


def test_a_setting_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "hippocampus_segmentation", "--blocks", "--set", "network_sise=tiny"]) == 1


def test_a_bundle_without_a_network_of_its_own(tmp_path: Path) -> None:
    copy = tmp_path / "other_segmentation"
    shutil.copytree(HIPPOCAMPUS, copy, ignore=shutil.ignore_patterns("*.pt"))
    config = copy / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("network_def", "net_def"))
    with pytest.raises(SettingError, match="has no network_def"):
        network_blocks(copy)
