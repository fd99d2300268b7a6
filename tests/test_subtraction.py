"""Equations 4, 5 and 7 on 2x2 maps worked out by hand, and what must hold for any maps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.transforms import unpad
from wsseg_core.saliency.subtraction import (
    ORDERS,
    aggregate,
    background,
    candidates,
    class_maps,
    released_saliency,
    subtract,
)

# Three classes; the third is the weakest.
MAPS = torch.tensor([[[4.0, 2.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])

# Values that bfloat16 and float32 sums carry exactly, so that the properties may ask for equality.
whole_numbers = st.integers(0, 64).map(float)
any_maps = arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3), st.just(3)), elements=whole_numbers).map(
    torch.from_numpy
)


def combine(layers, targets, min_candidates=3, order=ORDERS[0]):
    """Class maps of square maps that have the size of the image already."""
    return class_maps([layers], tuple(layers[0].shape[1:]), targets, min_candidates, order=order)


def loop_differences(maps, targets):
    """Equation 4 without its division, as printed."""
    result = torch.zeros(targets, *maps.shape[1:])
    for c in range(targets):
        for other in range(len(maps)):
            if other != c:
                result[c] += torch.maximum(maps[c] - maps[other], torch.tensor(0.0))
    return result


def test_equation_4_by_hand():
    # Class 0: (4-1)+(4-0)=7, 0+1=1, 0, 1+1=2, divided by 7. Class 1: 0+1=1, 0+1=1, 2+1=3, 0, divided by 3.
    expected = torch.tensor([[[7.0, 1.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, 0.0]]]) / torch.tensor([[[7.0]], [[3.0]]])
    torch.testing.assert_close(subtract(MAPS, 2), expected)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # Maps over their maxima are [1 1/2 0 1/4], [1/2 1 1 0], [0 1 1 0]; class 0 alone is asked for.
        ("normalise_then_subtract", [1.5, 0, 0, 0.5]),
        ("both", [1, 0, 0, 1 / 3]),
        ("joint", [7 / 4, 1 / 4, 0, 2 / 4]),
        ("subtract_then_normalise", [1, 1 / 7, 0, 2 / 7]),
    ],
)
def test_orders_by_hand(order, expected):
    torch.testing.assert_close(subtract(MAPS, 1, order=order).flatten(), torch.tensor(expected, dtype=torch.float32))


def test_released_variant_by_hand():
    layers = [torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]), torch.tensor([[[3.0, 0.0]], [[0.0, 2.0]]])]
    layers[1][0, 0, 1] = 2.0
    # Sums [4 2] and [0 4]; over their maxima [1 .5] and [0 1]; tanh(3 ·); class 0 minus class 1; its maximum is first.
    first, second = math.tanh(3.0), max(math.tanh(1.5) - math.tanh(3.0), 0)
    expected = math.tanh(3.0), math.tanh(3.0 * second / first)
    torch.testing.assert_close(released_saliency([layers], 1).flatten(), torch.tensor(expected) / expected[0])


def test_released_variant_sums_layers_before_it_subtracts():
    # Layer by layer each class wins one position; their sums are equal, so nothing is distinct.
    layers = [torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])]
    assert released_saliency([layers], 2).count_nonzero() == 0
    assert aggregate([subtract(maps, 2) for maps in layers], 3.0).count_nonzero() == 4


def test_equation_5_by_hand():
    maps = [torch.tensor([[[0.0, 0.5]]]), torch.tensor([[[1.0, 0.5]]])]
    expected = torch.tensor([[[math.tanh(2) / 2, math.tanh(1)]]])
    torch.testing.assert_close(aggregate(maps, alpha=2.0), expected)


def test_equation_7_by_hand():
    maps = torch.tensor([[[0.2, 0.9]], [[0.7, 0.0]]])
    torch.testing.assert_close(background(maps), torch.tensor([[0.3, 0.1]]))


def test_no_class_drawn_is_background_everywhere():
    maps = class_maps([[torch.rand(3, 4, 4)]], (5, 8), targets=0)
    assert maps.shape == (0, 5, 8)
    assert (background(maps) == 1).all()


def test_candidates_are_the_drawn_classes_and_the_best_others():
    scores = torch.tensor([0.1, 0.9, 0.4, 0.6, 0.3])
    for wanted, expected in [(0, [1, 3]), (1, [1, 3]), (3, [1, 3, 2]), (4, [1, 3, 2, 4]), (10, [1, 3, 2, 4, 0])]:
        indices, targets = candidates(scores, scores > 0.5, wanted)
        assert (indices.tolist(), targets) == (expected, 2)


def test_known_labels_come_first_whatever_they_score():
    indices, targets = candidates(torch.tensor([0.1, 0.9, 0.4]), torch.tensor([True, False, True]), 3)
    assert (indices.tolist(), targets) == ([2, 0, 1], 2)


def test_no_detected_class_leaves_only_competitors():
    indices, targets = candidates(torch.tensor([0.1, 0.3, 0.2]), torch.zeros(3, dtype=torch.bool), 2)
    assert (indices.tolist(), targets) == ([1, 2], 0)


def test_min_candidates_selects_the_leading_rows():
    for wanted in (1, 2):
        torch.testing.assert_close(subtract(MAPS, 2, min_candidates=wanted), subtract(MAPS[:2], 2))
    torch.testing.assert_close(subtract(MAPS, 1, min_candidates=2), subtract(MAPS[:2], 1))
    torch.testing.assert_close(subtract(MAPS, 2, min_candidates=9), subtract(MAPS, 2))


def test_without_subtraction_each_map_is_only_normalised():
    expected = MAPS / MAPS.amax((1, 2), keepdim=True)
    torch.testing.assert_close(subtract(MAPS, 3, min_candidates=0), expected)
    torch.testing.assert_close(subtract(MAPS, 1, min_candidates=1), expected[:1])
    torch.testing.assert_close(subtract(MAPS[:1], 1), expected[:1])


def test_class_maps_up_sample_each_layer_and_crop_the_padding():
    maps = [[torch.rand(3, 4, 4), torch.rand(3, 8, 8)], [torch.rand(3, 5, 5)]]
    upsampled = [[unpad(layer, (6, 10)) for layer in layers] for layers in maps]
    expected = aggregate([subtract(layer, 2) for layers in upsampled for layer in layers], 3.0)
    torch.testing.assert_close(class_maps(maps, (6, 10), 2), expected)
    assert expected.shape == (2, 6, 10)
    torch.testing.assert_close(class_maps(maps, (6, 10), 2, order="released"), released_saliency(upsampled, 2))


def test_released_variant_averages_over_input_sizes():
    one, other = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    mean = (released_saliency([[one]], 2) + released_saliency([[other]], 2)) / 2
    torch.testing.assert_close(released_saliency([[one], [other]], 2), mean / mean.amax((1, 2), keepdim=True))


@pytest.mark.parametrize("order", ["subtract_after_lunch", "released"])
def test_unknown_order(order):
    with pytest.raises(WorkbookError, match="order of subtraction"):
        subtract(MAPS, 1, order=order)


@given(maps=any_maps, order=st.sampled_from(ORDERS), min_candidates=st.integers(0, 5), data=st.data())
def test_class_maps_lie_between_0_and_1_and_are_never_nan(maps, order, min_candidates, data):
    targets = data.draw(st.integers(0, len(maps)))
    result = combine([maps, maps * 2], targets, min_candidates, order=order)
    assert result.shape == (targets, 3, 3)
    assert ((result >= 0) & (result <= 1)).all()


@given(maps=any_maps)
def test_differences_are_those_of_the_printed_sum(maps):
    targets = len(maps)
    result, loop = subtract(maps, targets, min_candidates=targets), loop_differences(maps, targets)
    if targets > 1:
        torch.testing.assert_close(result * loop.amax((1, 2), keepdim=True), loop)
        assert ((result.amax((1, 2)) == 1) == (loop.amax((1, 2)) > 0)).all()


@given(maps=any_maps, order=st.sampled_from(ORDERS), seed=st.integers(0, 9))
def test_reordering_the_classes_reorders_the_maps(maps, order, seed):
    shuffle = torch.from_numpy(np.random.default_rng(seed).permutation(len(maps)))
    shuffled = combine([maps[shuffle]], len(maps), order=order)
    torch.testing.assert_close(shuffled, combine([maps], len(maps), order=order)[shuffle])


@given(maps=any_maps.filter(lambda maps: len(maps) > 1), shared=arrays(np.float32, (3, 3), elements=whole_numbers))
def test_what_all_classes_share_is_taken_away(maps, shared):
    targets = len(maps)
    assert torch.equal(subtract(maps + torch.from_numpy(shared), targets), subtract(maps, targets))


@given(maps=any_maps, order=st.sampled_from(ORDERS), factor=st.sampled_from([0.25, 8.0]))
def test_no_order_depends_on_the_scale_of_the_gradients(maps, order, factor):
    targets = len(maps)
    torch.testing.assert_close(combine([factor * maps], targets, order=order), combine([maps], targets, order=order))


@pytest.mark.parametrize("order", ORDERS)
def test_an_empty_map_stays_empty(order):
    maps = torch.stack([torch.zeros(2, 2), torch.eye(2)])
    assert not combine([maps], 2, order=order)[0].any()
    assert not combine([torch.zeros(3, 2, 2)], 3, order=order).any()
