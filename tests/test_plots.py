from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.transforms import normalise
from wsseg_core.workbook import palette, plots

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    plt.close("all")


def test_an_overlay_tints_the_classes_and_leaves_background_and_void() -> None:
    mask = np.zeros((6, 5), np.uint8)
    mask[:4], mask[5, 0] = 1, 255
    tinted = plots.overlay(IMAGE, mask, opacity=1.0)
    np.testing.assert_array_equal(tinted[1:3], np.broadcast_to(palette.COLOURS[0], (2, 5, 3)))
    assert (tinted[0] == 0).all()  # a line of its hatching
    assert (tinted[3] == 255).all()  # its outline
    untouched = (mask == 0) | (mask == 255)
    np.testing.assert_array_equal(tinted[untouched], IMAGE[untouched])


def test_heat_hides_the_image_only_where_it_is_hot() -> None:
    heat = np.zeros((6, 5), np.float32)
    heat[2, 2] = 1
    laid = plots.heat_overlay(IMAGE, heat)
    np.testing.assert_array_equal(laid[heat == 0], IMAGE[heat == 0])
    assert np.abs(laid[2, 2] - (0.2 * IMAGE[2, 2] + 0.8 * np.array([252, 253, 191]))).max() <= 1  # magma's brightest


def test_a_photograph_undoes_the_normalisation() -> None:
    np.testing.assert_array_equal(plots.photograph(normalise(IMAGE)), IMAGE)


def test_a_photograph_clips_what_no_image_holds() -> None:
    assert plots.photograph(torch.full((3, 1, 1), 99.0)).tolist() == [[[255, 255, 255]]]


def test_rows_leave_missing_pictures_empty_and_carry_their_titles() -> None:
    mask = np.zeros((6, 5), np.uint8)
    figure = plots.show_rows([[IMAGE, mask], [None, np.zeros((6, 5))], [IMAGE]], ["image", "mask"], ["a", "b", "c"])
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 0, 1, 1, 0]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "mask", ""]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["a", "b", "c"]


def test_rows_of_images_without_any_class_are_an_empty_picture() -> None:
    figure = plots.show_rows([], ["image", "mask"], [])
    assert [axes.get_title() for axes in figure.axes] == ["image", "mask"]
    assert not any(axes.images for axes in figure.axes)


def test_a_gallery_goes_on_in_the_next_row() -> None:
    figure = plots.show_gallery([IMAGE] * 3, ["one", "two", "three"], columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two", "three", ""]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]


def test_rows_may_have_their_titles_and_a_legend_from_the_same_call() -> None:
    rows = {"image": [IMAGE], "truth": [np.ones((6, 5), np.uint8)]}
    figure = plots.show_rows(rows.values(), row_titles=rows, classes=["cat", "dog"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["image", "truth"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog"]


def test_the_strip_marks_where_the_reader_stands() -> None:
    plots.begin("saliency")
    weights = {text.get_text().replace("\n", " "): text.get_weight() for text in plt.gca().texts if text.get_text()}
    assert list(weights) == list(plots.STEPS)
    assert [step for step, weight in weights.items() if weight == "bold"] == ["saliency"]


def test_a_legend_has_colours_and_hatching_of_the_masks() -> None:
    figure = plt.figure()
    plots.class_legend(figure, ["cat", "dog"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cat", "dog"]
    colours = np.array([patch.get_facecolor()[:3] for patch in legend.get_patches()])
    np.testing.assert_allclose(colours * 255, palette.fill(np.array([[1, 2]], np.uint8))[0])
    assert [patch.get_hatch() for patch in legend.get_patches()] == palette.class_hatches(2)


def test_no_two_curves_of_classes_have_the_same_style() -> None:
    assert len(set(plots.class_styles(20))) == 20


def test_a_curve_runs_inside_its_interval() -> None:
    frame = pd.DataFrame({"alpha": [1, 2], "ours": [40.0, 44.0], "low": [38.0, 43.0], "high": [41.0, 46.0]})
    axes = plt.figure().gca()
    plots.interval_curve(axes, frame, "alpha", "DCSM")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), frame["ours"])
    corners = axes.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (38.0, 46.0)


@pytest.mark.parametrize(("scores", "words"), [([np.nan, np.nan], ["nothing to score with"]), ([np.nan, 3.0], [])])
def test_a_picture_of_no_score_says_so(scores: list[float], words: list[str]) -> None:
    frame = pd.DataFrame({"x": [1, 2], "ours": scores, "low": scores, "high": scores})
    _, (left, right) = plt.subplots(1, 2)
    plots.interval_curve(left, frame, "x", "DCSM")
    plots.interval_bars(right, frame, "x")
    assert [text.get_text() for axes in (left, right) for text in axes.texts] == 2 * words


def test_a_figure_is_saved_into_a_new_folder(tmp_path: Path) -> None:
    plots.use_style()
    plots.save_figure(plt.figure(), tmp_path / "new" / "figures", "00_nothing")
    assert (tmp_path / "new/figures/00_nothing.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file is in the way")
    with pytest.raises(WorkbookError, match=r"figures.*cannot be written"):
        plots.save_figure(plt.figure(), tmp_path / "figures", "00_nothing")


def test_other_columns_can_be_drawn() -> None:
    frame = pd.DataFrame({"x": [1, 2], "AUC": [0.5, 0.7], "AUC low": [0.4, 0.6], "AUC high": [0.6, 0.8]})
    _, (left, right) = plt.subplots(1, 2)
    plots.interval_curve(left, frame, "x", "made seeds", ("AUC", "AUC low", "AUC high"))
    plots.interval_bars(right, frame, "x", columns=("AUC", "AUC low", "AUC high"))
    assert list(left.lines[0].get_ydata()) == [bar.get_height() for bar in right.patches] == [0.5, 0.7]


def test_bars_stand_at_their_values_with_whiskers_to_the_ends_of_their_intervals() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "ours": [3.0, -1.0], "low": [2.0, -4.0], "high": [3.5, 0.0]})
    _, axes = plt.subplots()
    plots.interval_bars(axes, frame, "name")
    assert [bar.get_height() for bar in axes.patches] == [3, -1]
    whiskers = axes.collections[0].get_segments()
    assert [sorted(segment[:, 1].tolist()) for segment in whiskers] == [[2, 3.5], [-4, 0]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
