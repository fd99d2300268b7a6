"""Affinities, walk, labels and loss on grids worked out by hand, and against slow loops and the dense matrix."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wsseg_core.affinity.pairs import (
    affinity_labels,
    affinity_loss,
    background_score,
    pair_kinds,
    pair_loss,
    upsample,
    walk,
    with_background,
)
from wsseg_core.affinity.random_walk import affinities, neighbour_offsets, pair_indices, random_walk, transition_matrix
from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.affinity import AffinityNet
from wsseg_core.nets.dilation import dilate
from wsseg_core.nets.vgg import FcnVgg16

# Pixels 0 to 3, row by row; at radius 2 each is a neighbour of each.
SQUARE = torch.tensor([[[0.0, 1.0], [0.0, 2.0]]])

grids = st.tuples(st.integers(1, 7), st.integers(1, 7))


def random_features(h: int, w: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matrix(features: Tensor, radius: int = 5, beta: float = 8.0) -> Tensor:
    return transition_matrix(affinities(features, radius), *features.shape[-2:], radius, beta)


def loop_pairs(h: int, w: int, radius: int) -> list[tuple[int, int]]:
    """Every unordered pair of pixels less than a radius apart, each named by the one that comes first."""
    pixels = [(y, x) for y in range(h) for x in range(w)]
    return [
        (i, j)
        for i, (y, x) in enumerate(pixels)
        for j, (v, u) in enumerate(pixels)
        if i < j and (y - v) ** 2 + (x - u) ** 2 < radius**2
    ]


def dense_transition(features: Tensor, radius: int, beta: float) -> Tensor:
    """T pair by pair, in a matrix with all its zeros."""
    h, w = features.shape[-2:]
    pixels = features.flatten(1)
    weights = torch.eye(h * w, dtype=features.dtype)
    for i, j in loop_pairs(h, w, radius):
        weights[i, j] = weights[j, i] = torch.exp(-(pixels[:, i] - pixels[:, j]).abs().mean()) ** beta
    return weights / weights.sum(0)


def squared_walk(transition: Tensor, maps: Tensor, doublings: int) -> Tensor:
    """The walk of the released code: the dense matrix squared again and again."""
    for _ in range(doublings):
        transition = transition @ transition
    return (maps.flatten(1) @ transition).view_as(maps)


def test_offsets_are_half_of_a_disc():
    assert neighbour_offsets(2) == [(0, 1), (1, -1), (1, 0), (1, 1)]
    offsets = neighbour_offsets(5)
    disc = {(y, x) for y in range(-9, 10) for x in range(-9, 10) if 0 < y * y + x * x < 25}
    assert len(offsets) == 34
    assert {*offsets, *((-dy, -dx) for dy, dx in offsets)} == disc


def test_pairs_of_a_square_by_hand():
    assert pair_indices(2, 2, radius=2).T.tolist() == [[0, 1], [2, 3], [1, 2], [0, 2], [1, 3], [0, 3]]
    distances = torch.tensor([1.0, 2, 1, 0, 1, 2])
    torch.testing.assert_close(affinities(SQUARE, radius=2), torch.exp(-distances))


def test_transitions_of_a_square_by_hand():
    e = math.exp(-1)  # of (0,1), (1,2), (1,3); e² of (2,3), (0,3); 1 of (0,2)
    weights = torch.tensor([[1, e, 1, e * e], [e, 1, e, e], [1, e, 1, e * e], [e * e, e, e * e, 1]])
    transition = matrix(SQUARE, radius=2, beta=1.0)
    torch.testing.assert_close(transition.to_dense(), weights / weights.sum(0))
    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    # Each pixel takes from pixel 0 the share that it has among the pixel's own neighbours.
    torch.testing.assert_close(random_walk(transition, maps, 1).flatten(), weights[0] / weights.sum(0))


@settings(max_examples=40)
@given(grid=grids, radius=st.integers(2, 6))
def test_pairs_are_those_of_a_loop(grid, radius):
    found = [tuple(pair) for pair in pair_indices(*grid, radius).T.tolist()]
    assert len(found) == len(set(found))
    assert sorted(found) == loop_pairs(*grid, radius)


@settings(max_examples=40)
@given(grid=grids, radius=st.integers(2, 6), beta=st.sampled_from([0.0, 1.0, 8.0]), seed=st.integers(0, 99))
def test_transitions_are_those_of_a_loop_and_columns_add_up_to_1(grid, radius, beta, seed):
    features = random_features(*grid, seed)
    found = matrix(features, radius, beta).to_dense()
    torch.testing.assert_close(found, dense_transition(features, radius, beta))
    torch.testing.assert_close(found.sum(0), torch.ones(len(found), dtype=found.dtype))


@settings(max_examples=40)
@given(grid=grids, steps=st.integers(0, 40), seed=st.integers(0, 99))
def test_the_walk_is_step_by_step_multiplication(grid, steps, seed):
    features = random_features(*grid, seed)
    transition = dense_transition(features, 3, 2.0)
    maps = torch.rand(2, *grid, dtype=torch.float64)
    expected = maps.flatten(1)
    for _ in range(steps):
        expected = expected @ transition
    torch.testing.assert_close(
        random_walk(matrix(features, 3, 2.0), maps, steps).flatten(1), expected, rtol=0, atol=1e-8
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_the_published_walk_is_that_of_the_squared_dense_matrix(dtype, bound):
    features, maps = random_features(20, 17, dtype=dtype), torch.rand(3, 20, 17, dtype=dtype)
    expected = squared_walk(dense_transition(features.double(), 5, 8.0), maps.double(), 8)
    found = random_walk(matrix(features), maps)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)
    assert (expected - maps).abs().max() > 0.1  # there was something to carry


def test_with_beta_0_all_neighbours_count_alike():
    dense = matrix(random_features(6, 5), 3, beta=0.0).to_dense()
    for column in dense.T:
        torch.testing.assert_close(column[column > 0], torch.full_like(column[column > 0], 1 / int((column > 0).sum())))


def test_a_uniform_map_stays():
    maps = torch.full((1, 9, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(random_walk(matrix(random_features(9, 8)), maps), maps)


def test_within_a_component_of_one_colour_maps_even_out_and_nothing_crosses_its_border():
    features = torch.zeros(1, 6, 8, dtype=torch.float64)
    features[:, :, 3:] = 1000  # no affinity left in double precision
    maps = torch.zeros(1, 6, 8, dtype=torch.float64)
    maps[0, 0, 0] = 1
    transition = matrix(features)
    walked = random_walk(transition, maps, 4096)
    # In the long run the value of each pixel counts by how many neighbours it has, itself included.
    neighbours = (transition.to_dense() > 0).sum(0).view(6, 8).double()
    torch.testing.assert_close(
        walked[0, :, :3], (neighbours[0, 0] / neighbours[:, :3].sum()).expand(6, 3), rtol=0, atol=1e-6
    )
    assert not walked[0, :, 3:].any()


@pytest.mark.parametrize(("h", "w", "radius"), [(5, 4, 3), (2, 7, 5), (1, 1, 2)])
def test_the_gradient_of_affinities_is_that_of_all_pairs_at_once(h: int, w: int, radius: int):
    torch.manual_seed(0)
    features = torch.randn(2, 3, h, w, dtype=torch.float64, requires_grad=True)
    first, second = features.flatten(2)[..., pair_indices(h, w, radius)].unbind(-2)
    slow = torch.exp(-(second - first).abs().mean(1))
    fast, weights = affinities(features, radius), torch.randn(slow.shape, dtype=torch.float64)
    torch.testing.assert_close(fast, slow)
    expected, found = (torch.autograd.grad((weights * values).sum(), features)[0] for values in (slow, fast))
    torch.testing.assert_close(found, expected)


def test_batched_affinities_are_those_of_each_image():
    features = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(affinities(features), torch.stack([affinities(image) for image in features]))


def test_a_grid_of_one_pixel_and_no_class():
    one = matrix(torch.ones(3, 1, 1))
    assert affinities(torch.ones(3, 1, 1)).shape == (0,)
    torch.testing.assert_close(random_walk(one, torch.full((2, 1, 1), 0.4)), torch.full((2, 1, 1), 0.4))
    assert random_walk(matrix(random_features(4, 4)), torch.zeros(0, 4, 4, dtype=torch.float64)).shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("affinity", "radius", "beta", "message"),
    [
        (torch.ones(7), 2, 8.0, "a grid of 2×2 has"),
        (torch.full((6,), math.nan), 2, 8.0, "NaN"),
        (torch.full((6,), 1.5), 2, 8.0, "outside"),
        (torch.ones(6), 2, -1.0, "beta"),
        (torch.ones(6), 2, math.nan, "beta"),
        (torch.ones(6), 1, 8.0, "radius 1"),
    ],
)
def test_transitions_refuse_what_makes_no_sense(affinity, radius, beta, message):
    with pytest.raises(WorkbookError, match=message):
        transition_matrix(affinity, 2, 2, radius, beta)


@pytest.mark.parametrize(("maps", "steps"), [(torch.zeros(1, 3, 3), 2), (torch.zeros(1, 2, 2), -1)])
def test_the_walk_refuses_maps_of_another_grid_and_negative_steps(maps, steps):
    with pytest.raises(WorkbookError, match="random walk"):
        random_walk(matrix(SQUARE, radius=2), maps, steps)


def test_background_score_by_hand():
    cam = torch.tensor([[[0.5, 0.0]], [[0.1, 1.0]]])
    torch.testing.assert_close(background_score(cam, 4.0), torch.tensor([[0.5**4, 0.0]]))
    assert (background_score(cam, 32.0) <= background_score(cam, 4.0)).all()
    torch.testing.assert_close(with_background(cam, 4.0)[1:], cam)
    assert (background_score(torch.zeros(2, 3, 3), 16.0) == 1).all()
    assert (with_background(torch.zeros(0, 3, 3), 16.0) == torch.ones(1, 3, 3)).all()


@pytest.mark.parametrize(("value", "alpha"), [(1.1, 4.0), (-0.1, 4.0), (math.nan, 4.0), (0.5, 0.0)])
def test_background_score_refuses_cams_outside_0_to_1_and_alpha_0(value, alpha):
    with pytest.raises(WorkbookError, match=r"divide|alpha"):
        background_score(torch.tensor([[[value]]]), alpha)


def test_affinity_labels_by_hand():
    low, high = np.uint8([[2, 0, 0, 2]]), np.uint8([[2, 2, 0, 0]])
    labels = affinity_labels(low, high)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[2, 255, 0, 0]]
    with pytest.raises(WorkbookError, match="two of one image"):
        affinity_labels(low, high.T)


def test_kinds_of_pairs_by_hand():
    kinds = pair_kinds(torch.tensor([[0, 0], [1, 1]], dtype=torch.uint8), radius=2)
    assert [kind.nonzero().flatten().tolist() for kind in kinds] == [[0], [1], [2, 3, 4, 5]]
    neutral = pair_kinds(torch.tensor([[255, 255], [1, 255]]), radius=2)
    assert not torch.stack(neutral).any()


def loop_loss(affinity: Tensor, labels: Tensor, radius: int) -> float:
    """The loss pair by pair: lists of costs, and the means of those that are not empty."""
    costs: dict[str, list[float]] = {"background": [], "foreground": [], "different": []}
    for image, values in zip(labels.flatten(1).tolist(), affinity.tolist(), strict=True):
        for (i, j), a in zip(pair_indices(*labels.shape[1:], radius).T.tolist(), values, strict=True):
            if 255 in (image[i], image[j]):
                continue
            kind = "different" if image[i] != image[j] else "foreground" if image[i] else "background"
            costs[kind].append(-math.log(1 - a + 1e-5 if kind == "different" else a + 1e-5))
    shares = {"background": 0.25, "foreground": 0.25, "different": 0.5}
    return sum(share * sum(costs[kind]) / len(costs[kind]) for kind, share in shares.items() if costs[kind])


@settings(max_examples=40)
@given(grid=grids, values=st.lists(st.sampled_from([0, 1, 2, 255]), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_loss_is_that_of_a_loop_over_pairs(grid, values, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(values)[torch.randint(len(values), (2, *grid), generator=generator)]
    affinity = affinities(torch.stack([random_features(*grid, seed), random_features(*grid, seed + 1)]), 3)
    loss = pair_loss(affinity, pair_kinds(labels, 3))
    assert loss.item() == pytest.approx(loop_loss(affinity, labels, 3), abs=1e-9)


def test_neutral_pixels_change_nothing():
    labels = torch.tensor([[[0, 1, 255], [0, 1, 255]]])
    features = torch.randn(1, 2, 2, 3, requires_grad=True)
    pair_loss(affinities(features, 3), pair_kinds(labels, 3)).backward()
    assert features.grad[..., :2].any()
    assert not features.grad[..., 2].any()


@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e4])
def test_the_gradient_is_finite_for_equal_and_for_distant_features(distance):
    features = torch.tensor([0.0, distance, 0.0, distance]).view(1, 1, 2, 2).requires_grad_()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    loss = pair_loss(affinities(features, 2), pair_kinds(labels, 2))
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


class Pixels(nn.Module):
    """A network whose features are the pixels of a small image."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 1::2, 1::2]


def test_labels_are_read_at_the_centres_of_the_positions():
    images, labels = torch.randn(2, 3, 8, 6), torch.randint(0, 3, (2, 8, 6), dtype=torch.uint8)
    expected = pair_loss(affinities(images[:, :, 1::2, 1::2], 2), pair_kinds(labels[:, 1::2, 1::2], 2))
    torch.testing.assert_close(affinity_loss(Pixels(), (images, labels), radius=2), expected)


def test_a_batch_without_any_pair_costs_nothing_and_has_a_gradient():
    images = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = affinity_loss(Pixels(), (images, torch.full((1, 4, 4), 255, dtype=torch.uint8)), radius=2)
    loss.backward()
    assert loss == 0
    assert not images.grad.any()


def backbone(width: int = 2) -> FcnVgg16:
    torch.manual_seed(2)
    return FcnVgg16(2, width=width, batch_norm=True, fc_channels=6, fc6_kernel=3)


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_dilation_gives_the_stride_asked_for_and_keeps_the_weights(stride):
    model = backbone().eval()
    dilated = dilate(model, stride)
    assert dilated(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 64 // stride, 96 // stride)
    assert all(torch.equal(value, dilated.state_dict()[name]) for name, value in model.state_dict().items())
    assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 2, 3)


def test_dilation_follows_the_pools_that_no_longer_stride():
    dilated = dilate(backbone(), 8)
    rates = {name: dilated.get_submodule(name).dilation for name in ("conv3_3", "conv4_3", "conv5_1", "fc6", "fc7")}
    assert rates == {"conv3_3": (1, 1), "conv4_3": (1, 1), "conv5_1": (2, 2), "fc6": (4, 4), "fc7": (4, 4)}
    assert (dilated.conv5_1.padding, dilated.fc6.padding, dilated.fc7.padding) == ((2, 2), (4, 4), (0, 0))
    assert [dilated.get_submodule(f"pool{block}").stride for block in range(1, 6)] == [2, 2, 2, 1, 1]


def test_dilation_meets_the_old_features_where_maxima_have_nothing_to_choose():
    """An image of one colour, read so far from its border that no filter of either network sees its end."""
    model, images = backbone().eval(), torch.tensor([1.0, -1.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 384, 384)
    expected, found = model(images)[..., 6, 6], dilate(model, 8)(images)[..., 24, 24]
    assert (expected != 0).all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_dilation_at_32_changes_nothing():
    images = torch.randn(2, 3, 70, 64)
    torch.testing.assert_close(dilate(backbone().eval(), 32)(images), backbone().eval()(images))


def test_other_strides_are_refused():
    with pytest.raises(WorkbookError, match="stride 12"):
        dilate(backbone(), 12)
    with pytest.raises(WorkbookError, match="stride 16"):
        AffinityNet(backbone(), 16)


@pytest.mark.parametrize(("stride", "width"), [(8, 2), (4, 3), (8, 16)])
def test_features_have_the_networks_stride_and_channels_by_its_width(stride, width):
    model = AffinityNet(backbone(width), stride)
    assert model(torch.randn(2, 3, 40, 51)).shape == (2, 7 * width, 40 // stride, 51 // stride)


def test_full_width_keeps_the_published_channels():
    with torch.device("meta"):
        model = AffinityNet(FcnVgg16(20))
    assert model.mix.weight.shape == (448, 448, 1, 1)
    assert [(embed[0].out_channels, embed[1].num_groups) for embed in model.embeddings] == [
        (64, 8),
        (128, 16),
        (256, 32),
    ]


def test_every_parameter_learns_and_the_classifier_stays():
    classifier = backbone()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    model = AffinityNet(classifier)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    labels = torch.zeros(2, 64, 48, dtype=torch.uint8)
    labels[:, :, 24:] = 1
    affinity_loss(model, (torch.randn(2, 3, 64, 48), labels)).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


@pytest.mark.parametrize(("height", "width"), [(40, 48), (41, 37), (5, 3)])
def test_maps_of_any_image_come_back_in_its_size_and_in_0_to_1(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    cam = torch.rand(2, height, width)
    walked = upsample(walk(AffinityNet(backbone()).eval(), image, cam), 8, (height, width))
    assert walked.shape == (3, height, width)
    assert ((walked >= 0) & (walked <= 1)).all()
    with pytest.raises(WorkbookError, match="resize them"):
        walk(AffinityNet(backbone()).eval(), image, cam[:, 1:])


def test_without_a_class_or_an_activation_all_is_background():
    model, image = AffinityNet(backbone()).eval(), np.zeros((24, 16, 3), np.uint8)
    for classes in (0, 2):
        walked = walk(model, image, torch.zeros(classes, 24, 16))
        torch.testing.assert_close(walked[0], torch.ones(3, 2), rtol=0, atol=1e-4)
        assert not walked[1:].any()


def test_without_a_step_the_maps_are_only_averaged_over_the_positions():
    small = torch.rand(1, 2, 2)
    cam = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    walked = walk(AffinityNet(backbone()).eval(), np.zeros((16, 16, 3), np.uint8), cam, alpha=2.0, steps=0)
    torch.testing.assert_close(walked, with_background(small, 2.0))
