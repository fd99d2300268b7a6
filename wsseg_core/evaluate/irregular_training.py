"""When the dynamic stage pays: a sweep over seeds with made errors, from systematic to irregular.

The dynamic stage of SSDD (Shimoda & Yanai, ICCV 2019) can gain only while its network knows more of the training images
than the seeds that taught it: where their errors are many and have no rule that could be learnt. The seeds here are the
advice of `irregular_seeds`, *made from true masks*, with twice as many errors as the static stage is given there: with
fewer, seeds are better than any network of a short training. Each is learnt, and the training goes on with refinement
and, as controls, with a refinement that asks no detector, and without any.
"""

from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import partial
from typing import NamedTuple

import pandas as pd

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.data.run import Run
from wsseg_core.evaluate.irregular_seeds import can_be_made, irregular_pair, shorter
from wsseg_core.evaluate.metrics import Scores, paired_bootstrap
from wsseg_core.evaluate.scoring import score_settings
from wsseg_core.refine.dynamic_stage import NOTEBOOK, dynamic_settings, load_dynamic, train_dynamic
from wsseg_core.refine.dynamic_step import DynamicSetting
from wsseg_core.segment.predictions import SegmentationMaps, extract_predictions, segmentation_setting
from wsseg_core.segment.retraining import train_each, train_segmentation

ERRORS = 0.6  # share of wrong pixels, see `with_errors`
NETWORKS = ("dynamic", "dynamic_no_detector", "dynamic_fixed_seed")  # the stage, and its controls
OVER_NO_DETECTOR = ("beyond no detector", "low of it", "high of it")
COLUMNS = ("irregularity", "control", "no detector", "dynamic", "ours", "low", "high", *OVER_NO_DETECTOR)


def dynamic_sweep(run: Run, levels: Sequence[float]) -> pd.DataFrame:
    """Train the dynamic stage and its controls from seeds of several irregularities.

    Args:
        run: the run; all networks train for `sweeps.irregular_steps`, or fewer (`shorter`).
        levels: irregularities, 0 to 1.

    Returns:
        One row a level. `irregularity`; mean IoU on val without a CRF, in percent, of the `control`, the stage with `no
        detector`, and the `dynamic` stage; `ours`, what the last gains over the first, in points, with its 95 %
        interval, `low` and `high`, and `OVER_NO_DETECTOR`, what it gains over the second. All NaN where the training
        images have no masks.
    """
    if not can_be_made(run):
        return pd.DataFrame({"irregularity": levels}, columns=list(COLUMNS), dtype=float)
    short, samples, rows = shorter(run), run.profile.sweeps.bootstrap_samples, []
    made = [Made(level, irregular_pair(short, level, ERRORS)[1]) for level in levels]
    train_each(short, partial(_learn, short), made, "networks on made seeds")
    networks = [(of_level, setting) for of_level in made for setting in dynamic_settings() if setting.name in NETWORKS]
    scores = iter(train_each(short, partial(_go_on, short), networks, "dynamic stages from made seeds"))
    for level, dynamic, undetected, control in zip(levels, scores, scores, scores, strict=True):
        gains = [astuple(paired_bootstrap(dynamic, other, samples)) for other in (control, undetected)]
        rows.append((level, control.mean_iou, undetected.mean_iou, dynamic.mean_iou, *gains[0], *gains[1]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


class Made(NamedTuple):
    """Seeds with made errors: their irregularity, and the masks."""

    irregularity: float
    masks: ArtifactStore

    @property
    def network(self) -> str:
        """Name of the network that learns them."""
        return f"irregular{100 * self.irregularity:.0f}"


def _learn(run: Run, made: Made) -> None:
    train_segmentation(run, made.network, made.masks, NOTEBOOK)


def _go_on(run: Run, network: tuple[Made, DynamicSetting]) -> Scores:
    """Train on from the network that knows made seeds, and score."""
    made, own = network
    setting = replace(own, name=f"{own.name}_{made.network}")
    train_dynamic(run, setting, made.masks, made.network, NOTEBOOK)
    extract_predictions(run, setting.name, run.val_ids, NOTEBOOK, load_dynamic(run, setting))
    row, maps = segmentation_setting(run.profile, f"net_{setting.name}"), SegmentationMaps(run, setting.name, NOTEBOOK)
    split = run.profile.data.val_split
    return score_settings(run, f"08_net_{setting.name}", run.val_ids, split, [row], NOTEBOOK, maps)[row.name]
