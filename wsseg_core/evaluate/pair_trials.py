"""Static refinement of many pairs of masks: which two should a network compare, to know which of them to believe?

SSDD (Shimoda & Yanai, ICCV 2019) compares PSA's masks before and after a CRF. `refine.other_pairs` has others. What a
pair can give at most is its oracle, which takes the right one of the two at every pixel; what refinement makes of that
room is judged against the same biases without a detector, and against the better mask.

The pair that goes on to a network is chosen by the masks of a few training images, and every table that uses it has to
say so.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_json
from wsseg_core.data.run import Run
from wsseg_core.evaluate.change_regions import area_interval, area_under_curve, change_counts
from wsseg_core.evaluate.crf_search import tuning_ids
from wsseg_core.evaluate.metrics import bootstrap_sums, confusion_matrix, mean_iou, percentile_interval
from wsseg_core.nets.static import StaticNet
from wsseg_core.refine.mask_pairs import Pair, check_pair, mask_pair
from wsseg_core.refine.other_pairs import OWN
from wsseg_core.refine.static_stage import (
    NOTEBOOK,
    StaticSetting,
    load_static,
    open_refined,
    refine_rows,
    static_settings,
    train_static,
    training_settings,
)
from wsseg_core.segment.retraining import train_each

MASKS = ("K", "A", "oracle", "refined", "no detector")
TRIAL_COLUMNS = (
    *("pair", *MASKS, "ours", "low", "high"),
    *("beyond no detector", "low of it", "high of it", "AUC", "AUC low", "AUC high"),
)
UNMEASURED = (np.nan,) * (len(TRIAL_COLUMNS) - 1)


def pair_trials(run: Run, pairs: Mapping[str, Pair | None], truth: Callable[[str], np.ndarray]) -> pd.DataFrame:
    """Train the static stage on each pair, and score what it makes of the images of `tuning_ids`.

    Args:
        run: the run.
        pairs: by name; None for SSDD's own.
        truth: the true mask of an image, uint8 (H, W), 0..C or 255.

    Returns:
        One row a pair. `pair`; mean IoU in percent of `K`, `A`, `oracle`, `refined` and `no detector`, the biases
        alone; `ours`, the gain over the better of K and A in points, with its 95 % interval, `low` and `high`; `beyond
        no detector`, alike; `AUC` of d^K - d^A as a sign that A is right, alike. All NaN where the training images
        have no masks, and of a pair that cannot be compared (`mask_pairs.check_pair`), which is said.

    Raises:
        WorkbookError: the errors of `train_static`.
    """
    fit = {name: pair for name, pair in pairs.items() if _fit(run, name, pair)}
    measured = train_each(run, partial(_trial, run, truth=truth), list(fit.values()), "trials of pairs")
    found = dict(zip(fit, measured, strict=True))
    return pd.DataFrame([(name, *found.get(name, UNMEASURED)) for name in pairs], columns=list(TRIAL_COLUMNS))


def _fit(run: Run, name: str, pair: Pair | None) -> bool:
    """Whether a pair can be compared; if not, why is said. SSDD's own may be alike, and is always tried."""
    try:
        if pair:
            check_pair(pair, run.train_ids, run.devkit.classes)
    except WorkbookError as error:
        print(f"{name}: left out, {error}")
        return False
    return True


def _trial(run: Run, pair: Pair | None, truth: Callable[[str], np.ndarray]) -> tuple[float, ...]:
    train_static(run, pair=pair)
    model, samples = load_static(run, pair=pair), run.profile.sweeps.bootstrap_samples
    measured = [
        _measured(run, model, compared(run.profile), pair, image_id, truth(image_id)) for image_id in tuning_ids(run)
    ]
    confusions, gaps = (np.stack(values) for values in zip(*measured, strict=True))
    if not confusions.sum():
        return UNMEASURED
    values, draws = mean_iou(confusions.sum(0)), mean_iou(bootstrap_sums(confusions, samples, run.seed))
    refined, rivals = MASKS.index("refined"), (int(np.argmax(values[:2])), MASKS.index("no detector"))
    gains = [percentile_interval(values[refined] - values[r], draws[:, refined] - draws[:, r]) for r in rivals]
    auc = area_interval(gaps.sum(0), area_under_curve(bootstrap_sums(gaps, samples, run.seed)))
    return *map(float, values), *(value for interval in (*gains, auc) for value in astuple(interval))


def _measured(
    run: Run, model: StaticNet, settings: list[StaticSetting], pair: Pair | None, image_id: str, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Confusions of `MASKS`, int64 (5, C+1, C+1), and the histograms of d^K - d^A of all pixels, int64 (2, BINS)."""
    own, alone = refine_rows(run, model, settings, image_id, pair)
    oracle = np.where(own.knowledge == truth, own.knowledge, own.advice)
    masks, classes = (own.knowledge, own.advice, oracle, own.mask, alone.mask), run.devkit.num_classes
    counts = change_counts(own.knowledge, own.advice, truth, own.d_k - own.d_a, classes)[0]
    return np.stack([confusion_matrix(truth, mask, classes) for mask in masks]), counts


def compared(profile: Profile) -> list[StaticSetting]:
    """SSDD's own refinement, and its biases without a detector."""
    return [s for s in static_settings(profile) if s.name in ("static", "static_no_detector")]


def choose_pair(run: Run, trials: pd.DataFrame, pairs: Mapping[str, Pair | None]) -> str:
    """Take the pair that refinement makes the most of, the first of several, and keep it for what comes after.

    What counts is the smaller of two gains: over the better mask of the pair, and over the biases without a detector.
    Without true masks it is SSDD's own.

    Args:
        run: the run.
        trials: what `pair_trials` found.
        pairs: what it was given.

    Returns:
        The name of the pair.
    """
    gains = trials.set_index("pair")[["ours", "beyond no detector"]].dropna().min(axis=1)
    best = OWN if gains.empty else str(gains.idxmax())
    folders = [masks.folder.relative_to(run.folder).as_posix() for masks in pairs[best] or ()]
    write_json(_path(run), {"pair": best, "folders": folders, "settings": training_settings(run)})
    return best


def chosen_pair(run: Run) -> Pair | None:
    """The masks of the pair that `choose_pair` kept; None for SSDD's own.

    Raises:
        WorkbookError: the file is missing or damaged, or was made under other settings, or its masks are gone.
    """
    try:
        record = json.loads(_path(run).read_text(encoding="utf-8"))
        folders, settings = record["folders"], record["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise WorkbookError(f"{_path(run)}: missing or damaged; run notebook {NOTEBOOK} first") from None
    if settings != plain(training_settings(run)):
        raise WorkbookError(f"{_path(run)}: made under other settings; run notebook {NOTEBOOK} again")
    if not folders:
        return None
    knowledge, advice = (ArtifactStore.open(run.folder / folder, NOTEBOOK) for folder in folders)
    return knowledge, advice


def _path(run: Run) -> Path:
    return run.artifacts("refinement") / "chosen_pair.json"


def pair_masks(run: Run) -> dict[str, ArtifactStore]:
    """The two masks of the chosen pair, and what refinement made of them with its detector and without.

    Returns:
        Stores, by the names of `wsseg_core.evaluate.claims` without `_seed`.

    Raises:
        WorkbookError: no pair was chosen, or its masks were not refined yet.
    """
    pair = chosen_pair(run)
    own, alone = (open_refined(run, setting, pair) for setting in compared(run.profile))
    knowledge, advice = pair or mask_pair(run)
    return {"pair_knowledge": knowledge, "pair_advice": advice, "pair_static": own, "pair_no_detector": alone}
