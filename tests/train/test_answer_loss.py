"""Teaching a network that answers a class, with or without a mask head."""

import math

import pytest
import torch

from neurobundle.errors import InputError, SettingError
from neurobundle.train.answers import AnswerLoss, ChosenAnswersd, prepare_answers
from neurobundle.train.losses import RegionLoss

EVEN = torch.zeros(2, 4)


def test_who_knows_nothing_of_four_classes_loses_log_4() -> None:
    assert AnswerLoss()(EVEN, torch.tensor([0, 3])).item() == pytest.approx(math.log(4))


def test_the_mask_heads_loss_is_added_by_its_weight() -> None:
    logits, outline, mask = EVEN, torch.randn(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    pred, target = {"answer": logits, "mask": outline}, {"answer": torch.tensor([0, 3]), "mask": mask}
    both = AnswerLoss(mask_weight=0.5)(pred, target)
    assert both.item() == pytest.approx(math.log(4) + 0.5 * RegionLoss()(outline, mask).item())
    assert AnswerLoss(mask_weight=0)(pred, target).item() == pytest.approx(math.log(4))


def test_a_mask_is_of_all_labels_and_of_a_white_of_255() -> None:
    pred = {"answer": EVEN, "mask": torch.randn(2, 1, 4, 4)}
    mask = torch.tensor([[0.0, 1.0, 2.0, 255.0]] * 4).expand(2, 1, 4, 4)
    losses = [
        AnswerLoss()(pred, {"answer": torch.tensor([0, 3]), "mask": m}).item() for m in (mask, (mask > 0).float())
    ]
    assert losses[0] == losses[1]


def test_a_rare_class_can_weigh_more() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    plain, weighted = AnswerLoss(), AnswerLoss(class_weights=[1, 3])
    assert weighted(logits, torch.tensor([0, 1])) > plain(logits, torch.tensor([0, 1]))


def test_half_precision_is_scored_in_full() -> None:
    loss = AnswerLoss()(EVEN.bfloat16(), torch.tensor([0, 3]))
    assert loss.dtype == torch.float32


def test_a_mask_head_without_masks_is_refused() -> None:
    with pytest.raises(InputError, match="no 'mask'") as caught:
        AnswerLoss()({"answer": EVEN, "mask": torch.zeros(2, 1, 4, 4)}, torch.tensor([0, 3]))
    assert "mask_head=false" in caught.value.way_out


@pytest.mark.parametrize("settings", [{"mask_weight": -1}, {"label_smoothing": 1}, {"class_weights": [1, -1]}])
def test_settings_that_mean_nothing(settings: dict) -> None:
    with pytest.raises(SettingError):
        AnswerLoss(**settings)


def test_a_batch_with_and_without_masks() -> None:
    batch = {"image": torch.ones(2, 1, 4, 4), "label": torch.tensor([[1], [0]])}
    image, target = prepare_answers(batch, "cpu")
    assert image.shape == (2, 1, 4, 4)
    assert target.tolist() == [1, 0]
    _, target = prepare_answers({**batch, "mask": torch.zeros(2, 1, 4, 4)}, "cpu")
    assert target["answer"].tolist() == [1, 0]
    assert target["mask"].shape == (2, 1, 4, 4)


def test_what_is_scored_is_the_answer() -> None:
    item = ChosenAnswersd(["pred", "label"])({"pred": {"answer": EVEN[0], "mask": EVEN}, "label": torch.tensor(1)})
    assert torch.equal(item["pred"], EVEN[0])
    assert item["label"] == 1
