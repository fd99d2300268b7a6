"""Whether classes can be told apart on the screen: by eyes that see fewer colours, and without any colour."""

import itertools

import numpy as np
import pytest

from wsseg_core.data.images import VOID
from wsseg_core.workbook import palette

VOC_CLASSES = 20
APART = 15.0  # distance in CIELAB; about 2.3 is the least that an eye notices, for large patches side by side
CONTRAST = 3.0  # of graphical objects, WCAG 2.1, 1.4.11

# What is left of linear RGB without one kind of cones: Machado, Oliveira & Fernandes, IEEE TVCG 2009, severity 1.
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)  # of linear sRGB


def linear(colours: np.ndarray) -> np.ndarray:
    values = np.asarray(colours) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(values: np.ndarray) -> np.ndarray:
    relative = values @ XYZ.T / (XYZ.sum(1))
    x, y, z = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_stay_apart(sight: str) -> None:
    seen = lab(np.clip(linear(palette.COLOURS) @ np.array(SIGHT[sight]).T, 0, 1))
    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)]
    assert min(distances) >= APART


def test_colours_stand_out_from_background_and_lines() -> None:
    luminance = linear(palette.COLOURS) @ XYZ[1]
    assert min((luminance + 0.05) / 0.05) >= CONTRAST


def test_no_class_of_voc_is_told_by_its_colour_alone() -> None:
    assert len(set(palette.class_hatches(VOC_CLASSES))) == VOC_CLASSES
    side = np.arange(1, VOC_CLASSES + 1, dtype=np.uint8)
    lines = [palette.hatching(np.full((60, 60), value, np.uint8)) for value in side]
    for one, other in itertools.combinations(lines, 2):
        assert (one != other).mean() > 0.05


def test_classes_of_one_colour_have_lines_of_another_kind() -> None:
    colours, hatches = palette.class_colours(VOC_CLASSES), palette.class_hatches(VOC_CLASSES)
    for one, other in itertools.combinations(range(VOC_CLASSES), 2):
        if (colours[one] == colours[other]).all():
            assert hatches[one][0] != hatches[other][0]


def test_lines_leave_most_of_a_class_in_its_colour() -> None:
    for value in range(1, VOC_CLASSES + 1):
        share = palette.hatching(np.full((160, 160), value, np.uint8)).mean()
        assert 0.05 < share < 0.5


def test_lines_of_a_large_image_are_as_much_wider() -> None:
    small, large = (palette.hatching(np.full((side, side), 1, np.uint8)) for side in (160, 480))
    np.testing.assert_array_equal(small.repeat(3, 0).repeat(3, 1), large)


def test_outlines_run_inside_the_classes_and_not_along_the_frame() -> None:
    mask = np.zeros((5, 6), np.uint8)
    mask[:, 3:] = 1
    mask[0, 0] = VOID
    expected = np.zeros((5, 6), bool)
    expected[:, 3] = True
    np.testing.assert_array_equal(palette.outlines(mask), expected)


def test_background_is_black_and_void_white() -> None:
    assert palette.fill(np.uint8([[0, VOID, 1, 9]]))[0].tolist() == [
        *([0, 0, 0], [255, 255, 255]),
        *palette.COLOURS[[0, 1]].tolist(),
    ]
    assert not palette.hatching(np.uint8([[0, VOID]])).any()
