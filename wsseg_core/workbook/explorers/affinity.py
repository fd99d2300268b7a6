"""Explorer of notebook 06: what the walk makes of a CAM, step by step."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from wsseg_core.affinity.cam import load_cams, open_cams
from wsseg_core.affinity.pairs import upsample, with_background
from wsseg_core.affinity.psa import draw as draw_mask
from wsseg_core.affinity.psa import load_affinity, pixels_per_position, walker
from wsseg_core.affinity.random_walk import affinities, random_walk, transition_matrix
from wsseg_core.data.run import Run
from wsseg_core.nets.affinity import AffinityNet
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.subtraction import background
from wsseg_core.workbook.widgets import Controls, Masked, Pictures, Setting, examples_first, explorer, numbers, short

ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)
STEPS = (0, *(2**n for n in range(11)))  # the frames of an animation: heat gets sqrt(t) far
NEAREST = 2  # the smallest neighbourhood


class Start(NamedTuple):
    """What a walk starts from, at the positions of the network.

    Attributes:
        classes: int64 (K,).
        cam: float32 (K, H, W) in [0, 1], at the pixels of the image.
        transition: sparse float32 (h·w, h·w).
        scores: float32 (1 + K, h, w) in [0, 1], the background first.
    """

    classes: np.ndarray
    cam: Tensor
    transition: Tensor
    scores: Tensor


def walk_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """The largest CAM and its mask, before the walk and after t steps: image, α, β, t, which a button plays.

    Raises:
        WorkbookError: notebook 06 has not trained the affinity network.
    """
    own_steps, own_beta = run.profile.affinity.walk_steps, run.profile.affinity.beta
    own = {"alpha": run.profile.cam.alpha, "beta": own_beta, "steps": own_steps}
    choices = {"alpha": ALPHAS, "beta": BETAS, "steps": STEPS}
    controls: Controls = {name: numbers(*values, own[name]) for name, values in choices.items()}
    start = {name: short(value) for name, value in own.items()}
    changes: list[Setting] = [{}, {"steps": "4"}, {"steps": "1024"}, {"alpha": "32"}, {"beta": "1"}]
    begin = walk_start(run, fold_batch_norm(load_affinity(run)))

    def draw(image_id: str, alpha: float, beta: float, steps: int) -> Pictures:
        image, (classes, cam, transition, scores) = run.devkit.image(image_id), begin(image_id, alpha, beta)
        size = image.shape[:2]
        walked = upsample(random_walk(transition, scores, steps), pixels_per_position(run, size), size)
        hottest = walked[1:].amax(0) if len(classes) else 0 * walked[0]
        return {
            "image": image,
            "largest CAM": (1 - background(cam)).numpy(),
            "mask before": Masked(image, draw_mask(with_background(cam, alpha).numpy(), classes)),
            "after the walk": (hottest / hottest.max().clamp(min=1e-6)).numpy(),
            "mask after": Masked(image, draw_mask(walked.numpy(), classes)),
        }

    ids, panel = examples_first(run, train=True), [start | change for change in changes]
    return explorer(run, ids, draw, controls, panel, play="steps")


def walk_start(run: Run, net: AffinityNet) -> Callable[[str, float, float], Start]:
    """What the walk of an image starts from, by its id, α and β; kept, so that another number of steps walks alone.

    Args:
        run: the run; `cam.extract_cams` has run.
        net: what `load_affinity` gives, on the CPU.

    Raises:
        WorkbookError: there are no CAMs, or they were made under other settings.
    """
    cams, config = open_cams(run), run.profile.affinity
    # Of no step all that is asked for is the scores, and on the way there the network's features.
    near = replace(run, profile=replace(run.profile, affinity=replace(config, radius=NEAREST)))
    stay = walker(near, net)

    @lru_cache(maxsize=4)
    def begin(image_id: str, alpha: float, beta: float) -> Start:
        classes, cam = load_cams(cams, image_id, run.devkit.image(image_id).shape[:2])
        features: list[Tensor] = []
        hook = net.register_forward_hook(lambda *arguments: features.append(arguments[-1][0]))
        try:
            scores = stay(image_id, cam, alpha, steps=0)
        finally:
            hook.remove()
        h, w = scores.shape[1:]
        pairs = affinities(features[0][:, :h, :w].float(), config.radius)
        return Start(classes, cam, transition_matrix(pairs, h, w, config.radius, beta), scores)

    return begin
