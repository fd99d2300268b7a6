"""Explorer of notebook 06: what the walk makes of a CAM, step by step."""

from dataclasses import replace

import ipywidgets
from matplotlib.figure import Figure

from wsseg_core.affinity.cam import load_cams, open_cams
from wsseg_core.affinity.pairs import upsample, with_background
from wsseg_core.affinity.psa import draw as draw_mask
from wsseg_core.affinity.psa import load_affinity, pixels_per_position, walker
from wsseg_core.data.run import Run
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.subtraction import background
from wsseg_core.workbook.widgets import Controls, Masked, Pictures, Setting, examples_first, explorer, numbers, short

ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)
STEPS = (0, 4, 16, 64, 256, 1024)


def walk_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """The largest CAM and its mask, before the walk and after t steps: image, α, β, t.

    Raises:
        WorkbookError: notebook 06 has not trained the affinity network.
    """
    cams, net, affinity = open_cams(run), fold_batch_norm(load_affinity(run)), run.profile.affinity
    own = {"alpha": run.profile.cam.alpha, "beta": affinity.beta, "steps": affinity.walk_steps}
    choices = {"alpha": ALPHAS, "beta": BETAS, "steps": STEPS}
    controls: Controls = {name: numbers(*values, own[name]) for name, values in choices.items()}
    start = {name: short(value) for name, value in own.items()}
    changes: list[Setting] = [{}, {"steps": "4"}, {"steps": "1024"}, {"alpha": "32"}, {"beta": "1"}]

    def draw(image_id: str, alpha: float, beta: float, steps: int) -> Pictures:
        image = run.devkit.image(image_id)
        classes, cam = load_cams(cams, image_id, image.shape[:2])
        with_beta = replace(run, profile=replace(run.profile, affinity=replace(affinity, beta=beta)))
        walked = walker(with_beta, net)(image_id, cam, alpha, steps)
        walked = upsample(walked, pixels_per_position(run, image.shape[:2]), image.shape[:2]).cpu()
        hottest = walked[1:].amax(0) if len(classes) else 0 * walked[0]
        return {
            "image": image,
            "largest CAM": (1 - background(cam)).numpy(),
            "mask before": Masked(image, draw_mask(with_background(cam, alpha).numpy(), classes)),
            "after the walk": (hottest / hottest.max().clamp(min=1e-6)).numpy(),
            "mask after": Masked(image, draw_mask(walked.numpy(), classes)),
        }

    return explorer(run, examples_first(run, train=True), draw, controls, [start | change for change in changes])
