import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.temperature import Temperature, fit_temperature


def honest(n: int = 4000, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(C, n)`` and classes drawn from their own softmax, so that the right temperature is 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(classes, n)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    return logits, (rng.random(n) > p.cumsum(axis=0)).sum(axis=0).clip(0, classes - 1)


def test_three_right_of_four_by_hand() -> None:
    """Logits 2 and 0, right in three of four: the best probability is 3/4, so 2/T = log 3."""
    logits = np.tile([[2.0], [0.0]], 4)
    found = fit_temperature(logits, np.array([0, 0, 0, 1]))
    assert found.value == pytest.approx(2 / math.log(3), rel=1e-4)
    assert found.nll_after == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found.nll_before == pytest.approx(math.log(1 + math.exp(-2)) + 2 / 4)
    assert found.n == 4


@pytest.mark.parametrize("factor", [0.2, 0.7, 1.0, 3.0, 8.0])
def test_a_known_factor_comes_back(factor: float) -> None:
    logits, truth = honest()
    base = fit_temperature(logits, truth).value
    assert base == pytest.approx(1, abs=0.06)
    assert fit_temperature(factor * logits, truth).value == pytest.approx(factor * base, rel=1e-3)


def test_one_logit_equals_two() -> None:
    logits, truth = honest(classes=2)
    one, two = fit_temperature(logits[1] - logits[0], truth), fit_temperature(logits, truth)
    assert one.value == pytest.approx(two.value, rel=1e-4)
    assert one.nll_after == pytest.approx(two.nll_after)
    assert fit_temperature(logits[1] - logits[0], truth.astype(bool)).value == one.value


def test_shapes_of_a_volume_and_of_a_table() -> None:
    logits, truth = honest(n=60)
    flat = fit_temperature(logits, truth)
    assert fit_temperature(logits.reshape(3, 3, 4, 5), truth.reshape(3, 4, 5)) == flat
    assert fit_temperature(logits.T, truth, class_axis=1) == flat
    assert fit_temperature(logits.T, truth, class_axis=-1) == flat


def test_a_better_calibration() -> None:
    """An overconfident network's ECE falls on cases that the fit has not seen."""
    from neurobundle.measure.calibration import case_calibration

    logits, truth = honest(8000)
    logits *= 4
    found = fit_temperature(logits[:, :4000], truth[:4000])

    def ece(scores: np.ndarray) -> float:
        p = np.exp(scores - scores.max(axis=0))
        return case_calibration(p / p.sum(axis=0), truth[4000:]).ece

    assert ece(found.apply(logits[:, 4000:])) < 0.3 * ece(logits[:, 4000:])


def test_applying_keeps_kind_and_shape() -> None:
    import torch

    found = Temperature(2.0, 1.0, 0.5, 10)
    assert found.apply(np.ones((2, 3), np.float32)).dtype == np.float32
    assert torch.equal(found.apply(torch.ones(2, 3)), torch.full((2, 3), 0.5))


def test_logits_that_say_nothing_are_left_alone() -> None:
    """Whatever divides a zero, the NLL is log 2."""
    found = fit_temperature(np.zeros((2, 6)), np.array([0, 1, 0, 1, 1, 1]))
    assert (found.value, found.nll_after) == (1, pytest.approx(math.log(2)))


def test_huge_logits_do_not_overflow() -> None:
    logits, truth = honest(200)
    found = fit_temperature((logits * 1e4).astype(np.float32), truth)
    assert math.isfinite(found.nll_before)
    assert found.nll_after < found.nll_before


def test_what_the_samples_do_not_determine_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """If all are right, no temperature is low enough."""
    found = fit_temperature(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([0, 0]))
    assert found.value == pytest.approx(0.05, rel=0.01)
    assert "do not determine it" in caplog.text


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(0.01, 50))
def test_laws(seed: int, n: int, factor: float) -> None:
    """NLL never rises, and no answer changes, whatever the data."""
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(size=(3, n)) * factor, rng.integers(0, 3, n)
    found = fit_temperature(logits, truth)
    assert found.nll_after <= found.nll_before
    assert 0.05 <= found.value <= 20
    np.testing.assert_array_equal(found.apply(logits).argmax(axis=0), logits.argmax(axis=0))


@pytest.mark.parametrize(
    ("logits", "truth", "said"),
    [
        (np.zeros((2, 1)), np.array([0]), "1 samples"),
        (np.zeros((2, 0)), np.array([], int), "0 samples"),
        (np.zeros(1), np.array([0]), "1 samples"),
        (np.array([[0, np.nan], [0, 0]]), np.array([0, 1]), "not a finite"),
        (np.array([[0, np.inf], [0, 0]]), np.array([0, 1]), "not a finite"),
        (np.zeros((2, 3)), np.array([0, 1]), "do not fit"),
        (np.zeros((1, 2)), np.array([0, 0]), "do not fit"),
        (np.zeros((2, 2)), np.array([0, 2]), "from 0 to 1"),
        (np.zeros((2, 2)), np.array([0, -1]), "from 0 to 1"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "whole numbers"),
    ],
)
def test_bad_input(logits: np.ndarray, truth: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        fit_temperature(logits, truth)
    assert caught.value.way_out


def test_an_axis_that_is_not_there() -> None:
    with pytest.raises(InputError, match="do not fit"):
        fit_temperature(np.zeros((2, 5)), np.zeros(5, int), class_axis=2)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none(value: float) -> None:
    with pytest.raises(SettingError, match="above 0"):
        Temperature(value, 1.0, 1.0, 5)
