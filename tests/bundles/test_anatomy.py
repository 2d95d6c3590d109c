"""The anatomy bundle: that its parts speak of the same structures, and what its weights do where they are there."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from neurobundle.bundle.anatomy import Anatomy
from neurobundle.bundle.find import PATH_VARIABLE, channels_of, groups_of, structures_of
from neurobundle.cli import main
from neurobundle.geometry import corners_mm
from neurobundle.load.scan import Scan, read_scan
from neurobundle.load.study.channels import ANY
from neurobundle.postprocess import brain
from neurobundle.postprocess.brain_pose import hippocampi_of
from neurobundle.prepare.register import template_path

from ..anatomy_stub import BUNDLE as NAME
from ..anatomy_stub import dice, make_stub, phantom
from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / NAME
STRUCTURES = structures_of(BUNDLE)

needs_weights = pytest.mark.skipif(
    not (BUNDLE / "models" / "model.pt").is_file(), reason="the bundle has no trained weights yet"
)

#: FreeSurferColorLUT.txt, what of it the label maps have; lesions and choroid plexus belong to what they lie in.
FREESURFER = {
    **{2: "Cerebral-White-Matter", 3: "Cerebral-Cortex", 4: "Lateral-Ventricle", 5: "Inf-Lat-Vent"},
    **{7: "Cerebellum-White-Matter", 8: "Cerebellum-Cortex", 10: "Thalamus", 11: "Caudate", 12: "Putamen"},
    **{13: "Pallidum", 17: "Hippocampus", 18: "Amygdala", 26: "Accumbens-area", 28: "VentralDC"},
}
RIGHT = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
MIDDLE = {14: "3rd-Ventricle", 15: "4th-Ventricle", 16: "Brain-Stem", 24: "CSF"}


def test_the_names_are_those_of_freesurfers_numbers() -> None:
    """Training maps FreeSurfer's numbers to ours, and the metadata name ours: both by the same table."""
    table = yaml.safe_load((BUNDLE / "configs" / "train.yaml").read_text())["anatomy"]
    named = {value: f"Left-{name}" for value, name in FREESURFER.items()}
    named |= {RIGHT[value]: f"Right-{name}" for value, name in FREESURFER.items()} | MIDDLE
    assert {STRUCTURES[table[value]]: name for value, name in named.items()} == {name: name for name in named.values()}
    assert len(STRUCTURES) == len(named) == 32


def test_the_library_and_the_bundle_mean_the_same_numbers() -> None:
    assert {STRUCTURES[left].removeprefix("Left-") for left in brain.PAIRS} == {
        STRUCTURES[right].removeprefix("Right-") for right in brain.PAIRS.values()
    }
    for left, right in brain.PAIRS.items():
        assert STRUCTURES[left].removeprefix("Left-") == STRUCTURES[right].removeprefix("Right-")
    assert STRUCTURES[brain.CSF] == "CSF"
    assert {name for value, name in STRUCTURES.items() if "Vent" in name and "DC" not in name} == {
        STRUCTURES[value] for value in brain.VENTRICLES
    }
    assert {side: STRUCTURES[value] for side, value in brain.HIPPOCAMPI.items()} == {
        "left": "Left-Hippocampus",
        "right": "Right-Hippocampus",
    }
    assert all("Cerebellum" in STRUCTURES[value] for side in brain.CEREBELLUM.values() for value in side)


def test_the_groups_hold_each_structure_once() -> None:
    groups = groups_of(BUNDLE)
    whole = groups.pop("brain")
    assert sorted(whole) == sorted(set(STRUCTURES) - {brain.CSF, *brain.VENTRICLES})
    parts = sorted(itertools.chain(*groups.values()))
    assert parts == sorted(set(STRUCTURES) - {brain.CSF}), "CSF is a structure by itself"
    scored = yaml.safe_load((BUNDLE / "configs" / "evaluate.yaml").read_text())["validate::handlers"][1]["structures"]
    assert scored == {"brain": whole, **{name: [value] for value, name in STRUCTURES.items()}}


def test_it_takes_any_sequence() -> None:
    assert channels_of(BUNDLE) == (ANY,)


def test_the_output_lies_on_the_inputs_grid_however_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole head as NIfTI, whatever its name says, in four orientations: one label map, turned."""
    monkeypatch.setenv(PATH_VARIABLE, str(make_stub(tmp_path / "bundles")))
    head, truth = phantom()
    folder = tmp_path / "in"
    folder.mkdir()
    heads = {}
    for axes, name in zip(("RAS", "LIA", "PSR", "SPL"), ("a", "b_T2", "c_T1ce", "d_FLAIR"), strict=True):
        onto = nib.orientations.axcodes2ornt(axes)
        turned = head.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(head.affine), onto))
        nib.save(turned, folder / f"{name}.nii.gz")
        heads[name[0]] = turned
    words = ["run", NAME, "-i", str(folder), "-o", str(tmp_path / "out"), "--device", "cpu", "--no-pictures"]
    assert main(words) == 0
    for case, turned in heads.items():
        written = nib.load(tmp_path / "out" / f"{case}_seg.nii.gz")
        assert np.abs(corners_mm(turned.shape, written.affine) - corners_mm(turned.shape, turned.affine)).max() < 0.01
        found = np.asarray(nib.as_closest_canonical(written).dataobj)
        for value in (1, 19):
            assert dice(found == value, truth == value) > 0.97
    rows = (tmp_path / "out" / "volumes.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * (32 + len(groups_of(BUNDLE)))


# ----- with the trained weights


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy(BUNDLE, settings={"device": "cpu"})


@pytest.mark.slow
@needs_weights
def test_the_template_head_is_labelled(anatomy: Anatomy) -> None:
    """Its brain is what is not zero, nothing is odd about it, and both hippocampi lie where the template has them."""
    pytest.importorskip("nilearn")
    head = read_scan(template_path())
    labels = anatomy.labels(head)
    in_card = json.loads((BUNDLE / "docs" / "results" / "real.json").read_text())["template"]["brain"]
    assert dice(brain.brain_mask(labels, head.affine), head.data > 0) == pytest.approx(in_card, abs=0.01)
    found = hippocampi_of(labels, head.affine)
    assert found.causes == []
    for side, x in (("left", -26), ("right", 26)):
        assert np.allclose(found.middles_mm[side], (x, -21, -14.5), atol=5)
    assert brain.VolumeCheck().warnings(labels, head.affine, STRUCTURES) == []


@pytest.mark.slow
@needs_weights
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a short training: docs/training-queue.md, job 2")
def test_the_templates_brain_is_found(anatomy: Anatomy) -> None:
    """What is not zero there is brain."""
    pytest.importorskip("nilearn")
    head = read_scan(template_path())
    assert dice(brain.brain_mask(anatomy.labels(head), head.affine), head.data > 0) > 0.9


@needs_weights
@pytest.mark.slow
def test_all_sequences_of_a_person_give_one_brain(anatomy: Anatomy, real_data: Path) -> None:
    """Two patients, four sequences each, one grid."""
    for patient in sorted((real_data / "ms_lesions").iterdir()):
        scans = [read_scan(path) for path in sorted(patient.glob("[!G]*_N4*.nii.gz"))]
        masks = [brain.brain_mask(anatomy.labels(Scan(scan.data, scan.affine)), scan.affine) for scan in scans]
        assert min(dice(one, other) for one, other in itertools.combinations(masks, 2)) > 0.9
