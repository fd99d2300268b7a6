import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg_core.base.config import SuperpixelCrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.crf.dense import MIN_PROBABILITY
from wsseg_core.crf.superpixel import alpha_expansion, neighbours, superpixel_crf, superpixel_means

CONFIG = SuperpixelCrfConfig(weight=1.0, gamma_beta=20.0)
TOLERANCE = 1e-6  # energies are whole multiples of less than this


def potts_energy(labels: np.ndarray, unary: np.ndarray, pairs: np.ndarray, costs: np.ndarray) -> float:
    own = sum(unary[label, node] for node, label in enumerate(labels))
    return own + sum(cost for (s, t), cost in zip(pairs, costs, strict=True) if labels[s] != labels[t])


def smallest_energy(unary: np.ndarray, pairs: np.ndarray, costs: np.ndarray) -> float:
    labels, nodes = unary.shape
    return min(potts_energy(np.array(x), unary, pairs, costs) for x in product(range(labels), repeat=nodes))


def random_graph(seed: int, labels: int, nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, labels, nodes])
    pairs = np.array([(s, t) for s in range(nodes) for t in range(s + 1, nodes) if rng.random() < 0.6], int)
    pairs = pairs.reshape(-1, 2)
    return rng.exponential(1, (labels, nodes)), pairs, rng.exponential(rng.choice([0.2, 1, 3]), len(pairs))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_two_labels_are_solved_exactly(seed, nodes):
    graph = random_graph(seed, 2, nodes)
    assert potts_energy(alpha_expansion(*graph), *graph) == pytest.approx(smallest_energy(*graph), abs=TOLERANCE)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_three_labels_are_within_twice_the_smallest_energy_and_never_above_the_start(seed, nodes):
    graph = random_graph(seed, 3, nodes)
    energy = potts_energy(alpha_expansion(*graph), *graph)
    assert energy <= 2 * smallest_energy(*graph) + TOLERANCE
    assert energy <= potts_energy(graph[0].argmin(0), *graph) + TOLERANCE


def test_three_labels_are_mostly_solved_exactly():
    graphs = [random_graph(seed, 3, 6) for seed in range(50)]
    excess = [potts_energy(alpha_expansion(*graph), *graph) - smallest_energy(*graph) for graph in graphs]
    assert np.mean(np.array(excess) < TOLERANCE) > 0.9


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_no_expansion_of_a_label_lowers_the_energy_further(seed):
    graph = random_graph(seed, 3, 6)
    labels = alpha_expansion(*graph)
    for label, chosen in product(range(3), product([False, True], repeat=6)):
        other = np.where(chosen, label, labels)
        assert potts_energy(other, *graph) >= potts_energy(labels, *graph) - TOLERANCE


def halves(left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey image of two superpixels side by side, 2x2 pixels."""
    image = np.repeat(np.uint8([[left, right], [left, right]])[..., None], 3, 2)
    return image, np.array([[0, 1], [0, 1]])


def test_two_superpixels_by_hand():
    """Agreement costs -log 0.4 + log 0.6 = 0.405 more, a colour step of 10 grey levels lets the border cost 0.687."""
    image, segments = halves(100, 110)
    probabilities = np.array([[0.9, 0.4], [0.1, 0.6]])
    step = math.exp(-3 * 10**2 / 2 / 20**2)
    agreeing = math.log(0.6 / 0.4) / step  # the weight at which both labellings cost the same
    assert agreeing == pytest.approx(0.590, abs=1e-3)
    for weight, expected in ((agreeing * 0.999, [0, 1]), (agreeing * 1.001, [0, 0])):
        assert superpixel_crf(image, segments, probabilities, replace(CONFIG, weight=weight)).tolist() == expected


def test_a_contrast_far_above_the_width_keeps_the_labels_apart():
    image, segments = halves(0, 255)
    probabilities = np.array([[0.9, 0.49], [0.1, 0.51]])
    assert superpixel_crf(image, segments, probabilities, replace(CONFIG, weight=100.0)).tolist() == [0, 1]
    assert superpixel_crf(np.zeros_like(image), segments, probabilities, CONFIG).tolist() == [0, 0]


def random_superpixels(seed: int, labels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image whose superpixels are connected or not, which the model does not mind."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 8, (6, 7)).repeat(2, 0).repeat(3, 1)
    segments = np.unique(blocks, return_inverse=True)[1].reshape(blocks.shape)
    image = rng.integers(90, 130, (*segments.shape, 3)).astype(np.uint8)
    return image, segments, rng.uniform(0, 1, (labels, segments.max() + 1))


def slow_graph(
    image: np.ndarray, segments: np.ndarray, probabilities: np.ndarray, config: SuperpixelCrfConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The terms of the energy, read off the image pixel by pixel."""
    borders: dict[tuple[int, int], int] = {}
    for (y, x), (down, right) in product(np.ndindex(segments.shape), ((1, 0), (0, 1))):
        if y + down < segments.shape[0] and x + right < segments.shape[1]:
            s, t = sorted((int(segments[y, x]), int(segments[y + down, x + right])))
            borders[s, t] = borders.get((s, t), 0) + (s != t)
    lengths = {pair: length for pair, length in borders.items() if length}
    means = [image[segments == s].astype(float).mean(0) for s in range(probabilities.shape[1])]
    mean_length = sum(lengths.values()) / len(lengths)
    costs = [
        config.weight * length / mean_length * math.exp(-((means[s] - means[t]) ** 2).sum() / 2 / config.gamma_beta**2)
        for (s, t), length in lengths.items()
    ]
    return -np.log(probabilities.clip(MIN_PROBABILITY, 1)), np.array([*lengths]), np.array(costs)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("weight", [0.1, 0.4])
def test_two_labels_of_an_image_have_the_smallest_energy(seed, weight):
    image, segments, probabilities = random_superpixels(seed, labels=2)
    config = replace(CONFIG, weight=weight)
    graph = slow_graph(image, segments, probabilities, config)
    labels = superpixel_crf(image, segments, probabilities, config)
    assert potts_energy(labels, *graph) == pytest.approx(smallest_energy(*graph), abs=TOLERANCE)


def test_neighbours_by_hand():
    pairs, lengths = neighbours(np.array([[0, 0, 2], [0, 1, 2], [3, 1, 2]], np.uint16))
    assert pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    assert lengths.tolist() == [2, 1, 1, 2, 1]


def test_means_over_superpixels_by_hand() -> None:
    maps = np.float32([[[1, 2], [3, 4]], [[0, 1], [1, 1]]])
    segments = np.uint16([[0, 1], [1, 1]])
    np.testing.assert_allclose(superpixel_means(maps, segments), [[1, 3], [0, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_weight_zero_is_the_arg_max(seed):
    image, segments, probabilities = random_superpixels(seed, labels=4)
    labels = superpixel_crf(image, segments, probabilities, replace(CONFIG, weight=0.0))
    np.testing.assert_array_equal(labels, probabilities.argmax(0))
    assert labels.dtype == np.int64


@pytest.mark.parametrize("seed", range(5))
def test_a_huge_weight_gives_the_label_that_fits_best_as_a_whole(seed):
    image, segments, probabilities = random_superpixels(seed)
    labels = superpixel_crf(image, segments, probabilities, SuperpixelCrfConfig(weight=1e9, gamma_beta=1e3))
    assert set(labels) == {np.log(probabilities.clip(MIN_PROBABILITY, 1)).sum(1).argmax()}


def test_one_superpixel_takes_its_likeliest_label():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    probabilities = np.array([[0.2], [0.7], [0.1]])
    assert superpixel_crf(image, np.zeros((4, 5), int), probabilities, CONFIG).tolist() == [1]


def test_one_label_is_everywhere():
    image, segments, probabilities = random_superpixels(3, labels=1)
    assert not superpixel_crf(image, segments, probabilities, CONFIG).any()


def test_a_lone_outlier_is_smoothed_on_a_constant_image_and_ties_stay():
    segments = np.arange(9).reshape(3, 3).repeat(4, 0).repeat(4, 1)
    image = np.full((12, 12, 3), 77, np.uint8)
    foreground = np.full(9, 0.2)
    foreground[4] = 0.9
    assert not superpixel_crf(image, segments, np.stack([1 - foreground, foreground]), CONFIG).any()
    assert not superpixel_crf(image, segments, np.full((3, 9), 0.5), CONFIG).any()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_numbers_of_the_superpixels_do_not_matter(seed):
    image, segments, probabilities = random_superpixels(seed, labels=2)
    order = np.random.default_rng(seed).permutation(probabilities.shape[1])  # new number of each superpixel
    renumbered = np.empty_like(probabilities)
    renumbered[:, order] = probabilities
    expected = superpixel_crf(image, segments, probabilities, CONFIG)
    np.testing.assert_array_equal(superpixel_crf(image, order[segments], renumbered, CONFIG)[order], expected)


def test_the_size_of_the_image_does_not_matter():
    for seed in range(5):
        image, segments, probabilities = random_superpixels(seed)
        large = [array.repeat(3, 0).repeat(3, 1) for array in (image, segments)]
        np.testing.assert_array_equal(
            superpixel_crf(*large, probabilities, CONFIG), superpixel_crf(image, segments, probabilities, CONFIG)
        )


IMAGE, SEGMENTS = halves(10, 20)
PROBABILITIES = np.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("image", "segments", "probabilities", "config", "message"),
    [
        (IMAGE[..., 0], SEGMENTS, PROBABILITIES, CONFIG, "superpixel CRF: the image must be RGB uint8"),
        (IMAGE.astype(float), SEGMENTS, PROBABILITIES, CONFIG, "RGB uint8"),
        (IMAGE, SEGMENTS[:1], PROBABILITIES, CONFIG, r"segments must be whole numbers \(H, W\) = \(2, 2\)"),
        (IMAGE, SEGMENTS.astype(float), PROBABILITIES, CONFIG, "whole numbers"),
        (IMAGE, SEGMENTS + 1, PROBABILITIES, CONFIG, r"numbered 0..1"),
        (IMAGE, SEGMENTS - 1, PROBABILITIES, CONFIG, r"numbered 0..1"),
        (IMAGE, SEGMENTS * 0, PROBABILITIES, CONFIG, "none left out"),
        (IMAGE, SEGMENTS, PROBABILITIES[0], CONFIG, r"must be \(K, S\)"),
        (IMAGE, SEGMENTS, PROBABILITIES[:0], CONFIG, r"must be \(K, S\)"),
        (IMAGE, SEGMENTS, PROBABILITIES * 3, CONFIG, "outside"),
        (IMAGE, SEGMENTS, -PROBABILITIES, CONFIG, "outside"),
        (IMAGE, SEGMENTS, PROBABILITIES * np.nan, CONFIG, "NaN"),
        (IMAGE, SEGMENTS, PROBABILITIES, replace(CONFIG, weight=-1.0), "superpixel_crf.weight = -1.0"),
        (IMAGE, SEGMENTS, PROBABILITIES, replace(CONFIG, weight=math.inf), "superpixel_crf.weight = inf"),
        (IMAGE, SEGMENTS, PROBABILITIES, replace(CONFIG, gamma_beta=0.0), "superpixel_crf.gamma_beta = 0.0"),
    ],
)
def test_bad_input_gets_one_line(image, segments, probabilities, config, message):
    with pytest.raises(WorkbookError, match=message) as caught:
        superpixel_crf(image, segments, probabilities, config)
    assert "\n" not in str(caught.value)
