"""Explorers: controls over maps that are on disk already, so that a slider answers at once.

Where nobody can move a slider, in a notebook that is run headless, an explorer is a figure of a few settings instead.
"""

import html
import itertools
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import cv2
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from wsseg_core.base.config import CrfConfig, Profile
from wsseg_core.data.run import Run
from wsseg_core.evaluate.crf_search import CRF_VALUES
from wsseg_core.saliency.dcsm import ImageMaps, SavedMaps, dcsm_setting, mask_from_saliency
from wsseg_core.saliency.extraction import block_layers, layer_groups
from wsseg_core.saliency.subtraction import ORDERS, normalise
from wsseg_core.workbook.plots import HEAT, colourise, heat_overlay, overlay, show_rows

HEADLESS = "WSSEG_HEADLESS"  # set in the environment of a notebook that runs without a browser
CRF_FACTORS = (0.25, 0.5, 1, 2, 4)  # times the value of the profile
PICTURE_WIDTH = 240  # pixels on the screen
TITLE_LETTERS = 18  # that fit beside a picture of the panel
WRAPPED = {"flex_flow": "row wrap"}

Pictures: TypeAlias = dict[str, np.ndarray]  # by title; of the kinds that `plots.show_rows` draws
Controls: TypeAlias = dict[str, dict[str, Any]]  # for each argument of a drawing function its choices, value by label
Setting: TypeAlias = dict[str, str]  # a label for each control
Layers: TypeAlias = tuple[tuple[str, ...], ...]  # in groups that count once each


def interactive() -> bool:
    """Whether somebody sits in front of the notebook."""
    return not os.environ.get(HEADLESS)


def explorer(draw: Callable[..., Pictures], controls: Controls, panel: Sequence[Setting]) -> ipywidgets.VBox | Figure:
    """Controls above pictures that follow them; headless, a figure with one row of pictures for each setting.

    Args:
        draw: takes one keyword argument a control and gives a row of pictures of the same height.
        controls: what there is to choose from.
        panel: settings to show headless; the first of them is where the controls start.

    Returns:
        What the last line of a cell displays.
    """
    if interactive():
        return _controlled(draw, controls, panel[0])
    rows = [draw(**{name: controls[name][label] for name, label in setting.items()}) for setting in panel]
    figure = show_rows([list(row.values()) for row in rows], list(rows[0]), _titles(panel))
    plt.close(figure)  # shown as the cell's result, and not a second time at the end of the cell
    return figure


def _titles(panel: Sequence[Setting]) -> list[str]:
    """What a setting changes of the first one; the first names all that is changed."""
    first = panel[0]
    varied = [name for name in first if any(setting[name] != first[name] for setting in panel)]
    changes = [varied, *([name for name in varied if setting[name] != first[name]] for setting in panel[1:])]
    lines = [[f"{name} {s[name]}".replace("_", " ") for name in names] for s, names in zip(panel, changes, strict=True)]
    return ["\n".join(textwrap.fill(line, TITLE_LETTERS) for line in group) for group in lines]


def _controlled(draw: Callable[..., Pictures], controls: Controls, start: Setting) -> ipywidgets.VBox:
    selectors = {name: _selector(name, choices, start[name]) for name, choices in controls.items()}
    titles, picture = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def update(_: Any = None) -> None:
        row = draw(**{name: selector.value for name, selector in selectors.items()})
        cells = "".join(f"<div style='width:{PICTURE_WIDTH}px'>{html.escape(title)}</div>" for title in row)
        titles.value = f"<div style='display:flex'>{cells}</div>"
        picture.value = _png(list(row.values()))
        picture.width = str(PICTURE_WIDTH * len(row))

    for selector in selectors.values():
        selector.observe(update, "value")
    update()
    return ipywidgets.VBox([ipywidgets.Box([*selectors.values()], layout=WRAPPED), titles, picture])


def _selector(name: str, choices: dict[str, Any], label: str) -> ipywidgets.Widget:
    """A slider for numbers, a menu for everything else."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in choices.values())
    kind = ipywidgets.SelectionSlider if numbers and len(choices) > 1 else ipywidgets.Dropdown
    return kind(options=list(choices.items()), value=choices[label], description=name)


def _png(pictures: Sequence[np.ndarray]) -> bytes:
    """Pictures side by side, as the bytes of a PNG file."""
    row = np.concatenate([_rgb(picture) for picture in pictures], axis=1)
    _, encoded = cv2.imencode(".png", row[..., ::-1])
    return encoded.tobytes()


def _rgb(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 3:
        return picture
    if picture.dtype == np.uint8:
        return colourise(picture)
    return (255 * plt.get_cmap(HEAT)(picture)[..., :3]).astype(np.uint8)


def saliency_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """Single maps, before any subtraction: image, class by its rank, layer, guided or plain back-propagation, size.

    Raises:
        WorkbookError: notebook 02 has not extracted the maps.
    """
    saved, config = SavedMaps(run), run.profile.saliency
    layers = tuple(itertools.chain(*layer_groups(run.profile)))
    ranks = range(min(run.profile.subtraction.min_candidates, run.devkit.num_classes))
    controls: Controls = {
        "image": {image_id: saved.of(image_id) for image_id in run.example_ids},
        "rank": {str(rank + 1): rank for rank in ranks},
        "layer": {layer: layer for layer in layers},
        "gradient": {"guided": True, "plain": False},
        "size": {str(size): size for size in config.sizes},
    }
    start = {name: next(iter(choices)) for name, choices in controls.items()} | {"size": str(config.sizes[-1])}
    middle = {"layer": layers[len(layers) // 2]}
    changes: list[Setting] = [
        {},
        middle,
        {"layer": layers[-1]},
        middle | {"gradient": "plain"},
        middle | {"size": str(config.sizes[0])},
    ]
    draw = partial(_saliency_pictures, run.devkit.classes)
    return explorer(draw, controls, [start | change for change in changes])


def _saliency_pictures(
    names: Sequence[str], image: ImageMaps, rank: int, layer: str, gradient: bool, size: int
) -> Pictures:
    raw = image.raw(gradient, size, [layer])[0][rank : rank + 1]
    heat = torch.tanh(3 * normalise(raw))[0].numpy()
    chosen = image.ranking[rank]
    title = f"{names[chosen]} {image.probabilities[chosen]:.2f}"
    return {"image": image.image, title: heat, "over the image": heat_overlay(image.image, heat)}


def subtraction_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """Class maps and the mask that they give without a CRF: image, alpha, N, blocks of layers, order of subtraction.

    Raises:
        WorkbookError: notebook 02 has not extracted the maps.
    """
    saved, profile = SavedMaps(run), run.profile
    default, blocks = profile.subtraction, profile.saliency.blocks
    runs = [blocks[i:j] for i in range(len(blocks)) for j in range(len(blocks), i, -1)]
    controls: Controls = {
        "image": {image_id: saved.of(image_id) for image_id in run.example_ids},
        "alpha": {f"{alpha:g}": alpha for alpha in sorted({default.alpha, *profile.sweeps.alphas})},
        "N": {str(n): n for n in sorted({0, default.min_candidates, *profile.sweeps.min_candidates})},
        "blocks": {", ".join(map(str, run)): block_layers(profile.classifier, run) for run in runs},
        "order": {order: order for order in ORDERS},
    }
    start = {name: next(iter(choices)) for name, choices in controls.items()}
    start |= {"alpha": f"{default.alpha:g}", "N": str(default.min_candidates), "order": default.order}
    last = {"alpha": list(controls["alpha"])[-1]}
    changes: list[Setting] = [{}, last, {"N": "0"}, {"blocks": str(blocks[-1])}, {"order": "normalise_then_subtract"}]
    draw = partial(_subtraction_pictures, profile, run.devkit.classes)
    return explorer(draw, controls, [start | change for change in changes])


def _subtraction_pictures(
    profile: Profile, names: Sequence[str], image: ImageMaps, alpha: float, N: int, blocks: Layers, order: str
) -> Pictures:
    setting = dcsm_setting(profile, alpha=alpha, min_candidates=N, layers=blocks, order=order)
    maps = image.saliency(setting)
    heats = {names[chosen]: heat.numpy() for chosen, heat in zip(image.classes, maps, strict=True)}
    mask = mask_from_saliency(image.image, maps, image.classes, None)
    return {"image": image.image} | heats | {"mask": overlay(image.image, mask)}


def crf_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """Masks before and after the CRF: image, and the five values, each around the profile's.

    Raises:
        WorkbookError: notebook 02 has not extracted the maps.
    """
    saved, profile = SavedMaps(run), run.profile
    images = [saved.of(image_id) for image_id in run.example_ids]
    maps = [image.saliency(dcsm_setting(profile)) for image in images]  # once, so that a slider repeats the CRF alone
    controls: Controls = {"image": dict(zip(run.example_ids, zip(images, maps, strict=True), strict=True))}
    for name in CRF_VALUES:
        around = {getattr(profile.crf, name) * factor for factor in CRF_FACTORS}
        values = sorted(around | {*getattr(profile.sweeps, f"crf_{name}")})
        controls[name] = {f"{value:g}": value for value in values}
    start = {name: f"{getattr(profile.crf, name):g}" for name in CRF_VALUES} | {"image": run.example_ids[0]}
    changes: list[Setting] = [{}, *({name: list(controls[name])[-1]} for name in CRF_VALUES)]
    return explorer(partial(_crf_pictures, profile.crf), controls, [start | change for change in changes])


def _crf_pictures(base: CrfConfig, image: tuple[ImageMaps, torch.Tensor], **values: float) -> Pictures:
    maps, saliency = image
    configs = {"without CRF": None, "with CRF": replace(base, **values)}  # type: ignore[arg-type]
    masks = {title: mask_from_saliency(maps.image, saliency, maps.classes, config) for title, config in configs.items()}
    return {"image": maps.image} | {title: overlay(maps.image, mask) for title, mask in masks.items()}
