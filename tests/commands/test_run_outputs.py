"""``neurobundle run --output``: NIfTI, DICOM SEG and DICOM SR of a study that came from DICOM."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.journal import Journal
from neurobundle.cli import main
from neurobundle.cli.scans import _where_and_what
from neurobundle.commands.inputs import find_sources
from neurobundle.commands.run_outputs import CaseWriter, Outputs
from neurobundle.commands.sources import Wanted
from neurobundle.errors import SettingError
from neurobundle.export.nifti import save_probabilities
from neurobundle.load.scan import Scan

from ..conftest import ROOT
from ..export.dicom_results import NAME, NUMBER, one_volume, read_back, result_on
from ..load.dicom import make
from ..test_how_to import blocks, run_all

pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")

Runner = Callable[..., int]
TUMOUR = ROOT / "bundles" / "brain_tumor_segmentation"
CHANNELS = ("T1", "T1c", "T2", "FLAIR")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crop-sized MP-RAGE, oblique, with a patient's name in its headers."""
    folder = tmp_path_factory.mktemp("study")
    make.series(folder, slices=26, rows=30, columns=24, step=1.5)
    return folder


def run(bundle: Path, out: Path, *inputs: Path, options: tuple[str, ...] = ()) -> int:
    words = ["run", str(bundle), "-i", *map(str, inputs), "-o", str(out), *options]
    return main([*words, "--device", "cpu", "--no-pictures", "--input", "crop"])


def cases(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "report.json").read_text())["cases"]


@pytest.fixture(scope="module")
def everything(tiny_bundle: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("everything")
    assert run(tiny_bundle, out, study, options=("--output", "nifti,dicom-seg,dicom-sr")) == 0
    return out


def test_all_three(everything: Path, study: Path) -> None:
    """Three files of one case, listed with their hashes; the mask is the label map in voxels and mm."""
    (case,) = cases(everything)
    name = case["case"]
    assert set(case["outputs"]) == {f"{name}_seg.nii.gz", f"{name}_seg.dcm", f"{name}_sr.dcm"}
    assert set(case["outputs"]) <= {path.name for path in everything.iterdir()}
    written = nib.load(everything / f"{name}_seg.nii.gz")
    labels = np.asarray(written.dataobj)
    assert labels.any(), "the network found something"
    assert np.array_equal(read_back(everything / f"{name}_seg.dcm", written.affine, labels.shape), labels)
    volume = one_volume(study)
    assert np.array_equal(read_back(everything / f"{name}_seg.dcm", volume.affine, volume.shape), labels)
    assert case["study"]["dicom"] == {"empty": False, "deidentified": False, "seg_type": "binary"}


def test_the_report_says_what_the_table_says(everything: Path) -> None:
    from neurobundle.export.dicom_sr import numbers_in

    (case,) = cases(everything)
    rows = list(csv.DictReader((everything / "volumes.csv").read_text().splitlines()))
    sr = pydicom.dcmread(everything / f"{case['case']}_sr.dcm")
    assert {(name, ml) for name, _, ml in numbers_in(sr)} == {(row["structure"], float(row["ml"])) for row in rows}
    seg = pydicom.dcmread(everything / f"{case['case']}_seg.dcm")
    modifiers = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert [item.CodeMeaning for item in modifiers] == ["Left", "Anterior"], "of a crop, as --side says"
    (made_by,) = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert case["key"]["weights"] in made_by.AlgorithmParameters


def test_81_a_patients_name_is_in_the_objects_alone(everything: Path) -> None:
    """Copied for a PACS; in no report, table or file name."""
    for path in everything.iterdir():
        assert "JANE" not in path.name
        assert (path.suffix == ".dcm") == (b"JANE" in path.read_bytes()), path.name


def test_finished_is_finished(everything: Path, tiny_bundle: Path, study: Path, caplog: Any) -> None:
    """The same command does nothing, and done again it writes the same bytes; no line of the log names the patient."""
    caplog.set_level("DEBUG")
    before = {path.name: path.read_bytes() for path in everything.iterdir() if path.suffix in (".dcm", ".gz")}
    times = {name: (everything / name).stat().st_mtime_ns for name in before}
    options = ("--output", "dicom-sr,nifti,dicom-seg")
    assert run(tiny_bundle, everything, study, options=options) == 0
    assert times == {name: (everything / name).stat().st_mtime_ns for name in before}
    assert run(tiny_bundle, everything, study, options=(*options, "--redo")) == 0
    assert before == {name: (everything / name).read_bytes() for name in before}
    assert NAME not in caplog.text
    assert NUMBER not in caplog.text


def test_82_without_nifti_and_without_the_patient(tiny_bundle: Path, study: Path, tmp_path: Path) -> None:
    """The table and the report stay, no NIfTI does, and nothing anywhere names the patient."""
    options = ("--output", "dicom-seg,dicom-sr", "--deidentify", "--seg-type", "labelmap")
    assert run(tiny_bundle, tmp_path / "out", study, options=options) == 0
    (case,) = cases(tmp_path / "out")
    name = case["case"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{name}_seg.dcm", f"{name}_sr.dcm", "report.json", "volumes.csv"),
    }
    assert case["output"] == f"{name}_seg.dcm"
    assert case["volumes_ml"]
    assert case["study"]["dicom"]["deidentified"]
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert not [word for word in (b"JANE", b"MRN-1", b"19700131", make.STUDY.encode()) if word in content]
    seg = pydicom.dcmread(tmp_path / "out" / f"{name}_seg.dcm")
    assert (seg.PatientIdentityRemoved, seg.SegmentationType) == ("YES", "LABELMAP")


def test_what_is_no_dicom_is_refused_alone(
    tiny_bundle: Path, study: Path, tmp_path: Path, make_pair: Callable[..., tuple[Path, Path]]
) -> None:
    image = make_pair(tmp_path / "made", "anna", shape=(24, 30, 24))[0]
    assert run(tiny_bundle, tmp_path / "out", image, study, options=("--output", "dicom-seg")) == 3
    entries = {case["case"]: case for case in cases(tmp_path / "out")}
    assert "it is no DICOM series" in entries.pop("anna")["error"]
    (other,) = entries.values()
    assert other["status"] == "ok"
    assert not list((tmp_path / "out").glob("anna*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "dicom-sge"), "did you mean 'dicom-seg'?"),
        (("--output", "nifti", "--seg-type", "labelmap"), "--seg-type means nothing"),
        (("--output", "dicom-seg", "--seg-type", "bits"), "must be one of binary, labelmap, fractional"),
        (("--deidentify",), "--deidentify is of DICOM results"),
        (("--output", "dicom-seg", "--seg-type", "fractional"), "writes no probabilities"),
    ],
)
def test_words_that_cannot_be(
    tiny_bundle: Path, study: Path, tmp_path: Path, capsys: Any, options: tuple[str, ...], message: str
) -> None:
    assert run(tiny_bundle, tmp_path / "out", study, options=options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_where_and_what() -> None:
    """``-o`` is the folder; ``--output`` alone may still be, unless it names what to write."""
    assert _where_and_what(Path("out"), "") == (Path("out"), ("nifti",))
    assert _where_and_what(Path("nifti"), "dicom-seg, nifti") == (Path("nifti"), ("dicom-seg", "nifti"))
    assert _where_and_what(None, "out") == (Path("out"), ("nifti",))
    for output in ("", "dicom-seg", "nifti,dicom-sr"):
        with pytest.raises(SettingError, match="no folder to write to"):
            _where_and_what(None, output)


def test_a_bundle_that_cannot(tiny_bundle: Path, tmp_path: Path) -> None:
    """One of classes, and one whose metadata name no codes."""
    with pytest.raises(SettingError, match="answers a class"):
        CaseWriter(Outputs(("dicom-sr",)), ROOT / "bundles" / "tumor_type_classification", tmp_path)
    bare = tmp_path / "bare_segmentation"
    shutil.copytree(tiny_bundle / "configs", bare / "configs")
    metadata = json.loads((bare / "configs" / "metadata.json").read_text())
    del metadata["neurobundle_dicom"]
    (bare / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(SettingError, match="neurobundle_dicom"):
        CaseWriter(Outputs(("dicom-seg",)), bare, tmp_path)
    assert CaseWriter(Outputs(), bare, tmp_path).key() == {}


def tumour_case(folder: Path) -> tuple[Any, Scan]:
    """A study of T1 and FLAIR as the tumour bundle's source; the other channels are filled."""

    def flair(ds: Any, _: int) -> None:
        ds.ScanningSequence, ds.SequenceVariant, ds.EchoTime = ["SE", "IR"], "SK", "120"
        ds.RepetitionTime, ds.InversionTime, ds.SeriesNumber = "9000", "2500", 9

    make.series(folder / "study" / "a")
    make.series(folder / "study" / "b", uid=make.SERIES + ".9", edit=flair)
    wanted = Wanted(CHANNELS, None, missing="fill")
    (source,) = find_sources([folder / "study"], work=folder / "work", wanted=wanted)
    return source, source.read()


@pytest.mark.parametrize("seg_type", ["binary", "labelmap", "fractional"])
def test_tumours(tmp_path: Path, seg_type: str) -> None:
    """Masks and probabilities are of WT, TC and ET, which overlap; a label map of the parts. Both series are named."""
    source, scan = tumour_case(tmp_path)
    labels = result_on(scan.data.shape, values=3)
    shares = np.stack([np.isin(labels, values) for values in ((1, 2, 3), (1, 3), (3,))]).astype(np.float32)
    prob = save_probabilities(tmp_path / "case_prob.nii.gz", shares * 0.8, scan.affine)
    writer = CaseWriter(Outputs(("dicom-seg", "dicom-sr"), seg_type), TUMOUR, tmp_path / "out")
    result = CaseResult("case", "study")
    structures = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}
    writer.require(source, scan)
    writer.dicom(Journal(tmp_path / "out").open(), source, scan, labels, structures, prob, result)
    assert set(result.outputs) == {"case_seg.dcm", "case_sr.dcm"}
    seg = pydicom.dcmread(tmp_path / "out" / "case_seg.dcm")
    named = [str(item.SegmentLabel) for item in seg.SegmentSequence if item.SegmentNumber > 0]
    assert named == (list(structures.values()) if seg_type == "labelmap" else ["WT", "TC", "ET"])
    assert [item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence] == [make.SERIES, make.SERIES + ".9"]
    if seg_type == "fractional":
        assert sorted({*np.unique(seg.pixel_array)}) == [0, 204]
    else:
        first = read_back(tmp_path / "out" / "case_seg.dcm", scan.affine, labels.shape, 1)
        assert np.array_equal(first > 0, labels == 1 if seg_type == "labelmap" else labels > 0)


def test_nothing_was_found(tmp_path: Path) -> None:
    """An empty result is a flag and a warning in the report, and objects all the same."""
    source, scan = tumour_case(tmp_path)
    writer = CaseWriter(Outputs(("dicom-seg", "dicom-sr")), TUMOUR, tmp_path / "out")
    result = CaseResult("case", "study")
    labels = np.zeros(scan.data.shape, np.uint8)
    writer.dicom(Journal(tmp_path / "out").open(), source, scan, labels, {1: "oedema"}, None, result)
    assert result.study["dicom"]["empty"] is True
    assert result.warnings == ["nothing was found: its DICOM results are empty"]
    assert not pydicom.dcmread(tmp_path / "out" / "case_seg.dcm").pixel_array.any()


@pytest.mark.slow
def test_the_how_to_page(tmp_path: Path, tiny_bundle: Path, study: Path) -> None:
    """The commands of docs/how-to/dicom-seg.md, with a network that knows nothing and finds whatever it finds."""
    shutil.copytree(study, tmp_path / "my_study")
    commands = [text for text in blocks("docs/how-to/dicom-seg.md") if "pip install" not in text]
    assert len(commands) == 4
    named = [text.replace("hippocampus_segmentation", f"{tiny_bundle} --input crop") for text in commands]
    run_all(named, tmp_path)
    found = {path.parent.name: len(list(path.parent.glob("*.dcm"))) for path in tmp_path.glob("*/report.json")}
    assert found == {"out": 2, "sure": 2, "labels": 1, "shared": 2}
    (sr,) = (tmp_path / "sure").glob("*_sr.dcm")
    assert "Expected Dice coefficient" in str(pydicom.dcmread(sr))


@pytest.mark.slow
def test_the_python_of_the_concepts_page(tmp_path: Path) -> None:
    make.series(tmp_path / "my_study")
    (script,) = blocks("docs/concepts/dicom-objects.md", "python")
    (tmp_path / "script.py").write_text(script)
    run_all(["python script.py"], tmp_path)
    assert {path.name for path in tmp_path.glob("*.dcm")} == {"result_seg.dcm", "result_sr.dcm"}
