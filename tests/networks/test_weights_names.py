"""What a user may choose from."""

from pathlib import Path

from neurobundle.networks import weights_names


def test_the_bundles_own_weights_are_first(tmp_path: Path) -> None:
    for name in ("fold1.pt", "model.pt", "fold0.pt", "MANIFEST.sha256", "calibration.json"):
        (tmp_path / name).touch()
    assert weights_names(tmp_path) == ["model.pt", "fold0.pt", "fold1.pt"]


def test_no_weights(tmp_path: Path) -> None:
    assert weights_names(tmp_path / "nowhere") == []
