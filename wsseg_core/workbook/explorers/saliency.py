"""Explorers of notebooks 02, 03 and 04: single maps, their subtraction, and the dense CRF."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import ipywidgets
import torch
from matplotlib.figure import Figure

from wsseg_core.base.config import CrfConfig, Profile
from wsseg_core.data.run import Run
from wsseg_core.evaluate.crf_search import CRF_VALUES
from wsseg_core.saliency.dcsm import ImageMaps, SavedMaps, dcsm_setting, mask_from_saliency
from wsseg_core.saliency.extraction import block_layers, layer_groups
from wsseg_core.saliency.subtraction import ORDERS, normalise
from wsseg_core.workbook.plots import heat_overlay
from wsseg_core.workbook.widgets import Controls, Masked, Pictures, Setting, examples_first, explorer, numbers, short

CRF_FACTORS = (0.25, 0.5, 1, 2, 4)  # times the value of the profile

Layers = tuple[tuple[str, ...], ...]  # in groups that count once each
Reader = Callable[[str], ImageMaps]


def _reader(run: Run) -> Reader:
    """Maps by image id; those of the last images stay in memory, so that a slider reads nothing again."""
    return lru_cache(maxsize=4)(SavedMaps(run).of)


def saliency_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """Single maps, before any subtraction: image, class by its rank, layer, guided or plain back-propagation, size.

    Raises:
        WorkbookError: notebook 02 has not extracted the maps.
    """
    config = run.profile.saliency
    layers = tuple(itertools.chain(*layer_groups(run.profile)))
    ranks = range(min(run.profile.subtraction.min_candidates, run.devkit.num_classes))
    controls: Controls = {
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
    draw = partial(_saliency_pictures, _reader(run), run.devkit.classes)
    return explorer(run, examples_first(run), draw, controls, [start | change for change in changes])


def _saliency_pictures(
    read: Reader, names: Sequence[str], image_id: str, rank: int, layer: str, gradient: bool, size: int
) -> Pictures:
    maps = read(image_id)
    raw = maps.raw(gradient, size, [layer])[0][rank : rank + 1]
    heat = torch.tanh(3 * normalise(raw))[0].numpy()
    chosen = maps.ranking[rank]
    title = f"{names[chosen]} {maps.probabilities[chosen]:.2f}"
    return {"image": maps.image, title: heat, "over the image": heat_overlay(maps.image, heat)}


def subtraction_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """Class maps and the mask that they give without a CRF: image, alpha, N, blocks of layers, order of subtraction.

    Raises:
        WorkbookError: notebook 02 has not extracted the maps.
    """
    profile = run.profile
    default, blocks = profile.subtraction, profile.saliency.blocks
    runs = [blocks[i:j] for i in range(len(blocks)) for j in range(len(blocks), i, -1)]
    controls: Controls = {
        "alpha": numbers(default.alpha, *profile.sweeps.alphas),
        "N": numbers(0, default.min_candidates, *profile.sweeps.min_candidates),
        "blocks": {", ".join(map(str, run)): block_layers(profile.classifier, run) for run in runs},
        "order": {order: order for order in ORDERS},
    }
    start = {name: next(iter(choices)) for name, choices in controls.items()}
    start |= {"alpha": short(default.alpha), "N": short(default.min_candidates), "order": default.order}
    last = {"alpha": list(controls["alpha"])[-1]}
    changes: list[Setting] = [{}, last, {"N": "0"}, {"blocks": str(blocks[-1])}, {"order": "normalise_then_subtract"}]
    draw = partial(_subtraction_pictures, _reader(run), profile, run.devkit.classes)
    return explorer(run, examples_first(run), draw, controls, [start | change for change in changes])


def _subtraction_pictures(
    read: Reader,
    profile: Profile,
    names: Sequence[str],
    image_id: str,
    alpha: float,
    N: int,
    blocks: Layers,
    order: str,
) -> Pictures:
    image = read(image_id)
    maps = image.saliency(dcsm_setting(profile, alpha=alpha, min_candidates=N, layers=blocks, order=order))
    heats = {names[chosen]: heat.numpy() for chosen, heat in zip(image.classes, maps, strict=True)}
    mask = mask_from_saliency(image.image, maps, image.classes, None)
    return {"image": image.image} | heats | {"mask": Masked(image.image, mask)}


def crf_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """Masks before and after the CRF: image, and the five values, each around the profile's.

    Raises:
        WorkbookError: notebook 02 has not extracted the maps.
    """
    read, profile = _reader(run), run.profile
    controls: Controls = {}
    for name in CRF_VALUES:
        around = (getattr(profile.crf, name) * factor for factor in CRF_FACTORS)
        controls[name] = numbers(*around, *getattr(profile.sweeps, f"crf_{name}"))
    start = {name: short(getattr(profile.crf, name)) for name in CRF_VALUES}
    changes: list[Setting] = [{}, *({name: list(controls[name])[-1]} for name in CRF_VALUES)]

    @lru_cache(maxsize=1)  # so that a slider repeats the CRF alone
    def maps_of(image_id: str) -> tuple:
        maps = read(image_id)
        return maps.image, maps.saliency(dcsm_setting(profile)), maps.classes

    def draw(image_id: str, **values: float) -> Pictures:
        image, saliency, classes = maps_of(image_id)
        configs: dict[str, CrfConfig | None] = {"without CRF": None}
        configs["with CRF"] = replace(profile.crf, **values)  # type: ignore[arg-type]
        masks = {title: mask_from_saliency(image, saliency, classes, config) for title, config in configs.items()}
        return {"image": image} | {title: Masked(image, mask) for title, mask in masks.items()}

    return explorer(run, examples_first(run), draw, controls, [start | change for change in changes])
