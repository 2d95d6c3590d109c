"""``neurobundle synthesize``: cases as in BraTS, resumable, the same each time, one subject a label map."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from scipy import ndimage

from neurobundle.augment.label_maps import find_label_maps, read_label_map
from neurobundle.bundle.find import structures_of
from neurobundle.cli import main, parser
from neurobundle.commands.synthesize import synthesize
from neurobundle.errors import EnvironmentFault, ExitCode, InputError, NoInputError, SettingError
from neurobundle.load.datalist import fold_items

from ..augment.test_synthesis import nested_head
from ..conftest import ROOT

SIZE = (24, 28, 24)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Two heads, one of them stored from left to right and floating point."""
    folder = tmp_path / "maps"
    folder.mkdir()
    labels = nested_head().numpy()
    nib.save(nib.Nifti1Image(labels, np.diag([4.0, 4, 4, 1])), folder / "anna.nii.gz")
    nib.save(nib.Nifti1Image(labels[::-1].astype(np.float32), np.diag([-4.0, 4, 4, 1])), folder / "bert.nii.gz")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def make(maps: Path, out: Path, n: int = 2, **settings: object):
    return synthesize(maps, out, n, **{"tumour": True, "spacing": 8.0, "shape": SIZE, **settings})


def test_cases_as_in_brats(maps: Path, tmp_path: Path) -> None:
    report = make(maps, tmp_path / "out", 3)
    assert report.exit_code == ExitCode.OK
    assert sorted(report.made) == ["anna-s0-0000", "anna-s0-0002", "bert-s0-0001"]
    for case in report.made:
        files = {
            name: nib.load(tmp_path / "out" / case / f"{case}_{name}.nii.gz")
            for name in ("t1", "t1ce", "t2", "flair", "seg")
        }
        assert {image.shape for image in files.values()} == {SIZE}
        assert all(np.array_equal(image.affine, files["seg"].affine) for image in files.values())
        assert files["seg"].header.get_zooms() == (8, 8, 8)
        assert set(np.unique(files["seg"].dataobj)) <= {0, 1, 2, 3}
        assert np.asarray(files["t1"].dataobj).std() > 0


def test_the_datalist_has_one_subject_a_label_map(maps: Path, tmp_path: Path) -> None:
    report = make(maps, tmp_path / "out", 4)
    assert report.datalist == tmp_path / "out" / "datalist.json"
    train, held_out = (fold_items(report.datalist, fold=0, part=part) for part in ("train", "validation"))
    assert {item["subject"] for item in train} == {"bert"}
    assert {item["subject"] for item in held_out} == {"anna"}
    assert len(train) == len(held_out) == 2
    assert all(len(item["image"]) == 4 for item in train)


def test_the_same_each_time_and_more_leave_the_earlier_ones(maps: Path, tmp_path: Path) -> None:
    for out, n in (("a", 2), ("b", 2), ("c", 3)):
        make(maps, tmp_path / out, n)
    a, b, c = (content(tmp_path / out) for out in "abc")
    assert a == b
    assert all(c[name] == data for name, data in a.items() if name != "datalist.json")
    assert not any(name in content_of for content_of in (a,) for name in c if "0002" in name)


def test_another_seed_gives_other_heads(maps: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        make(maps, tmp_path / "out", 1, seed=seed)
    a, b = (tmp_path / "out" / f"anna-s{seed}-0000" / f"anna-s{seed}-0000_t1.nii.gz" for seed in (0, 1))
    assert not np.array_equal(np.asarray(nib.load(a).dataobj), np.asarray(nib.load(b).dataobj))


def test_it_goes_on_where_it_stopped(maps: Path, tmp_path: Path) -> None:
    """What is whole is kept; what lacks a file, a record, or was made otherwise is made again, the same."""
    out = tmp_path / "out"
    make(maps, out, 3)
    before = content(out)
    (out / "anna-s0-0000" / "anna-s0-0000_t2.nii.gz").unlink()
    (out / "bert-s0-0001" / "bert-s0-0001.json").write_text("{")
    report = make(maps, out, 3)
    assert sorted(report.made) == ["anna-s0-0000", "bert-s0-0001"]
    assert report.kept == ["anna-s0-0002"]
    assert content(out) == before
    assert make(maps, out, 3, tumour=False).kept == []
    assert not np.asarray(nib.load(out / "anna-s0-0000" / "anna-s0-0000_seg.nii.gz").dataobj).any()


def test_a_damaged_image_is_made_again(maps: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is cut short, or has another byte, is not what the record says; one line tells."""
    out = tmp_path / "out"
    make(maps, out, 2)
    before = content(out)
    cut, flipped = out / "anna-s0-0000" / "anna-s0-0000_t1.nii.gz", out / "bert-s0-0001" / "bert-s0-0001_seg.nii.gz"
    cut.write_bytes(cut.read_bytes()[:200])
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"x")
    report = make(maps, out, 2)
    assert sorted(report.made) == ["anna-s0-0000", "bert-s0-0001"]
    assert content(out) == before
    assert "anna-s0-0000: anna-s0-0000_t1.nii.gz is missing or damaged; the case is made again" in caplog.text


def test_cases_of_an_earlier_command_are_told_of(maps: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fewer heads, or another seed: the datalist has those of the last command, and a line says which are not in it."""
    out = tmp_path / "out"
    make(maps, out, 3)
    assert "earlier command" not in caplog.text
    report = make(maps, out, 1)
    assert report.datalist is not None
    assert [item["case"] for item in json.loads(report.datalist.read_text())["training"]] == ["anna-s0-0000"]
    assert "2 cases of an earlier command are not in its datalist.json (anna-s0-0002, bert-s0-0001)" in caplog.text


def test_a_label_map_that_changed_is_noticed(maps: Path, tmp_path: Path) -> None:
    make(maps, tmp_path / "out", 1)
    labels = nested_head().numpy()
    labels[20:24, 20:24, 20:24] = 10
    nib.save(nib.Nifti1Image(labels, np.diag([4.0, 4, 4, 1])), maps / "anna.nii.gz")
    assert make(maps, tmp_path / "out", 1).made == ["anna-s0-0000"]


def test_orientation_does_not_matter(maps: Path) -> None:
    """Both files hold the same head, stored differently."""
    anna, bert = (read_label_map(maps / f"{name}.nii.gz") for name in ("anna", "bert"))
    assert np.array_equal(anna.labels, bert.labels)
    assert anna.spacing_mm == (4, 4, 4)


def test_an_unknown_label_fails_its_cases_alone(maps: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = nested_head().numpy()
    labels[24, 24, 24] = 777
    nib.save(nib.Nifti1Image(labels, np.eye(4)), maps / "bert.nii.gz")
    report = make(maps, tmp_path / "out", 2)
    assert report.exit_code == ExitCode.SOME_FAILED
    assert list(report.failed) == ["bert-s0-0001"]
    assert "777" in caplog.text
    assert "FreeSurfer" in caplog.text
    assert [item["case"] for item in json.loads((tmp_path / "out" / "datalist.json").read_text())["training"]] == [
        "anna-s0-0000"
    ]


def test_all_failed_writes_no_datalist(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((24, 24, 24), np.uint8), np.eye(4)), tmp_path / "empty.nii.gz")
    report = make(tmp_path / "empty.nii.gz", tmp_path / "out", 1)
    assert report.exit_code == ExitCode.ALL_FAILED
    assert report.datalist is None
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_an_image_is_no_label_map(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "t1.nii.gz")
    with pytest.raises(InputError, match="whole numbers") as caught:
        read_label_map(tmp_path / "t1.nii.gz")
    assert "label map" in caught.value.way_out


def test_values_beyond_all_labels(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 8), np.int32)
    values[4, 4, 4] = 70000
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "far.nii.gz")
    with pytest.raises(InputError, match="values from 0 to 70000") as caught:
        read_label_map(tmp_path / "far.nii.gz")
    assert "FreeSurfer" in caught.value.way_out


@pytest.mark.parametrize(
    "settings",
    [
        {"spacing": 0.0},
        {"spacing": -1.0},
        {"n": 0},
        {"seed": -1},
        {"sequences": ["T9"]},
        {"sequences": []},
        {"shape": (4, 4, 4)},
        {"shape": (32, 32)},
        {"device": "nonsense"},
    ],
    ids=str,
)
def test_settings_that_mean_nothing(maps: Path, tmp_path: Path, settings: dict) -> None:
    with pytest.raises(SettingError):
        make(maps, tmp_path / "out", **settings)


def test_no_input(tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "nowhere", []):
        with pytest.raises(NoInputError):
            find_label_maps(given)


def test_an_output_that_cannot_be_written(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault):
        make(maps, tmp_path / "file" / "out")


def test_two_label_maps_of_one_name(maps: Path, tmp_path: Path) -> None:
    """They are two subjects."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "anna.nii").write_bytes(b"")
    nib.save(nib.load(maps / "anna.nii.gz"), tmp_path / "more" / "anna.nii")
    report = synthesize([maps / "anna.nii.gz", tmp_path / "more"], tmp_path / "out", 2, spacing=8.0, shape=SIZE)
    assert sorted(report.made) == ["anna-m1-s0-0001", "anna-s0-0000"]
    assert len({item["subject"] for item in json.loads(report.datalist.read_text())["training"]}) == 2


def test_real_label_maps(real_data: Path, tmp_path: Path) -> None:
    """The first of the real heads: all labels known, a tumour in the brain, four sequences."""
    files = find_label_maps(real_data / "labelmaps")
    report = synthesize(files[:1], tmp_path, 1, tumour=True, spacing=3.0, skull=False)
    assert report.exit_code == ExitCode.OK
    assert nib.load(next(tmp_path.glob("*/*_seg.nii.gz"))).shape == (54, 64, 54)


# ----- anatomy as labels, in the numbers of a bundle

ANATOMY = "brain_anatomy_segmentation"


def test_anatomy_in_the_numbers_of_a_bundle(maps: Path, tmp_path: Path) -> None:
    """One image a head, and where the label map has white matter on the left, the bundle's number of it."""
    report = make(maps, tmp_path / "out", 2, labels=ANATOMY, tumour=False, sequences=["T2"])
    assert report.exit_code == ExitCode.OK
    table = yaml.safe_load((ROOT / "bundles" / ANATOMY / "configs" / "train.yaml").read_text())["anatomy"]
    for case in report.made:
        image, seg = (nib.load(tmp_path / "out" / case / f"{case}_{word}.nii.gz") for word in ("t2", "seg"))
        assert image.shape == seg.shape == SIZE
        assert np.array_equal(image.affine, seg.affine)
        labels = np.asarray(seg.dataobj)
        assert set(np.unique(labels)) == {0, *(table[number] for number in (24, 3, 42, 2, 41, 4, 43))}
        # Right is right in RAS+, also where the head was mirrored; both halves are about as large.
        places = [np.argwhere(labels == table[number])[:, 0].mean() for number in (2, 41)]
        assert places[0] < places[1]


def test_the_datalist_names_the_structures(maps: Path, tmp_path: Path) -> None:
    report = make(maps, tmp_path / "out", 2, labels=ANATOMY)
    assert report.datalist is not None
    content = json.loads(report.datalist.read_text())
    assert content["labels"] == {"0": "background"} | {
        str(value): name for value, name in structures_of(ROOT / "bundles" / ANATOMY).items()
    }
    assert all(isinstance(item["image"], str) for item in content["training"])


def test_sequences_in_turn_and_a_random_contrast_has_no_name(maps: Path, tmp_path: Path) -> None:
    """Each label map goes through all of them, and the two begin with another one."""
    make(maps, tmp_path / "out", 6, labels=ANATOMY, sequences=["T1", "T2", "FLAIR"])
    found = sorted(path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").glob("*/*.nii.gz"))
    ends = {"anna": ("0000_t1", "0002_t2", "0004_flair"), "bert": ("0001_t2", "0003_flair", "0005_t1")}
    expected = [f"{name}-s0-{end}" for name in ends for end in ends[name]]
    assert [name for name in found if not name.endswith("_seg")] == expected
    make(maps, tmp_path / "random", 1, labels=ANATOMY, contrast="random")
    assert (tmp_path / "random" / "anna-s0-0000" / "anna-s0-0000_image.nii.gz").is_file()


def test_mixed_heads(maps: Path, tmp_path: Path) -> None:
    """Four label maps' first heads, or a label map's first four, are of four kinds."""
    report = make(maps, tmp_path / "out", 8, labels=ANATOMY, mixed=True)
    records = [json.loads((tmp_path / "out" / case / f"{case}.json").read_text()) for case in report.made]
    of_anna = [record for case, record in zip(report.made, records, strict=True) if case.startswith("anna")]
    kinds = {(record["settings"]["skull"], record["settings"]["contrast"]) for record in of_anna}
    assert kinds == {(True, "priors"), (False, "priors"), (True, "random"), (False, "random")}
    # A brain alone is black around the brain, and a head is not.
    for case, record in zip(report.made, records, strict=True):
        *_, seg = sorted((tmp_path / "out" / case).glob("*.nii.gz"), key=lambda path: "seg" in path.name)
        image = next(path for path in seg.parent.glob("*.nii.gz") if path != seg)
        far = ~ndimage.binary_dilation(np.asarray(nib.load(seg).dataobj) > 0, iterations=2)
        assert (np.asarray(nib.load(image).dataobj)[far].max() > 100) == record["settings"]["skull"]


def test_labels_are_part_of_the_record(maps: Path, tmp_path: Path) -> None:
    """Other labels make the case again, and nothing of what it was stays; the same ones keep it."""
    out = tmp_path / "out"
    make(maps, out, 1)
    assert json.loads((out / "anna-s0-0000" / "anna-s0-0000.json").read_text())["labels"] == "tumour"
    assert make(maps, out, 1, labels=ANATOMY).made == ["anna-s0-0000"]
    assert sorted(content(out / "anna-s0-0000")) == [
        f"anna-s0-0000{end}" for end in (".json", "_seg.nii.gz", "_t1.nii.gz")
    ]
    before = content(out)
    assert make(maps, out, 1, labels=ANATOMY).kept == ["anna-s0-0000"]
    assert content(out) == before


def test_a_bundle_that_numbers_otherwise_makes_other_labels(maps: Path, tmp_path: Path) -> None:
    """A copy with another number for the ventricles: its heads are made again."""
    out, bundle = tmp_path / "out", tmp_path / "copy"
    make(maps, out, 1, labels=ANATOMY)
    shutil.copytree(ROOT / "bundles" / ANATOMY, bundle)
    config = bundle / "configs" / "train.yaml"
    config.write_text(config.read_text().replace("4: 3,", "4: 1,"))
    assert make(maps, out, 1, labels=str(bundle)).made == ["anna-s0-0000"]
    assert 3 not in np.asarray(nib.load(out / "anna-s0-0000" / "anna-s0-0000_seg.nii.gz").dataobj)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"labels": "tumor"}, "did you mean 'tumour'"),
        ({"labels": "brain_anatomy"}, f"did you mean '{ANATOMY}'"),
        ({"labels": "nowhere/at_all"}, "no such bundle"),
        ({"labels": "hippocampus_segmentation"}, "hippocampus_segmentation learns no anatomy"),
        ({"mixed": True, "skull": False}, "mixed"),
        ({"mixed": True, "contrast": "random"}, "mixed"),
    ],
    ids=str,
)
def test_labels_that_mean_nothing(maps: Path, tmp_path: Path, settings: dict, told: str) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        make(maps, tmp_path / "out", **settings)
    assert caught.value.way_out == (
        "Leave the others out." if "mixed" in settings else f"Give tumour, or a bundle that learns anatomy: {ANATOMY}."
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def trained(maps: Path, tmp_path: Path) -> list[str]:
    """An epoch on what the command made, by its own datalist; the words that say so."""
    words = [str(maps), "-o", str(tmp_path / "heads"), "-n", "4", "--labels", ANATOMY, "--mixed", "--spacing", "8"]
    assert main(["synthesize", *words]) == 0
    data = ["--data", str(tmp_path / "heads" / "datalist.json"), "--device", "cpu", "--set", "spacing=[8,8,8]"]
    data += ["network_size=tiny", "window=[16,16,16]", "patch_size=[16,16,16]"]
    assert main(["train", ANATOMY, "-o", str(tmp_path / "trained"), *data, "epochs=1", "val_interval=1"]) == 0
    return data


def test_the_bundle_trains_on_them(trained: list[str], tmp_path: Path) -> None:
    assert (tmp_path / "trained" / "models" / "model.pt").is_file()


@pytest.mark.slow
def test_the_bundle_is_evaluated_on_them(trained: list[str], tmp_path: Path) -> None:
    """The heads of the label map that was held back, every structure of each."""
    weights = ["--fold", "0", "--weights", str(tmp_path / "trained" / "models" / "model.pt")]
    assert main(["evaluate", ANATOMY, "-o", str(tmp_path / "scores"), *weights, *trained]) == 0
    with (tmp_path / "scores" / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"anna-s0-0000", "anna-s0-0002"}
    assert {row["subject"] for row in rows} == {"anna"}
    assert {row["structure"] for row in rows} == {"brain", *structures_of(ROOT / "bundles" / ANATOMY).values()}


def test_the_commands_of_the_pages_parse() -> None:
    for page in ("docs/training-queue.md", "docs/concepts/synthesis.md"):
        found = re.findall(r"neurobundle (synthesize [^`\n[]+)", (ROOT / page).read_text())
        assert found
        for text in found:
            options = parser().parse_args(shlex.split(text))
            assert options.labels in ("tumour", ANATOMY)
