"""From an ensemble's channels to a map on the native grid, to numbers, and to files."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from neurobundle import geometry
from neurobundle.errors import InputError, SettingError
from neurobundle.export.uncertainty import of_both_sides, read_uncertainty
from neurobundle.export.uncertainty_transforms import SaveUncertaintyd
from neurobundle.infer.ensemble import MEMBER_VOXELS
from neurobundle.infer.uncertainty import case_score, predictive_entropy
from neurobundle.postprocess import uncertainty
from neurobundle.postprocess.uncertainty import Uncertaintyd, native_steps
from neurobundle.prepare import ToNetworkGridd
from neurobundle.prepare.grid import Grid

#: Turned, and neither isotropic nor in RAS order.
AFFINE = np.array([[0, -2.0, 0, 30], [2.0, 0, 0, -20], [0, 0, 4.0, -10], [0, 0, 0, 1.0]])


def image(shape: tuple[int, int, int] = (8, 6, 4), spacing: float = 2.0) -> MetaTensor:
    """An image on the network's grid, with the record of how it came there."""
    scan = MetaTensor(torch.rand(1, *shape), affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": "anna.nii.gz"})
    return ToNetworkGridd("image", (spacing,) * 3)({"image": scan})["image"]


def case(classes: int = 3, more: int = 0, voxels: list | None = None, **kwargs: int) -> dict:
    torch.manual_seed(0)
    seen = image(**kwargs)
    pred = MetaTensor(torch.randn(classes, *seen.shape[1:]) * 3).copy_meta_from(seen)
    if more:
        pred = MetaTensor(torch.cat([pred.as_tensor(), torch.rand(more, *seen.shape[1:])])).copy_meta_from(seen)
    if voxels is not None:
        pred.meta[MEMBER_VOXELS] = torch.tensor(voxels)
    return {"image": seen, "pred": pred, "case": "anna"}


def test_switched_off_it_takes_the_channels_off_and_nothing_else() -> None:
    given = case(more=2, voxels=[[1, 2, 3]])
    found = Uncertaintyd("pred", "image", channels=3, enabled=False)(given)
    assert set(found) == {"image", "pred", "case"}
    assert torch.equal(found["pred"].as_tensor(), given["pred"].as_tensor()[:3])
    assert MEMBER_VOXELS not in found["pred"].meta
    assert found["pred"].meta["filename_or_obj"] == "anna.nii.gz"
    alone = case()
    assert Uncertaintyd("pred", "image", channels=3, enabled=False)(alone)["pred"] is alone["pred"]


def test_what_labels_are_made_of_does_not_depend_on_it(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"temperature": 2.0}))
    given = case(more=2)
    on, off = (
        Uncertaintyd("pred", "image", channels=3, calibration=file, enabled=enabled)(given) for enabled in (True, False)
    )
    assert torch.equal(on["pred"], off["pred"])


def test_on_its_own_grid_the_map_is_the_entropy() -> None:
    given = case(spacing=2)
    found = Uncertaintyd("pred", "image", channels=3)(given)["pred_uncertainty"]
    assert found.dtype == torch.uint8
    assert np.allclose(found.affine, AFFINE)
    entropy = predictive_entropy(given["pred"].as_tensor().softmax(0))
    # The network's grid is RAS with 2 mm across slices of 4; every second slice is one of the native grid.
    places = geometry.apply(np.linalg.inv(given["image"].affine.numpy()) @ AFFINE, [[1, 2, 3], [5, 0, 1]])
    for native, place in zip([(1, 2, 3), (5, 0, 1)], places, strict=True):
        low = np.floor(place + 1e-6).astype(int)
        share = place - low
        assert np.allclose(share[:2], 0, atol=1e-6)
        above = np.minimum(low + np.array([0, 0, 1]), np.array(entropy.shape) - 1)
        value = (1 - share[2]) * entropy[tuple(low)] + share[2] * entropy[tuple(above)]
        assert int(found[0][native]) == pytest.approx(float(value) * 255, abs=0.51)


def test_what_the_network_did_not_see_is_0_and_chunks_are_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    native = Grid((9, 7, 11), AFFINE)
    crop = AFFINE.copy()
    crop[:3, 3] = geometry.apply(AFFINE, [2, 1, 3])
    found = native_steps(torch.ones(3, 4, 5), crop, native)
    seen = np.zeros(native.shape)
    seen[2:5, 1:5, 3:8] = 255
    assert np.array_equal(found, seen)
    values = torch.rand(3, 4, 5)
    whole = native_steps(values, crop, native)
    monkeypatch.setattr(uncertainty, "CHUNK_VOXELS", 2 * 9 * 7)
    assert torch.equal(native_steps(values, crop, native), whole)


def test_numbers_by_hand() -> None:
    """One voxel of eight is structure 1, with p .9; 2 is nowhere, with p .1 at most."""
    given = case(shape=(2, 2, 2), more=2, voxels=[[7, 1, 0], [5, 3, 0]], spacing=4)
    p = torch.full((3, *given["image"].shape[1:]), 1e-9)
    p[0] = 1
    p[:, 0, 0, 0] = torch.tensor([1e-9, 0.9, 0.1])
    spread = given["pred"].as_tensor()[3:]
    pred = MetaTensor(torch.cat([p.log(), spread])).copy_meta_from(given["pred"])
    transform = Uncertaintyd("pred", "image", channels=3, structures=["front", "back"])
    numbers = transform({**given, "pred": pred})["pred_uncertainty_numbers"]
    front, back = numbers["structures"]["front"], numbers["structures"]["back"]
    assert front["expected_dice"] == pytest.approx(1.8 / 1.9, abs=1e-5)
    assert back["expected_dice"] == pytest.approx(0.9, abs=1e-5)
    assert numbers["case_score"] == pytest.approx(1 - (1.8 / 1.9 + 0.9) / 2, abs=1e-5)
    assert front["entropy"] == pytest.approx(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / np.log(3), abs=1e-5)
    assert front["mutual_information"] == pytest.approx(float(spread[0, 0, 0, 0]), abs=1e-5)
    assert front["variance"] == pytest.approx(float(spread[1, 0, 0, 0]), abs=1e-5)
    assert (back["entropy"], back["variance"]) == (None, None)
    assert front["ml_of_members"] == pytest.approx([0.064, 0.192]), "a voxel is 64 mm3"
    assert numbers["members"] == 2
    assert not numbers["flagged"]


def test_the_score_is_that_of_the_function_and_a_temperature_moves_it(tmp_path: Path) -> None:
    given = case()
    logits = given["pred"].as_tensor()
    file = tmp_path / "calibration.json"
    flags = []
    for temperature in (1.0, 3.0):
        file.write_text(json.dumps({"temperature": temperature, "flag_above": case_score(logits) + 0.01, "n": 1}))
        numbers = Uncertaintyd("pred", "image", channels=3, calibration=file)(given)["pred_uncertainty_numbers"]
        assert numbers["case_score"] == pytest.approx(case_score(logits, temperature=temperature), abs=1e-5)
        flags.append(numbers["flagged"])
    assert flags == [False, True]


def test_regions_count_their_own_voxels() -> None:
    given = case(classes=2, more=2, voxels=[[4, 2], [6, 2]])
    transform = Uncertaintyd("pred", "image", channels=2, activation="sigmoid", structures=["WT", "TC"])
    numbers = transform(given)["pred_uncertainty_numbers"]
    assert numbers["case_score"] == pytest.approx(case_score(given["pred"].as_tensor()[:2], "sigmoid"), abs=1e-5)
    assert numbers["structures"]["WT"]["ml_of_members"] == pytest.approx([0.032, 0.048])


@pytest.mark.parametrize("more", [1, 3])
def test_other_channels_than_expected_are_refused(more: int) -> None:
    with pytest.raises(InputError, match="channels, and 3 classes are expected"):
        Uncertaintyd("pred", "image", channels=3)(case(more=more))


def test_logits_that_are_not_finite_are_refused() -> None:
    given = case()
    given["pred"][1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        Uncertaintyd("pred", "image", channels=3)(given)


@pytest.mark.parametrize(
    "settings",
    [{"channels": 1}, {"channels": 3, "structures": ["a"]}, {"channels": 3, "structures": ["a", "a"]}],
    ids=["one class", "too few", "twice"],
)
def test_settings_that_are_none(settings: dict) -> None:
    with pytest.raises(SettingError):
        Uncertaintyd("pred", "image", **settings)


def test_a_calibration_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("[]")
    with pytest.raises(SettingError, match="no calibration"):
        Uncertaintyd("pred", "image", channels=3, calibration=tmp_path / "calibration.json")


def test_files_are_read_again_as_they_were_meant(tmp_path: Path) -> None:
    given = Uncertaintyd("pred", "image", channels=3)(case())
    found = SaveUncertaintyd("pred", tmp_path)(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anna_uncertainty.json", "anna_uncertainty.nii.gz"]
    assert [Path(path).name for path in found["pred_uncertainty_saved"]] == sorted(
        (path.name for path in tmp_path.iterdir()), reverse=True
    )
    volume = nib.load(tmp_path / "anna_uncertainty.nii.gz")
    assert volume.get_data_dtype() == np.uint8
    assert np.allclose(volume.affine, AFFINE)
    assert volume.shape == (8, 6, 4)
    assert np.allclose(volume.get_fdata(), given["pred_uncertainty"][0].numpy() / 255)
    numbers = read_uncertainty(tmp_path / "anna_uncertainty.json", {1: "anterior", 2: "posterior"})
    assert list(numbers.structures) == ["anterior", "posterior"]
    assert numbers.case_score == given["pred_uncertainty_numbers"]["case_score"]
    assert numbers.warnings() == []


def test_nothing_is_written_where_there_is_nothing_to_say(tmp_path: Path) -> None:
    given = Uncertaintyd("pred", "image", channels=3, enabled=False)(case())
    assert set(SaveUncertaintyd("pred", tmp_path)(given)) == set(given)
    assert not list(tmp_path.iterdir())
    assert issubclass(SaveUncertaintyd, SaveImaged), "MONAI Label takes writers out by this class"
    assert not issubclass(Uncertaintyd, SaveImaged), "and must leave what takes channels off"


@pytest.mark.parametrize("content", ["", "[]", '{"case_score": "x"}', '{"case_score": NaN, "structures": {}}'])
def test_numbers_that_are_none_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "anna_uncertainty.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"no uncertainty\.json"):
        read_uncertainty(path)


def test_a_head_is_as_uncertain_as_its_worse_side(tmp_path: Path) -> None:
    sides = {}
    for side, score in (("left", 0.1), ("right", 0.3)):
        path = tmp_path / f"{side}.json"
        numbers = {"case_score": score, "flag_above": 0.2, "flagged": score > 0.2, "members": 1}
        path.write_text(json.dumps({**numbers, "structures": {"1": {"expected_dice": 1 - score}}}))
        sides[side] = read_uncertainty(path, {1: "anterior"})
    both = of_both_sides(sides)
    assert (both.case_score, both.flagged) == (0.3, True)
    assert list(both.structures) == ["left anterior", "right anterior"]
    assert both.warnings() == ["its uncertainty, 0.300, is above 0.2: look at the result before it is used"]
