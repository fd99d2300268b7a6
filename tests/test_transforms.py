import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsseg_core.data.transforms import MEAN, STD, normalise, resize_and_pad, unpad

sides = st.integers(1, 60)


def smooth_image(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    return np.stack([200 * rows, 200 * columns, 100 * (rows + columns)], axis=2).astype(np.uint8)


def test_normalise_by_hand():
    image = np.array([[[0, 255, 51]]], np.uint8)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert normalise(image).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_an_image_of_the_right_size_is_only_padded():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    padded = resize_and_pad(image, 5)
    assert torch.equal(padded[:, :3], normalise(image))
    assert not padded[:, 3:].any()


@given(sides, sides, st.integers(1, 70))
@settings(max_examples=60)
def test_padding_is_zero_and_lies_below_and_to_the_right(height: int, width: int, size: int):
    white = np.full((height, width, 3), 255, np.uint8)
    padded = resize_and_pad(white, size)
    scaled = [max(1, round(side * size / max(height, width))) for side in (height, width)]
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[: scaled[0], : scaled[1]] = True
    assert padded.shape == (3, size, size)
    assert max(scaled) == size
    assert torch.allclose(padded[:, inside], ((1 - MEAN) / STD).flatten(1), atol=1e-5)
    assert not padded[:, ~inside].any()


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (50, 50), (60, 7), (1, 60)])
@pytest.mark.parametrize("size", [32, 60, 96])
def test_unpad_inverts_resize_and_pad(height: int, width: int, size: int):
    image = smooth_image(height, width)
    restored = unpad(resize_and_pad(image, size), (height, width))
    assert restored.shape == (3, height, width)
    # The last row and column before the padding are mixed with it.
    inner = (slice(None), slice(0, max(1, height - 3)), slice(0, max(1, width - 3)))
    if min(height, width) > 1 or size == 60:
        assert (restored - normalise(image))[inner].abs().max() < 0.15


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (3, 400)])
def test_extreme_shapes_survive_both_ways(height: int, width: int):
    image = np.full((height, width, 3), 128, np.uint8)
    padded = resize_and_pad(image, 64)
    assert padded.shape == (3, 64, 64)
    assert torch.allclose(padded[:, 0, 0], normalise(image)[:, 0, 0], atol=1e-5)
    assert unpad(padded, (height, width)).shape == (3, height, width)


def test_unpad_of_a_coarse_map_is_bilinear_and_cropped():
    coarse = torch.tensor([[[0.0, 4.0], [8.0, 12.0]]])
    columns = torch.tensor([0.0, 1.0, 3.0, 4.0])  # centres of four pixels over two cells
    assert torch.allclose(unpad(coarse, (1, 4)), columns.view(1, 1, 4))
    assert torch.allclose(unpad(coarse, (4, 1)), 2 * columns.view(1, 4, 1))
    assert torch.equal(unpad(coarse, (2, 2)), coarse)
