from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from wsseg_core.evaluate.metrics import Interval
from wsseg_core.workbook import charts, class_charts, palette

SCORED = pd.DataFrame({"x": [1, 2], "ours": [3.0, 5.0], "low": [2.0, 4.0], "high": [4.0, 6.0]})


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    plt.close("all")


def lines(axes: Axes) -> dict[str, list[float]]:
    """Heights of the named curves of a panel."""
    return {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_loss_is_drawn_where_it_was_noted() -> None:
    history = [{"step": 0, "loss": 4.0}, {"step": 1, "loss": None, "ap/cat": 0.5}, {"step": 2, "loss": 2.0}]
    (axes,) = charts.loss_curves({"CAM": history}, "cross entropy").axes
    (line,) = axes.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 2], [4.0, 2.0])
    assert axes.get_legend() is None  # one curve needs no name
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()[0]) == ("step", "cross entropy", 0)


def test_losses_of_several_trainings_have_names_and_levels_to_compare_with() -> None:
    frame = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "learning_rate": [0.1, 0.01]})
    curves = {"psa": frame, "static": frame}
    figure = charts.loss_curves(curves, "loss", "epoch", levels={"coin toss": 0.7}, learning_rate=True)
    assert legend(figure.axes[0]) == ["psa", "static", "coin toss"]
    assert figure.axes[0].lines[2].get_ydata() == [0.7, 0.7]
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.1, 0.01]
    assert all(float(place).is_integer() for place in figure.axes[0].get_xticks())


def test_scores_stand_beside_levels_places_and_printed_numbers() -> None:
    printed = {"paper": pd.Series([7.0, 8.0], index=[1, 3])}
    figure = charts.interval_curves({"here": SCORED}, "x", "steps", {"average": 4.0}, {"chosen": 2}, printed)
    (axes,) = figure.axes
    assert lines(axes) == {"here": [3, 5], "average": [4, 4], "chosen": [0, 1], "paper": [7, 8]}
    assert axes.get_xlabel() == "steps"
    assert legend(axes)[-3:] == ["average", "chosen", "paper"]


def test_every_factor_has_a_panel_of_its_own() -> None:
    frames = dict.fromkeys(("clutter", "blur", "noise", "light"), SCORED)
    figure = charts.interval_panels(frames, "x", dict.fromkeys(frames, 1.0))
    assert [axes.get_title() for axes in figure.axes[:4]] == list(frames)
    assert [axes.get_ylabel() for axes in figure.axes[:4]] == ["mean IoU (%)", "", "", "mean IoU (%)"]


def test_groups_of_bars_have_their_rows_and_intervals() -> None:
    frame = pd.DataFrame({"row": ["net_psa", "net_static"], "ours": [40.0, 50.0], "low": [35.0, 45.0]})
    frame = frame.assign(high=[45.0, 55.0], other=[10.0, 20.0], other_low=[5.0, 15.0], other_high=[15.0, 25.0])
    kinds = {"ours": ("low", "high"), "other": ("other_low", "other_high")}
    (axes,) = charts.interval_groups(frame, "row", kinds).axes
    assert [bar.get_width() for bars in axes.containers if hasattr(bars, "patches") for bar in bars.patches] == [
        *(40.0, 50.0),
        *(10.0, 20.0),
    ]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["network on PSA seeds", "network on static seeds"]
    assert legend(axes) == ["mean IoU", "other"]
    (empty,) = charts.interval_groups(frame.assign(ours=np.nan, low=np.nan, high=np.nan), "row", kinds).axes
    assert "nothing to score with" in [text.get_text() for text in empty.texts]


def test_a_gain_has_a_line_where_nothing_is_won() -> None:
    ours = ("ours", "low", "high")
    (axes,) = charts.gain_curves(SCORED, "x", {"control": ours}, "points").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[3, 5], [0, 0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "points")
    assert axes.get_legend() is None
    (axes,) = charts.gain_curves(SCORED, "x", {"control": ours, "chance": ("low", "low", "ours")}, "points").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[3, 5], [2, 4], [0, 0]]
    assert legend(axes) == ["control", "chance"]


def test_a_search_is_drawn_at_its_best_with_all_other_values_free() -> None:
    frame = pd.DataFrame({"w1": [1, 1, 2, 2], "w2": [3, 4, 3, 4], "ours": [10.0, 30.0, 20.0, 5.0]})
    marked = {"paper": {"w1": 1, "w2": 3}, "chosen": {"w1": 2, "w2": 4}}
    figure = charts.best_by_value(frame, marked, "mean IoU (%), 5 images")
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[30, 20], [20, 30]]
    assert [[list(line.get_xdata()) for line in axes.lines[1:]] for axes in figure.axes] == [
        [[1, 1], [2, 2]],
        [[3, 3], [4, 4]],
    ]
    assert figure.axes[0].get_ylabel() == "mean IoU (%), 5 images"
    panel = charts.best_by_pair(frame, [("w1", "w2")]).axes[0]
    assert [text.get_text() for text in panel.texts] == ["10.0", "20.0", "30.0", "5.0"]


def test_bars_of_a_long_table_keep_its_order_and_their_intervals() -> None:
    rows = [["simonyan", "head"], ["simonyan", "body"], ["dcsm", "head"], ["dcsm", "body"]]
    frame = pd.DataFrame(rows, columns=["row", "part"])
    frame = frame.assign(ours=[1.0, 2.0, 3.0, 4.0], low=[0.5, 1.0, 2.0, 3.0], high=[2.0, 4.0, 5.0, 6.0])
    (axes,) = charts.grouped_bars(frame, "row", "part", "recall (%)").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["simonyan", "dcsm"]
    heights = {
        bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")
    }
    assert heights == {"body": [2, 4], "head": [1, 3]}
    whiskers = [segment[:, 1].tolist() for collection in axes.collections for segment in collection.get_segments()]
    assert whiskers == [[1, 4], [3, 6], [0.5, 2], [2, 5]]


def test_diamonds_are_what_was_published() -> None:
    frame = SCORED.rename(columns={"x": "row"}).assign(row=["dcsm", "dcsm_crf"])
    (axes,) = charts.beside_published(frame, pd.Series({"dcsm_crf": 44.1}), "val").axes
    (diamonds,) = [dots for dots in axes.collections if dots.get_label() == "published (VOC 2012)"]
    assert np.asarray(diamonds.get_offsets()).tolist()[1] == [1, 44.1]
    assert np.isnan(np.ma.filled(diamonds.get_offsets(), np.nan)[0, 1])


def test_a_probability_is_reliable_on_the_diagonal() -> None:
    frame = SCORED.rename(columns={"x": "probability"})
    (axes,) = charts.reliability({"dcsm, error 1.0": frame}).axes
    assert list(axes.lines[-1].get_xdata()) == list(axes.lines[-1].get_ydata()) == [0, 100]
    assert legend(axes) == ["dcsm, error 1.0"]


def test_dots_of_a_row_lie_on_one_line() -> None:
    frame = pd.DataFrame({"row": ["net_psa", "dcsm"], "seed 0": [1.0, 5.0], "seed 1": [3.0, 4.0]})
    (axes,) = charts.dots(frame, "row", {"seed 0": "o", "seed 1": "o"}, "mean IoU (%)").axes
    spans, first, second = axes.collections
    assert [segment[:, 0].tolist() for segment in spans.get_segments()] == [[1, 3], [4, 5]]
    assert [points.get_offsets()[:, 0].tolist() for points in (first, second)] == [[1, 5], [3, 4]]
    axes.figure.canvas.draw()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["network on PSA seeds", "DCSM"]


def test_points_have_names_in_a_legend_or_beside_them() -> None:
    frame = pd.DataFrame({"pair": ["own", "made"], "room": [0.1, -0.2], "gain": [1.0, 2.0]})
    (axes,) = charts.named_points(frame, "pair", "room", "gain", [True, False]).axes
    assert legend(axes) == ["own"]
    assert {text.get_text(): text.xy for text in axes.texts} == {"made": (-0.2, 2.0)}
    assert [points.get_offsets().tolist() for points in axes.collections] == [[[0.1, 1.0]], [[-0.2, 2.0]]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("room", "gain")


def test_curves_of_a_table_run_over_its_index() -> None:
    frame = pd.DataFrame({"plain": [0.1, 0.2], "guided": [0.3, np.nan]}, pd.Index(["conv1", "conv2"], name="layer"))
    (axes,) = charts.curves(frame, "correlation").axes
    assert legend(axes) == ["plain", "guided"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["conv1", "conv2"]
    (marked,) = charts.curves(pd.DataFrame({"recall": [1.0, 0.5]}, [0.2, 0.8]), "share", {"used": 0.5}).axes
    assert list(marked.lines[1].get_xdata()) == [0.5, 0.5]


class TestClasses:
    def test_curves_have_the_colours_of_the_masks_and_a_mean(self) -> None:
        frame = pd.DataFrame({"cat": [0.2, 0.4], "dog": [0.6, 0.8]}, pd.Index([1, 2], name="step"))
        (axes,) = class_charts.curves({"average precision": frame}, mean=True).axes
        assert lines(axes) == {"cat": [0.2, 0.4], "dog": [0.6, 0.8], "mean": pytest.approx([0.4, 0.6])}
        assert tuple(axes.lines[0].get_color()) == tuple(palette.class_colours(2)[0] / 255)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "average precision")
        assert all(place == round(place) for place in axes.get_xticks())

    def test_a_matrix_leaves_out_what_is_masked(self) -> None:
        frame = pd.DataFrame([[1, 2], [3, 4]], index=["cat", "dog"], columns=["cat", "dog"])
        (axes,) = class_charts.matrix(frame, "said", "there", mask=np.eye(2, dtype=bool)).axes
        assert [text.get_text() for text in axes.texts] == ["2", "3"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("said", "there")

    @pytest.mark.parametrize(("values", "title"), [([1.0, 2.0], ""), ([np.nan, np.nan], "no mask shows a class")])
    def test_boxes_of_nothing_say_so(self, values: list[float], title: str) -> None:
        (axes,) = class_charts.boxes(pd.DataFrame({"cat": values}), "area (%)").axes
        assert axes.get_title() == title

    def test_precision_stands_beside_what_chance_gives(self) -> None:
        frame = pd.DataFrame({"class": ["cat"], "AP": [0.8], "low": [0.7], "high": [0.9], "frequency": [0.25]})
        (axes,) = class_charts.precision(frame, Interval(0.8, 0.7, 0.9), ["cat", "dog"]).axes
        assert axes.patches[0].get_width() == 0.8
        (diamonds,) = [
            dots for dots in axes.collections if len(dots.get_offsets()) and dots.get_offsets()[0, 0] == 0.25
        ]
        assert diamonds.get_offsets()[0, 1] == 0

    def test_a_panel_counts_the_classes_that_surely_win_or_lose(self) -> None:
        gains = [Interval(2.0, 1.0, 3.0), Interval(-2.0, -3.0, -1.0), Interval(0.5, -1.0, 2.0)]
        figure = class_charts.gains({"CRF − DCSM": gains, "tuned − DCSM": gains}, ["cat", "dog"])
        assert len(figure.axes) == 2
        for axes in figure.axes:
            assert axes.get_title().endswith("− DCSM: 1 of 3 classes surely better, 1 worse")
            assert [bar.get_height() for bar in axes.patches] == [2, -2, 0.5]
            assert [text.get_text() for text in axes.get_xticklabels()] == ["background", "cat", "dog"]
