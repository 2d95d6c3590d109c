"""What holds for every bundle of ours: one contract over all siblings."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from neurobundle.bundle.doctor import examine, verdict
from neurobundle.bundle.find import answers_of, groups_of
from neurobundle.bundle.workflow import make_plan
from neurobundle.errors import SettingError
from neurobundle.infer import cpu_has_bfloat16
from neurobundle.networks.manifest import MANIFEST_NAME, read_manifest, verify

from ..conftest import BUNDLES, OVERLAYS, ROOT
from ..helpers import TINY, Maker, require_weights, small_datalist

IDS = ["bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "datalist", "fold", "device", "amp", "max_cases"]
IDS += ["num_workers", "cache_rate", "seed", "resume", "network_size"]
WITH_LGG = [bundle for bundle in BUNDLES if (bundle / "configs" / "with_lgg.yaml").exists()]
TRAIN_IDS = [*IDS, "epochs", "val_interval", "store"]


def top_level(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_doctor_finds_nothing(bundle: Path) -> None:
    findings = examine(bundle)
    assert verdict(findings) == 0, [finding for finding in findings if finding.level == "fail"]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_weights_are_listed_and_small(bundle: Path) -> None:
    require_weights(bundle)
    models = sorted((bundle / "models").glob("*.pt"))
    assert "model.pt" in {path.name for path in models}
    # Each file that is there is listed, a calibration too, and each that is listed is there.
    there = {path.name for path in (bundle / "models").iterdir() if path.name != MANIFEST_NAME}
    assert set(read_manifest(bundle / "models")) == there
    for path in models:
        assert verify(path).origin == "released"
        assert path.stat().st_size <= 15 * 2**20


def test_all_weights_together_are_small() -> None:
    """At most 40 MiB over the repository: it is cloned with all of them."""
    assert sum(path.stat().st_size for path in ROOT.glob("bundles/*/models/*.pt")) <= 40 * 2**20


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_set_only_what_every_bundle_has(overlay: str) -> None:
    assert top_level(ROOT / "configs" / f"{overlay}.yaml") <= set(TRAIN_IDS)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_ids_of_the_design_are_there(bundle: Path) -> None:
    assert set(TRAIN_IDS) <= top_level(bundle / "configs" / "train.yaml")
    assert set(IDS) <= top_level(bundle / "configs" / "inference.yaml")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
@pytest.mark.parametrize("kind", ["train", "inference"])
def test_no_property_is_missing(bundle: Path, kind: str, tmp_path: Path, make_pair: Maker) -> None:
    """MONAI's own check, with everything built."""
    data = small_datalist(tmp_path, make_pair, bundle=bundle)
    settings = {"dataset_dir": str(tmp_path), "device": "cpu", "datalist": str(data), "output_dir": str(tmp_path / "o")}
    if kind == "train":
        settings["ckpt_dir"] = str(tmp_path / "models")
    workflow = make_plan(bundle, kind, (), settings).workflow()
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_trains_and_infers(bundle: Path, overlay: str, tmp_path: Path, make_pair: Maker) -> None:
    """Each overlay on each bundle: an epoch of training, and label maps by the weights that it gave."""
    data = small_datalist(tmp_path, make_pair, bundle=bundle)
    common = {
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "out" / "models"),
        "datalist": str(data),
        "network_size": "tiny",
        "window": TINY["window"],
        **({} if overlay == "cpu" else {"device": "cpu"}),
    }
    train = make_plan(bundle, "train", [overlay], {**TINY, **common}).workflow()
    if overlay == "amp" and not cpu_has_bfloat16():
        with pytest.raises(Exception, match="CPU without bfloat16 units") as caught:
            train.initialize(), train.run()
        assert "SettingError" in str(type(root_of(caught.value)))
        return
    train.initialize()
    train.run()
    assert (tmp_path / "out" / "models" / "model.pt").exists()
    common.pop("datalist")
    infer = make_plan(bundle, "inference", [overlay], {**common, "dataset_dir": str(tmp_path / "images"), "fold": None})
    workflow = infer.workflow()
    workflow.initialize()
    workflow.run()
    classes = answers_of(bundle)
    written = sorted((tmp_path / "out").glob("*_seg.nii.gz" if classes is None else "*_class.json"))
    assert len(written) == (2 if overlay == "smoke" else 4)
    if classes is not None:
        assert all(list(json.loads(path.read_text())["probabilities"]) == classes for path in written)
        return
    source = nib.load(min((tmp_path / "images").rglob("case_0*.nii.gz")))
    assert np.array_equal(nib.load(written[0]).affine, source.affine)
    assert nib.load(written[0]).shape == source.shape


def root_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_takes_effect(bundle: Path, overlay: str) -> None:
    content = yaml.safe_load((ROOT / "configs" / f"{overlay}.yaml").read_text())
    assert content
    for kind in ("train", "inference"):
        parser = make_plan(bundle, kind, [overlay]).workflow().parser
        assert {name: parser[name] for name in content} == content


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_tensorrt_overlay_wants_a_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(bundle, "inference", ["inference_trt"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    parser = plan.workflow().parser
    assert (parser["backend"], parser["device"]) == ("tensorrt", "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(SettingError, match="there is no cuda: this machine has 0 CUDA devices"):
        plan.workflow()
    assert make_plan(bundle, "inference", ["inference_trt"], {"device": "cpu"}).workflow().parser["device"] == "cpu"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_front_and_back_are_not_mirrored_in_training(bundle: Path) -> None:
    """Axis 1 is front-back and 2 up-down in RAS: no bundle of anatomy flips them."""
    random_transforms = make_plan(bundle, "train").workflow().parser["train::random_transforms"]
    assert not {1, 2} & set(random_transforms.get("flip_axes", []))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_an_overlay_cannot_bring_an_unknown_id(bundle: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("max_casse: 2\n")
    with pytest.raises(SettingError, match="did you mean 'max_cases'"):
        make_plan(bundle, "train", [str(overlay)]).workflow()


@pytest.mark.parametrize(
    "bundle", [bundle for bundle in BUNDLES if answers_of(bundle) is None], ids=lambda path: path.name
)
def test_the_card_says_what_the_evaluation_wrote(bundle: Path) -> None:
    """Numbers in the card, the metadata and the README come from the file that the evaluation wrote."""
    require_weights(bundle)
    summary = json.loads((bundle / "docs" / "results" / "summary.json").read_text())
    card = (bundle / "docs" / "README.md").read_text()
    lines = (ROOT / "README.md").read_text().splitlines()
    row = next(line for line in lines if bundle.name in line and "Dice" in line)
    configs = bundle / "configs"
    metadata = json.loads((configs / "metadata.json").read_text())["eval_metrics"]
    # A row has no room for 32 structures: it says what they are together.
    in_row = [name for name in summary["structures"] if name in groups_of(bundle)] or list(summary["structures"])
    for name, scores in summary["structures"].items():
        dice = scores["dice"]
        low, high = dice["interval"]
        assert f"{dice['mean']:.3f} ({low:.3f} to {high:.3f})" in card
        assert name not in in_row or f"{dice['mean']:.3f}"[1:] in row
        assert metadata[f"{name}_dice"] == round(dice["mean"], 3)
        assert f"| {name} | {scores['nsd']['mean']:.3f}" in card or f"{scores['nsd']['mean']:.3f}" in card
    every_case_is_scored(bundle, summary)


def every_case_is_scored(bundle: Path, summary: dict[str, Any]) -> None:
    """Every case of the folds of a bundle's own datalist is in its results."""
    items = json.loads((bundle / "configs" / "datalist.json").read_text())["training"]
    fold_of = {item["case"]: item["fold"] for item in items}
    with (bundle / "docs" / "results" / "per_case.csv").open() as file:
        scored = {row["case"] for row in csv.DictReader(file)}
    folds = {fold_of[case] for case in scored}
    assert len(scored) == summary["n_cases"]
    assert scored == {case for case, fold in fold_of.items() if fold in folds}


@pytest.mark.parametrize(
    "bundle", [bundle for bundle in BUNDLES if answers_of(bundle) is not None], ids=lambda path: path.name
)
def test_the_card_says_what_the_evaluation_of_answers_wrote(bundle: Path) -> None:
    """Cases and persons, each class, and calibration; the README has both accuracies, the metadata every mean."""
    require_weights(bundle)
    docs = bundle / "docs"
    summary = json.loads((docs / "results" / "summary.json").read_text())
    card = (docs / "README.md").read_text()
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"]
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if f"[{bundle.name}]" in line)
    assert set(summary["folds"]) > {"0"}, "it is a cross-validation"
    assert {"temperature", "subjects"} <= set(summary)
    for prefix, part in (("", summary), ("subject_", summary["subjects"])):
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "macro_auroc"):
            low, high = part[name]["interval"]
            assert f"{part[name]['mean']:.3f} ({low:.3f} to {high:.3f})" in card
            assert metadata[f"{prefix}{name}"] == round(part[name]["mean"], 3)
        assert f"{part['accuracy']['mean']:.3f}"[1:] in row
        for name, own in part["per_class"].items():
            scores = " | ".join(f"{own[key]:.3f}" for key in ("precision", "sensitivity", "specificity", "f1", "auroc"))
            assert f"| {name} | {own['n']} | {own['n_failed']} | {scores} |" in card
    for when in ("before", "after"):
        assert f"{summary['temperature'][when]['ece']['mean']:.3f} (" in card
    listed = json.loads((docs / "results" / "activation.json").read_text())
    assert listed["right"]
    assert listed["wrong"]
    for name in ("curves.png", "activation-right.png", "activation-wrong.png"):
        assert f"(pictures/{name})" in card
        assert (docs / "pictures" / name).is_file()
    assert sum(path.stat().st_size for path in (docs / "pictures").glob("activation-*.png")) < 400_000
    every_case_is_scored(bundle, summary)


@pytest.mark.parametrize("bundle", WITH_LGG, ids=lambda path: path.name)
def test_the_card_says_what_the_study_of_gliomas_wrote(bundle: Path) -> None:
    """Nobody ships these weights; the numbers are of the file beside the card, patient by patient."""
    figures = json.loads((bundle / "docs" / "results" / "with_lgg.json").read_text())
    card = (bundle / "docs" / "README.md").read_text()
    assert figures
    for name, facts in figures.items():
        dices = list(facts["per_patient"].values())
        assert facts["patients"] == len(dices) == 65
        assert facts["dice"] == pytest.approx(np.mean(dices), abs=1e-4)
        dice, low, high = (f"{value:.3f}"[1:] for value in (facts["dice"], *facts["interval"]))
        assert f"| {name} | 65 | {dice} ({low} to {high}) |" in card
