"""Every command of README.md, of the how-to pages and of the cards is run here, or by make itself.

Those that train for hours are read by the command's own parser instead.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import parser

from .augment.test_synthesis import nested_head
from .conftest import ROOT
from .helpers import Maker, small_datalist


def blocks(page: str, language: str = "bash") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run_all(commands: list[str], folder: Path, **variables: str) -> None:
    """Run the blocks in order in one shell, with `neurobundle` and `python` as ours."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -euo pipefail\n" + "\n".join(commands)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


LONG = ["docs/training-queue.md", "bundles/hippocampus_segmentation/docs/README.md", "configs/README.md"]


@pytest.mark.parametrize("page", LONG)
def test_long_commands_parse(page: str) -> None:
    found = re.findall(r"`neurobundle ((?:crossval|split|train|run) [^`]+)`", (ROOT / page).read_text())
    assert found
    for text in found:
        words = shlex.split(text.replace("...", "--data d.json -o out") if "train NAME" in text else text)
        assert parser().parse_args(words).command == words[0]


@pytest.mark.slow
def test_a_newcomer_makes_a_bundle(tmp_path: Path, make_pair: Maker) -> None:
    for n in range(4):
        make_pair(tmp_path / "my_data", f"case_{n}", seed=n, shape=(24, 28, 24))
    run_all(blocks("docs/how-to/new-bundle.md"), tmp_path)
    assert len(list((tmp_path / "out" / "labels").glob("*_seg.nii.gz"))) == 4


@pytest.mark.slow
def test_split_page(tmp_path: Path, make_pair: Maker) -> None:
    """The commands of the page, on a folder of each kind that it names."""
    for n in range(12):
        image, label = make_pair(tmp_path / "pairs", f"patient{n // 2}_{n}", seed=n, shape=(20, 24, 20))
        for layout in ("data", "data/hippocampus"):
            for source, name in ((image, "imagesTr"), (label, "labelsTr")):
                target = tmp_path / layout / name / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
        subject = tmp_path / "bids_data" / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_T1w.nii.gz"
        mask = tmp_path / "bids_data" / "derivatives" / "manual" / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_dseg.nii.gz"
        for source, target in ((image, subject), (label, mask)):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    rows = [f"patient{n // 2}_{n},p{n // 2}" for n in range(12)]
    (tmp_path / "people.csv").write_text("\n".join(["case,person", *rows]) + "\n")
    commands = [text.replace("blocks:10", "blocks:1") for text in blocks("docs/how-to/split-your-data.md")]
    run_all(commands, tmp_path)
    written = json.loads((tmp_path / "datalist.json").read_text())
    assert {item["fold"] for item in written["training"]} == set(range(5))
    assert written["test"], "the last command of the page holds out a test set"


@pytest.mark.slow
def test_training_data_page(tmp_path: Path, make_pair: Maker) -> None:
    """Each command of the page; the training is the overlay's one epoch."""
    for n in range(10):
        image, label = make_pair(tmp_path / "made", f"case_{n:02d}", seed=n, shape=(24, 28, 24))
        for folder, source in (("imagesTr", image), ("labelsTr", label)):
            target = tmp_path / "data" / "hippocampus" / folder / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "labelmaps").mkdir()
    for name in ("anna", "bert"):
        nib.save(nib.Nifti1Image(nested_head().numpy(), np.diag([4.0, 4, 4, 1])), tmp_path / f"labelmaps/{name}.nii.gz")
    commands = blocks("docs/how-to/training-data.md")
    commands[0] = commands[0].replace("blocks:10", "blocks:1").replace("store=store", "store=store --config smoke")
    commands[1] = commands[1].replace("bias_field=n4", "bias_field=n4 --config smoke")
    run_all(commands, tmp_path)
    assert (tmp_path / "out" / "fold0" / "final.pt").is_file()
    assert len(json.loads((tmp_path / "store" / "index.json").read_text())["cases"]) == 10
    assert len(list((tmp_path / "heads").glob("*/*_seg.nii.gz"))) == 2


@pytest.mark.slow
def test_readme(tmp_path: Path, template_crop: Path) -> None:
    """All of it but `make`, which is what runs these tests; on a crop, since a head takes a registration."""
    (tmp_path / "my_crops").mkdir()
    for copy in ("my_crops/crop.nii.gz", "head.nii.gz"):
        (tmp_path / copy).write_bytes(template_crop.read_bytes())
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    commands = [block for block in blocks("README.md") if "make " not in block]
    assert len(commands) == 2
    card = blocks("bundles/hippocampus_segmentation/docs/README.md")
    commands += [text.replace("crop_or_head.nii.gz", "head.nii.gz") for text in card]
    run_all([text.replace(".venv/bin/", "") for text in commands], tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"head_seg.nii.gz", "volumes.csv", "crop_seg.nii.gz"}
    (tmp_path / "crop.nii.gz").write_bytes((tmp_path / "head.nii.gz").read_bytes())
    (script,) = blocks("README.md", "python")
    (tmp_path / "script.py").write_text(f"{script}assert logits.shape[:2] == (1, 3)\n")
    run_all(["python script.py"], tmp_path)


@pytest.mark.slow
def test_evaluate_page(tmp_path: Path, make_pair: Maker) -> None:
    """Each command of the page, on a reference that stands in for a prediction, and the same moved by a voxel."""
    for n in range(3):
        image, label = make_pair(tmp_path / "made", f"case_{n}", seed=n, shape=(24, 28, 24))
        for folder, source in (("images", image), ("references", label), ("predictions", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"case_{n}.nii.gz").write_bytes(source.read_bytes())
    small_datalist(tmp_path / "data", make_pair).rename(tmp_path / "datalist.json")
    (tmp_path / "people.csv").write_text("case,subject\ncase_0,a\ncase_1,a\ncase_2,b\n")
    rows = [("a", "x", 0.9), ("b", "y", 0.2), ("c", "y", 0.4), ("d", "x", 0.6)]
    for start in ("", "val_"):
        names = [f"{start}{case}" for case, _, _ in rows]
        truth = [f"{name},{label}" for name, (_, label, _) in zip(names, rows, strict=True)]
        answers = [f"{name},{p},{1 - p:.1f}" for name, (_, _, p) in zip(names, rows, strict=True)]
        (tmp_path / f"{start}truth.csv").write_text("\n".join(["case,truth", *truth]) + "\n")
        (tmp_path / f"{start}answers.csv").write_text("\n".join(["case,p_x,p_y", *answers]) + "\n")
    box = {"image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 10]}
    (tmp_path / "boxes.json").write_text(json.dumps([{**box, "score": 0.9}]))
    truth_boxes = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": [{"id": 1, **box}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(truth_boxes))
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=shutil.ignore_patterns("*.pt"))
    first, *rest = blocks("docs/how-to/evaluate.md")
    other = first.replace("--pred predictions", "--pred moved").replace("-o scores", "-o other_scores")
    (tmp_path / "moved").mkdir()
    for path in (tmp_path / "predictions").iterdir():
        scan = nib.load(path)
        moved = nib.Nifti1Image(np.roll(np.asarray(scan.dataobj), 1, axis=0), scan.affine)
        nib.save(moved, tmp_path / "moved" / path.name)
    run_all([first, other, *rest], tmp_path)
    for folder in ("scores", "named", "lesions", "out/eval", "classes", "tuned", "boxes"):
        assert (tmp_path / folder / "report.html").exists()
        assert json.loads((tmp_path / folder / "summary.json").read_text())["n_failed"] == 0
    assert (tmp_path / "comparison" / "comparison.csv").exists()


@pytest.mark.slow
def test_the_python_of_the_metrics_page(tmp_path: Path) -> None:
    (script,) = blocks("docs/concepts/metrics.md", "python")
    made = (
        "import numpy as np\nfrom pathlib import Path\n"
        "reference = np.zeros((9, 9, 9), int); reference[2:6, 2:6, 2:6] = 1; reference[3, 3, 3] = 3\n"
        "prediction, affine, image, output_dir = np.roll(reference, 1, 0), np.eye(4), reference * 1.5, Path('out')\n"
    )
    (tmp_path / "script.py").write_text(f"{made}{script}assert scores[0].dice == 0.75 and distances.hd_mm == 1\n")
    run_all(["python script.py"], tmp_path)
    assert (tmp_path / "out" / "report.html").exists()


def shown(text: str) -> str:
    """A pattern of an output block: its lines as they stand, and one or more lines where it says `...`."""
    return "".join(r"(?:.*\n)+?" if line.strip() == "..." else re.escape(line) + r"\n" for line in text.splitlines())


@pytest.mark.slow
def test_check_page(tmp_path: Path, real_data: Path) -> None:
    """Each command of the page is run on the real data, and says what the block under it shows, but for its cuts."""
    (tmp_path / "data").symlink_to(real_data)
    page = "docs/how-to/check-your-data.md"
    pairs = re.findall(r"```bash\n(.*?)```\n\n```text\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(pairs) == len(blocks(page)) == len(blocks(page, "text"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    environment.pop("NEUROBUNDLE_SALT", None)
    for commands, text in pairs:
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{commands}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert re.fullmatch(shown(text), done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra openvino is not installed")
def test_export_page(tmp_path: Path, template_crop: Path) -> None:
    shutil.copy(template_crop, tmp_path / "crop.nii.gz")
    run_all(blocks("docs/how-to/export.md"), tmp_path)
    assert {path.suffix for path in (tmp_path / "exported").iterdir()} >= {".xml", ".bin", ".ts"}
