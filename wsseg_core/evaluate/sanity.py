"""Sanity checks of saliency maps: what is left of a map when the network no longer knows anything?

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: the layers of a network are made random one after the
other, from the scores down. A map that stays as it was shows the edges of the image, and not what the network learnt;
guided back-propagation was found to be such a map. DCSM reads guided maps, but of inner layers, and subtracts one class
from the other, so both are asked here: how like the map of the trained network is it still, and how alike are the maps
of two classes, before subtraction and after it.

Departure: layers are not drawn anew, their own weights are put in random order, so that their scale stays; and the
randomised labels of the paper's second test are left out: above a trunk that does not learn, the random score layer
stands for them.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.evaluate.metrics import percentile_interval
from wsseg_core.nets.tracing import trace
from wsseg_core.saliency.extraction import layer_groups
from wsseg_core.saliency.gradients import saliency_maps
from wsseg_core.saliency.subtraction import class_maps

SHARES = (0.0, 0.01, 0.25, 0.5, 0.75, 1.0)  # of the layers, from the scores down; 0.01 is the score layer alone
GRID = 64  # positions a side at which maps are compared
IMAGES = 16  # enough to tell the curves apart
CANDIDATES = 3  # classes that compete: the two whose maps are compared, and one more


def randomised(model: nn.Module, share: float, seed: int) -> nn.Module:
    """A copy of a network in which layers have their weights in random order, from the last that runs to the first.

    Args:
        model: the network; it stays as it is.
        share: of the convolutions and fully connected layers, 0 to 1, rounded up.
        seed: of the order.
    """
    changed, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    layers = [step.module for step in trace(changed) if isinstance(step.module, nn.Conv2d | nn.Linear)]
    for layer in layers[len(layers) - math.ceil(share * len(layers)) :]:
        for values in layer.parameters(recurse=False):
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.data = values.data.flatten()[order].view_as(values)
    return changed


def sanity_table(run: Run, model: nn.Module, ids: Sequence[str]) -> pd.DataFrame:
    """Maps of a network that is made random step by step, against those of the trained one.

    Args:
        run: the run.
        model: its classifier, as `saliency.prepare` returns it.
        ids: images.

    Returns:
        One row for each share of random layers and kind of map: `random layers`, in percent; `gradient`, "plain" or
        "guided"; `map`, "raw" or "subtracted"; `ours`, the mean rank correlation with the map of the trained network,
        of the class that this one scores highest, with its 95 % interval over images, `low` and `high`; `two classes`,
        the mean correlation of the maps of the two classes that it scores highest. NaN where maps are constant.
    """
    device = next(model.parameters()).device
    images = [resize_and_pad(run.devkit.image(image_id), run.profile.data.image_size) for image_id in ids]
    inputs = torch.stack(images).to(device)
    with torch.inference_mode():
        classes = model(inputs).amax((2, 3)).argsort(descending=True)[:, :CANDIDATES]
    trained: dict[tuple[str, str], np.ndarray] = {}
    rows = []
    for share in SHARES:
        changed = randomised(model, share, run.seed)
        for gradient in ("plain", "guided"):
            for kind, maps in _maps(run, changed, inputs, classes, gradient == "guided").items():
                known = trained.setdefault((gradient, kind), maps)
                likeness = [_rank_correlation(*pair) for pair in zip(maps[:, 0], known[:, 0], strict=True)]
                alike = _mean([_correlation(*both) for both in maps if len(both) == 2])  # a data set may have one class
                rows.append([100 * share, gradient, kind, *_interval(likeness, run), alike])
    return pd.DataFrame(rows, columns=["random layers", "gradient", "map", "ours", "low", "high", "two classes"])


def _maps(run: Run, model: nn.Module, inputs: Tensor, classes: Tensor, guided: bool) -> dict[str, np.ndarray]:
    """Maps of the two first classes, before subtraction and after it: float32 (B, 2, GRID, GRID) each."""
    layers = [layer for group in layer_groups(run.profile) for layer in group]
    found = saliency_maps(model, inputs, classes.clone(), layers, guided)  # (B, K, h, w) by layer
    alpha, size = run.profile.subtraction.alpha, (GRID, GRID)
    of_images = [[found[layer][row].float().cpu() for layer in layers] for row in range(len(inputs))]
    return {
        kind: torch.stack([class_maps([maps], size, 2, count, alpha) for maps in of_images]).numpy()
        for kind, count in {"raw": 0, "subtracted": CANDIDATES}.items()
    }


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) if one.std() > 0 and other.std() > 0 else math.nan


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    constant = one.std() == 0 or other.std() == 0
    return math.nan if constant else float(spearmanr(one.ravel(), other.ravel()).statistic)


def _mean(values: Sequence[float]) -> float:
    found = np.array(values, float)
    finite = found[np.isfinite(found)]
    return float(finite.mean()) if len(finite) else math.nan


def _interval(values: Sequence[float], run: Run) -> tuple[float, float, float]:
    finite = np.array(values)[np.isfinite(values)]
    if not len(finite):
        return (math.nan,) * 3
    drawn = np.random.default_rng(run.seed).choice(finite, (run.profile.sweeps.bootstrap_samples, len(finite)))
    return astuple(percentile_interval(_mean(values), drawn.mean(1)))
