"""``neurobundle calibrate``, on a tiny network that knows nothing, and the numbers in the cards."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurobundle.cli import main, parser
from neurobundle.commands.calibrate import Calibration
from neurobundle.commands.calibrate_card import (
    END,
    RESULTS,
    START,
    calibration_text,
    card_with_calibration,
    read_calibration_summary,
)
from neurobundle.commands.evaluate import shipped_folds
from neurobundle.errors import InputError, SettingError, WeightsError
from neurobundle.measure.logits import read_logits
from neurobundle.measure.tables import read_scores
from neurobundle.networks import residual_unet, save_weights
from neurobundle.networks.manifest import read_manifest, verify
from neurobundle.postprocess.calibration import read_segmentation_calibration

from ..conftest import ROOT
from ..helpers import Maker, small_datalist

TINY = ["--device", "cpu", "--set", "window=[16,16,16]"]
CALIBRATED = [path.parents[2] for path in sorted((ROOT / "bundles").glob(f"*/{RESULTS}"))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of two folds that know nothing, each another thing."""
    folder = tmp_path_factory.mktemp("weights")
    for fold in (0, 1):
        torch.manual_seed(fold)
        save_weights(residual_unet(1, 3, size="tiny"), folder / f"fold{fold}.pt", origin="released")
    return folder


@pytest.fixture
def data(tmp_path: Path, make_pair: Maker) -> Path:
    return small_datalist(tmp_path / "data", make_pair)


def words(bundle: Path, data: Path, weights: Path, output: Path, *more: str) -> list[str]:
    return ["calibrate", str(bundle), "--data", str(data), "--weights", str(weights), "-o", str(output), *more, *TINY]


def test_two_folds(
    tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each case by its own fold's network; what is shipped is read back; a second run predicts nothing again."""
    out = tmp_path / "out"
    assert main(words(tiny_bundle, data, weights, out)) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 cases of folds 0, 1. Judged crosswise, each fold by the others.")
    assert {path.name for path in out.iterdir()} >= {"calibration.json", "summary.json", "case_scores.csv"}
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["temperature"]["by_part"]) == {"0", "1"}
    shipped = json.loads((out / "calibration.json").read_text())
    read = read_segmentation_calibration(out / "calibration.json")
    assert (read.temperature, read.flag_above) == (shipped["temperature"], shipped["flag_above"])
    assert shipped["n"] == 4
    assert shipped["chosen_on"].startswith("fold 0, 1, each case predicted by the network that did not see its fold; ")
    for fold, cases in ((0, {"case_0", "case_2"}), (1, {"case_1", "case_3"})):
        assert {path.stem for path in (out / f"fold{fold}" / "logits").iterdir()} == cases
    logits = out / "fold0" / "logits" / "case_0.npz"
    before, table = logits.stat().st_mtime_ns, (out / "summary.json").read_bytes()
    assert main(words(tiny_bundle, data, weights, out)) == 0
    assert logits.stat().st_mtime_ns == before
    assert (out / "summary.json").read_bytes() == table


def test_the_logits_are_those_of_the_network_that_did_not_see_them(
    tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path
) -> None:
    """On the network's grid, and as an evaluation's: their labels are what it scored."""
    out = tmp_path / "out"
    assert main(words(tiny_bundle, data, weights, out, "--folds", "1")) == 0
    case = read_logits(out / "fold1" / "logits" / "case_1.npz")
    network = residual_unet(1, 3, size="tiny")
    network.load_state_dict(torch.load(weights / "fold1.pt", weights_only=True))
    settings = {"device": "cpu", "window": [16, 16, 16]}
    plan = Calibration(str(tiny_bundle), data, out, weights=weights, folds=[1], settings=settings).plan(1)
    config = plan.workflow().parser
    item = next(iter(config.get_parsed_content("validate::dataset")))
    assert item["case"] == "case_1"
    with torch.no_grad():
        given = config.get_parsed_content("validate::inferer")(item["image"][None].as_tensor(), network.eval())[0]
    assert case.logits.shape == tuple(given.shape)
    assert np.allclose(case.logits, given.numpy(), atol=0.02)
    assert np.array_equal(case.reference, item["label"][0].numpy())
    assert case.spacing_mm == (1.0, 1.0, 1.0)


def test_one_file_and_the_fold_that_it_did_not_see(
    tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = weights / "fold0.pt"
    assert main(words(tiny_bundle, data, file, tmp_path / "out")) == 1
    assert "Name the one fold that it did not see" in caplog.text
    assert main(words(tiny_bundle, data, file, tmp_path / "out", "--folds", "0")) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["judged"] == "each half of the subjects by the other"
    assert summary["folds_left_out"] == [1]


def test_folds_without_weights_are_named(
    tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Left out if nobody asked for them; refused if somebody did. A crossval folder counts as well."""
    cv = tmp_path / "cv" / "fold1"
    cv.mkdir(parents=True)
    shutil.copy(weights / "fold1.pt", cv / "final.pt")
    run = Calibration(str(tiny_bundle), data, tmp_path / "out", weights=tmp_path / "cv")
    assert run.weights == {1: cv / "final.pt"}
    assert run.left_out == [0]
    assert "fold 0 is left out" in caplog.text
    with pytest.raises(WeightsError, match="did not see fold 0"):
        Calibration(str(tiny_bundle), data, tmp_path / "out", weights=tmp_path / "cv", folds=[0, 1])
    with pytest.raises(SettingError, match="no fold 7"):
        Calibration(str(tiny_bundle), data, tmp_path / "out", weights=weights, folds=[7])


@pytest.mark.parametrize(
    ("more", "cause"),
    [({}, "folds are not those"), ({"wanted_dice": 2.0}, "wanted-dice"), ({"weights": Path("none")}, "no weights")],
)
def test_what_is_refused(more: dict[str, Any], cause: str, tiny_bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises((SettingError, WeightsError), match=cause):
        Calibration(str(tiny_bundle), data, tmp_path / "out", **more)


def test_a_bundle_that_answers_classes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="it answers classes"):
        Calibration("tumor_type_classification", data, tmp_path)


def test_a_folder_of_other_settings(
    tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "calibrate.json").write_text("{}")
    assert main(words(tiny_bundle, data, weights, tmp_path / "out")) == 1
    assert "other settings" in caplog.text


def test_it_is_published(tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path) -> None:
    """Into the manifest, the results, the pictures and the card; the rest of the card stays."""
    bundle = tmp_path / "tiny_segmentation"
    shutil.copytree(tiny_bundle, bundle)
    card = bundle / "docs" / "README.md"
    card.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    assert main(words(bundle, data, weights, tmp_path / "out", "--publish")) == 0
    assert "calibration.json" in read_manifest(bundle / "models")
    verify(bundle / "models" / "calibration.json")
    assert (bundle / RESULTS).read_bytes() == (tmp_path / "out" / "summary.json").read_bytes()
    assert (bundle / "docs" / "pictures" / "reliability.png").is_file()
    summary = read_calibration_summary(bundle / RESULTS, bundle.name)
    names = {"1": "anterior", "2": "posterior"}
    assert card.read_text() == f"before\n{START}\n{calibration_text(summary, names)}\n{END}\nafter\n"
    assert "anterior, whole image, 20 bins" in card.read_text()
    card.write_text("no place\n")
    with pytest.raises(SettingError, match="the card has no"):
        card_with_calibration(bundle, summary)
    with pytest.raises(InputError, match="results of tiny_segmentation"):
        read_calibration_summary(bundle / RESULTS, "another")
    with pytest.raises(InputError, match="no summary of a calibration"):
        read_calibration_summary(ROOT / "bundles/hippocampus_segmentation/docs/results/summary.json", "another")


def test_print_command(
    tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_bundle, data, weights, tmp_path / "out", "--print-command")) == 0
    assert capsys.readouterr().out.count("python -m monai.bundle run") == 2
    assert not (tmp_path / "out").exists()


def test_there_are_calibrated_bundles() -> None:
    assert CALIBRATED


@pytest.mark.parametrize("bundle", CALIBRATED, ids=lambda path: path.name)
def test_the_card_says_what_the_file_says(bundle: Path) -> None:
    summary = read_calibration_summary(bundle / RESULTS, bundle.name)
    assert (bundle / "docs" / "README.md").read_text() == card_with_calibration(bundle, summary)
    for name in ("reliability.png", "risk_coverage.png"):
        assert f"pictures/{name}" in (bundle / "docs" / "README.md").read_text()
        assert (bundle / "docs" / "pictures" / name).is_file()


def test_what_is_shipped_is_what_was_judged() -> None:
    """The file beside the weights, and the Dice that was published: the same weights on the same cases."""
    bundle = ROOT / "bundles" / "hippocampus_segmentation"
    summary = read_calibration_summary(bundle / RESULTS, bundle.name)
    shipped = json.loads((bundle / "models" / "calibration.json").read_text())
    assert shipped["temperature"] == pytest.approx(summary["temperature"]["shipped"], abs=1e-6)
    assert shipped["flag_above"] == pytest.approx(summary["flag"]["above"], abs=1e-6)
    verify(bundle / "models" / "calibration.json")
    scores, _ = read_scores(bundle / "docs" / "results" / "per_case.csv")
    for name, values in summary["structures"].items():
        published = [score.dice for score in scores if score.structure == name]
        assert values["dice"]["mean"] == pytest.approx(np.mean(published), abs=1e-5)


def test_no_temperature_is_shipped_for_tumours() -> None:
    """It was fitted on nine computed heads, and spoils what is summed over a head: the card says why."""
    assert not (ROOT / "bundles/brain_tumor_segmentation/models/calibration.json").exists()


# ``evaluate`` of a bundle's own folds.


@pytest.mark.parametrize(
    "bundle", ["hippocampus_segmentation", "tumor_type_classification", "brain_tumor_segmentation"]
)
def test_weights_that_saw_the_fold_are_refused(bundle: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """model.pt was trained on all folds: what it gives of one that has no weights is no score."""
    folder = ROOT / "bundles" / bundle
    there = shipped_folds(folder / "models")
    fold = max(there, default=-1) + 1
    data = ["--data", str(folder / "configs" / "datalist.json"), "--print-command"]
    assert main(["evaluate", bundle, *data, "-o", str(tmp_path / "out"), "--fold", str(fold)]) == 1
    assert f"the bundle has no models/fold{fold}.pt" in caplog.text
    assert (
        f"those of fold {', '.join(map(str, there))} are there" if there else "those of no fold are there"
    ) in caplog.text
    assert "--weights" in caplog.text
    named = ["--weights", str(folder / "models" / "model.pt")]
    assert main(["evaluate", bundle, *data, "-o", str(tmp_path / "out"), "--fold", str(fold), *named]) == 0
    if there:
        assert main(["evaluate", bundle, *data, "-o", str(tmp_path / "out"), "--fold", str(there[0])]) == 0


def test_the_bundle_s_cases_in_other_folds_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And cases of somebody else's are scored, with a warning."""
    own = json.loads((ROOT / "bundles/hippocampus_segmentation/configs/datalist.json").read_text())
    for item in own["training"]:
        item["fold"] = 1 - item["fold"] % 2
    dealt = tmp_path / "dealt.json"
    dealt.write_text(json.dumps(own))
    words = ["evaluate", "hippocampus_segmentation", "-o", str(tmp_path / "out"), "--fold", "0", "--print-command"]
    assert main([*words, "--data", str(dealt)]) == 1
    assert "are in the bundle's own datalist" in caplog.text
    for item in own["training"]:
        item["case"] = f"other-{item['case']}"
    dealt.write_text(json.dumps(own))
    caplog.clear()
    assert main([*words, "--data", str(dealt)]) == 0
    assert "may have been trained on these cases" in caplog.text


@pytest.mark.slow
def test_the_how_to_page(
    tiny_bundle: Path, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of the page; the training is read alone, and its weights are those of the fixture."""
    monkeypatch.chdir(tmp_path)
    for fold in (0, 1):
        network = residual_unet(1, 3, size="tiny")
        network.load_state_dict(torch.load(weights / f"fold{fold}.pt", weights_only=True))
        save_weights(network, tmp_path / "out" / "cv" / f"fold{fold}" / "final.pt", origin="trained-here")
    shutil.copy(data, tmp_path / "datalist.json")
    page = (ROOT / "docs" / "how-to" / "calibrate.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    assert [shlex.split(line)[:2] for line in lines] == [
        ["neurobundle", "crossval"],
        *[["neurobundle", "calibrate"]] * 3,
    ]
    assert parser().parse_args(shlex.split(lines[0])[1:]).output == Path("out/cv")
    for line in lines[1:]:
        assert main([*shlex.split(line.replace("hippocampus_segmentation", str(tiny_bundle)))[1:], *TINY]) == 0
    assert json.loads((tmp_path / "out/calibration/summary.json").read_text())["flag"]["wanted_dice"] == 0.85
    assert json.loads((tmp_path / "out/one_fold/summary.json").read_text())["folds"] == [0]
