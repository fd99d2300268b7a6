"""Whole figures that notebooks draw alike: losses, scores in their intervals, gains, and what a search has found."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsseg_core.evaluate.labels import labelled
from wsseg_core.workbook.plots import interval_bars, interval_curve, say_if_unscored

LEGEND_BESIDE: dict[str, Any] = {"bbox_to_anchor": (1.01, 1), "loc": "upper left"}  # where a legend hides no curve
LINE, ACCENT = "#4a5568", "#c05621"
LINES = (":", "--", "-.")  # of what is compared with, in order


def loss_curves(
    curves: Mapping[str, Any],
    ylabel: str,
    x: str = "step",
    levels: Mapping[str, float] | None = None,
    learning_rate: bool = False,
) -> Figure:
    """Draw how a loss falls, one curve a training; a legend names them where there is more to see than one.

    Args:
        curves: histories by name: tables, or their rows as mappings, with `loss` and `x`; NaN where none was noted.
        ylabel: which loss it is.
        x: the column that counts the training.
        levels: losses to compare with, by name.
        learning_rate: draw the column `learning_rate`, too, in a panel beside.
    """
    panels, levels = 1 + learning_rate, levels or {}
    figure, axes = plt.subplots(1, panels, figsize=(2 + 4 * panels, 2.8), squeeze=False, layout="constrained")
    for name, history in curves.items():
        frame = pd.DataFrame(history).dropna(subset="loss")
        axes[0, 0].plot(frame[x], frame["loss"], marker="." if len(frame) < 20 else "", label=name)
        if learning_rate:
            axes[0, 1].plot(frame[x], frame["learning_rate"])
            axes[0, 1].set(xlabel=x, ylabel="learning rate")
    for (name, level), line in zip(levels.items(), LINES, strict=False):
        axes[0, 0].axhline(level, color=LINE, ls=line, lw=1, label=name)
    axes[0, 0].set(xlabel=x, ylabel=ylabel, ylim=(0, None))
    axes[0, 0].xaxis.get_major_locator().set_params(integer=True)  # there is no half step or epoch
    if len(curves) + len(levels) > 1:
        axes[0, 0].legend(fontsize=8, **({} if learning_rate else LEGEND_BESIDE))
    return figure


def interval_curves(
    frames: Mapping[str, pd.DataFrame],
    x: str,
    xlabel: str = "",
    levels: Mapping[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
    printed: Mapping[str, pd.Series] | None = None,
) -> Figure:
    """Draw mean IoU over what is varied, each curve in its 95 % band, and lines to compare with.

    Args:
        frames: tables by the name of their curve, with `x`, `ours`, `low` and `high`.
        x: the column that is varied.
        xlabel: what it is, where its name does not say it.
        levels: scores by name, as lines across.
        marks: places along `x` by name, as upright lines.
        printed: published scores by name, over `x` as their index.
    """
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for name, frame in frames.items():
        interval_curve(axes, frame, x, name)
    for (name, level), line in zip((levels or {}).items(), LINES, strict=False):
        axes.axhline(level, color="black", ls=line, lw=1, label=name)
    for (name, place), line in zip((marks or {}).items(), LINES, strict=False):
        axes.axvline(place, color=LINE, ls=line, lw=1, label=name)
    for name, values in (printed or {}).items():
        axes.plot(values.index, values, ls=":", marker=".", color=LINE, label=name)
    axes.set_xlabel(xlabel or x)
    axes.legend(fontsize=8)
    return figure


def interval_panels(frames: Mapping[str, pd.DataFrame], x: str, marks: Mapping[str, float], columns: int = 3) -> Figure:
    """Draw mean IoU over what is varied, each curve in its 95 % band and in a panel of its own.

    Args:
        frames: tables by the title of their panel, with `x`, `ours`, `low` and `high`.
        x: the column that is varied.
        marks: a place along `x` by title, as an upright line.
        columns: panels in a row.
    """
    rows = -(-len(frames) // columns)
    size = (3 * columns, 2.3 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (title, frame) in zip(grid.flat, frames.items(), strict=False):
        interval_curve(axes, frame, x, title)
        axes.axvline(marks[title], color=LINE, lw=1, ls="--")
        axes.set(title=title, xlabel="", ylabel="mean IoU (%)" if axes in grid[:, 0] else "")
    return figure


def interval_groups(frame: pd.DataFrame, y: str, kinds: Mapping[str, tuple[str, str]], xlabel: str = "%") -> Figure:
    """Draw several columns of a table as horizontal bars beside each other, one group a row.

    Args:
        frame: the table.
        y: the column whose entries stand at the groups.
        kinds: for each column of bars those of the low and the high end of its intervals.
        xlabel: what all of them are measured in.
    """
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(frame) + 1), layout="constrained")
    places, height = np.arange(len(frame)), 0.75 / len(kinds)
    for number, (kind, (low, high)) in enumerate(kinds.items()):
        whiskers = (frame[kind] - frame[low], frame[high] - frame[kind])
        shifted = places + (number - (len(kinds) - 1) / 2) * height
        axes.barh(shifted, frame[kind], 0.95 * height, xerr=whiskers, label="mean IoU" if kind == "ours" else kind)
    axes.set_yticks(places, [str(name) for name in labelled(frame)[y]])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel(xlabel)
    axes.legend(fontsize=8, **LEGEND_BESIDE)
    say_if_unscored(axes, frame["ours"])
    return figure


def gain_curves(
    frame: pd.DataFrame, x: str, gains: Mapping[str, Sequence[str]], ylabel: str, xlabel: str = ""
) -> Figure:
    """Draw points that are won or lost over the column `x` of a table.

    Args:
        frame: the table.
        x: its column below.
        gains: three columns by what the gain is over, named in a legend: the points, and the ends of their interval.
        ylabel: what the points are.
        xlabel: words for `x`, where its name will not do.
    """
    figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
    for name, columns in gains.items():
        interval_curve(axes, frame, x, name, columns)
    zero_line(axes)
    axes.set(xlabel=xlabel or x, ylabel=ylabel)
    if len(gains) > 1:
        axes.legend(title="over")
    return figure


def zero_line(axes: Axes) -> None:
    """Mark where nothing is won or lost."""
    axes.axhline(0, color=LINE, ls="--", lw=1)


def best_by_value(frame: pd.DataFrame, marked: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    """Draw the best score of a search at every value of each parameter, when all others are free.

    Args:
        frame: one row a combination: its values, all above 0, and `ours`, its mean IoU in percent.
        marked: combinations to mark, by name: value by parameter, for the same parameters each; at most two.
        ylabel: what `ours` is.
    """
    parameters = list(next(iter(marked.values())))
    figure, panels = plt.subplots(
        1, len(parameters), figsize=(2.6 * len(parameters), 2.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, parameter in zip(panels.flat, parameters, strict=True):
        best = frame.groupby(parameter)["ours"].max()
        axes.plot(best.index, best, marker="o", label="others free")
        for (name, values), colour, line in zip(marked.items(), (LINE, ACCENT), LINES, strict=False):
            axes.axvline(values[parameter], color=colour, ls=line, label=name)
        axes.set(xlabel=parameter, xscale="log", xticks=best.index, xticklabels=[f"{value:g}" for value in best.index])
        axes.minorticks_off()
    panels[0, 0].set_ylabel(ylabel)
    panels[0, 0].legend(fontsize=7)
    return figure


def best_by_pair(frame: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Figure:
    """Draw the best score of a search at every two values of pairs of parameters; `frame` as in `best_by_value`."""
    from seaborn import heatmap  # which takes long to import

    figure, panels = plt.subplots(1, len(pairs), figsize=(3.25 * len(pairs), 2.8), squeeze=False, layout="constrained")
    limits = {"vmin": frame["ours"].min(), "vmax": frame["ours"].max(), "cmap": "viridis"}
    for axes, (x, y) in zip(panels.flat, pairs, strict=True):
        best = frame.pivot_table("ours", y, x, aggfunc="max").rename("{:g}".format).rename(columns="{:g}".format)
        heatmap(best, annot=True, fmt=".1f", cbar=axes is panels[0, -1], ax=axes, **limits)
        axes.grid(False)
    return figure


def grouped_bars(frame: pd.DataFrame, x: str, kind: str, ylabel: str) -> Figure:
    """Draw a long table as groups of bars, one group a value of `x` and one bar a value of `kind`, in their order.

    Args:
        frame: columns `x`, `kind`, `ours`, `low`, `high`; one row for each two values.
        x: what a group is.
        kind: what a bar of it is.
        ylabel: what was measured.
    """
    ours, low, high = (
        frame.pivot(index=x, columns=kind, values=column).loc[frame[x].unique()] for column in ("ours", "low", "high")
    )
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    ours.plot.bar(ax=axes, yerr=np.stack([(ours - low).T, (high - ours).T], axis=1), rot=0, xlabel="", ylabel=ylabel)
    axes.legend(fontsize=8, **LEGEND_BESIDE)
    return figure


def beside_published(frame: pd.DataFrame, printed: pd.Series, title: str) -> Figure:
    """Draw mean IoU of rows as bars, and what was published of them as diamonds.

    Args:
        frame: columns row, ours, low, high; see `tables.score_table`.
        printed: published mean IoU by row; NaN where there is none.
        title: under which conditions ours were measured.
    """
    figure, axes = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
    interval_bars(axes, frame, "row")
    values = printed.reindex(frame["row"])
    axes.scatter(np.arange(len(frame)), values, marker="D", color=ACCENT, zorder=3, label="published (VOC 2012)")
    axes.set(ylabel="mean IoU (%)", title=title)
    axes.legend(fontsize=8, loc="upper left")
    return figure


def reliability(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how often a probability is right, one curve a method; on the diagonal it always says the truth.

    Args:
        frames: what `Reliability.curve` gives, by the name of the curve.
    """
    figure, axes = plt.subplots(figsize=(4.6, 4), layout="constrained")
    for name, frame in frames.items():
        interval_curve(axes, frame, "probability", name)
    axes.plot([0, 100], [0, 100], color=LINE, ls=":")
    axes.set(xlabel="probability of the label drawn (%)", ylabel="pixels that are right (%)")
    axes.legend(fontsize=8)
    return figure


def dots(frame: pd.DataFrame, y: str, markers: Mapping[str, str], xlabel: str) -> Figure:
    """Draw columns of a table as dots, one row a line, which reaches from the lowest to the highest of them.

    Args:
        frame: the table.
        y: the column that names the rows.
        markers: of the columns that are drawn, as matplotlib writes them.
        xlabel: what the columns measure.
    """
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(frame) + 1.4), layout="constrained")
    names, values = labelled(frame)[y], frame[list(markers)]
    axes.hlines(names, values.min(axis=1), values.max(axis=1), color="#a0aec0", lw=3)
    for column, marker in markers.items():
        axes.scatter(frame[column], names, marker=marker, s=45, label=column, zorder=3)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.legend(fontsize=8, **LEGEND_BESIDE)
    return figure


def named_points(frame: pd.DataFrame, name: str, x: str, y: str, highlighted: Sequence[bool]) -> Figure:
    """Draw two columns of a table against each other, a point a row.

    Highlighted points have a marker each, named in a legend, since they may lie close together; the others are squares
    with their names beside.
    """
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    markers = itertools.cycle("oD^vP*X")
    for (text, left, up), stands_out in zip(frame[[name, x, y]].itertuples(index=False), highlighted, strict=True):
        if stands_out:
            axes.scatter(left, up, marker=next(markers), color=ACCENT, label=text, zorder=3)
        else:
            axes.scatter(left, up, marker="s", color="#a0aec0")
            axes.annotate(text, (left, up), fontsize=8, xytext=(4, 3), textcoords="offset points")
    zero_line(axes)
    axes.axvline(0, color=LINE, ls="--", lw=1)
    axes.margins(x=0.15)
    axes.set(xlabel=x, ylabel=y)
    if any(highlighted):
        axes.legend(fontsize=8, **LEGEND_BESIDE)
    return figure


def curves(frame: pd.DataFrame, ylabel: str, marks: Mapping[str, float] | None = None) -> Figure:
    """Draw the columns of a table over its index, numbers or names, and upright lines at places that have a name.

    Args:
        frame: one curve a column; the name of its index is what lies below.
        ylabel: what the columns measure.
        marks: places by name.
    """
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    for column in frame:
        axes.plot(frame.index, frame[column], marker="o" if len(frame) < 40 else "", markersize=4, label=column)
    for (name, place), line in zip((marks or {}).items(), LINES, strict=False):
        axes.axvline(place, color=LINE, ls=line, lw=1, label=name)
    axes.set(xlabel=frame.index.name, ylabel=ylabel)
    if not pd.api.types.is_numeric_dtype(frame.index):
        axes.tick_params(axis="x", rotation=30)
    axes.legend(fontsize=8)
    return figure
