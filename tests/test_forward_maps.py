"""Maps of the forward pass: worked out by hand, and as a network gives them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from torch import nn

from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.forward.class_maps import (
    CLASS_MAPS,
    COMBINATIONS,
    FOREGROUNDS,
    add_background,
    combine,
    extract_score_maps,
    image_level_prior,
    pixel_probabilities,
)


def test_probabilities_of_a_pixel_by_hand() -> None:
    scores = torch.tensor([0.0, 3.0]).log1p().view(2, 1, 1)  # odds of the softmax 1 : 4
    assert pixel_probabilities(scores, (2, 3), "softmax")[:, 1, 2].tolist() == pytest.approx([0.2, 0.8])
    assert pixel_probabilities(scores, (2, 3), "sigmoid")[:, 0, 0].tolist() == pytest.approx([0.5, 0.8])


def test_logits_are_interpolated_not_probabilities() -> None:
    scores = torch.tensor([[[0.0, 8.0], [0.0, 8.0]]])
    between = pixel_probabilities(scores, (4, 4), "sigmoid")[0, 0]  # bilinear weights of 8: 0, 1/4, 3/4, 1
    torch.testing.assert_close(between, torch.tensor([0.0, 2.0, 6.0, 8.0]).sigmoid())


@pytest.mark.parametrize("class_map", CLASS_MAPS)
def test_score_maps_of_half_precision_are_cropped_to_the_image(class_map: str) -> None:
    probabilities = pixel_probabilities(torch.randn(3, 4, 4).half() * 100, (5, 9), class_map)
    assert probabilities.shape == (3, 5, 9)
    assert probabilities.dtype == torch.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_the_prior_weighs_each_class() -> None:
    maps = torch.tensor([[[0.6, 0.2]], [[0.4, 0.8]]])
    torch.testing.assert_close(
        image_level_prior(maps, torch.tensor([1.0, 0.5])), torch.tensor([[[0.6, 0.2]], [[0.2, 0.4]]])
    )


@pytest.mark.parametrize("prior", [0.1, 0.5, 1.0])
def test_equal_priors_leave_the_order_of_the_classes(prior: float) -> None:
    maps = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0))
    weighed = image_level_prior(maps, torch.full((4,), prior))
    torch.testing.assert_close(weighed.argsort(0), maps.argsort(0))


@pytest.mark.parametrize(
    ("combination", "expected"),
    [
        ("product", [0.09, 0.0, 0.4]),
        ("geometric_mean", [0.3, 0.0, 0.4**0.5]),
        ("sum", [0.5, 0.25, 0.7]),
        ("maximum", [0.9, 0.5, 1.0]),
    ],
)
def test_combinations_by_hand(combination: str, expected: list[float]) -> None:
    forward, saliency = torch.tensor([[[0.9, 0.5, 0.4]]]), torch.tensor([[[0.1, 0.0, 1.0]]])
    assert combine(forward, saliency, combination).flatten().tolist() == pytest.approx(expected)


def test_the_complement_is_equation_7() -> None:
    combined = torch.tensor([[[0.2, 0.0]], [[0.7, 0.0]]])
    expected = torch.tensor([[[0.3, 1.0]], [[0.2, 0.0]], [[0.7, 0.0]]])
    torch.testing.assert_close(add_background(combined, None, "complement"), expected)


def test_saliency_says_how_much_and_the_combined_maps_which() -> None:
    combined = torch.tensor([[[0.01, 0.3, 0.0]], [[0.03, 0.1, 0.0]]])
    saliency = torch.tensor([[[0.8, 0.0, 0.6]], [[0.4, 0.0, 0.2]]])
    expected = torch.tensor([[[0.2, 1.0, 0.4]], [[0.2, 0.0, 0.3]], [[0.6, 0.0, 0.3]]])
    torch.testing.assert_close(add_background(combined, saliency, "saliency"), expected)


def test_otsu_puts_the_threshold_at_one_half() -> None:
    dark, bright = 0.0625, 0.25
    combined = torch.tensor([[[dark, dark], [bright, bright]], [[0.4, 0.4], [0.4, 0.4]]])
    rest, bent, constant = add_background(combined, None, "otsu")
    threshold = float(threshold_otsu(combined[0].double().numpy()))
    power = np.log(0.5) / np.log(threshold)
    torch.testing.assert_close(bent, combined[0] ** power)
    assert (bent < 0.5).tolist() == [[True, True], [False, False]]
    torch.testing.assert_close(constant, combined[1])  # it has no threshold
    torch.testing.assert_close(rest, 1 - torch.maximum(bent, constant))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_map_has_no_threshold(value: float) -> None:
    combined = torch.full((2, 3, 3), value)
    torch.testing.assert_close(add_background(combined, None, "otsu"), add_background(combined, None, "complement"))


def test_maps_that_hardly_differ_have_a_threshold_all_the_same() -> None:
    one = np.float32(1)
    for low, high in [(np.nextafter(one, np.float32(0)), one), (np.float32(0), np.nextafter(np.float32(0), one))]:
        values = add_background(torch.tensor([[[low, high]]]), None, "otsu")
        assert torch.isfinite(values).all()


unit = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=8), st.integers(1, 2), st.data())
def test_probabilities_stay_in_the_unit_interval(pairs: list, rows: int, data: st.DataObject) -> None:
    forward, saliency = torch.tensor(pairs * rows).T.reshape(2, rows, 1, -1)
    combined = combine(forward, saliency, data.draw(st.sampled_from(list(COMBINATIONS))))
    assert ((combined >= 0) & (combined <= 1)).all()
    foreground = data.draw(st.sampled_from(FOREGROUNDS))
    labels = add_background(combined, saliency, foreground)
    assert labels.shape == (rows + 1, 1, len(pairs))
    assert ((labels >= 0) & (labels <= 1)).all()
    if foreground == "saliency":
        torch.testing.assert_close(labels.sum(0), torch.ones(1, len(pairs)))


@pytest.mark.parametrize("foreground", FOREGROUNDS)
def test_without_a_class_all_is_background(foreground: str) -> None:
    nothing = torch.zeros(0, 2, 3)
    torch.testing.assert_close(add_background(nothing, nothing, foreground), torch.ones(1, 2, 3))


def test_stored_score_maps_are_those_of_the_network(run: Run, model: nn.Module) -> None:
    store = extract_score_maps(run, model, run.val_ids)
    for image_id in run.val_ids:
        with torch.inference_mode():
            expected = model(resize_and_pad(run.devkit.image(image_id), run.profile.data.image_size)[None])[0]
        scores = torch.from_numpy(store.load(image_id)["scores"])
        assert scores.dtype == torch.float16
        torch.testing.assert_close(scores.float(), expected, rtol=1e-3, atol=1e-5)


def test_only_missing_score_maps_are_computed(run: Run, model: nn.Module) -> None:
    store = extract_score_maps(run, model, run.val_ids)
    store.path(run.val_ids[1]).unlink()
    batches: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    extract_score_maps(run, model, run.val_ids)
    extract_score_maps(run, model, run.val_ids)
    assert batches == [1]
    assert not store.missing(run.val_ids)
