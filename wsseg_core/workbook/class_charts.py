"""Whole figures of classes beside each other, in the order and the colours of the masks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from wsseg_core.evaluate.metrics import Interval
from wsseg_core.workbook.charts import LEGEND_BESIDE
from wsseg_core.workbook.plots import class_colours, class_styles, interval_bars


def curves(frames: Mapping[str, pd.DataFrame], mean: bool = False) -> Figure:
    """Draw curves of classes in the colours of the classes, one panel a table, and their mean in black if wanted.

    Args:
        frames: tables by what they measure; one column a class, in the order of the classes, over the index.
        mean: draw the mean over the columns, too.
    """
    figure, panels = plt.subplots(1, len(frames), figsize=(10, 3.2), squeeze=False, layout="constrained")
    for axes, (ylabel, frame) in zip(panels.flat, frames.items(), strict=True):
        looks = zip(frame, class_colours(frame.shape[1]), class_styles(frame.shape[1]), strict=True)
        for name, colour, style in looks:
            axes.plot(frame.index, frame[name], style, color=colour, markersize=4, lw=1, label=name)
        if mean:
            axes.plot(frame.index, frame.mean(axis=1), color="black", lw=2.5, label="mean")
        axes.set(xlabel=frame.index.name, ylabel=ylabel, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)  # there is no half step or round
    panels[0, -1].legend(fontsize=8, **LEGEND_BESIDE)
    return figure


def matrix(frame: pd.DataFrame, xlabel: str, ylabel: str, fmt: str = ".0f", mask: np.ndarray | None = None) -> Figure:
    """Draw a square table of numbers, one row and one column a class; the larger a number, the darker.

    Args:
        frame: the numbers, from 0 on.
        xlabel: what the columns are.
        ylabel: what the rows are.
        fmt: of the numbers.
        mask: bool, where nothing is drawn.
    """
    from seaborn import heatmap  # which takes long to import

    side = len(frame)
    figure, axes = plt.subplots(figsize=(0.5 * side + 2.5, 0.42 * side + 1.5), layout="constrained")
    heatmap(frame, mask=mask, annot=True, fmt=fmt, cmap="Blues", vmin=0, square=True, cbar=False, ax=axes)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(False)
    axes.tick_params(axis="x", rotation=45)
    axes.tick_params(axis="y", rotation=0)
    return figure


def boxes(frame: pd.DataFrame, ylabel: str) -> Figure:
    """Draw how the numbers of a table are spread, one box a column, which is a class; NaN is left out."""
    from seaborn import boxplot  # which takes long to import

    figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
    if frame.notna().any(axis=None):
        boxplot(frame, palette=class_colours(frame.shape[1]), boxprops={"alpha": 0.6}, ax=axes)
    else:
        axes.set_title("no mask shows a class")
    axes.set_ylabel(ylabel)
    axes.tick_params(axis="x", rotation=30)
    return figure


def precision(frame: pd.DataFrame, mean: Interval, classes: Sequence[str]) -> Figure:
    """Draw the average precision of classes as bars, and what chance gives, their frequency, as diamonds.

    Args:
        frame: columns `class`, `AP`, `low`, `high`, `frequency`, in [0, 1].
        mean: of all classes, drawn as a line in its band.
        classes: the C foreground classes, for their colours.
    """
    colours = dict(zip(classes, class_colours(len(classes)), strict=True))
    figure, axes = plt.subplots(figsize=(10, 0.28 * len(frame) + 0.8), layout="constrained")
    whiskers = [frame["AP"] - frame["low"], frame["high"] - frame["AP"]]
    axes.barh(frame["class"], frame["AP"], xerr=whiskers, color=frame["class"].map(colours), alpha=0.7)
    axes.scatter(frame["frequency"], frame["class"], color="white", edgecolor="black", marker="D", s=25, zorder=3)
    axes.axvline(mean.value, color="black", lw=1)
    axes.axvspan(mean.low, mean.high, color="black", alpha=0.12, lw=0)
    axes.set(xlabel="average precision (val); line and band: their mean", xlim=(0, 1.02))
    return figure


def gains(gains: Mapping[str, Sequence[Interval]], classes: Sequence[str]) -> Figure:
    """Draw what each class wins or loses, one panel a comparison, whose title counts the classes that surely do.

    Args:
        gains: differences in IoU, in points, by the words for the comparison; C+1 each, the background's first.
        classes: the C foreground classes.
    """
    figure, panels = plt.subplots(
        1, len(gains), figsize=(6 * len(gains), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    colours = [(0.6, 0.6, 0.6), *class_colours(len(classes))]
    for axes, (words, intervals) in zip(panels.flat, gains.items(), strict=True):
        frame = pd.DataFrame(map(asdict, intervals)).assign(name=["background", *classes])
        interval_bars(axes, frame, "name", colours, columns=("value", "low", "high"))
        better, worse = (frame["low"] > 0).sum(), (frame["high"] < 0).sum()
        axes.set_title(f"{words}: {better} of {len(frame)} classes surely better, {worse} worse", fontsize=9)
    panels[0, 0].set_ylabel("difference in IoU (points)")
    return figure
