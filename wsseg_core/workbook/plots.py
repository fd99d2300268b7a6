"""Figures in one style for all notebooks: pictures in rows, curves with intervals, and where the reader stands."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import FancyBboxPatch, Patch
from torch import Tensor

from wsseg_core.base.files import write_atomically
from wsseg_core.data.images import VOID
from wsseg_core.data.transforms import MEAN, STD
from wsseg_core.evaluate.labels import labelled, row_label
from wsseg_core.evaluate.tables import OURS
from wsseg_core.workbook import palette

STEPS = (
    *("data", "classifier", "saliency", "subtraction", "CRF", "forward maps", "seeds"),
    *("static refinement", "dynamic refinement", "self-training", "tables"),
)
HEAT = "magma"
# seaborn's "whitegrid", its palette "deep" and four fifths of its letters, without its second and a half of importing.
DEEP = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")
STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "image.interpolation": "nearest",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 1.25,
    "axes.prop_cycle": plt.cycler(color=DEEP),
    "grid.linewidth": 1,
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "white",
    "patch.force_edgecolor": True,
    **dict.fromkeys(["axes.edgecolor", "grid.color"], "0.8"),
    **dict.fromkeys(["axes.labelcolor", "text.color", "xtick.color", "ytick.color"], "0.15"),
    **dict.fromkeys(["xtick.bottom", "ytick.left"], False),
    **dict.fromkeys(["font.size", "axes.labelsize", "axes.titlesize", "legend.title_fontsize"], 9.6),
    **dict.fromkeys(["legend.fontsize", "xtick.labelsize", "ytick.labelsize"], 8.8),
}


def begin(here: str) -> None:
    """Begin a notebook: set the look of its figures, and draw the steps of the method with the one it is about."""
    use_style()
    pipeline_strip(here)


def use_style() -> None:
    """Set the look of all figures of a notebook."""
    plt.style.use(STYLE)


def colourise(mask: np.ndarray) -> np.ndarray:
    """A mask as a picture, uint8 (H, W) to uint8 (H, W, 3): colours with black lines, white outlines; void is white."""
    picture = palette.fill(mask)
    picture[palette.hatching(mask)] = 0
    picture[palette.outlines(mask)] = 255
    return picture


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Tint an RGB image, uint8 (H, W, 3), by a mask, uint8 (H, W); background and void stay as they are."""
    drawn = ((mask > 0) & (mask != VOID))[..., None]
    mixed = (1 - opacity) * image + opacity * colourise(mask)
    return np.where(drawn, mixed, image).astype(np.uint8)


def heat_overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map, float (H, W) in [0, 1], over an RGB image, uint8 (H, W, 3): the hotter, the less image is seen."""
    opacity = 0.8 * heat[..., None]
    return ((1 - opacity) * image + opacity * 255 * plt.get_cmap(HEAT)(heat)[..., :3]).astype(np.uint8)


def photograph(image: Tensor) -> np.ndarray:
    """Undo `transforms.normalise`: float32 (3, h, w) to uint8 (h, w, 3)."""
    return ((image.cpu() * STD + MEAN).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def pipeline_strip(here: str, steps: Sequence[str] = STEPS) -> None:
    """Draw the steps of the method in a row and mark the one that a notebook is about."""
    _, axes = plt.subplots(figsize=(1.35 * len(steps), 0.6))
    for index, step in enumerate(steps):
        current = step == here
        colour = "#2b6cb0" if current else "#e2e8f0"
        axes.add_patch(FancyBboxPatch((index, 0), 0.72, 0.5, boxstyle="round,pad=0.06", fc=colour, ec="none"))
        weight = "bold" if current else "normal"
        text = "white" if current else "#4a5568"
        label = step.replace(" ", "\n")
        axes.text(index + 0.36, 0.25, label, ha="center", va="center", color=text, weight=weight, fontsize=9)
        if index:
            arrow = {"arrowstyle": "->", "color": "#718096"}
            axes.annotate("", (index - 0.07, 0.25), (index - 0.21, 0.25), arrowprops=arrow)
    axes.set(xlim=(-0.1, len(steps) - 0.1), ylim=(-0.1, 0.6))
    axes.axis("off")


def show_rows(
    rows: Iterable[Sequence[np.ndarray | None]],
    column_titles: Sequence[str] = (),
    row_titles: Iterable[str] = (),
    side: float = 1.5,
    classes: Sequence[str] = (),
) -> Figure:
    """Draw pictures in a grid, one row after the other.

    Args:
        rows: RGB images, uint8 (H, W, 3); masks, uint8 (H, W), see `colourise`; or maps, float (H, W), each from
            0 (dark) to 1 (bright). None leaves its place empty. Without any, as no class was found in any image,
            the titles stand alone.
        column_titles: above the first row.
        row_titles: left of the first column.
        side: inches of one picture.
        classes: the C foreground classes, where a legend below shall name their colours.
    """
    rows, row_titles = list(rows) or [[None] * max(1, len(column_titles))], list(row_titles)
    columns = max(len(row) for row in rows)
    figure, grid = _grid(len(rows), columns, (side * columns, side * len(rows)))
    for r, row in enumerate(rows):
        for c in range(columns):
            axes = grid[r, c]
            if c < len(row) and row[c] is not None:
                _draw(axes, row[c])  # type: ignore[arg-type]
            if r == 0 and c < len(column_titles):
                axes.set_title(_words(column_titles[c]), fontsize=9)
            if c == 0 and r < len(row_titles):
                axes.set_ylabel(_words(row_titles[r], width=16), fontsize=8)  # a wide picture is not high
    if len(classes):
        class_legend(figure, classes)
    return figure


def show_gallery(
    pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int = 5, side: float = 1.9
) -> Figure:
    """Draw pictures, of the kinds that `show_rows` draws, in reading order, each under a caption of its own."""
    rows = -(-len(pictures) // columns)
    figure, grid = _grid(rows, columns, (side * columns, 1.2 * side * rows))
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        _draw(axes, picture)
        axes.set_title(_words(caption), fontsize=8)
    return figure


def _grid(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Places for pictures, without ticks and frames, close to each other."""
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure, grid = plt.subplots(rows, columns, figsize=inches, squeeze=False, layout=layout)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return figure, grid


def _words(name: str, width: int = 24) -> str:
    """What a row is called, in short lines."""
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in row_label(name).split("\n"))


def _draw(axes: Axes, picture: np.ndarray) -> None:
    if picture.ndim == 3:
        axes.imshow(picture)
    elif picture.dtype == np.uint8:
        axes.imshow(colourise(picture))
    else:
        axes.imshow(picture, cmap=HEAT, vmin=0, vmax=1)


def class_colours(count: int) -> list[tuple[float, float, float]]:
    """Colours of the foreground classes as in masks, RGB in [0, 1], for curves and bars."""
    return [(float(r), float(g), float(b)) for r, g, b in palette.class_colours(count) / 255]


def class_styles(count: int) -> list[str]:
    """Markers and lines of curves of classes, so that no curve is told by its colour alone; matplotlib's shorthand."""
    markers, lines = "os^vDPX*<>", ("-", "--", ":", "-.")
    return [markers[c % len(markers)] + lines[c % len(lines)] for c in range(count)]


def class_legend(figure: Figure, classes: Sequence[str]) -> None:
    """Name the colours and the hatching of the classes below a figure."""
    looks = zip(class_colours(len(classes)), palette.class_hatches(len(classes)), classes, strict=True)
    patches = [Patch(facecolor=colour, hatch=hatch, edgecolor="black", label=name) for colour, hatch, name in looks]
    figure.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=min(len(patches), 10),
        fontsize=8,
        handleheight=1.4,
    )


def interval_curve(axes: Axes, frame: pd.DataFrame, x: str, label: str, columns: Sequence[str] = OURS) -> None:
    """Plot a column of a table over its column `x`, and the columns of the ends of its interval: a line in its band."""
    value, low, high = columns
    (line,) = axes.plot(frame[x], frame[value], marker="o", markersize=4, label=label)
    axes.fill_between(frame[x], frame[low], frame[high], color=line.get_color(), alpha=0.15, lw=0)
    axes.set(xlabel=x, ylabel="mean IoU (%)")
    say_if_unscored(axes, frame[value])


def interval_bars(
    axes: Axes, frame: pd.DataFrame, x: str, colours: Sequence[Any] = (), columns: Sequence[str] = OURS
) -> None:
    """Draw a column of a table as bars over its column `x`, with the columns of its interval's ends as whiskers."""
    (value, low, high), places = columns, np.arange(len(frame))
    whiskers = (frame[value] - frame[low], frame[high] - frame[value])
    axes.bar(places, frame[value], 0.7, yerr=whiskers, capsize=3, color=colours or None, ecolor="#4a5568")
    names = [_words(str(name)) for name in labelled(frame)[x]]
    axes.set_xticks(places, names, rotation=40, ha="right")
    axes.axhline(0, color="#4a5568", lw=0.8)
    axes.grid(False, axis="x")
    say_if_unscored(axes, frame[value])


def say_if_unscored(axes: Axes, values: pd.Series) -> None:
    """A word in place of a picture of no score at all, as a data set without masks gives it."""
    if values.isna().all():
        axes.text(0.5, 0.5, "nothing to score with", transform=axes.transAxes, ha="center", va="center")


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as `<name>.png`, for the report and the README.

    Raises:
        WorkbookError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(folder / f"{name}.png", buffer.getvalue())
