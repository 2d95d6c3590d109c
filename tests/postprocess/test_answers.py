"""From the logits of slices to one answer a case."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from neurobundle.errors import InputError, SettingError
from neurobundle.networks.manifest import write_entry
from neurobundle.postprocess.answers import (
    AnswerCalibration,
    ForgetGridd,
    LogitsToAnswerd,
    PoolSlicesd,
    pool_slices,
    read_answer_calibration,
)


def test_one_slice_is_its_own_answer() -> None:
    logits = torch.tensor([[3.0], [1.0], [0.0]])
    assert torch.allclose(pool_slices(logits, torch.tensor([1.0])).softmax(0), logits[:, 0].softmax(0))


def test_two_slices_that_disagree_alike_leave_it_open() -> None:
    pooled = pool_slices(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 1.0]))
    assert torch.allclose(pooled.softmax(0), torch.tensor([0.5, 0.5]))


def test_the_slice_with_more_tumour_counts_more() -> None:
    pooled = pool_slices(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([3.0, 1.0]))
    # Of the log-odds +2 and -2, three parts to one.
    assert torch.allclose(pooled[0] - pooled[1], torch.tensor(1.0))


def test_slices_with_hardly_any_tumour_do_not_count() -> None:
    logits = torch.tensor([[2.0, -50.0], [0.0, 0.0]])
    assert torch.allclose(pool_slices(logits, torch.tensor([1.0, 0.09])), logits[:, 0].log_softmax(0))


def test_without_any_tumour_all_slices_count_alike() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert torch.equal(pool_slices(logits, torch.zeros(2)), pool_slices(logits, torch.ones(2)))


@pytest.mark.parametrize("logits", [torch.zeros(2, 0), torch.tensor([[float("nan")], [0.0]])], ids=["none", "nan"])
def test_no_finite_answer_is_refused(logits: torch.Tensor) -> None:
    with pytest.raises(InputError, match="no finite answer"):
        pool_slices(logits, torch.ones(logits.shape[1]))


def test_transforms_keep_metadata_and_slices() -> None:
    pred = MetaTensor(
        torch.tensor([[2.0, 0.0, 9.0], [0.0, 0.0, 9.0], [3.0, 1.0, 0.2]]), meta={"filename_or_obj": "a.png"}
    )
    item = LogitsToAnswerd("pred")(PoolSlicesd("pred")({"pred": pred}))
    assert torch.equal(item["pred_slices"][:-1], pred.as_tensor()[:-1])
    assert item["pred_slices"][-1].tolist() == [0.75, 0.25, 0.0], "what each slice has in the answer, not its weight"
    assert item["pred"].meta["filename_or_obj"] == "a.png"
    assert item["pred"].sum().item() == pytest.approx(1)
    assert item["pred"][0] > item["pred"][1]


def test_a_temperature_makes_less_sure_and_changes_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"temperature": 2.0, "abstain_below": 0.6, "chosen_on": "x", "n": 3}))
    logits = torch.tensor([2.0, 0.0])
    found = LogitsToAnswerd("pred", file)({"pred": logits})["pred"]
    assert np.allclose(found, torch.tensor([1.0, 0.0]).softmax(0))
    assert read_answer_calibration(file) == AnswerCalibration(2.0, 0.6)


def test_a_calibration_that_was_published_is_not_to_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text('{"temperature": 2.0}')
    write_entry(tmp_path, file.name, origin="released", parent=None)
    assert read_answer_calibration(file).temperature == 2
    file.write_text('{"temperature": 3.0}')
    with pytest.raises(SettingError, match="was changed") as caught:
        read_answer_calibration(file)
    assert (caught.value.file, "--set calibration=" in caught.value.way_out) == (str(file), True)


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    assert read_answer_calibration(tmp_path / "absent.json") == read_answer_calibration(None) == AnswerCalibration()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "no calibration"),
        ("[]", "no calibration"),
        ('{"abstain_below": 0.5}', "no calibration"),
        ('{"temperature": 1, "temprature": 2}', "other things"),
        ('{"temperature": 0}', "the temperature is 0"),
        ('{"temperature": 1, "abstain_below": 2}', "abstain_below is 2"),
    ],
)
def test_a_file_that_is_none_is_named(text: str, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(SettingError, match=cause) as caught:
        read_answer_calibration(file)
    assert caught.value.file == str(file)


def test_an_answer_lies_on_no_grid() -> None:
    """What MONAI Label asks of a result: its image remembers no shape to resample it to. The image given does."""
    image = MetaTensor(torch.ones(1, 4, 5, 6), meta={"spatial_shape": (8, 10, 12), "units": "mm"})
    found = ForgetGridd("image", allow_missing_keys=True)({"image": image, "pred": torch.ones(3)})
    assert "spatial_shape" not in found["image"].meta
    assert found["image"].meta["units"] == "mm"
    assert torch.equal(found["image"], image)
    assert image.meta["spatial_shape"] == (8, 10, 12)
