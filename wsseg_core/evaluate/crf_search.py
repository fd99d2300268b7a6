"""Grid search of the CRF's values on the masks of a few training images: the only place where masks choose CRF values.

DCSM 4.2 chose its values "by grid search with validation data", the very images that its tables report on. Here the
masks are those of the first M training images and never of the validation images, and whatever uses the values found
says so (`Setting.crf_source`).
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from wsseg_core.base.config import CrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_json
from wsseg_core.classify.classifier import classifier_settings
from wsseg_core.crf.dense import REFERENCE_SIZE
from wsseg_core.data.run import Run
from wsseg_core.evaluate.metrics import Scores
from wsseg_core.saliency.dcsm import Setting, dcsm_setting

NOTEBOOK = "04_crf_tuning"
CRF_VALUES = ("w1", "w2", "gamma_alpha", "gamma_beta", "gamma_gamma")


@dataclass(frozen=True)
class TunedCrf:
    """The values found, and where they come from.

    Attributes:
        config: the values.
        source: `CRF chosen with masks of M train images`, for `Setting.crf_source`.
        split: what the tables call these images.
        image_ids: the M images.
        mean_iou: on these images, percent; too good a number for any other use.
    """

    config: CrfConfig
    source: str
    split: str
    image_ids: tuple[str, ...]
    mean_iou: float


def tuning_ids(run: Run) -> list[str]:
    """The first M training images, whose masks choose the values; notebook 02 extracts their maps, too."""
    return run.train_ids[: run.profile.sweeps.crf_train_images]


def tuning_split(run: Run) -> str:
    """What the tables call these images."""
    return f"{run.profile.data.train_split}, first {len(tuning_ids(run))} images"


def crf_name(config: CrfConfig) -> str:
    """Name of the scores of one combination, such as `crf-1-1-30-10-3`, in the order of `CRF_VALUES`."""
    return "-".join(["crf", *(f"{getattr(config, name):g}" for name in CRF_VALUES)])


def grid_settings(run: Run) -> list[Setting]:
    """DCSM with the paper's values and with every combination of those in `SweepConfig`; only the CRF differs."""
    base, sweeps = run.profile.crf, run.profile.sweeps
    axes = (getattr(sweeps, f"crf_{name}") for name in CRF_VALUES)
    configs = [replace(base, **dict(zip(CRF_VALUES, values, strict=True))) for values in itertools.product(*axes)]
    return [replace(dcsm_setting(run.profile, crf_name(c)), crf=c) for c in dict.fromkeys([base, *configs])]


def grid_table(settings: Sequence[Setting], scores: Mapping[str, Scores]) -> pd.DataFrame:
    """One line a combination: the five values, and `ours`, the mean IoU in percent; best first."""
    rows = [asdict(setting.crf) | {"ours": scores[setting.name].mean_iou} for setting in settings if setting.crf]
    frame = pd.DataFrame(rows, columns=[*CRF_VALUES, "ours"])
    return frame.sort_values("ours", ascending=False, kind="stable").reset_index(drop=True)


def on_border(table: pd.DataFrame) -> list[str]:
    """Values of which the best line of `grid_table` has the smallest or largest that was tried: look further there."""
    tried = [name for name in CRF_VALUES if table[name].nunique() > 1]
    return [name for name in tried if table.loc[0, name] in (table[name].min(), table[name].max())]


def choose_crf(run: Run, settings: Sequence[Setting], scores: Mapping[str, Scores]) -> TunedCrf:
    """Take the best combination, the first of several, and keep it in `artifacts/crf/tuned.json`.

    Without any mask of a training image it is the first one, the paper's, and the source says so.
    """
    best = max(settings, key=lambda setting: scores[setting.name].mean_iou)
    assert best.crf is not None
    ids = scores[best.name].image_ids
    source = f"CRF chosen with masks of {len(ids)} train images"
    if math.isnan(scores[best.name].mean_iou):
        source = "CRF of the paper, as train images have no masks"
    tuned = TunedCrf(best.crf, source, tuning_split(run), ids, scores[best.name].mean_iou)
    write_json(_path(run), asdict(tuned) | {"settings": _settings(run)})
    return tuned


def load_tuned_crf(run: Run) -> TunedCrf:
    """Read what `choose_crf` kept.

    Raises:
        WorkbookError: the file is missing or damaged, or was made under other settings.
    """
    try:
        record = json.loads(_path(run).read_text(encoding="utf-8"))
        found, config = record.pop("settings"), CrfConfig(**record.pop("config"))
        tuned = TunedCrf(config, **record | {"image_ids": tuple(record["image_ids"])})
    except (OSError, ValueError, KeyError, TypeError):
        raise WorkbookError(f"{_path(run)}: missing or damaged; run notebook {NOTEBOOK} first") from None
    if found != plain(_settings(run)):
        raise WorkbookError(f"{_path(run)}: made under other settings; run notebook {NOTEBOOK} again")
    return tuned


def in_image_pixels(config: CrfConfig, image_size: int) -> CrfConfig:
    """The config whose kernels are as wide in pixels of an image of this size as `config` says they are at 500.

    `dense_crf` scales the widths with the image; this takes it back, for the comparison of the two.
    """
    ratio = REFERENCE_SIZE / image_size
    return replace(config, gamma_alpha=config.gamma_alpha * ratio, gamma_gamma=config.gamma_gamma * ratio)


def _path(run: Run) -> Path:
    return run.artifacts("crf") / "tuned.json"


def _settings(run: Run) -> dict[str, Any]:
    return run.settings(
        "evaluate.scoring",
        split=tuning_split(run),
        rows=[asdict(setting) for setting in grid_settings(run)],
        classifier=classifier_settings(run),
    )
