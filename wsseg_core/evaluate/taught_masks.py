"""What the dynamic stage teaches itself, against the seed that it starts from: is the teacher better than its book?

A network cannot become better than its seeds by learning something worse. So result 2 less the seed, both against the
true masks of training images, says early what a training will be worth.
"""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.data.run import Run
from wsseg_core.evaluate.crf_search import tuning_ids
from wsseg_core.evaluate.metrics import bootstrap_sums, confusion_matrix, mean_iou, percentile_interval
from wsseg_core.nets.segmentation import resize_masks
from wsseg_core.refine.dynamic_stage import second_results, taught
from wsseg_core.refine.dynamic_step import DynamicSetting

BACKGROUNDS = (-0.4, -0.2, 0.0, 0.2, 0.4)  # values of b(0) that are tried


def result_minus_seed(run: Run, name: str, truth: Callable[[str], np.ndarray], samples: int = 1000) -> pd.DataFrame:
    """Mean IoU of result 2 less that of the seed, on training images, during a training of the dynamic stage.

    Args:
        run: the run.
        name: of the stage itself, "dynamic".
        truth: the true mask of an image, uint8 (H, W), 0..C or 255.
        samples: resamples of the paired bootstrap over images.

    Returns:
        One row a snapshot: `step`; `seed` and `result 2`, mean IoU on the grid of the stage, in percent; `ours`, their
        difference in points, with its 95 % interval, `low` and `high`.

    Raises:
        WorkbookError: the errors of `taught`.
    """
    rows = []
    for step, masks in taught(run, name).items():
        counts = np.stack([_confusions(truth(image_id), pair, run) for image_id, pair in masks.items()])
        seed, second = mean_iou(counts.sum(0))
        draws = mean_iou(bootstrap_sums(counts, samples, run.seed))  # (samples, 2)
        difference = percentile_interval(second - seed, draws[:, 1] - draws[:, 0])
        rows.append({"step": step, "seed": seed, "result 2": second, **asdict(difference)})
    return pd.DataFrame(rows).rename(columns={"value": "ours"})


def best_background(
    run: Run, setting: DynamicSetting, seed: ArtifactStore, truth: Callable[[str], np.ndarray]
) -> tuple[float, pd.DataFrame]:
    """The bias of the background under which a trained stage draws the best result 2, by the masks of a few images.

    The masks that choose are those of `crf_search.tuning_ids`; whatever uses the value has to say so.

    Args:
        run: the run.
        setting: of a trained network with both modules.
        seed: the fixed seed.
        truth: the true mask of an image, uint8 (H, W), 0..C or 255.

    Returns:
        The best of `BACKGROUNDS`, the first of several, or SSDD's own where the images have no masks; and one row for
        each: `b(0)`, and `ours`, the mean IoU of result 2 on these images, in percent.
    """
    counts, ids = [], tuning_ids(run)
    for image_id, masks in zip(ids, second_results(run, setting, seed, ids, BACKGROUNDS), strict=True):
        true_mask = truth(image_id)
        counts.append([confusion_matrix(true_mask, mask, run.devkit.num_classes) for mask in masks])
    table = pd.DataFrame({"b(0)": BACKGROUNDS, "ours": mean_iou(np.sum(counts, 0))})
    if table["ours"].isna().all():
        return setting.background, table
    return BACKGROUNDS[int(table["ours"].argmax())], table


def _confusions(truth: np.ndarray, pair: np.ndarray, run: Run) -> np.ndarray:
    """Of seed and result 2, int64 (2, C+1, C+1)."""
    fine = resize_masks(torch.from_numpy(pair), truth.shape).numpy()
    return np.stack([confusion_matrix(truth, mask, run.devkit.num_classes) for mask in fine])
