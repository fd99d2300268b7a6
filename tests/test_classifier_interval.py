import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score

from wsseg_core.classify.classifier import mean_average_precision_interval


@settings(max_examples=50)
@given(
    arrays.arrays(np.uint8, (7, 3), elements=st.integers(0, 1)),
    arrays.arrays(np.float32, (7, 3), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
)
def test_the_value_is_that_of_sklearn_with_ties_and_absent_classes(labels: np.ndarray, scores: np.ndarray) -> None:
    labels[0, 0] = 1  # at least one class occurs
    present = labels.any(axis=0)
    expected = average_precision_score(labels[:, present], scores[:, present], average="macro")
    value, _, _ = mean_average_precision_interval(labels, scores, samples=1)
    assert value == pytest.approx(expected)


def test_the_interval_is_that_of_drawing_images_again_and_again() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, 2))
    scores = (labels + rng.normal(0, 1, labels.shape)).astype(np.float32)
    choices = rng.integers(0, 60, (1500, 60))
    draws = [average_precision_score(labels[chosen], scores[chosen], average="macro") for chosen in choices]
    value, low, high = mean_average_precision_interval(labels, scores, samples=4000)
    assert low < value < high
    np.testing.assert_allclose((low, high), np.percentile(draws, [2.5, 97.5]), atol=0.01)


def test_a_perfect_ranking_has_no_width() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    assert mean_average_precision_interval(labels, labels.astype(float), samples=20) == (1.0, 1.0, 1.0)
