"""Overlays of the tumour type bundle that change what it answers, or sees: a fourth class, and a second input."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from neurobundle.bundle.checks import agreement
from neurobundle.bundle.find import answers_of, own_overlays
from neurobundle.bundle.finding import open_bundle
from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.commands.audit import audit
from neurobundle.commands.crossval import CrossValidation
from neurobundle.errors import SettingError
from neurobundle.load.class_labels import check_classified
from neurobundle.load.datalist import NOTHING_OUTLINED, fold_items, read_datalist
from neurobundle.prepare.classification import classification_preprocessing
from neurobundle.train.folds import audit_folds

from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / "tumor_type_classification"
THREE, FOUR = ["glioma", "meningioma", "pituitary"], ["glioma", "meningioma", "pituitary", "no tumour"]
SMALL = ["network_size=tiny", "device=cpu", "epochs=1", "val_interval=1", "size=64", "pixel_mm=4.0", "batch_size=2"]


def slice_of(folder: Path, name: str, number: int | None, seed: int) -> None:
    """A head of 64 pixels, no two alike; of a class with a bright disc, whose place says which, and its mask."""
    rng = np.random.default_rng(seed)
    j, i = np.mgrid[:64, :64]
    head = (i - 32) ** 2 + (j - 32) ** 2 < 28**2
    folds = Image.fromarray(rng.uniform(40, 140, (9, 9)).astype(np.float32)).resize((64, 64), Image.Resampling.BICUBIC)
    image = np.asarray(folds) * head + rng.normal(0, 6, head.shape)
    for kind in ("images", "masks") if number is not None else ("",):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    if number is not None:
        disc = (i - 20 - 12 * number) ** 2 + (j - 34 + seed % 5) ** 2 < 6**2
        image += 80 * disc
        Image.fromarray(disc.astype(np.uint8)).save(folder / "masks" / f"{name}.png")
    pixels = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    pixels.save(folder / ("images" if number is not None else "") / f"{name}.png")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tumours`` with a table, masks and persons; ``none`` with slices of nobody knows whom, two of them alike."""
    root = tmp_path_factory.mktemp("sources")
    lines = ["id,class,person"]
    for n in range(12):
        slice_of(root / "tumours", f"{n:03d}", n % 3, n)
        lines.append(f"{n:03d},{THREE[n % 3]},p{n % 6}")
    (root / "tumours" / "index.csv").write_text("\n".join(lines) + "\n")
    for n in range(6):
        slice_of(root / "none", f"none_{n}", None, 100 + n)
    with Image.open(root / "none" / "none_0.png") as first:
        first.point(lambda level: int(level * 0.8)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            root / "none" / "none_9.png"
        )
    return root


def split_words(sources: Path, output: Path) -> list[str]:
    words = ["split", str(sources / "tumours"), "-o", str(output), "--folds", "2", "--class-column", "class"]
    words += ["--classes", ",".join(THREE), "--no-finding", f"no tumour={sources / 'none'}"]
    return [*words, "--merge-near-duplicates"]


@pytest.fixture(scope="module")
def four(sources: Path) -> Path:
    assert main([*split_words(sources, sources / "four.json"), "--relative-to-data"]) == 0
    return sources / "four.json"


def three_of(sources: Path, tmp_path: Path) -> Path:
    words = ["split", str(sources / "tumours"), "-o", str(tmp_path / "three.json"), "--folds", "2"]
    assert main([*words, "--class-column", "class", "--classes", ",".join(THREE), "--relative-to-data"]) == 0
    return tmp_path / "three.json"


def train(datalist: Path, sources: Path, out: Path, *config: str, more: tuple[str, ...] = ()) -> int:
    words = ["train", "tumor_type_classification", "--data", str(datalist), "--dataset-dir", str(sources / "tumours")]
    return main([*words, "-o", str(out), "--config", *config, "--set", *SMALL, *more])


# --- a datalist of two sources ---


def test_a_datalist_of_two_sources(four: Path, sources: Path) -> None:
    """Tumours keep their masks and persons; the others have 0 in the mask's place, and are their own persons."""
    content = json.loads(four.read_text())
    assert content["labels"] == {str(n): name for n, name in enumerate(FOUR)}
    entries = {entry["case"]: entry for entry in content["training"]}
    assert len(entries) == 19
    assert entries["000"] | {"fold": 0} == {
        "case": "000",
        "subject": "p0",
        "fold": 0,
        "image": "images/000.png",
        "label": 0,
        "mask": "masks/000.png",
        "source": "tumours",
    }
    none = entries["none_1"]
    assert (none["subject"], none["label"], none["mask"], none["source"]) == ("none_1", 3, NOTHING_OUTLINED, "none")
    assert none["image"] == "../none/none_1.png"
    assert {(entry["fold"], entry["label"]) for entry in entries.values()} == {(f, n) for f in (0, 1) for n in range(4)}
    assert audit_folds(four, sources / "tumours") == []


def test_near_duplicates_stand_on_one_side(four: Path, sources: Path, tmp_path: Path) -> None:
    """A darker, mirrored copy; without the switch the two are dealt by themselves, and an audit finds them."""
    content = json.loads(four.read_text())
    folds = {entry["case"]: entry["fold"] for entry in content["training"]}
    assert folds["none_0"] == folds["none_9"]
    assert content["split"]["near_duplicates"] == 0.95
    assert content["split"]["merged"] == [["none_0", "none_9"]]
    assert not audit(four, sources / "tumours").leaks
    for seed in range(20):
        words = [*split_words(sources, tmp_path / "apart.json")[:-1], "--seed", str(seed)]
        assert main(words) == 0
        apart = {
            entry["case"]: entry["fold"] for entry in json.loads((tmp_path / "apart.json").read_text())["training"]
        }
        if apart["none_0"] != apart["none_9"]:
            break
    assert [leak.cases for leak in audit(tmp_path / "apart.json").leaks] == [("none_0", "none_9")]
    assert main(["audit", str(tmp_path / "apart.json")]) == 6


def test_what_is_wrong_with_a_further_folder(sources: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = split_words(sources, tmp_path / "d.json")
    place = words.index("--no-finding") + 1
    for given, code, said in (
        ("none", 1, "--no-finding wants NAME=DIR, got 'none'"),
        (f"glioma={sources / 'none'}", 1, "classes must be different names"),
        (f"no tumour={tmp_path / 'lost'}", 3, "the folder of the class 'no tumour' is not there"),
    ):
        words[place] = given
        caplog.clear()
        assert main(words) == code
        assert said in caplog.text
    words = ["split", str(sources / "tumours"), "-o", str(tmp_path / "d.json"), "--no-finding", "a=b"]
    assert main(words) == 1
    assert "--no-finding is for classes" in caplog.text


def test_cases_of_one_name_in_both_folders(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for n in range(4):
        shutil.copy(sources / "none" / f"none_{n}.png", tmp_path / "other" / f"00{n}.png")
    words = split_words(sources, tmp_path / "d.json")
    words[words.index("--no-finding") + 1] = f"no tumour={tmp_path / 'other'}"
    assert main(words) == 0
    labels = {item["case"]: item["label"] for item in read_datalist(tmp_path / "d.json")}
    assert (labels["images-000"], labels["other-000"], labels["005"]) == (0, 3, 2)


# --- a mask that is 0 ---


def test_a_mask_of_0_is_zeros_on_the_grid_of_its_image(sources: Path) -> None:
    """And the pixels of another case's mask stay what they are."""
    prepare = classification_preprocessing(["image"], ["mask"], spacing_mm=4.0, size=32)
    seen = prepare({"image": str(sources / "none" / "none_1.png"), "mask": NOTHING_OUTLINED})
    assert seen["mask"].shape == seen["image"].shape == (1, 32, 32, 1)
    assert not seen["mask"].any()
    assert np.allclose(seen["mask"].affine, seen["image"].affine)
    tumour = {key: str(sources / "tumours" / f"{key}s" / "001.png") for key in ("image", "mask")}
    assert 0 < int(prepare(tumour)["mask"].sum()) < 150
    with pytest.raises(RuntimeError) as caught:
        prepare({"image": tumour["image"]})
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_mask_is_a_path_or_0(four: Path, sources: Path, tmp_path: Path) -> None:
    content = json.loads(four.read_text())
    for wrong in (1, -1, True, "", ["a.png"], 0.5):
        content["training"][0]["mask"] = wrong
        (tmp_path / "d.json").write_text(json.dumps(content))
        with pytest.raises(SettingError, match="'mask' as a path or 0") as caught:
            read_datalist(tmp_path / "d.json", base_dir=sources / "tumours")
        assert "leave it out where nobody knows" in caught.value.way_out
    del content["training"][0]["mask"]
    (tmp_path / "d.json").write_text(json.dumps(content))
    with pytest.raises(SettingError, match="1 of 19 cases have no 'mask'") as caught:
        fold_items(tmp_path / "d.json", sources / "tumours", -1, needs=["mask"])
    assert "Of a case without a tumour it is 0" in caught.value.way_out
    check_classified(sources / "none" / "none_1.png", 3, FOUR, NOTHING_OUTLINED)


def test_slices_without_a_tumour_teach_the_mask_head(four: Path, sources: Path, tmp_path: Path) -> None:
    settings = {"datalist": str(four), "dataset_dir": str(sources / "tumours"), "output_dir": str(tmp_path)}
    settings |= {"network_size": "tiny", "device": "cpu", "size": 32, "pixel_mm": 4.0, "fold": -1}
    parser = make_plan(BUNDLE, "train", ["four_classes"], settings).workflow().parser
    labels, outlined = [], []
    for batch in parser.get_parsed_content("train::dataloader"):
        labels += batch["label"].tolist()
        outlined += batch["mask"].flatten(1).any(dim=1).tolist()
        loss = parser.get_parsed_content("loss")
        target = {"answer": batch["label"], "mask": batch["mask"]}
        given = {"answer": torch.zeros(len(batch["label"]), 4), "mask": torch.zeros_like(batch["mask"])}
        assert torch.isfinite(loss(given, target))
    assert len(labels) == 19
    assert all(there == (label != 3) for label, there in zip(labels, outlined, strict=True))


# --- both overlays, from one end to the other ---


def test_they_are_known_by_name() -> None:
    assert {"four_classes", "two_inputs"} <= set(own_overlays(BUNDLE))


def outputs_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "more"),
    [
        (("four_classes",), ()),
        (("four_classes",), ("mask_head=false",)),
        (("two_inputs",), ()),
        (("four_classes", "two_inputs"), ()),
    ],
    ids=["four", "four-without-mask-head", "two-inputs", "both"],
)
def test_it_trains_evaluates_and_infers(
    config: tuple[str, ...], more: tuple[str, ...], four: Path, sources: Path, tmp_path: Path
) -> None:
    classes = FOUR if "four_classes" in config else THREE
    datalist = four if "four_classes" in config else three_of(sources, tmp_path)
    assert train(datalist, sources, tmp_path / "out", *config, more=more) == 0
    weights = tmp_path / "out" / "final.pt"
    network = torch.load(weights, weights_only=True)
    assert network["head.fc.weight"].shape[0] == len(classes)
    assert any(name.startswith("crop.") for name in network) == ("two_inputs" in config)
    words = ["--config", *config, "--set", *(word for word in SMALL if "epochs" not in word), *more]
    scores = ["evaluate", "tumor_type_classification", "--data", str(datalist), "-o", str(tmp_path / "scores")]
    assert main([*scores, "--dataset-dir", str(sources / "tumours"), "--weights", str(weights), *words]) == 0
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["classes"] == classes
    assert (summary["n_cases"], summary["n_failed"]) == (
        len(fold_items(datalist, sources / "tumours", 0, "validation")),
        0,
    )
    words = [word for word in words if not word.startswith(("val_interval", "batch_size"))]
    run = ["run", "tumor_type_classification", "-i", str(sources / "none"), "-o", str(tmp_path / "answers")]
    assert main([*run, *words, f"weights={weights}"]) == 0
    rows = outputs_of(tmp_path / "answers")
    assert len(rows) == 7
    assert list(rows[0]) == ["case", "prediction", "confidence", *(f"p_{name}" for name in classes), "abstained"]
    assert all(sum(float(row[f"p_{name}"]) for name in classes) == pytest.approx(1, abs=1e-5) for row in rows)
    assert len(list((tmp_path / "answers").glob("none_*.png"))) == 7, "with their class activation maps"
    settings = {"dataset_dir": str(sources / "none"), "output_dir": str(tmp_path / "stock"), "weights": str(weights)}
    settings |= {"network_size": "tiny", "device": "cpu", "size": 64, "pixel_mm": 4.0}
    settings |= {"mask_head": False} if more else {}
    workflow = make_plan(BUNDLE, "inference", config, settings).workflow()
    workflow.initialize()
    workflow.run()
    assert (tmp_path / "stock" / "predictions.csv").read_bytes() == (
        tmp_path / "answers" / "predictions.csv"
    ).read_bytes()


def test_neither_takes_the_weights_that_are_shipped(
    sources: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor their temperature: both stand in a folder of the overlay's own, where nothing is."""
    for overlay in ("four_classes", "two_inputs"):
        words = ["run", "tumor_type_classification", "-i", str(sources / "none"), "-o", str(tmp_path / overlay)]
        assert main([*words, "--config", overlay, "--device", "cpu"]) == 1
        assert f"models/{overlay}/model.pt" in caplog.text
        parser = make_plan(BUNDLE, "inference", [overlay]).workflow().parser
        assert str(parser.get_parsed_content("calibration")).endswith(f"models/{overlay}/calibration.json")


# --- names of classes ---


def test_classes_of_datalist_and_network_must_be_the_same(
    four: Path, sources: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said before anything is trained, both ways round."""
    assert train(four, sources, tmp_path / "a", "two_inputs") == 1
    assert "3 no tumour, and the bundle's are 0 glioma, 1 meningioma, 2 pituitary" in caplog.text
    assert "an overlay that names these classes" in caplog.text
    assert train(three_of(sources, tmp_path), sources, tmp_path / "b", "four_classes") == 1
    assert "the bundle's are 0 glioma, 1 meningioma, 2 pituitary, 3 no tumour" in caplog.text
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_names_are_those_of_the_plan() -> None:
    assert make_plan(BUNDLE, "train").classes() == answers_of(BUNDLE) == THREE
    for kind in ("train", "evaluate", "inference"):
        assert make_plan(BUNDLE, kind, ["four_classes"]).classes() == FOUR
    assert make_plan(BUNDLE, "inference", (), {"class_names": ["a", "b"]}).classes() == ["a", "b"]
    assert make_plan(ROOT / "bundles" / "hippocampus_segmentation", "train").classes() is None
    for wrong, said in (("$['a', 'b']", "no list of words"), (["a", "a"], "different names"), (["a"], "2 classes")):
        with pytest.raises(SettingError, match=said):
            make_plan(BUNDLE, "train", (), {"class_names": wrong}).classes()


def test_metadata_and_configs_must_agree(tmp_path: Path) -> None:
    """A copy whose configs name another class: refused with both lists, and by the doctor."""
    copy = tmp_path / "tumor_type_classification"
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("*.pt", "MANIFEST*"))
    assert not [finding for finding in agreement(open_bundle(copy)) if "channel_def" in finding.message]
    path = copy / "configs" / "inference.yaml"
    path.write_text(path.read_text().replace("[glioma, meningioma, pituitary]", "[glioma, meningioma, adenoma]"))
    with pytest.raises(SettingError, match=r"glioma, meningioma, pituitary in metadata.json .*adenoma") as caught:
        make_plan(copy, "inference", ["four_classes"]).classes()
    assert caught.value.file == str(path)
    (finding,) = [finding for finding in agreement(open_bundle(copy)) if "channel_def" in finding.message]
    assert (finding.level, finding.way_out) == ("fail", "Make them equal.")


def test_other_classes_are_not_published(
    four: Path, sources: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before a training begins: the card and the metadata would speak of three classes."""
    words = ["crossval", "tumor_type_classification", "--data", str(four), "--dataset-dir", str(sources / "tumours")]
    words += ["-o", str(tmp_path / "cv"), "--config", "four_classes", "--publish"]
    assert main(words) == 1
    assert "the network answers glioma, meningioma, pituitary, no tumour, and the bundle glioma" in caplog.text
    assert not (tmp_path / "cv").exists()
    where = {"dataset_dir": sources / "tumours", "overlays": ["four_classes"]}
    run = CrossValidation("tumor_type_classification", four, tmp_path / "cv", **where)
    with pytest.raises(SettingError, match="no tumour"):
        run.publish()


# --- the real slices ---


def test_the_four_classes_that_the_page_is_about(real_data: Path, tmp_path: Path) -> None:
    """Every twentieth slice without a tumour, and of the others: what the datalist is, and that its source shows."""
    (tmp_path / "none").mkdir()
    for path in sorted((real_data / "no_tumour_2d").glob("*.jpg"))[::20]:
        shutil.copy(path, tmp_path / "none")
    rows = (real_data / "ce_mri" / "index.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([rows[0], *rows[1::20]]) + "\n")
    words = ["split", str(real_data / "ce_mri"), "-o", str(tmp_path / "four.json"), "--class-column", "class"]
    words += ["--table", str(tmp_path / "t.csv"), "--classes", ",".join(THREE), "--merge-near-duplicates"]
    assert main([*words, "--no-finding", f"no tumour={tmp_path / 'none'}"]) == 3, "pictures without a row are named"
    report = audit(tmp_path / "four.json")
    assert not report.leaks
    told = {confound.trait for confound in report.confounds if confound.found and confound.label == 3}
    assert {"source", "file type", "size in the plane"} <= told


def test_the_commands_of_the_page(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/concepts/leakage.md, on the made slices: a darker copy among them is merged, and the source shows.

    The figures of the page are of the real slices: 50 seconds of a processor core, by hand.
    """
    page = (ROOT / "docs" / "concepts" / "leakage.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (split, show), *others = [block.splitlines() for block in blocks if "four.json" in block]
    assert not others
    monkeypatch.chdir(tmp_path)
    for name, folder in (("ce_mri", "tumours"), ("no_tumour_2d", "none")):
        split = split.replace(f"../shared/data/{name}", str(sources / folder))
    for command, code in ((split, 0), (show, 0)):
        words = shlex.split(command.partition("||")[0])
        assert words.pop(0) == "neurobundle"
        assert main([*words, *(["--folds", "2"] if words[0] == "split" else [])]) == code
    assert json.loads((tmp_path / "four.json").read_text())["split"]["merged"] == [["none_0", "none_9"]]
    content = yaml.safe_load((BUNDLE / "configs" / "four_classes.yaml").read_text())
    assert content["class_names"] == FOUR
