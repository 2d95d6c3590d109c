import json
from pathlib import Path

import pytest

from neurobundle.errors import SettingError
from neurobundle.networks.manifest import verify
from neurobundle.postprocess.calibration import (
    SegmentationCalibration,
    publish_calibration_file,
    read_segmentation_calibration,
)


def test_what_is_published_is_read_back(tmp_path: Path) -> None:
    """And is refused once somebody changed it, since the manifest lists it."""
    content = {"temperature": 1.5, "flag_above": 0.2, "chosen_on": "two cases", "n": 2}
    path = publish_calibration_file(tmp_path, content)
    assert read_segmentation_calibration(path) == SegmentationCalibration(1.5, 0.2)
    verify(path)
    path.write_text(json.dumps({**content, "temperature": 1.6}))
    with pytest.raises(SettingError, match=r"damaged or was changed"):
        read_segmentation_calibration(path)


def test_no_file_changes_nothing_and_flags_nobody(tmp_path: Path) -> None:
    assert read_segmentation_calibration(tmp_path / "none.json") == read_segmentation_calibration(None)
    assert read_segmentation_calibration(None) == SegmentationCalibration(1.0, None)


def test_a_temperature_alone(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"temperature": 2}')
    assert read_segmentation_calibration(tmp_path / "own.json") == SegmentationCalibration(2.0, None)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "{}",
        '{"flag_above": 0.1}',
        '{"temperature": 0}',
        '{"temperature": "warm"}',
        '{"temperature": 1, "abstain_below": 0.5}',
        '{"temperature": 1, "flag_above": NaN}',
    ],
)
def test_files_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(SettingError) as error:
        read_segmentation_calibration(file)
    assert str(file) in str(error.value)
