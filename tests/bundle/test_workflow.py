"""What a plan is set to, before anything of it is built."""

from pathlib import Path

from neurobundle.bundle.workflow import make_plan

SLICES = "tumor_slice_segmentation"


def test_settings_win_over_overlays_and_these_over_configs() -> None:
    bundle = Path(__file__).resolve().parents[2] / "bundles" / SLICES
    assert make_plan(bundle, "train").value("allow_empty") is False
    assert make_plan(bundle, "train", ["with_lgg"]).value("allow_empty") is True
    assert make_plan(bundle, "train", ["with_lgg"], {"allow_empty": False}).value("allow_empty") is False
    assert make_plan(bundle, "evaluate", ["with_lgg"]).value("in_channels") == 3


def test_what_nothing_sets_is_none() -> None:
    bundle = Path(__file__).resolve().parents[2] / "bundles" / SLICES
    assert make_plan(bundle, "train").value("no_such_id") is None
