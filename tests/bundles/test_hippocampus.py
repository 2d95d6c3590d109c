"""The hippocampus bundle on real data, which is not part of the repository."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import main
from neurobundle.measure import read_scores

from ..browser import browse, needs_browser
from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / "hippocampus_segmentation"


def test_the_goal_is_met_out_of_fold() -> None:
    """At least .88 and .86, read from the table of cases and not from its summary."""
    with (BUNDLE / "docs" / "results" / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 202
    for structure, least in (("anterior", 0.88), ("posterior", 0.86)):
        dice = [float(row["dice"]) for row in rows if row["structure"] == structure]
        assert np.mean(dice) >= least


@pytest.fixture(scope="module")
def labelled(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    images = sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[::50]
    out = tmp_path_factory.mktemp("hippocampus")
    words = ["run", "hippocampus_segmentation", "-i", *map(str, images), "-o", str(out), "--device", "cpu"]
    assert main([*words, "--no-pictures"]) == 0
    return out, images


def test_real_crops_lie_on_their_grid_and_overlap_their_truth(labelled: tuple[Path, list[Path]]) -> None:
    """Shipped weights have seen these cases: this proves the path, not the accuracy."""
    out, images = labelled
    for image in images:
        case = image.name.removesuffix(".nii.gz")
        found, truth = nib.load(out / f"{case}_seg.nii.gz"), nib.load(image.parents[1] / "labelsTr" / image.name)
        assert np.array_equal(found.affine, truth.affine)
        a, b = (np.asarray(item.dataobj) > 0 for item in (found, truth))
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85


def test_the_anterior_part_lies_in_front_and_below(labelled: tuple[Path, list[Path]], real_data: Path) -> None:
    """By the header: in the reference of every case, and in what we find."""
    out, _ = labelled
    truths = sorted((real_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))
    assert len(truths) == 202
    for path in [*truths, *sorted(out.glob("*_seg.nii.gz"))]:
        scan = nib.load(path)
        labels = np.asarray(scan.dataobj)
        front, back = (
            nib.affines.apply_affine(scan.affine, np.argwhere(labels == value).mean(axis=0)) for value in (1, 2)
        )
        assert front[1] > back[1], f"{path.name}: anterior is not in front"
        assert front[2] < back[2], f"{path.name}: anterior is not below"


@pytest.mark.slow
def test_real_heads_are_found_and_labelled(real_data: Path, tmp_path: Path) -> None:
    """Two stripped T1 heads in LAS: both sides, plausible volumes, left left and right right."""
    heads = sorted((real_data / "ms_lesions").glob("*/T1_N4*.nii.gz"))
    assert len(heads) == 2
    words = ["run", "hippocampus_segmentation", "-i", *map(str, heads), "-o", str(tmp_path), "--device", "cpu"]
    assert main(words) == 0
    for path in tmp_path.glob("*_seg.nii.gz"):
        scan = nib.load(path)
        labels = np.asarray(scan.dataobj)
        for values, sign in (((1, 2), -1), ((3, 4), 1)):
            mask = np.isin(labels, values)
            assert 1.0 < mask.sum() * abs(np.linalg.det(scan.affine[:3, :3])) / 1000 < 7.0
            middle = nib.affines.apply_affine(scan.affine, np.argwhere(mask).mean(axis=0))
            assert np.sign(middle[0]) == sign


@pytest.mark.slow
def test_what_cannot_be_a_hippocampus_is_refused_with_a_picture(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two FLAIR scans with skull, under names that do not say so: the registration passes, and the labels are not."""
    scans = sorted((real_data / "ms_lesions_raw").rglob("*FLAIR.nii.gz"))
    assert len(scans) == 2
    out = tmp_path / "out"
    for n, scan in enumerate(scans):
        (tmp_path / f"visit{n}.nii.gz").symlink_to(scan)
    words = ["run", "hippocampus_segmentation", "-i", str(tmp_path), "-o", str(out), "--device", "cpu"]
    assert main(words) == 4
    assert not list(out.glob("*_seg.nii.gz"))
    assert len(list(out.glob("*_refused.png"))) == 2
    assert "hippocamp" in caplog.text


def run(tmp_path: Path, image: Path, *options: str) -> int:
    return main(
        ["run", "hippocampus_segmentation", "-i", str(image), "-o", str(tmp_path / "out"), "--device", "cpu", *options]
    )


def test_a_crop_of_a_right_one_is_mirrored_in_and_back(template_crop: Path, tmp_path: Path) -> None:
    """The mirror image of a left crop, said to be a right one, gives the mirror image of the left one's labels."""
    crop = nib.load(template_crop)
    mirrored = tmp_path / "mirrored.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(crop.dataobj)[::-1], crop.affine), mirrored)
    assert run(tmp_path, template_crop) == 0
    assert run(tmp_path, mirrored, "--side", "right") == 0
    left, right = (
        np.asarray(nib.load(tmp_path / "out" / f"{case}_seg.nii.gz").dataobj) for case in ("template_crop", "mirrored")
    )
    assert np.array_equal(right, left[::-1])


def test_a_crop_of_something_else_is_refused_with_a_picture(
    template_crop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crop = nib.load(template_crop)
    noise = np.random.default_rng(0).uniform(1, 2, crop.shape).astype(np.float32)
    for name, array in (("noise", noise), ("reversed", np.asarray(crop.dataobj)[:, ::-1])):
        nib.save(nib.Nifti1Image(array, crop.affine), tmp_path / f"{name}.nii.gz")
        assert run(tmp_path, tmp_path / f"{name}.nii.gz") == 4
        assert (tmp_path / "out" / f"{name}_refused.png").exists()
        assert not (tmp_path / "out" / f"{name}_seg.nii.gz").exists()
    assert "is no hippocampus" in caplog.text


def test_the_template_head(tmp_path: Path) -> None:
    """The demo's own numbers: both sides, where an atlas has them."""
    pytest.importorskip("nilearn")
    assert main(["demo", "-o", str(tmp_path)]) == 0
    label_map = nib.load(next(tmp_path.glob("*_seg.nii.gz")))
    labels = np.asarray(label_map.dataobj)
    for values, x in (((1, 2), -27), ((3, 4), 27)):
        mask = np.isin(labels, values)
        middle = nib.affines.apply_affine(label_map.affine, np.argwhere(mask).mean(axis=0))
        assert np.allclose(middle, (x, -23, -14), atol=5)
        assert 3.5 < mask.sum() / 1000 < 6.5
    page = (tmp_path / "report.html").read_text()
    assert "Louis Collins" in page, "the template's notice"
    assert "nobody" in page
    assert page.count("<img ") == 4
    assert page.index("Painted tumour: not a patient.") < page.index("<img "), "the tumour is first, and marked"


@pytest.mark.slow
@needs_browser
def test_the_report_of_real_cases_in_a_browser(real_data: Path, tmp_path: Path) -> None:
    """Out of fold: the scores that the card's table has for these cases, and a page without an error."""
    words = ["evaluate", "hippocampus_segmentation", "--data", str(BUNDLE / "configs" / "datalist.json")]
    words += ["--dataset-dir", str(real_data / "hippocampus"), "-o", str(tmp_path / "out"), "--fold", "0"]
    assert main([*words, "--device", "cpu", "--set", "max_cases=8"]) == 0
    published, _ = read_scores(BUNDLE / "docs" / "results" / "per_case.csv")
    expected = {(score.case, score.structure): score.dice for score in published}
    scores, _ = read_scores(tmp_path / "out" / "per_case.csv")
    assert len(scores) == 16
    for score in scores:
        assert score.dice == pytest.approx(expected[score.case, score.structure], abs=0.01)
    dom, console = browse(tmp_path, tmp_path / "out" / "report.html")
    assert not console
    for heading in ("Scores", "Worst", "Best", "Confusion", "Calibration and uncertainty", "All cases"):
        assert heading in dom
    assert dom.count('<img src="data:image/webp;base64,') >= 4
    assert dom.count("<table") >= 4
    assert dom.count("<svg") >= 5
