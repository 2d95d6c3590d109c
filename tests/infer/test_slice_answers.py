"""A network that answers a class, over the slices of a case."""

from typing import Any

import pytest
import torch

from neurobundle.errors import SettingError
from neurobundle.infer import AutocastInferer
from neurobundle.infer.answers import LEAST_WEIGHT, AnswersInferer, SliceAnswersInferer


def left_and_right(slices: torch.Tensor, mask: bool = False) -> Any:
    """Two logits: what lies in the first column and in the last; the mask is the image."""
    logits = torch.stack([slices[:, 0, 0].sum(-1), slices[:, 0, -1].sum(-1)], dim=1)
    return (logits, slices) if mask else logits


def volume() -> torch.Tensor:
    """Two cases of three slices, 4 columns and 2 rows: slice s of case b holds 10 b + s in its first column."""
    image = torch.zeros(2, 1, 4, 2, 3)
    image[:, 0, 0] = torch.tensor([0.0, 10.0])[:, None, None] + torch.arange(3.0)
    return image


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_each_slice_of_each_case_is_answered(at_once: int) -> None:
    found = SliceAnswersInferer(slices=at_once)(volume(), left_and_right)
    assert found.shape == (2, 3, 3)
    assert found[:, 0].tolist() == [[0, 2, 4], [20, 22, 24]]
    assert not found[:, 1].any()
    assert (found[:, 2] == 1).all()


def test_mirrored_left_to_right_the_two_columns_change_places() -> None:
    found = SliceAnswersInferer(mirror=True)(volume(), left_and_right)
    assert torch.equal(found[:, 0], found[:, 1])
    assert found[1, 0].tolist() == [10, 11, 12]


def test_a_slice_weighs_as_much_as_its_tumour() -> None:
    image = torch.full((1, 1, 4, 2, 2), -100.0)
    image[0, 0, :2, :, 1] = 100.0
    weights = SliceAnswersInferer(mask=True)(image, left_and_right)[0, -1]
    assert weights.tolist() == [pytest.approx(LEAST_WEIGHT), 0.5]


def test_both_outputs_by_name_in_float32() -> None:
    found = AutocastInferer(AnswersInferer(mask=True))(volume()[..., 0].double(), left_and_right)
    assert {name: (tuple(value.shape), value.dtype) for name, value in found.items()} == {
        "answer": ((2, 2), torch.float32),
        "mask": ((2, 1, 4, 2), torch.float32),
    }


def test_without_a_mask_head_there_are_logits_alone() -> None:
    assert torch.equal(AnswersInferer()(volume()[..., 0], left_and_right), left_and_right(volume()[..., 0]))


def test_fewer_than_one_slice_at_a_time() -> None:
    with pytest.raises(SettingError, match="1 or more"):
        SliceAnswersInferer(slices=0)


@pytest.mark.parametrize(("slices", "rows"), [(1, [2] * 6), (4, [4, 4, 4]), (16, [12])])
def test_a_mirrored_slice_counts_among_those_at_once(slices: int, rows: list[int]) -> None:
    """Both ways are one batch, and no batch is larger than was said; but two for one slice at a time."""
    seen: list[int] = []

    def network(batch: torch.Tensor) -> Any:
        seen.append(len(batch))
        return left_and_right(batch)

    found = SliceAnswersInferer(slices=slices, mirror=True)(volume(), network)
    assert seen == rows
    assert found[1, 0].tolist() == [10, 11, 12]


@pytest.mark.parametrize("mirror", [False, True])
def test_a_slice_alone_is_not_weighed(mirror: bool) -> None:
    """It decides alone, whatever the mask head would say; so that is not asked."""
    asked: list[bool] = []

    def network(batch: torch.Tensor, mask: bool = False) -> Any:
        asked.append(mask)
        return left_and_right(batch, mask)

    infer = SliceAnswersInferer(mask=True, mirror=mirror)
    assert infer(volume()[..., :1], network)[:, -1].tolist() == [[1], [1]]
    assert infer(volume(), network)[:, -1].max() < 1.1
    assert asked == [False, True]
