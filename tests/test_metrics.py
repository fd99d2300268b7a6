import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import jaccard_score

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import write_palette_png
from wsseg_core.data.voc import VocDevkit
from wsseg_core.evaluate.metrics import (
    REQUIRED_DETAILS,
    SEED_PROTOCOL,
    TEST_PROTOCOL,
    VOID,
    Scores,
    boundary_band,
    confusion_matrix,
    iou,
    mean_iou,
    paired_bootstrap,
    paired_class_bootstrap,
    score_masks,
    share_above,
)

DETAILS = dict.fromkeys(REQUIRED_DETAILS, "any") | {"protocol": TEST_PROTOCOL}


def scores(name: str, confusions: np.ndarray, **details: object) -> Scores:
    ids = tuple(f"image{index}" for index in range(len(confusions)))
    return Scores(name, ids, np.asarray(confusions, np.int64), DETAILS | details)


def noisy_scores(name: str, wrong: float, count: int = 60, seed: int = 0) -> Scores:
    """Two classes, 100 pixels an image, of which a share is wrong; images differ in difficulty."""
    rng = np.random.default_rng([seed, 7])
    errors = rng.binomial(50, np.clip(wrong + rng.normal(0, 0.1, count), 0, 1))
    return scores(name, np.stack([np.array([[50, 0], [e, 50 - e]]) for e in errors]))


def masks(height: int = 5) -> st.SearchStrategy[np.ndarray]:
    return st_numpy.arrays(np.uint8, (height, 4), elements=st.sampled_from([0, 1, 2, 3, VOID]))


def test_hand_counted_two_by_two():
    truth = np.uint8([[0, 0], [1, 255]])
    prediction = np.uint8([[0, 1], [1, 0]])
    counts = confusion_matrix(truth, prediction, num_classes=1)
    np.testing.assert_array_equal(counts, [[1, 1], [0, 1]])
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(iou(counts), [0.5, 0.5])
    assert mean_iou(counts) == 50.0


def test_rows_are_the_truth():
    counts = confusion_matrix(np.uint8([[0]]), np.uint8([[2]]), num_classes=2)
    assert counts[0, 2] == counts.sum() == 1


def test_a_perfect_prediction_scores_100():
    truth = np.uint8([[0, 1], [2, 255]])
    counts = confusion_matrix(truth, np.where(truth == 255, 0, truth), num_classes=2)
    assert mean_iou(counts) == 100.0


def test_a_constant_prediction_by_hand():
    truth = np.uint8([[0, 0, 0, 1]])
    counts = confusion_matrix(truth, np.zeros_like(truth), num_classes=2)
    np.testing.assert_array_equal(iou(counts), [0.75, 0.0, np.nan])
    assert mean_iou(counts) == 37.5


def test_a_class_that_is_only_predicted_counts_as_zero():
    counts = confusion_matrix(np.uint8([[0, 0]]), np.uint8([[0, 1]]), num_classes=1)
    np.testing.assert_array_equal(iou(counts), [0.5, 0.0])


def test_all_void_or_empty_has_no_score():
    void = np.full((2, 2), VOID, np.uint8)
    for truth in (void, void[:0]):
        counts = confusion_matrix(truth, np.zeros_like(truth), num_classes=1)
        assert counts.sum() == 0
        assert np.isnan(mean_iou(counts))


@given(masks(), masks())
def test_it_agrees_with_sklearn(truth, prediction):
    prediction = np.where(prediction == VOID, 0, prediction)
    counts = confusion_matrix(truth, prediction, num_classes=3)
    keep = truth != VOID
    if not keep.any():
        assert counts.sum() == 0
        return
    np.testing.assert_array_equal(counts, sklearn_confusion_matrix(truth[keep], prediction[keep], labels=[0, 1, 2, 3]))
    present = np.union1d(truth[keep], prediction[keep])
    expected = jaccard_score(truth[keep], prediction[keep], labels=present, average=None)
    np.testing.assert_allclose(iou(counts)[present], expected)
    np.testing.assert_allclose(mean_iou(counts), 100 * expected.mean())


@given(st.lists(st.tuples(masks(3), masks(3)), min_size=1, max_size=4))
def test_images_add_up_to_the_whole(pairs):
    pairs = [(truth, np.where(prediction == VOID, 1, prediction)) for truth, prediction in pairs]
    apart = sum(confusion_matrix(truth, prediction, 3) for truth, prediction in pairs)
    truth, prediction = (np.concatenate(side) for side in zip(*pairs, strict=True))
    np.testing.assert_array_equal(apart, confusion_matrix(truth, prediction, 3))


@given(masks(), masks(), st.permutations(range(4)))
def test_renamed_classes_score_the_same(truth, prediction, names):
    prediction = np.where(prediction == VOID, 3, prediction)
    rename = np.arange(256)
    rename[:4] = names
    before = iou(confusion_matrix(truth, prediction, 3))
    after = iou(confusion_matrix(rename[truth], rename[prediction], 3))
    np.testing.assert_array_equal(after[list(names)], before)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([[0, 9]], [[0, 0]], r"mask holds the values \[9\]"),
        ([[0, 1]], [[0, 255]], r"prediction holds the values \[255\].*never void"),
        ([[255, 255]], [[3, 0]], r"prediction holds the values \[3\]"),
        ([[0, -1]], [[0, 0]], r"mask holds the values \[-1\]"),
        ([[0, 1]], [[0], [1]], "resize the prediction"),
        ([[0, 1]], [[0.0, 1.0]], "prediction of type float64"),
        ([[0, 1]], [[np.nan, 1.0]], "prediction of type float64"),
    ],
)
def test_bad_masks_get_one_line(truth, prediction, message):
    with pytest.raises(WorkbookError, match=message) as caught:
        confusion_matrix(np.array(truth), np.array(prediction), num_classes=2)
    assert "\n" not in str(caught.value)


def test_scores_sum_the_images_before_the_mean():
    result = scores("m", [[[10, 0], [0, 0]], [[0, 0], [5, 5]]])
    np.testing.assert_allclose(result.class_iou, [100 * 10 / 15, 50.0])
    assert result.mean_iou == pytest.approx((1000 / 15 + 50) / 2)


@pytest.mark.parametrize("key", REQUIRED_DETAILS)
def test_a_number_without_its_provenance_is_refused(key):
    details = {name: value for name, value in DETAILS.items() if name != key}
    with pytest.raises(WorkbookError, match=f"lack {key}"):
        Scores("m", ("a",), np.zeros((1, 2, 2), np.int64), details)


@pytest.mark.parametrize(
    ("ids", "confusions", "details", "message"),
    [
        (("a",), np.zeros((1, 2, 2), np.int64), DETAILS | {"protocol": "train"}, "test, seed"),
        (("a", "b"), np.zeros((1, 2, 2), np.int64), DETAILS, "2 images need"),
        (("a",), np.zeros((1, 2, 3), np.int64), DETAILS, "1 images need"),
        ((), np.zeros((0, 2, 2), np.int64), DETAILS, "0 images need"),
        (("a",), np.zeros((1, 2, 2), np.int32), DETAILS, "int64"),
        (("a", "a"), np.zeros((2, 2, 2), np.int64), DETAILS, "scored once"),
    ],
)
def test_scores_that_do_not_belong_together_are_refused(ids, confusions, details, message):
    with pytest.raises(WorkbookError, match=message):
        Scores("m", ids, confusions, details)


def test_scores_survive_the_disk(tmp_path: Path):
    before = noisy_scores("méthode", 0.3, count=4)
    path = tmp_path / "deep" / "scores.npz"
    before.save(path)
    after = Scores.load(path)
    np.testing.assert_array_equal(after.confusions, before.confusions)
    assert (after.name, after.image_ids, after.details) == (before.name, before.image_ids, before.details)
    assert [file.name for file in path.parent.iterdir()] == ["scores.npz"]


@pytest.mark.parametrize("content", [None, b"", b"not a zip", "half"])
def test_a_damaged_file_gets_one_line(tmp_path: Path, content):
    path = tmp_path / "scores.npz"
    if content == "half":
        noisy_scores("m", 0.3).save(path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkbookError, match=r"scores\.npz: missing or damaged"):
        Scores.load(path)


def slow_difference(a: Scores, b: Scores, samples: int, seed: int) -> np.ndarray:
    """The bootstrap written out, image by image, with the generator's draws in the same order."""
    count = len(a.image_ids)
    rng = np.random.default_rng([seed, count])
    draws = rng.integers(0, count, (samples, count))
    other = dict(zip(b.image_ids, b.confusions, strict=True))
    differences = []
    for drawn in draws:
        ours = sum(a.confusions[i] for i in drawn)
        theirs = sum(other[a.image_ids[i]] for i in drawn)
        differences.append(mean_iou(ours) - mean_iou(theirs))
    return np.array(differences)


def test_class_differences_come_from_the_same_resamples_as_their_mean():
    a, b = noisy_scores("a", 0.2), noisy_scores("b", 0.3, seed=1)
    by_class = paired_class_bootstrap(a, b, samples=50, seed=4)
    drawn = np.random.default_rng([4, 60]).integers(0, 60, (50, 60))
    draws = [100 * (iou(a.confusions[rows].sum(0)) - iou(b.confusions[rows].sum(0))) for rows in drawn]
    for index, interval in enumerate(by_class):
        column = np.array(draws)[:, index]
        assert interval.value == pytest.approx(a.class_iou[index] - b.class_iou[index])
        assert [interval.low, interval.high] == pytest.approx(np.percentile(column, [2.5, 97.5]))
    assert np.mean([interval.value for interval in by_class]) == pytest.approx(paired_bootstrap(a, b).value)


def test_a_class_that_never_occurs_has_no_difference_and_a_rare_one_has():
    counts = np.zeros((20, 4, 4), np.int64)
    counts[:, 0, 0] = counts[:, 0, 1] = counts[:, 1, 1] = 10
    counts[0, 2, 2] = 5  # class 2 is in one image only, class 3 in none
    better = counts.copy()
    better[:, 0, 1] = 0
    differences = paired_class_bootstrap(scores("better", better), scores("worse", counts))
    assert differences[1].low == differences[1].high == pytest.approx(50)
    assert (differences[2].value, differences[2].low, differences[2].high) == (0, 0, 0)
    assert np.isnan([differences[3].value, differences[3].low, differences[3].high]).all()


def test_the_paired_bootstrap_is_the_obvious_one():
    a, b = noisy_scores("a", 0.2, seed=1), noisy_scores("b", 0.3, seed=2)
    shuffled = np.random.default_rng(3).permutation(len(b.image_ids))
    b = Scores("b", tuple(b.image_ids[i] for i in shuffled), b.confusions[shuffled], b.details)
    found = paired_bootstrap(a, b, samples=50, seed=4)
    low, high = np.percentile(slow_difference(a, b, 50, 4), [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx(a.mean_iou - b.mean_iou)
    assert found.low < found.value < found.high


def test_pairing_cancels_what_images_share():
    """The same method twice has no difference at all, though each of its scores has a wide interval."""
    a = noisy_scores("a", 0.4)
    own = a.interval()
    assert own.high - own.low > 1
    difference = paired_bootstrap(a, noisy_scores("b", 0.4))
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_swapping_the_two_mirrors_the_interval():
    a, b = noisy_scores("a", 0.2, seed=1), noisy_scores("b", 0.3, seed=2)
    forth, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_the_interval_covers_the_true_score():
    """Of 95 % intervals over fresh samples, nearly all hold the score of the population they come from."""
    rng = np.random.default_rng(5)
    wrong = rng.binomial(50, rng.beta(2, 5, 20_000))
    population = np.stack([np.stack([np.full_like(wrong, 50), 0 * wrong], 1), np.stack([wrong, 50 - wrong], 1)], 1)
    true = float(mean_iou(population.sum(0)))
    held = 0
    for trial in range(100):
        drawn = scores("m", population[rng.integers(0, len(population), 80)])
        interval = drawn.interval(samples=300, seed=trial)
        held += interval.low <= true <= interval.high
    assert 86 <= held <= 99


def test_intervals_are_fixed_by_the_seed():
    a = noisy_scores("a", 0.3)
    assert a.interval(seed=1) == a.interval(seed=1) != a.interval(seed=2)


def test_only_like_scores_are_compared():
    a = noisy_scores("a", 0.3)
    others = {
        "other images": Scores("b", tuple(f"x{i}" for i in range(60)), a.confusions, a.details),
        "differ in split": Scores("b", a.image_ids, a.confusions, a.details | {"split": "train"}),
        "differ in void": Scores("b", a.image_ids, a.confusions, a.details | {"void": "counted"}),
        "differ in protocol": Scores("b", a.image_ids, a.confusions, a.details | {"protocol": SEED_PROTOCOL}),
        "or classes": scores("b", np.zeros((60, 3, 3))),
    }
    for message, b in others.items():
        with pytest.raises(WorkbookError, match=message):
            paired_bootstrap(a, b)


@pytest.fixture
def devkit(tmp_path: Path) -> VocDevkit:
    """Two images of one class: masks [[0, 1], [1, void]] and [[0, 0, 1]]."""
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    for image_id, mask in {"one": np.uint8([[0, 1], [1, 255]]), "two": np.uint8([[0, 0, 1]])}.items():
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(tmp_path / "JPEGImages" / f"{image_id}.jpg")
        write_palette_png(tmp_path / "SegmentationClass" / f"{image_id}.png", mask)
    return VocDevkit(tmp_path)


def test_masks_are_scored_image_by_image(devkit):
    predictions = {"one": np.uint8([[0, 0], [1, 1]]), "two": np.uint8([[0, 0, 1]])}
    for source in (predictions, predictions.__getitem__):
        result = score_masks(devkit, ["two", "one"], source, name="m", details=DETAILS)
        assert result.image_ids == ("two", "one")
        np.testing.assert_array_equal(result.confusions, [[[2, 0], [0, 1]], [[1, 0], [1, 1]]])


def test_what_is_wrong_with_a_prediction_names_the_image(devkit):
    predictions = {"one": np.uint8([[0, 0], [1, 7]])}
    with pytest.raises(WorkbookError, match=r"no prediction for two \(1 missing\)"):
        score_masks(devkit, ["one", "two"], predictions, name="m", details=DETAILS)
    with pytest.raises(WorkbookError, match=r"one, 'm': prediction holds the values \[7\]"):
        score_masks(devkit, ["one"], predictions, name="m", details=DETAILS)


def test_a_boundary_band_by_hand():
    truth = np.uint8([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert boundary_band(truth, 1)[0].astype(int).tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert boundary_band(truth, 2)[0].astype(int).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert boundary_band(truth.T, 2)[:, 0].tolist() == boundary_band(truth, 2)[0].tolist()
    assert not boundary_band(np.full((3, 4), 2, np.uint8), 3).any()
    void = np.uint8([[1, 1, 1, VOID, 0, 0, 0]])
    assert boundary_band(void, 1)[0].astype(int).tolist() == [0, 0, 1, 1, 1, 0, 0]


@given(masks(), st.integers(1, 4))
def test_a_boundary_band_holds_what_is_near_another_label(truth: np.ndarray, width: int):
    band = boundary_band(truth, width)
    places = list(np.ndindex(truth.shape))

    def touches(y: int, x: int) -> bool:
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        return any(place in places and truth[place] != truth[y, x] for place in around)

    edges = [place for place in places if touches(*place)]
    for y, x in places:
        near = any(max(abs(y - v), abs(x - u)) < width for v, u in edges)
        assert band[y, x] == near


def test_the_share_of_good_images_by_hand():
    perfect, half, unscored = [[50, 0], [0, 50]], [[50, 0], [50, 0]], [[0, 0], [0, 0]]
    drawn = scores("drawn", np.array([perfect, half, perfect, half, unscored]))
    interval = share_above(drawn, 70, samples=200)
    assert interval.value == 50
    assert 0 <= interval.low < 50 < interval.high <= 100
    assert share_above(drawn, 100, samples=20).value == 0
    nothing = share_above(scores("nothing", np.array([unscored])), 70, samples=20)
    assert all(math.isnan(value) for value in (nothing.value, nothing.low, nothing.high))
