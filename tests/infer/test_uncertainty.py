"""How sure a network is, in numbers that can be counted by hand."""

import math

import numpy as np
import pytest
import torch

from neurobundle.errors import InputError, SettingError
from neurobundle.infer.uncertainty import (
    case_score,
    checked_activation,
    entropies,
    expected_dice,
    logits_of,
    mutual_information,
    predictive_entropy,
    probabilities_of,
    structure_masks,
)
from neurobundle.measure.calibration import normalised_entropy


def test_a_certain_voxel_has_none_and_one_that_could_be_any_class_all() -> None:
    p = torch.tensor([[1.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.0]])
    assert torch.allclose(predictive_entropy(p), torch.tensor([0.0, 1.0, math.log(2) / math.log(3)]))


def test_it_is_the_entropy_that_the_evaluation_measures() -> None:
    p = torch.randn(4, 5, 6, 7).softmax(0)
    assert np.allclose(predictive_entropy(p), normalised_entropy(p.numpy()), atol=1e-6)


def test_of_regions_it_is_that_of_the_least_certain_one() -> None:
    """A region that is far away and certain changes nothing."""
    one = torch.tensor([[0.5, 0.9]])
    more = torch.cat([one, torch.zeros(3, 2)])
    assert torch.allclose(predictive_entropy(one, "sigmoid"), predictive_entropy(more, "sigmoid"))
    assert entropies(more, "sigmoid").shape == (4, 2)


def test_rounding_outside_0_to_1_is_no_fault() -> None:
    p = torch.tensor([[1.0000001], [-0.0000001]])
    assert predictive_entropy(p).tolist() == [0.0]
    assert predictive_entropy(p, "sigmoid").tolist() == [0.0]


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="one class only"):
        entropies(torch.ones(1, 2))


def test_members_that_say_the_same_have_no_mutual_information() -> None:
    unsure = torch.full((2, 3), 0.5)
    assert mutual_information(unsure, entropies(unsure)).tolist() == [0.0, 0.0, 0.0]


def test_mutual_information_of_regions_is_that_of_the_most_disputed_one() -> None:
    one, other = torch.tensor([[1.0], [0.5]]), torch.tensor([[0.0], [0.5]])
    said = (entropies(one, "sigmoid") + entropies(other, "sigmoid")) / 2
    assert mutual_information((one + other) / 2, said, "sigmoid").tolist() == [1.0]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_give_back_their_probabilities(activation: str) -> None:
    logits = torch.randn(3, 50) * 4
    p = probabilities_of(logits, activation)
    assert torch.allclose(probabilities_of(logits_of(p, activation), activation), p, atol=1e-6)


@pytest.mark.parametrize(("activation", "least"), [("softmax", -87.4), ("sigmoid", -16.7)])
def test_logits_of_0_and_1_are_finite(activation: str, least: float) -> None:
    found = logits_of(torch.tensor([0.0, 1.0]), activation)
    assert found.isfinite().all()
    assert least < found[0] < least + 0.1


def test_a_temperature_divides() -> None:
    logits = torch.tensor([[2.0], [0.0]])
    assert torch.allclose(probabilities_of(logits, temperature=2.0), torch.tensor([[1.0], [0.0]]).softmax(0))


def test_expected_dice_is_the_mean_of_the_dice_that_may_come() -> None:
    """Of a voxel that is certain and one that is even, the truth is {1} or {1, 2}: Dice 2/3 and 1 for both voxels."""
    both = expected_dice(torch.tensor([1.0, 0.5]), torch.tensor([True, True]))
    assert both == pytest.approx(6 / 7)
    assert abs(both - (2 / 3 + 1) / 2) < 0.03, "soft Dice is near the mean, and not it"


def test_a_structure_that_is_nowhere_is_judged_by_what_might_be_there() -> None:
    nowhere = torch.zeros(3, dtype=torch.bool)
    assert expected_dice(torch.tensor([0.0, 0.0, 0.0]), nowhere) == 1
    assert expected_dice(torch.tensor([0.0, 0.25, 0.0]), nowhere) == 0.75


def test_masks_of_classes_and_of_regions() -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 2.0]])
    assert [mask.tolist() for mask in structure_masks(logits)] == [[False, True, False]]
    regions = [mask.tolist() for mask in structure_masks(logits - 0.5, "sigmoid")]
    assert regions == [[True, False, True], [False, True, True]]


def test_a_case_that_is_less_certain_has_the_larger_score() -> None:
    sure = torch.zeros(3, 4, 4, 4)
    sure[1, :2] = sure[0, 2:] = 8
    sure[2, 0] = 16
    scores = [case_score(sure / divided) for divided in (1, 2, 4)]
    assert 0 < scores[0] < scores[1] < scores[2] < 1
    assert case_score(sure, temperature=4) == pytest.approx(scores[2])


def test_a_case_score_by_hand() -> None:
    """Two regions: one voxel of p 3/4 predicted, 2 x .75 / (.75 + 1); one nowhere, with p 1/4 at most."""
    logits = torch.tensor([[math.log(3), -100], [-math.log(3), -100]])
    assert case_score(logits, "sigmoid") == pytest.approx(1 - (1.5 / 1.75 + 0.75) / 2)


def test_another_activation_is_refused() -> None:
    with pytest.raises(SettingError, match="did you mean 'softmax'"):
        checked_activation("sofmax")
