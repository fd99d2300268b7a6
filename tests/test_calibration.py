import math

import numpy as np
import pytest

from wsseg_core.evaluate.calibration import BINS, Reliability, reliability_counts

VALUES = np.uint8([0, 7])  # background and the seventh class


def test_hand_counted_four_pixels():
    probabilities = np.array([[[0.9, 0.2], [0.45, 0.5]], [[0.1, 0.6], [1.35, 0.5]]])  # sums 1, 0.8, 1.8, 1
    truth = np.uint8([[0, 7], [3, 255]])
    counts = reliability_counts(probabilities, VALUES, truth)
    assert counts.shape == (BINS, 3)
    expected = np.zeros((BINS, 3))
    expected[9] = [1, 0.9, 1]  # background drawn, and right
    expected[7] = [2, 0.75 + 0.75, 1]  # class 7 drawn twice; one of the two pixels is of class 3
    np.testing.assert_allclose(counts, expected)


def test_certainty_belongs_to_the_last_bin():
    counts = reliability_counts(np.array([[[1.0]], [[0.0]]]), VALUES, np.uint8([[0]]))
    np.testing.assert_array_equal(counts[-1], [1, 1, 1])
    assert counts.sum() == 3


def honest(images: int, boast: float = 0.0) -> Reliability:
    """Images of pixels that are right as often as they say, or by `boast` less often."""
    rng = np.random.default_rng(images)
    counts = []
    for _ in range(images):
        certain = rng.uniform(0.5, 1, (30, 30))
        right = rng.uniform(0, 1, (30, 30)) < certain - boast
        counts.append(reliability_counts(np.stack([certain, 1 - certain]), VALUES, np.where(right, 0, 7)))
    return Reliability(np.stack(counts))


def test_one_that_knows_what_it_knows_lies_on_the_diagonal():
    curve = honest(40).curve(samples=200)
    assert len(curve) == 5  # nothing is drawn with less than a half
    assert curve["pixels"].sum() == pytest.approx(100)
    assert (curve["probability"] - curve["ours"]).abs().max() < 2
    assert ((curve["low"] <= curve["ours"]) & (curve["ours"] <= curve["high"])).all()
    assert honest(40).error().value < 1.5


def test_one_that_boasts_lies_below_by_as_much():
    boaster = honest(40, boast=0.2)
    error = boaster.error(samples=200)
    assert error.low < error.value < error.high
    assert error.value == pytest.approx(20, abs=1.5)
    curve = boaster.curve(samples=200)
    assert (curve["high"] < curve["probability"]).all()


def test_whole_numbers_of_pixels_may_be_none():
    counts = np.zeros((2, BINS, 3), np.int64)  # as images without masks give them
    assert math.isnan(Reliability(counts).error().value)
    assert set(Reliability(counts).curve().dtypes) == {np.dtype(float)}  # so that it can be drawn, empty


def test_nothing_drawn_has_no_error_and_no_curve():
    nothing = Reliability(np.zeros((3, BINS, 3)))
    assert math.isnan(nothing.error().value)
    assert nothing.curve().empty
