"""Explorer of notebook 11: the same scene drawn anew under other factors, and what a fixed classifier makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from wsseg_core.data.run import Run
from wsseg_core.data.toy.stage import Scene
from wsseg_core.data.toyvoc import redraw
from wsseg_core.evaluate.factor_study import FACTORS, NO_FACTORS, has_factors, lab_maps, lab_model, lab_setting
from wsseg_core.saliency.dcsm import ImageMaps, mask_from_saliency
from wsseg_core.workbook import palette
from wsseg_core.workbook.widgets import (
    Captioned,
    Controls,
    Masked,
    Picture,
    Pictures,
    Setting,
    examples_first,
    explorer,
    numbers,
    short,
)

NAMED = 4  # classes at most below the maps
STOPS = 5  # of a slider, from one end to the other, beside the profile's own value


@dataclass(frozen=True, eq=False)
class Looked:
    """A scene, and what the classifier makes of it.

    Attributes:
        scene: as drawn, with its truth.
        maps: of the image; the probabilities of all classes and which of them are detected.
        saliency: class maps of the detected classes, float32 (T, H, W) in [0, 1].
    """

    scene: Scene
    maps: ImageMaps
    saliency: Tensor


def factor_explorer(run: Run) -> ipywidgets.VBox | Figure | None:
    """Maps and masks of a scene that is drawn anew: image, and the six factors; the classifier stays that of the run.

    The maps are made on the spot, at the smallest of the profile's input sizes. What stays of a scene when a factor is
    turned: see `data.toy.composition.draw_scene`.

    Returns:
        What the last line of a cell displays; None, after a line that says so, where the images are not drawn.

    Raises:
        WorkbookError: notebook 01 has not trained the classifier.
    """
    if not has_factors(run):
        print(NO_FACTORS)
        return None
    profile, model = run.profile, lab_model(run)

    @lru_cache(maxsize=4)  # so that the truth of a scene, and the setting before it, are looked at once
    def look(image_id: str, *values: float) -> Looked:
        factors = dict(zip(FACTORS, values, strict=True))
        scene = redraw(image_id, replace(profile.toyvoc, **factors))  # type: ignore[arg-type]
        maps = lab_maps(model, scene.image, profile)
        return Looked(scene, maps, maps.saliency(lab_setting(profile)))

    def draw(image_id: str, **values: float) -> Pictures:
        looked = look(image_id, *(values[factor] for factor in FACTORS))
        image, saliency, classes = looked.scene.image, looked.saliency, looked.maps.classes
        crfs = {"without CRF": None, "with CRF": profile.crf}
        masks = {title: Masked(image, mask_from_saliency(image, saliency, classes, crf)) for title, crf in crfs.items()}
        words = _detected(looked.maps, run.devkit.classes)
        pictures: dict[str, Picture] = {"image": image}
        pictures["class maps"] = Captioned(class_map_picture(saliency.numpy(), classes), words)
        return pictures | masks

    def truth(image_id: str, **values: float) -> Masked:
        scene = look(image_id, *(values[factor] for factor in FACTORS)).scene
        return Masked(scene.image, scene.mask)

    own, controls = {factor: getattr(profile.toyvoc, factor) for factor in FACTORS}, _controls(run)
    start = {factor: short(value) for factor, value in own.items()}
    # Headless: more of everything, but for the heads, which get smaller.
    ends = {factor: list(controls[factor])[0 if factor == "head_to_body" else -1] for factor in FACTORS}
    changes: list[Setting] = [{}, *({factor: end} for factor, end in ends.items() if end != start[factor])]
    return explorer(run, examples_first(run), draw, controls, [start | change for change in changes], truth)


def _controls(run: Run) -> Controls:
    """Of each factor the profile's value among `STOPS` others; whole numbers where it is one."""
    controls: Controls = {}
    for factor in FACTORS:
        own, (low, high) = getattr(run.profile.toyvoc, factor), getattr(run.profile.factors, factor)
        stops = [type(own)(round(value, 2)) for value in np.linspace(low, high, STOPS).tolist()]
        controls[factor] = numbers(*stops, own)
    return controls


def class_map_picture(saliency: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The maps of all classes in one picture: the colour and lines of the largest, as bright as it is.

    Args:
        saliency: float32 (T, H, W) in [0, 1].
        classes: int64 (T,), indices of the classes.

    Returns:
        uint8 (H, W, 3), black where no class has a map.
    """
    if not len(classes):
        return np.zeros((*saliency.shape[1:], 3), np.uint8)
    largest = (classes[saliency.argmax(0)] + 1).astype(np.uint8)  # (H, W)
    colours = palette.fill(largest)
    colours[palette.hatching(largest)] = 0
    return (saliency.max(0)[..., None] * colours).round().astype(np.uint8)


def _detected(maps: ImageMaps, names: Sequence[str]) -> str:
    """The classes that are drawn, with their probabilities; the best one where there is none."""
    told = [f"{names[chosen]} {maps.probabilities[chosen]:.2f}" for chosen in maps.ranking[:NAMED]]
    if not maps.targets:
        return f"nothing detected; best {told[0]}"
    more = f" and {maps.targets - NAMED} more" if maps.targets > NAMED else ""
    return ", ".join(told[: maps.targets]) + more
