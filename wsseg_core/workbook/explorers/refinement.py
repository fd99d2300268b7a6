"""Explorers of notebooks 07 and 08: whom to believe under other biases, and the dynamic stage step by step."""

from functools import lru_cache

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure

from wsseg_core.data.run import Run
from wsseg_core.refine import dynamic_stage, static_stage
from wsseg_core.refine.difference import Biases, collapsed, refine, seed_biases
from wsseg_core.workbook.widgets import Controls, Masked, Pictures, Setting, examples_first, explorer, numbers, short

ADVICE = (-1.5, -0.4, 0.0, 0.1, 0.4, 1.5)
OTHERS = (0.0, 0.1, 0.5, 1.0)


def static_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """K, A, both answers, w and the result: image, and the three biases of the refinement.

    Raises:
        WorkbookError: notebook 07 has not trained the detector.
    """
    net, setting = static_stage.load_static(run), static_stage.static_setting(run.profile)
    own = vars(seed_biases(run.profile.difference))
    choices = {"advice": ADVICE, "background": OTHERS, "survival": OTHERS}
    controls: Controls = {name: numbers(*values, own[name]) for name, values in choices.items()}
    start = {name: short(own[name]) for name in choices}
    changes: list[Setting] = [{}, {"advice": "1.5"}, {"advice": "-1.5"}, {"background": "1"}, {"survival": "0"}]

    @lru_cache(maxsize=4)  # one look at the image serves all biases
    def looked_at(image_id: str) -> static_stage.RefinedImage:
        return static_stage.refine_image(run, net, setting, image_id)

    def draw(image_id: str, **biases: float) -> Pictures:
        image, maps = run.devkit.image(image_id), looked_at(image_id)
        k, a = (torch.from_numpy(mask)[None] for mask in (maps.knowledge, maps.advice))
        d_k, d_a = (torch.from_numpy(d)[None].logit(1e-6) for d in (maps.d_k, maps.d_a))
        shrunk = collapsed(k, a, torch.from_numpy(run.devkit.labels(image_id) > 0)[None])
        merged = refine(k, a, d_k, d_a, shrunk, Biases(**biases))
        confidence = np.clip((merged.confidence[0].numpy() + 1) / 2, 0, 1)  # -1 to 1 becomes dark to bright
        return {
            "K": Masked(image, maps.knowledge),
            "A": Masked(image, maps.advice),
            "d of K": maps.d_k,
            "d of A": maps.d_a,
            "w, from -1 to 1": confidence,
            "refined": Masked(image, merged.mask[0].numpy()),
        }

    return explorer(run, examples_first(run, train=True), draw, controls, [start | change for change in changes])


def dynamic_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """The masks of both steps, in the order in which they are made: image, and how many of them are shown.

    Raises:
        WorkbookError: notebook 08 has not trained the network.
    """
    (setting,) = [own for own in dynamic_stage.dynamic_settings() if own.name == "dynamic"]
    seeds = static_stage.open_refined(run, static_stage.static_setting(run.profile))
    titles = ("prediction", "after the CRF", "result 1", "seed", "result 2")
    controls: Controls = {"step": {f"{n} {title}": n for n, title in enumerate(titles, start=1)}}
    first, *_, last = controls["step"]

    @lru_cache(maxsize=4)
    def masks_of(image_id: str) -> tuple[np.ndarray, ...]:
        steps = dynamic_stage.refine_image(run, setting, seeds, image_id)
        return steps.prediction, steps.crf, steps.first, steps.seed, steps.second

    def draw(image_id: str, step: int) -> Pictures:
        image = run.devkit.image(image_id)
        masks = dict(zip(titles, masks_of(image_id), strict=True))
        return {"image": image} | {title: Masked(image, masks[title]) for title in titles[:step]}

    return explorer(run, examples_first(run, train=True), draw, controls, [{"step": last}, {"step": first}])
