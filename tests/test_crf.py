import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg_core.base.config import CrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.crf.dense import MIN_PROBABILITY, dense_crf, scale_widths

PAPER = CrfConfig()


def two_regions(size: int = 40, noise: float = 0.35, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of two colours, class maps that are right on average only, and the truth."""
    rng = np.random.default_rng([seed, size])
    truth = np.zeros((size, size), np.uint8)
    truth[:, size // 2 :] = 1
    image = np.where(truth[..., None], np.uint8([200, 60, 40]), np.uint8([40, 90, 200]))
    foreground = (0.5 + 0.1 * (2.0 * truth - 1) + rng.normal(0, noise, truth.shape)).clip(0.02, 0.98)
    return image, np.stack([1 - foreground, foreground]).astype(np.float32), truth


def test_without_kernels_the_marginals_are_the_normalised_unary():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    probabilities = rng.uniform(0, 1, (3, 6, 7)).astype(np.float32)
    clipped = probabilities.clip(MIN_PROBABILITY, 1)
    marginals = dense_crf(image, probabilities, replace(PAPER, w1=0.0, w2=0.0))
    np.testing.assert_allclose(marginals, clipped / clipped.sum(0), atol=1e-5)


def test_a_noisy_image_of_two_regions_is_cleaned():
    image, probabilities, truth = two_regions()
    before = (probabilities.argmax(0) != truth).mean()
    after = (dense_crf(image, probabilities, replace(PAPER, w1=4.0)).argmax(0) != truth).mean()
    assert before > 0.2
    assert after < before / 4


def test_colour_decides_where_the_edge_lies():
    """The maps put the edge four pixels too far left; only the colour kernel can move it back."""
    image, _, truth = two_regions()
    foreground = np.full(truth.shape, 0.3, np.float32)
    foreground[:, 16:] = 0.7
    maps = np.stack([1 - foreground, foreground])
    config = replace(PAPER, w1=10.0, w2=0.0, gamma_alpha=200.0)
    assert (dense_crf(image, maps, config).argmax(0) == truth).all()
    flat = np.full_like(image, 100)
    assert (dense_crf(flat, maps, replace(config, w1=0.0, w2=1.0)).argmax(0) == maps.argmax(0)).all()


def mean_field(image: np.ndarray, probabilities: np.ndarray, config: CrfConfig) -> np.ndarray:
    """Mean field written out over all pairs of pixels, with pydensecrf's symmetric normalisation of a kernel."""
    labels, height, width = probabilities.shape
    config = scale_widths(config, height, width)
    position = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)
    apart = ((position[:, None] - position[None]) ** 2).sum(-1)
    colours_apart = ((colour[:, None] - colour[None]) ** 2).sum(-1)
    near = np.exp(-apart / 2 / config.gamma_gamma**2)
    alike = np.exp(-apart / 2 / config.gamma_alpha**2 - colours_apart / 2 / config.gamma_beta**2)
    pairwise = np.zeros_like(near)
    for weight, kernel in ((config.w2, near), (config.w1, alike)):
        scale = 1 / np.sqrt(kernel.sum(1))
        pairwise += weight * scale[:, None] * kernel * scale[None]
    unary = np.log(probabilities.clip(MIN_PROBABILITY, 1)).reshape(labels, -1)
    q = np.exp(unary) / np.exp(unary).sum(0)
    for _ in range(config.iterations):
        q = np.exp(unary + q @ pairwise)
        q /= q.sum(0)
    return q.reshape(probabilities.shape)


def ramp() -> np.ndarray:
    """Colours that change slowly, on which the lattice is accurate."""
    rise, flat = np.mgrid[80:140:14j, 0:1:14j][0], np.full((14, 14), 100.0)
    return np.stack([rise, rise.T, flat], -1).astype(np.uint8)


def speckle() -> np.ndarray:
    """Unrelated colours, on which the spatial width of the colour kernel shows."""
    return np.random.default_rng(8).integers(90, 130, (14, 14, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "w1", "w2", "iterations", "bound"),
    [(ramp(), w1, w2, 1, 0.006) for w1, w2 in ((1, 0), (0, 1), (1, 1), (3, 1))]
    + [(speckle(), 1, w2, iterations, 0.008) for w2 in (0, 1) for iterations in (1, 10)],
)
def test_it_is_near_mean_field_over_all_pairs(image, w1, w2, iterations, bound):
    """The lattice approximates the Gaussians, by at most 0.0046 on the ramp and 0.0057 on the speckle.

    One width doubled, w1 half as large again or three iterations more each leaves the bound in some case.
    """
    _, probabilities, _ = two_regions(size=14, noise=0.2)
    config = CrfConfig(w1, w2, gamma_alpha=150.0, gamma_gamma=75.0, iterations=iterations)
    difference = np.abs(dense_crf(image, probabilities, config) - mean_field(image, probabilities, config))
    assert difference.mean() < bound


@settings(max_examples=15)
@given(st.permutations(range(4)), st.integers(0, 2**32 - 1))
def test_permuted_labels_give_permuted_marginals(order, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    probabilities = rng.uniform(0, 1, (4, 9, 12)).astype(np.float32)
    expected = dense_crf(image, probabilities, PAPER)[list(order)]
    np.testing.assert_allclose(dense_crf(image, probabilities[list(order)], PAPER), expected, atol=1e-4)
    np.testing.assert_allclose(expected.sum(0), 1, atol=1e-4)
    assert expected.dtype == np.float32


def test_widths_scale_with_the_longest_side_and_colour_does_not():
    scaled = scale_widths(PAPER, 100, 250)
    assert (scaled.gamma_alpha, scaled.gamma_beta, scaled.gamma_gamma) == (15.0, 10.0, 1.5)
    assert scale_widths(PAPER, 500, 375) == PAPER


def test_the_scaled_widths_are_the_ones_used():
    """At 50 pixels a width of 30 counts as 3: the unary of a pixel far away must not be heard."""
    image = np.full((1, 50, 3), 128, np.uint8)
    maps = np.full((2, 1, 50), 0.5, np.float32)
    maps[:, 0, 0] = (0.01, 0.99)
    config = replace(PAPER, w2=0.0, gamma_alpha=30.0)
    near = dense_crf(image, maps, config)[1, 0]
    far = dense_crf(image, maps, replace(config, gamma_alpha=3000.0))[1, 0]
    assert near[4] > 0.52
    assert near[45] < 0.502 < 0.507 < far[45]


def by_neighbours(maps: np.ndarray) -> np.ndarray:
    """Between the middles of four pixels, a quarter of the way from the first: bilinear weights 9, 3, 3 and 1."""
    corners = maps[:, :-1, :-1], maps[:, :-1, 1:], maps[:, 1:, :-1], maps[:, 1:, 1:]
    return sum(weight * corner for weight, corner in zip((9, 3, 3, 1), corners, strict=True)) / 16


def test_a_large_image_is_made_smaller_for_the_crf_alone():
    """Of blocks of 2×2 equal pixels the half image says everything; what comes back has the size of the image."""
    image, probabilities, _ = two_regions(size=12)
    large, large_maps = image.repeat(2, 0).repeat(2, 1), probabilities.repeat(2, 1).repeat(2, 2)
    half = dense_crf(image, probabilities, PAPER)
    found = dense_crf(large, large_maps, replace(PAPER, max_side=12))
    assert found.shape == large_maps.shape
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)
    np.testing.assert_allclose(found[:, 1:-1:2, 1:-1:2], by_neighbours(half), atol=1e-4)
    same = dense_crf(large, large_maps, replace(PAPER, max_side=24))
    np.testing.assert_array_equal(same, dense_crf(large, large_maps, PAPER))
    assert dense_crf(large[:, :3], large_maps[:, :, :3], replace(PAPER, max_side=1)).shape == (2, 24, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_tiny_images(shape):
    image = np.zeros((*shape, 3), np.uint8)
    maps = np.full((2, *shape), 0.5, np.float32)
    maps[1] = 0.9
    assert (dense_crf(image, maps, PAPER).argmax(0) == 1).all()


def test_constant_images_keep_constant_maps():
    maps = np.stack([np.full((8, 8), 0.3), np.full((8, 8), 0.7)]).astype(np.float32)
    marginals = dense_crf(np.full((8, 8, 3), 255, np.uint8), maps, PAPER)
    assert np.ptp(marginals[1, 2:6, 2:6]) < 0.01
    assert (marginals[1] > 0.7).all()


def test_one_label_is_returned_as_it_came():
    maps = np.random.default_rng(2).uniform(0, 1, (1, 4, 5)).astype(np.float32)
    result = dense_crf(np.zeros((4, 5, 3), np.uint8), maps, PAPER)
    np.testing.assert_array_equal(result, maps)
    assert result is not maps


def test_the_input_is_left_alone_and_need_not_be_contiguous():
    image, probabilities, _ = two_regions(size=12)
    kept = image.copy(), probabilities.copy()
    expected = dense_crf(image[:, ::-1].copy(), probabilities[:, :, ::-1].copy(), PAPER)
    np.testing.assert_array_equal(dense_crf(image[:, ::-1], probabilities[:, :, ::-1], PAPER), expected)
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(probabilities, kept[1])


IMAGE = np.zeros((4, 5, 3), np.uint8)
MAPS = np.full((2, 4, 5), 0.5, np.float32)


@pytest.mark.parametrize(
    ("image", "maps", "config", "message"),
    [
        (IMAGE[..., 0], MAPS, PAPER, "RGB uint8"),
        (IMAGE.astype(np.float32), MAPS, PAPER, "RGB uint8"),
        (np.zeros((4, 5, 4), np.uint8), MAPS, PAPER, "RGB uint8"),
        (IMAGE, MAPS.transpose(0, 2, 1), PAPER, "resize them"),
        (IMAGE, MAPS[0], PAPER, "resize them"),
        (IMAGE, MAPS[:0], PAPER, "resize them"),
        (IMAGE, MAPS * np.nan, PAPER, "NaN"),
        (IMAGE, MAPS * 3, PAPER, "outside"),
        (IMAGE, -MAPS, PAPER, "outside"),
        (IMAGE, MAPS, replace(PAPER, gamma_beta=0.0), "crf.gamma_beta = 0.0 must be above 0"),
        (IMAGE, MAPS, replace(PAPER, w1=-1.0), "crf.w1 = -1.0 must be 0 or more"),
        (IMAGE, MAPS, replace(PAPER, iterations=-1), "crf.iterations"),
    ],
)
def test_bad_input_gets_one_line(image, maps, config, message):
    with pytest.raises(WorkbookError, match=message) as caught:
        dense_crf(image, maps, config)
    assert "\n" not in str(caught.value)


def test_a_missing_pydensecrf_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(WorkbookError, match=r"C\+\+ compiler.*uv sync"):
        dense_crf(IMAGE, MAPS, PAPER)
