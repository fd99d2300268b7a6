"""Objects of known outline, and maps and images that have nothing to cut out."""

import numpy as np
import pytest

from wsseg_core.saliency.grabcut import grabcut_labels, grabcut_mask

OBJECT = np.zeros((40, 50), bool)
OBJECT[10:30, 15:35] = True
RED, GREY, GREEN = (200, 30, 30), (90, 90, 90), (30, 200, 30)


def scene(seed=0):
    """A red square on grey, both noisy."""
    noise = np.random.default_rng(seed).normal(0, 6, (*OBJECT.shape, 3))
    return (np.where(OBJECT[..., None], RED, GREY) + noise).clip(0, 255).astype(np.uint8)


def blob(row, column, width):
    rows, columns = np.mgrid[:40, :50]
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / width**2)


def test_cut_follows_the_colours_not_the_map():
    saliency = blob(20, 25, 8)  # its upper 5 % are a disc in the middle of the square
    mask = grabcut_mask(scene(), saliency)
    assert mask.dtype == bool
    assert (mask == OBJECT).mean() > 0.98
    assert (saliency > np.quantile(saliency, 0.95)).sum() < 0.3 * OBJECT.sum()


def test_seeds_keep_their_label():
    rng = np.random.default_rng(1)
    image, saliency = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8), rng.random((20, 20))
    mask = grabcut_mask(image, saliency)
    assert mask[saliency > np.quantile(saliency, 0.95)].all()
    assert not mask[saliency <= np.quantile(saliency, 0.30)].any()


def test_same_result_every_time():
    rng = np.random.default_rng(2)
    image, saliency = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8), rng.random((30, 30))
    assert (grabcut_mask(image, saliency) == grabcut_mask(image, saliency)).all()


def test_scale_of_the_map_does_not_matter():
    saliency = blob(20, 25, 8)
    assert (grabcut_mask(scene(), saliency) == grabcut_mask(scene(), saliency * 1e-9)).all()


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_constant_map_has_no_object(value):
    assert not grabcut_mask(scene(), np.full(OBJECT.shape, value)).any()


def test_map_of_mostly_zeros():
    saliency = np.zeros(OBJECT.shape)
    saliency[20, 25] = 1.0
    assert grabcut_mask(scene(), saliency)[20, 25]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)])
def test_tiny_images(shape):
    saliency = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert grabcut_mask(np.zeros((*shape, 3), np.uint8), saliency).shape == shape


def test_constant_image_leaves_the_seeds():
    saliency = blob(20, 25, 8)
    mask = grabcut_mask(np.full((40, 50, 3), 90, np.uint8), saliency)
    assert mask[saliency > np.quantile(saliency, 0.95)].all()


def test_several_classes_with_the_stronger_on_top():
    image = scene()
    image[2:9, 2:9] = GREEN
    maps = np.stack([blob(20, 25, 8), blob(5, 5, 3), 0.5 * blob(20, 25, 8)])
    labels = grabcut_labels(image, maps, np.array([4, 0, 7]))
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 5}
    assert (labels[OBJECT] == 5).mean() > 0.95
    assert (labels[2:9, 2:9] == 1).mean() > 0.95


def test_no_class_is_background():
    assert not grabcut_labels(scene(), np.empty((0, 40, 50)), np.empty(0, np.int64)).any()
