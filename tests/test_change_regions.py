"""Whether difference detection knows whom to believe: histograms and areas worked out by hand, and a slow count."""

import numpy as np
import pytest

from wsseg_core.base.errors import WorkbookError
from wsseg_core.evaluate.change_regions import BINS, SIZES, area_under_curve, auc_table, change_counts

VOID = 255


def counts_of(k_right: list[float], a_right: list[float]) -> np.ndarray:
    """One row of pixels; at the first of them K is right, at the others A."""
    gap = np.array([[*k_right, *a_right]])
    knowledge, advice = np.zeros(gap.shape, int), np.ones(gap.shape, int)
    truth = np.array([[0] * len(k_right) + [1] * len(a_right)])
    return change_counts(knowledge, advice, truth, gap, 1)


@pytest.mark.parametrize(
    ("k_right", "a_right", "expected"),
    [
        ([-0.5, -0.2], [0.1, 0.9], 1.0),
        ([0.5], [-0.5], 0.0),
        ([0.3, 0.3], [0.3], 0.5),  # ties
        ([-0.5, 0.5], [0.0, 0.9], 0.75),  # three of four pairs
        ([0.1], [], np.nan),
    ],
)
def test_the_area_by_hand(k_right: list[float], a_right: list[float], expected: float):
    np.testing.assert_equal(area_under_curve(counts_of(k_right, a_right))[0], expected)


def test_the_area_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    k_right, a_right = (rng.integers(0, BINS, number) / BINS * 2 - 1 + 1e-6 for number in (30, 40))
    pairs = [1.0 if a > k else 0.5 if a == k else 0.0 for a in a_right for k in k_right]
    found = area_under_curve(counts_of([*k_right], [*a_right]))[0]
    assert found == pytest.approx(np.mean(pairs))


def test_what_is_counted_where_by_hand():
    knowledge = np.array([[1, 1, 0, 0, 2, VOID]])
    advice = np.array([[0, 1, 2, 0, 1, 1]])
    truth = np.array([[0, 1, 1, 0, 2, 1]])
    counts = change_counts(knowledge, advice, truth, np.zeros((1, 6)), 2)
    assert counts.shape == (1 + len(SIZES) + 2, 2, BINS)
    # First pixel: A is right, the class is 1. Third: neither. Fifth: K is right, its class is 2. The last is void.
    assert counts.sum(2).tolist() == [[1, 1], [0, 0], [0, 0], [1, 1], [0, 1], [1, 0]]
    assert set(np.nonzero(counts)[2]) == {BINS // 2}


def test_regions_are_sorted_by_their_size():
    knowledge, truth = np.zeros((100, 100), int), np.ones((100, 100), int)
    advice = knowledge.copy()
    advice[0, 0], advice[5:15, 5:15], advice[50:70, 50:70] = 1, 1, 1  # 0.01 %, 1 % and 4 % of the image
    counts = change_counts(knowledge, advice, truth, np.zeros((100, 100)), 1)
    assert counts[1:4, 1].sum(1).tolist() == [1, 100, 400]


def test_the_table_has_an_interval_and_says_nothing_of_nothing():
    counts = np.stack([counts_of([-0.5, 0.1], [0.4, 0.0]), counts_of([0.0], [0.2])])
    table = auc_table(counts, ["cat"], samples=50, seed=0).set_index("pixels")
    assert list(table.index) == ["all", *SIZES, "cat"]
    assert table.loc["all", "ours"] == pytest.approx(7.5 / 9)  # K at -0.5, 0, 0.1; A at 0, 0.2, 0.4; one tie
    assert table.loc["all", "low"] <= table.loc["all", "ours"] <= table.loc["all", "high"]
    assert table.loc["all", "number"] == 6
    assert np.isnan(table.loc[SIZES[0], ["ours", "low", "high"]].to_numpy(float)).all()


def test_arrays_of_different_sizes_are_refused():
    one, other = np.zeros((2, 2), int), np.zeros((2, 3), int)
    with pytest.raises(
        WorkbookError, match=r"of sizes \(2, 2\), \(2, 2\), \(2, 3\), \(2, 2\); give those of one image"
    ):
        change_counts(one, one, other, one, 1)
