"""The component of all explorers: controls and thumbnails of images above pictures that follow them.

Maps are on disk already, or made on the spot in less than a second, so that a slider answers at once. Where nobody can
move one, in a notebook that is run headless, an explorer is a figure of a few settings instead. The true mask is read
only when the reader asks for it, by a switch that is off at first: guess, then look.
"""

import base64
import html
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import cv2
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from wsseg_core.data.run import Run
from wsseg_core.evaluate.one_image import iou_text, true_mask
from wsseg_core.workbook import palette
from wsseg_core.workbook.keys import EXPLORER, key_keeper
from wsseg_core.workbook.plots import HEAT, colourise, overlay, show_rows
from wsseg_core.workbook.thumbnails import image_list, style_sheet, when_idle

HEADLESS = "WSSEG_HEADLESS"  # set in the environment of a notebook that runs without a browser
PICKED = 60  # images to choose from; enough to find several of each class
EVERY = "any class"
TRUTH = "truth, for evaluation only"
PICTURE_SIDE = 220  # pixels on the screen at most; three of them and the truth fit in a row
SHORTER = 146  # pixels: the height of pictures where there are more, so that two rows fit below the controls
CONTROL_WIDTHS = {4: 225, 3: 300}  # pixels, by how many make a row beside the folders of JupyterLab, on 1366
TITLE_LETTERS = 18  # that fit beside a picture of the panel
WRAPPED = {"flex_flow": "row wrap"}
IN_ROWS = "display:flex;flex-wrap:wrap;gap:6px;line-height:1.3;font-size:85%"  # so that a title is one line
FRAME = 600  # milliseconds between the values that a button plays; what is not drawn by then is left out


class Masked(NamedTuple):
    """A mask over its image, which is scored once the truth is shown.

    Attributes:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W), 0..C or 255.
    """

    image: np.ndarray
    mask: np.ndarray


class Captioned(NamedTuple):
    """A picture with a line of words below it.

    Attributes:
        picture: of the kinds that `plots.show_rows` draws.
        words: the line.
    """

    picture: np.ndarray
    words: str


# By title; a `Masked`, a `Captioned`, or of the kinds that `plots.show_rows` draws.
Picture: TypeAlias = np.ndarray | Masked | Captioned
Pictures: TypeAlias = Mapping[str, Picture]
Controls: TypeAlias = dict[str, dict[str, Any]]  # for each argument of a drawing function its choices, value by label
Setting: TypeAlias = dict[str, str]  # a label for each control


def interactive() -> bool:
    """Whether somebody sits in front of the notebook."""
    return not os.environ.get(HEADLESS)


def examples_first(run: Run, train: bool = False) -> list[str]:
    """Validation or training images of a run, those that its notebooks show before the others."""
    shown, ids = (run.train_example_ids, run.train_ids) if train else (run.example_ids, run.val_ids)
    return list(dict.fromkeys([*shown, *ids]))


def numbers(*values: float) -> dict[str, float]:
    """Choices of a control: each number once, from the smallest, under the label that `short` gives it."""
    return {short(value): value for value in sorted({*values})}


def short(value: float) -> str:
    """A number as a control shows it."""
    return f"{value:g}"


def explorer(
    run: Run,
    ids: Sequence[str],
    draw: Callable[..., Pictures],
    controls: Controls,
    panel: Sequence[Setting],
    truth: Callable[..., Masked | None] | None = None,
    play: str | None = None,
) -> ipywidgets.VBox | Figure:
    """Controls above pictures that follow them; headless, a figure with one row of pictures for each setting.

    Args:
        run: whose images, classes and true masks these are.
        ids: images to choose from, the first one first; of more than `PICKED`, so many of the first.
        draw: takes an image id and one keyword argument a control, and gives a row of pictures of the same height.
        controls: what there is to choose from.
        panel: settings to show headless; the first of them is where the controls start.
        truth: the true mask over its image, of the arguments of `draw`, where they change it; None where there is none.
            The devkit's when left out.
        play: a control of numbers that gets a button, which moves it on from value to value.

    Returns:
        What the last line of a cell displays.
    """
    if interactive():
        truth_of = truth or partial(_of_devkit, run)
        return _controlled(run, list(ids)[:PICKED], draw, controls, panel[0], truth_of, play)
    rows = [draw(ids[0], **{name: controls[name][label] for name, label in setting.items()}) for setting in panel]
    pictures = [[_picture(picture) for picture in row.values()] for row in rows]
    figure = show_rows(pictures, list(rows[0]), _titles(panel))
    grid = np.reshape(np.array(figure.axes, object), (len(rows), -1))
    for row, line in zip(rows, grid, strict=True):
        for picture, axes in zip(row.values(), line, strict=False):
            if isinstance(picture, Captioned):
                axes.set_xlabel(textwrap.fill(picture.words, TITLE_LETTERS + 6), fontsize=7)
    plt.close(figure)  # shown as the cell's result, and not a second time at the end of the cell
    return figure


def _of_devkit(run: Run, image_id: str, **_: Any) -> Masked | None:
    mask = true_mask(run.devkit, image_id)
    return None if mask is None else Masked(run.devkit.image(image_id), mask)


def _titles(panel: Sequence[Setting]) -> list[str]:
    """What a setting changes of the first one; the first names all that is changed."""
    first = panel[0]
    varied = [name for name in first if any(setting[name] != first[name] for setting in panel)]
    changes = [varied, *([name for name in varied if setting[name] != first[name]] for setting in panel[1:])]
    lines = [[f"{name} {s[name]}".replace("_", " ") for name in names] for s, names in zip(panel, changes, strict=True)]
    return ["\n".join(textwrap.fill(line, TITLE_LETTERS) for line in group) for group in lines]


def _controlled(
    run: Run,
    ids: list[str],
    draw: Callable[..., Pictures],
    controls: Controls,
    start: Setting,
    truth_of: Callable[..., Masked | None],
    play: str | None,
) -> ipywidgets.VBox:
    names = list(run.devkit.classes)
    shows = _selector("shows", {name: name for name in (EVERY, *names)}, EVERY, CONTROL_WIDTHS[4])
    truth = ipywidgets.Checkbox(description="truth", indent=False, layout={"width": "100px"})
    image, thumbnails = image_list(), ipywidgets.HTML(layout={"display": "none"})
    chosen = ipywidgets.Label()
    width = CONTROL_WIDTHS[4 if len(controls) <= 4 else 3]
    selectors = {name: _selector(name, choices, start[name], width) for name, choices in controls.items()}
    view = ipywidgets.HTML()

    def filter_images(_: Any = None) -> None:
        wanted = [i for i in ids if shows.value == EVERY or run.devkit.labels(i)[names.index(shows.value)]]
        image.options = _captioned(run, wanted)
        image.index = 0 if wanted else None
        when_idle(show_thumbnails)  # the pictures that follow the controls come first

    def show_thumbnails() -> None:
        thumbnails.value = style_sheet(image, run.devkit, [image_id for _, image_id in image.options])

    def update(_: Any = None) -> None:
        chosen.value = image.label or ""
        if image.value is None:
            view.value = "<p>None of these images shows this class.</p>"
            return
        values = {name: selector.value for name, selector in selectors.items()}
        row = dict(draw(image.value, **values))
        height = PICTURE_SIDE if len(row) <= 3 else SHORTER
        true = truth_of(image.value, **values) if truth.value else None
        mask = true.mask if true else None
        if true:
            row[TRUTH] = true
        cells = "".join(_cell(title, picture, mask, names, height) for title, picture in row.items())
        missing = "<p>This data set has no mask of this image.</p>" * (truth.value and mask is None)
        view.value = f"<div style='{IN_ROWS}'>{cells}</div>{missing}{_legend(row, names)}"

    filter_images()
    shows.observe(filter_images, "value")
    for selector in (image, truth, *selectors.values()):
        selector.observe(update, "value")
    update()
    pickers = ipywidgets.Box([shows, truth, chosen], layout=WRAPPED)
    players = [_player(selectors[play])] if play else []
    sliders = ipywidgets.Box([*selectors.values(), *players], layout=WRAPPED)
    box = ipywidgets.VBox([pickers, ipywidgets.Box([image, thumbnails, key_keeper()]), sliders, view])
    return box.add_class(EXPLORER)


def _player(slider: ipywidgets.SelectionSlider) -> ipywidgets.Play:
    """A button that moves a slider on, and starts anew from its end."""
    player = ipywidgets.Play(max=len(slider.options) - 1, interval=FRAME)
    ipywidgets.link((slider, "index"), (player, "value"))
    return player


def _captioned(run: Run, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Options of the image picker: what each shows, and its id."""
    classes = np.array(run.devkit.classes)
    return [(f"{', '.join(classes[run.devkit.labels(i) > 0]) or 'nothing'} ({i})", i) for i in ids]


def _selector(name: str, choices: dict[str, Any], label: str, width: int) -> ipywidgets.Widget:
    """A slider for numbers, a menu for everything else."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in choices.values())
    kind = ipywidgets.SelectionSlider if numbers and len(choices) > 1 else ipywidgets.Dropdown
    whole, wide = {"description_width": "initial"}, {"width": f"{width}px"}  # no name is cut short
    return kind(options=list(choices.items()), value=choices[label], description=name, style=whole, layout=wide)


def _cell(title: str, picture: Picture, truth: np.ndarray | None, names: list[str], height: int) -> str:
    """A title, a picture, and its words or, where the truth is shown, the score of its mask: they stay together."""
    scored_mask = picture.mask if isinstance(picture, Masked) and title != TRUTH else None
    score = iou_text(truth, scored_mask, names) if truth is not None and scored_mask is not None else ""
    score = picture.words if isinstance(picture, Captioned) else score
    said, scored = html.escape(title), f"<div>{html.escape(score)}</div>"
    pixels = _picture(picture)
    source = f"data:image/png;base64,{base64.b64encode(_png(pixels)).decode()}"
    width = min(PICTURE_SIDE, round(height * pixels.shape[1] / pixels.shape[0]))
    shown = f"<img alt='{said}' src='{source}' style='width:100%;image-rendering:pixelated'>"
    return f"<figure style='width:{width}px;margin:0'><figcaption>{said}</figcaption>{shown}{scored}</figure>"


def _legend(row: Pictures, names: list[str]) -> str:
    """The colours and the hatching of the classes in the masks of a row; and the ends of the maps, dark and bright."""
    masks = [picture.mask for picture in row.values() if isinstance(picture, Masked)]
    values = [v for v in np.unique(np.concatenate([m.ravel() for m in masks])) if 0 < v <= len(names)] if masks else []
    side = palette.REFERENCE // 5
    samples = {names[v - 1]: colourise(np.full((side // 2, side), v, np.uint8)) for v in values}
    shown = [picture for picture in row.values() if not isinstance(picture, Masked)]
    if any(_picture(picture).ndim == 2 for picture in shown):
        samples["0 to 1"] = _rgb(np.tile(np.linspace(0, 1, 3 * side), (side // 2, 1)))
    spans = "".join(
        f"<span style='margin-right:1em'><img src='data:image/png;base64,{base64.b64encode(_png(sample)).decode()}'> "
        f"{html.escape(name)}</span>"
        for name, sample in samples.items()
    )
    return f"<p>{spans}</p>"


def _picture(picture: Picture) -> np.ndarray:
    if isinstance(picture, Captioned):
        return picture.picture
    return overlay(*picture) if isinstance(picture, Masked) else picture


def _png(picture: np.ndarray) -> bytes:
    _, encoded = cv2.imencode(".png", _rgb(picture)[..., ::-1])
    return encoded.tobytes()


def _rgb(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 3:
        return picture
    if picture.dtype == np.uint8:
        return colourise(picture)
    return (255 * plt.get_cmap(HEAT)(picture)[..., :3]).astype(np.uint8)
