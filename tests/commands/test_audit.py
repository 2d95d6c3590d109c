"""``neurobundle audit`` on splits that leak, on clean ones, on confounded classes and on bad files."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobundle.cli import main, parser
from neurobundle.commands.audit import CONFOUND, GAP, SOURCE_KEYS, audit, write_audit
from neurobundle.train.leaks import LEAKS as KINDS

from ..conftest import ROOT
from ..load.made_slices import made_slice
from ..test_how_to import blocks, shown

Item = dict[str, Any]

CLASSES = {"0": "glioma", "1": "meningioma"}


def write(folder: Path, training: list[Item], test: list[Item] | None = None, **more: Any) -> Path:
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": training, **({"test": test} if test is not None else {}), **more}))
    return path


def picture(folder: Path, name: str, pixels: np.ndarray) -> str:
    """A picture below ``images/``; its path in the datalist."""
    path = folder / "images" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return f"images/{name}"


def clean(folder: Path, persons: int = 24) -> list[Item]:
    """Two slices of each person, classes and folds by turns, persons whole."""
    return [
        {
            "case": f"c{2 * n + k:02d}",
            "subject": f"person-{n:02d}",
            "fold": n // 2 % 2,
            "label": n % 2,
            "image": picture(folder, f"c{2 * n + k:02d}.png", made_slice(2 * n + k, 96)),
        }
        for n in range(persons)
        for k in range(2)
    ]


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    code = main(["audit", *map(str, words)])
    return code, capsys.readouterr().out.splitlines()


def found(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("FOUND")]


def test_a_clean_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing found, not even with --strict, and the traits were asked."""
    path = write(tmp_path, clean(tmp_path), labels=CLASSES)
    code, lines = said(capsys, path, "--strict")
    assert code == 0
    assert lines == ["48 cases on 2 sides: nothing found."]
    report = audit(path)
    assert {row.trait for row in report.confounds} >= {"highest value", "JPEG blocks", "dark share"}


Altered = Callable[[np.ndarray], np.ndarray]

LEAKS: dict[str, tuple[str, Altered]] = {
    "copy.png": ("copy", lambda p: p),
    "colour.png": ("copy", lambda p: np.stack([p] * 3, axis=2)),
    "encoded.jpg": ("near-duplicate", lambda p: p),
    "shifted.png": ("near-duplicate", lambda p: np.roll(p, 3, 1)),
    "bright.png": ("near-duplicate", lambda p: np.clip(p * 1.2 + 8, 0, 255).astype(np.uint8)),
    "mirrored.png": ("near-duplicate", lambda p: p[:, ::-1]),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_copy_in_another_fold(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its name, form and brightness; both cases are named, and the exit code is 6."""
    kind, alter = LEAKS[name]
    items = clean(tmp_path, 4)
    image = picture(tmp_path, name, alter(made_slice(0, 96)))
    items.append({"case": "other", "subject": "somebody", "fold": 1, "image": image, "label": 0})
    code, lines = said(capsys, write(tmp_path, items))
    assert code == 6
    (line,) = found(lines)
    assert line.startswith(f"FOUND {kind} ")
    assert "c00 (fold 0)" in line
    assert "other (fold 1)" in line
    assert lines[-1] == f"9 cases on 2 sides: 1 {kind}."


def test_a_copy_on_the_same_side_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = clean(tmp_path, 4)
    items.append({**items[0], "case": "again", "image": picture(tmp_path, "again.png", made_slice(0, 96))})
    code, lines = said(capsys, write(tmp_path, items))
    assert code == 0
    assert lines[0] == "note: 1 images are copies of another one on their own side; that is no leak."


def test_persons_over_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One in two folds, and one whose ids differ by a suffix; either may be allowed."""
    items = clean(tmp_path, 8)
    items[0]["fold"] = 1
    for item in items[8:12]:
        item["subject"] = item["subject"].replace("person-04", "MR7").replace("person-05", "MR7B")
    items[8]["fold"] = items[9]["fold"] = 0
    items[10]["fold"] = items[11]["fold"] = 1
    path = write(tmp_path, items)
    code, lines = said(capsys, path)
    assert code == 6
    assert found(lines)[0] == "FOUND person person-00 stands in fold 0 (c01) and fold 1 (c00)."
    assert found(lines)[1].startswith("FOUND person-suffix MR7 (fold 0) and MR7B (fold 1) differ by a suffix alone")
    assert len(found(lines)) == 2
    assert said(capsys, path, "--allow", "person")[0] == 6
    assert said(capsys, path, "--allow", "person", "person-suffix")[0] == 0


def test_many_of_a_kind_are_cut_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{**item, "fold": n % 2} for n, item in enumerate(clean(tmp_path, 24))]
    code, lines = said(capsys, write(tmp_path, items), "-o", tmp_path / "out")
    assert code == 6
    assert len(found(lines)) == 21
    assert found(lines)[-1] == "FOUND person 4 more; -o DIR writes them all."
    assert len(json.loads((tmp_path / "out" / "audit.json").read_text())["leaks"]) == 24


def test_a_test_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a side of its own, whether training has folds or not; a case that stands in both is named as such."""
    items = [{key: value for key, value in item.items() if key != "label"} for item in clean(tmp_path, 4)]
    alone = [{key: value for key, value in item.items() if key != "fold"} for item in items]
    assert said(capsys, write(tmp_path, alone[:6], alone[6:])) == (0, ["8 cases on 2 sides: nothing found."])
    assert said(capsys, write(tmp_path, items[:6], alone[6:])) == (0, ["8 cases on 3 sides: nothing found."])
    code, lines = said(capsys, write(tmp_path, items[:6], alone[5:]))
    assert code == 6
    assert found(lines)[0] == "FOUND case c05 stands in fold 1 and test."
    assert any(line.startswith("FOUND copy the same content: c05 (fold 1) and c05 (test)") for line in lines)


def test_a_confounded_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One class in other files, of another size: said, and counted with --strict alone."""
    items = clean(tmp_path)
    for item in items:
        if item["label"]:
            pixels = made_slice(int(item["case"][1:]), 80)
            item["image"] = picture(tmp_path, f"{item['case']}.jpg", pixels)
    path = write(tmp_path, items, labels=CLASSES)
    code, lines = said(capsys, path)
    assert code == 0
    words = " ".join(found(lines))
    assert "FOUND confound class 'glioma' can be told from the file type alone: balanced accuracy 1.000" in words
    assert "from the size in the plane alone" in words
    assert "9216 in the class, 6400 in the others" in words
    assert said(capsys, path, "--strict")[0] == 6


def test_a_source_and_a_folder(tmp_path: Path) -> None:
    """A key ``site`` is a trait; folders are one, unless each is a class and nothing else."""
    items = clean(tmp_path)
    for item in items:
        item["site"] = "A" if item["label"] else "B"
        folder = tmp_path / ("men" if item["label"] else "gli")
        folder.mkdir(exist_ok=True)
        (tmp_path / item["image"]).rename(folder / Path(item["image"]).name)
        item["image"] = f"{folder.name}/{Path(item['image']).name}"
    assert {row.trait for row in audit(write(tmp_path, items)).confounds if row.found} == {"site"}
    (tmp_path / items[0]["image"]).rename(tmp_path / "men" / "moved.png")
    items[0]["image"] = "men/moved.png"
    assert {row.trait for row in audit(write(tmp_path, items)).confounds if row.found} == {"site", "folder"}


def test_a_missing_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that no case has, and one that a fold lacks."""
    items = [item for item in clean(tmp_path, 8) if item["fold"] == 0 or item["label"] == 0]
    path = write(tmp_path, items, labels={**CLASSES, "2": "pituitary tumour"})
    code, lines = said(capsys, path)
    assert code == 0
    assert found(lines) == [
        "FOUND class-missing no case is of class 'pituitary tumour'.",
        "FOUND class-missing fold 1 has no case of class 'meningioma'.",
    ]
    assert any("fewer than 10 persons" in line and "'glioma', 'meningioma'" in line for line in lines)
    assert said(capsys, path, "--strict")[0] == 6


def test_bad_files_are_named_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged PNG, a missing file, a colour photograph: exit code 3; 6 if the others leak."""
    items = clean(tmp_path, 8)
    (tmp_path / items[0]["image"]).write_bytes((tmp_path / items[0]["image"]).read_bytes()[:200])
    (tmp_path / items[1]["image"]).unlink()
    photograph = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    picture(tmp_path, "c02.png", photograph)
    code, lines = said(capsys, write(tmp_path, items))
    assert code == 3
    errors = [record.getMessage() for record in caplog.records]
    for case, cause in (("c00", "cannot be read"), ("c01", "no such file"), ("c02", "it is in colour")):
        assert any(text.startswith(f"ERROR {case} ") and cause in text for text in errors), (case, errors)
    assert lines[-1] == "16 cases on 2 sides: nothing found, 3 failed."
    items[-1]["fold"] = 0
    assert said(capsys, write(tmp_path, items))[0] == 6


def test_labels_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    items = clean(tmp_path, 8)
    items[0]["label"], items[1]["label"] = 7, -1
    del items[2]["label"]
    assert said(capsys, write(tmp_path, items, labels=CLASSES))[0] == 3
    errors = " ".join(record.getMessage() for record in caplog.records)
    assert f"ERROR c00 {tmp_path / items[0]['image']}: its label 7 is no class's number." in errors
    assert "Give one of 0 glioma, 1 meningioma." in errors
    assert "its label -1 is no class's number" in errors
    assert "c02" in errors
    assert "it has no class" in errors


def test_nobody_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without subjects persons cannot be compared, and the command says so."""
    items = [{key: value for key, value in item.items() if key != "subject"} for item in clean(tmp_path, 4)]
    code, lines = said(capsys, write(tmp_path, items))
    assert code == 0
    assert lines[0] == "note: 8 of 8 cases name no subject; each counts as a person of its own."


def test_a_datalist_that_leaks_on_purpose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its reason is repeated, and it leaks all the same."""
    items = clean(tmp_path, 4)
    items[0]["fold"] = 1
    code, lines = said(capsys, write(tmp_path, items, split={"leaks": "as papers do"}))
    assert code == 6
    assert "note: the datalist says that it leaks on purpose: as papers do." in lines


def test_exit_codes_of_what_cannot_be_audited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    items = clean(tmp_path, 4)
    assert said(capsys, tmp_path / "nowhere.json")[0] == 1
    assert said(capsys, write(tmp_path, []))[0] == 2
    assert said(capsys, write(tmp_path, [{**item, "fold": 0} for item in items]))[0] == 1
    assert "all 8 cases are on one side, fold 0: there is nothing to compare" in caplog.text
    assert said(capsys, write(tmp_path, [*items, {"image": "x.png"}]))[0] == 1
    assert "has no fold" in caplog.text
    path = write(tmp_path, items)
    assert said(capsys, path, "--allow", "nearduplicate")[0] == 1
    assert "did you mean 'near-duplicate'" in caplog.text
    assert said(capsys, path, "--dataset-dir", tmp_path / "nowhere")[0] == 4
    (tmp_path / "file").write_text("")
    assert said(capsys, path, "-o", tmp_path / "file")[0] == 5


def test_volumes_with_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No class is asked after; a copy in another type and axis order of the file, and a moved one, are found."""
    items = []
    for n in range(4):
        data = np.stack([made_slice(100 * n + k, 40) for k in range(12)], axis=2)
        nib.save(nib.Nifti1Image(data, np.diag([-1.0, -1, 2, 1])), tmp_path / f"v{n}.nii.gz")
        items.append({"image": f"v{n}.nii.gz", "label": f"v{n}_seg.nii.gz", "fold": n % 2, "subject": f"p{n}"})
    code, lines = said(capsys, write(tmp_path, items))
    assert (code, lines) == (0, ["4 cases on 2 sides: nothing found."])
    image = nib.load(tmp_path / "v0.nii.gz")
    data = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(data.astype(np.float32), image.affine), tmp_path / "copy.nii")
    turned = nib.Nifti1Image(np.roll(data, 2, 0) * 2.0, image.affine).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nib.save(turned, tmp_path / "moved.nii.gz")
    items += [{"image": name, "label": "x.nii", "fold": 1} for name in ("copy.nii", "moved.nii.gz")]
    code, lines = said(capsys, write(tmp_path, items))
    assert code == 6
    assert found(lines)[0] == "FOUND copy the same content: v0 (fold 0) and copy (fold 1)."
    assert found(lines)[1].startswith("FOUND near-duplicate v0 (fold 0) and moved (fold 1): correlation ")
    assert len(found(lines)) == 2


def test_a_channel_that_a_study_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Files of zeros are no copies of each other; a case of nothing else is refused."""
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)), tmp_path / "nothing.nii")
    items = []
    for n in range(4):
        data = np.stack([made_slice(100 * n + k, 40) for k in range(12)], axis=2)
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"v{n}.nii.gz")
        items.append({"image": ["nothing.nii", f"v{n}.nii.gz"], "case": f"c{n}", "fold": n % 2, "subject": f"p{n}"})
    assert said(capsys, write(tmp_path, items)) == (0, ["4 cases on 2 sides: nothing found."])
    items[0]["image"] = ["nothing.nii", "nothing.nii"]
    items[1]["image"] = "nothing.nii"
    code, lines = said(capsys, write(tmp_path, items))
    assert (code, lines[-1]) == (3, "4 cases on 2 sides: nothing found, 2 failed.")
    assert f"ERROR c0 {tmp_path / 'nothing.nii'}: there is no signal in any channel." in caplog.text


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file for programs, and a page with two pictures a pair, which the same input writes again to the byte."""
    items = clean(tmp_path, 8)
    items[0]["fold"] = 1
    bright = np.clip(made_slice(2, 96) * 1.1, 0, 255).astype(np.uint8)
    items.append({**items[-1], "case": "near<b>", "image": picture(tmp_path, "near.png", bright), "fold": 1})
    (tmp_path / items[-2]["image"]).unlink()
    path = write(tmp_path, items, labels=CLASSES)
    for name in ("one", "two"):
        assert said(capsys, path, "-o", tmp_path / name)[0] == 6
    report = json.loads((tmp_path / "one" / "audit.json").read_text())
    assert report["exit_code"] == 6
    assert report["n_cases"] == 17
    assert [leak["kind"] for leak in report["leaks"]] == ["near-duplicate", "person"]
    assert report["leaks"][0]["cases"] == ["c02", "near<b>"]
    assert report["leaks"][0]["correlation"] > 0.95
    assert report["thresholds"] == {"near_duplicate": 0.95, "confound": 0.75, "least_persons": 10}
    page = (tmp_path / "one" / "audit.html").read_text()
    assert page.count("<img") == 2
    assert "near&lt;b&gt;" in page
    assert "near<b>" not in page
    assert "2 leaks found" in page
    for name in ("audit.json", "audit.html"):
        written = (tmp_path / "one" / name).read_bytes()
        assert written == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path).encode() not in written, "a report that is passed on names no folder"


def test_a_page_of_volumes_and_of_files_that_went(tmp_path: Path) -> None:
    """Volumes are shown in three planes; a file that is gone by then leaves a grey picture."""
    data = np.stack([made_slice(k, 40) for k in range(12)], axis=2)
    for name, factor in (("a", 1), ("b", 2)):
        nib.save(nib.Nifti1Image(data.astype(np.float32) * factor, np.eye(4)), tmp_path / f"{name}.nii.gz")
    path = write(tmp_path, [{"image": "a.nii.gz", "fold": 0}, {"image": "b.nii.gz", "fold": 1}])
    report = audit(path)
    (tmp_path / "b.nii.gz").unlink()
    write_audit(report, tmp_path / "out")
    assert (tmp_path / "out" / "audit.html").read_text().count("<img") == 2


def test_the_help_s_example_parses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    example = capsys.readouterr().out.split("example: neurobundle ")[1]
    assert parser().parse_args(example.split()).command == "audit"


def test_it_needs_no_torch() -> None:
    script = "import sys; from neurobundle.cli import main; main(['audit', 'x']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def ce_mri(folder: Path, read_alone: bool, subject: str, step: int = 1) -> tuple[list[Item], dict[str, list[str]]]:
    """The authors' own folds of CE-MRI, and the ids of each base that stand in several folds."""
    with (folder / "ce_mri" / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["pid_source"] == "read" or not read_alone]
    items = [
        {
            "case": f"{int(row['id']):04d}",
            "subject": row[subject],
            "fold": int(row["fold"]),
            "image": f"ce_mri/images/{int(row['id']):04d}.png",
            "label": int(row["label"]) - 1,
        }
        for row in rows
    ]
    folds: dict[str, set[str]] = {}
    ids: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(row["person"], set()).add(row["fold"])
        ids.setdefault(row["person"], set()).add(row["pid"])
    split = {base: sorted(ids[base]) for base in ids if len(folds[base]) > 1}
    return items[::step], split


@pytest.mark.slow
def test_the_suffixed_ids_of_ce_mri_are_found(real_data: Path, tmp_path: Path) -> None:
    """On the ids that were published with the slice alone: all bases whose ids stand in several folds, no others."""
    items, split = ce_mri(real_data, read_alone=True, subject="pid")
    report = audit(write(tmp_path, items), real_data)
    kin = {leak.facts["base"]: sorted(leak.facts["subjects"]) for leak in report.leaks if leak.kind == "person-suffix"}
    assert kin == split
    assert len(kin) == 8
    near = [leak for leak in report.leaks if leak.kind == "near-duplicate"]
    assert {tuple(sorted({item["subject"] for item in items if item["case"] in leak.cases})) for leak in near} == {
        ("MR029209E", "MR029209G")
    }
    assert not [leak for leak in report.leaks if leak.kind in ("person", "copy", "case")]
    assert report.exit_code == 6


@pytest.mark.slow
def test_slices_without_tumour_differ_by_their_source(real_data: Path, tmp_path: Path) -> None:
    """A fifth of both: told by the file type, and by what is left once all are grey PNG of one size."""
    items, _ = ce_mri(real_data, read_alone=False, subject="person", step=5)
    without = [
        {"case": path.stem, "image": f"no_tumour_2d/{path.name}", "label": 3, "fold": n % 5}
        for n, path in enumerate(sorted((real_data / "no_tumour_2d").iterdir())[::5])
    ]
    names = {"0": "meningioma", "1": "glioma", "2": "pituitary tumour", "3": "no tumour"}
    report = audit(write(tmp_path, items + without, labels=names), real_data)
    told = {row.trait for row in report.confounds if row.found and row.label == 3}
    assert told >= {"file type", "pixel type", "size in the plane", "JPEG blocks", "highest value"}
    same = []
    for item in items + without:
        grey = Image.open(real_data / item["image"]).convert("L").resize((200, 200))
        same.append({**item, "image": picture(tmp_path, f"{item['case']}.png", np.asarray(grey))})
    report = audit(write(tmp_path, same, labels=names))
    told = {row.trait for row in report.confounds if row.found and row.label == 3}
    assert "highest value" in told
    assert not told & {"file type", "pixel type", "size in the plane", "aspect ratio", "folder"}


@pytest.mark.slow
def test_the_how_to_page(real_data: Path, tmp_path: Path) -> None:
    """Each command of the page is run on the real data, and says what the block under it shows, but for its cuts."""
    (tmp_path / "data").symlink_to(real_data)
    page = "docs/how-to/audit.md"
    pairs = re.findall(r"```bash\n(.*?)```\n\n```text\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(pairs) == len(blocks(page)) == len(blocks(page, "text")) == 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for commands, text in pairs:
        words = ["bash", "-c", f"set -euo pipefail\n{commands}"]
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert re.fullmatch(shown(text), done.stdout), done.stdout
    (script,) = blocks(page, "python")
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0 []", done.stderr


def test_the_pages_name_every_kind() -> None:
    text = (ROOT / "docs/how-to/audit.md").read_text()
    for kind in (*KINDS, CONFOUND, GAP):
        assert f"| `{kind}` |" in text
    for key in SOURCE_KEYS:
        assert f"`{key}`" in text
