"""The multiple-instance SVM on bags whose instances are known, its witnesses, and its sigmoid."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from wsseg_core.base.config import ZoomOutConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.forward.mi_svm import Bags, MiSvm, MiSvms, fit_mi_svm, fit_sigmoid, learn_class

CONFIG = ZoomOutConfig(cost=1.0)


def bags_with_one_true_instance(count: int = 60, instances: int = 6, seed: int = 0) -> tuple[Bags, np.ndarray]:
    """Even bags are positive: their first instance lies around (4, 0), all others around the origin."""
    rng = np.random.default_rng([seed, count])
    features = rng.normal(0, 0.1, (count, instances, 2))
    features[::2, 0, 0] += 4
    return Bags.of(list(features)), np.arange(count) % 2 == 0


def is_true_instance(bags: Bags) -> np.ndarray:
    return bags.features[:, 0] > 2


def test_it_finds_the_instances_that_make_a_bag_positive() -> None:
    bags, positive = bags_with_one_true_instance()
    svm, rounds = fit_mi_svm(bags, positive, CONFIG, seed=0)
    np.testing.assert_array_equal(svm.decision_function(bags.features) > 0, is_true_instance(bags))
    flips, positives, rescued = rounds.T
    assert flips[0] > flips[-1] == 0
    assert positives[-1] == positive.sum()
    assert not rescued.any()


def test_the_number_of_rounds_is_a_limit() -> None:
    bags, positive = bags_with_one_true_instance()
    _, rounds = fit_mi_svm(bags, positive, replace(CONFIG, rounds=1), seed=0)
    assert len(rounds) == 1
    assert rounds[0, 0] > 0


def test_no_positive_bag_is_left_without_a_positive_instance() -> None:
    """The positive bag 0 looks like a negative one, so that the SVM gives none of its instances a positive value."""
    features = [[[-1.0], [-1.1]], [[-1.0], [-1.2]], [[-1.1], [-1.0]], [[2.0], [2.1]], [[2.0], [1.9]]]
    bags = Bags.of([np.array(bag) for bag in features])
    svm, rounds = fit_mi_svm(bags, np.array([True, False, False, True, True]), CONFIG, seed=0)
    assert svm.decision_function(bags.features)[:2].max() < 0
    np.testing.assert_array_equal(rounds[-1], [0, 5, 1])  # two bags of two, and one witness


def test_the_largest_instance_of_each_bag() -> None:
    bags = Bags(np.zeros((6, 1)), np.array([0, 0, 0, 1, 2, 2]))
    np.testing.assert_array_equal(bags.largest(np.array([1.0, 3.0, 2.0, -5.0, -2.0, -1.0])), [1, 3, 5])


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_bags_are_chosen_and_numbered_anew(lists: list[list[float]], data: st.DataObject) -> None:
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(lists), max_size=len(lists))), bool)
    bags = Bags.of([np.array(values)[:, None] for values in lists])
    chosen = bags.chosen(wanted)
    kept = [values for values, keep in zip(lists, wanted, strict=True) if keep]
    assert [chosen.features[chosen.index == number, 0].tolist() for number in range(len(kept))] == kept
    assert bags.features[bags.largest(bags.features[:, 0]), 0].tolist() == [max(values) for values in lists]


@pytest.mark.parametrize("index", [[1, 1, 2], [0, 2, 2], [0, 1, 0], [0, 0]])
def test_wrongly_numbered_bags_are_refused(index: list[int]) -> None:
    with pytest.raises(WorkbookError, match=r"build them with `Bags\.of`"):
        Bags(np.zeros((3, 2)), np.array(index))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_must_be_finite(value: float) -> None:
    with pytest.raises(WorkbookError, match="check the weights of the network"):
        Bags.of([np.array([[0.0], [value]])])


@pytest.mark.parametrize("change", [{"cost": 0.0}, {"rounds": 0}, {"cost": np.nan}])
def test_bad_config_gets_one_line(change: dict[str, float]) -> None:
    bags, positive = bags_with_one_true_instance()
    with pytest.raises(WorkbookError, match=r"zoomout\.cost = .* zoomout\.rounds = .* above 0"):
        fit_mi_svm(bags, positive, replace(CONFIG, **change), seed=0)


def test_standardisation_and_sigmoid_are_folded_into_the_weights() -> None:
    """Units and offsets of the features, and one that never changes, make no difference to the probabilities."""
    bags, positive = bags_with_one_true_instance()
    held_out = np.arange(60) % 3 == 0
    plain = learn_class(bags, positive, held_out, CONFIG, seed=0)
    scaled = np.column_stack([bags.features * [3.0, 0.1] + [7.0, -2.0], np.full(len(bags.index), 5.0)])
    other = learn_class(Bags(scaled, bags.index), positive, held_out, CONFIG, seed=0)
    expected = expit(bags.features @ plain.weights + plain.bias)
    np.testing.assert_allclose(expit(scaled @ other.weights + other.bias), expected, atol=1e-4)
    assert expected[is_true_instance(bags)].mean() > 0.7 > 0.3 > expected[~is_true_instance(bags)].mean()
    assert plain.calibrated
    assert plain.learnt


def test_two_fits_are_the_same() -> None:
    bags, positive = bags_with_one_true_instance()
    held_out = np.arange(60) < 20
    first, second = (vars(learn_class(bags, positive, held_out, CONFIG, seed=3)) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_class_in_no_bag_or_in_all_has_probability_zero(everywhere: bool) -> None:
    bags, positive = bags_with_one_true_instance()
    held_out = np.arange(60) < 20
    known = learn_class(bags, positive, held_out, CONFIG, seed=0)
    absent = learn_class(bags, np.full(60, everywhere), held_out, CONFIG, seed=0)
    svms = MiSvms(("cat", "dog"), (absent, known))
    assert svms.absent == ("cat",)
    assert (svms.probabilities(bags.features)[:, 0] == 0).all()
    assert svms.probabilities(bags.features)[:, 1].max() > 0.9
    assert svms.rounds()["class"].unique().tolist() == ["dog"]


def test_a_class_that_only_the_held_out_bags_show_is_absent() -> None:
    bags, positive = bags_with_one_true_instance()
    assert not learn_class(bags, positive, positive, CONFIG, seed=0).learnt


def test_without_held_out_bags_the_values_of_the_svm_stand() -> None:
    bags, positive = bags_with_one_true_instance()
    svm = learn_class(bags, positive, np.zeros(60, bool), CONFIG, seed=0)
    assert not svm.calibrated
    np.testing.assert_array_equal(bags.features @ svm.weights + svm.bias > 0, is_true_instance(bags))


def test_history_as_a_table() -> None:
    rounds = np.array([[5, 7, 1], [0, 7, 1]])
    svm = MiSvm(np.zeros(2, np.float32), np.zeros(1, np.float32), rounds, np.array([True]))
    table = MiSvms(("cat",), (svm,)).rounds()
    assert table.to_dict("list") == {
        "class": ["cat", "cat"],
        "round": [1, 2],
        "flips": [5, 0],
        "positives": [7, 7],
        "rescued": [1, 1],
    }


def test_the_sigmoid_recovers_the_one_that_drew_the_labels() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 2, 20_000)
    slope, offset, calibrated = fit_sigmoid(values, rng.random(20_000) < expit(1.5 * values - 1))
    assert calibrated
    assert (slope, offset) == (pytest.approx(1.5, abs=0.1), pytest.approx(-1, abs=0.1))


def test_separable_values_keep_a_finite_sigmoid_with_platts_targets() -> None:
    """Two values only: the sigmoid then takes exactly the targets, (2 + 1) / (2 + 2) and 1 / (3 + 2)."""
    slope, offset, _ = fit_sigmoid(np.array([1.0, 1, 0, 0, 0]), np.array([True, True, False, False, False]))
    np.testing.assert_allclose(expit([slope + offset, offset]), [3 / 4, 1 / 5], atol=1e-3)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-10, 10), st.booleans()), max_size=12))
def test_the_sigmoid_never_falls(pairs: list[tuple[float, bool]]) -> None:
    values, positive = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs], bool)
    slope, offset, calibrated = fit_sigmoid(values, positive)
    assert np.isfinite([slope, offset]).all()
    assert slope > 0
    assert calibrated or (slope, offset) == (1.0, 0.0)


@pytest.mark.parametrize("positive", [[False] * 4, [True] * 4, [True, True, False, False]])
def test_without_evidence_the_sigmoid_is_the_plain_one(positive: list[bool]) -> None:
    assert fit_sigmoid(np.arange(4.0), np.array(positive)) == (1.0, 0.0, False)
