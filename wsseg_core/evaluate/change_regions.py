"""How well difference detection tells which of two masks is right: the area under the curve of d^K - d^A.

Refinement (`wsseg_core.refine.difference.refine`) takes the advice where d^K - d^A is large. Of the pixels where
knowledge and advice differ and one of them is right, the area under the ROC curve is the probability that a pixel at
which the advice is right has a larger difference than one at which the knowledge is: 1 where the detector always knows
whom to believe, 1/2 where it knows nothing, whatever biases are added. Shimoda & Yanai do not measure it.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy import ndimage

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOID
from wsseg_core.evaluate.metrics import Interval, bootstrap_sums, percentile_interval

BINS = 200  # of d^K - d^A, from -1 to 1
SIZE_LIMITS = (0.002, 0.02)  # shares of the image, between small, middle and large changed regions
SIZES = ("regions below 0.2 % of the image", "regions of 0.2 to 2 %", "regions above 2 %")


def change_counts(
    knowledge: np.ndarray, advice: np.ndarray, truth: np.ndarray, gap: np.ndarray, num_classes: int
) -> np.ndarray:
    """Histograms of d^K - d^A where two masks of an image differ and one of them is right.

    Args:
        knowledge: m^K, integer (H, W), 0..C or 255.
        advice: m^A, alike.
        truth: the true mask, alike.
        gap: d^K - d^A, float (H, W) in [-1, 1].
        num_classes: C.

    Returns:
        int64 (1 + 3 + C, 2, BINS). Groups: all pixels, the three `SIZES` of connected changed regions, and the C
        classes, by the class that K says there, or A where K says background. Then: K is right, A is right.

    Raises:
        WorkbookError: arrays of different sizes.
    """
    if not knowledge.shape == advice.shape == truth.shape == gap.shape:
        shapes = ", ".join(str(values.shape) for values in (knowledge, advice, truth, gap))
        raise WorkbookError(f"two masks, the true one and d^K - d^A are of sizes {shapes}; give those of one image")
    differ = (knowledge != advice) & (knowledge != VOID) & (advice != VOID)
    groups = _groups(knowledge, advice, differ, num_classes)
    places = np.clip(((gap + 1) / 2 * BINS).astype(int), 0, BINS - 1)
    right = [(mask == truth) & differ for mask in (knowledge, advice)]
    return np.stack([[np.bincount(places[of & hits], minlength=BINS) for hits in right] for of in groups])


def _groups(knowledge: np.ndarray, advice: np.ndarray, differ: np.ndarray, num_classes: int) -> list[np.ndarray]:
    regions, _ = ndimage.label(differ)
    share = (np.bincount(regions.ravel()) / differ.size)[regions]
    size = np.digitize(share, SIZE_LIMITS)
    label = np.where(knowledge > 0, knowledge, advice)
    return [differ, *(size == k for k in range(len(SIZES))), *(label == c for c in range(1, num_classes + 1))]


def area_under_curve(counts: np.ndarray) -> np.ndarray:
    """The area under the ROC curve from histograms (..., 2, bins) as `change_counts` gives them; ties count half.

    Returns:
        float64 (...), in [0, 1]; NaN where one of the two is never right.
    """
    k_right, a_right = counts[..., 0, :].astype(float), counts[..., 1, :]
    below = k_right.cumsum(-1) - k_right / 2
    with np.errstate(invalid="ignore"):
        return (a_right * below).sum(-1) / (a_right.sum(-1) * k_right.sum(-1))


def area_interval(counts: np.ndarray, drawn: np.ndarray) -> Interval:
    """The area of histograms (2, bins), with the 95 % interval of resampled areas; those that are NaN do not count."""
    finite = drawn[np.isfinite(drawn)]
    return percentile_interval(float(area_under_curve(counts)), finite if len(finite) else np.array([np.nan]))


def auc_table(counts: np.ndarray, class_names: Sequence[str], samples: int, seed: int) -> pd.DataFrame:
    """The area under the curve over all images, by size of the changed region and by class.

    Args:
        counts: of `change_counts`, int64 (n, 1 + 3 + C, 2, BINS), one entry an image.
        class_names: C names.
        samples: resamples of the bootstrap over images.
        seed: of the resamples.

    Returns:
        Columns `pixels`, the group; `number` of them; `A right`, in percent; `ours`, the area, with its 95 % interval,
        `low` and `high`. NaN where nothing was counted.
    """
    totals, draws = counts.sum(0), area_under_curve(bootstrap_sums(counts, samples, seed))
    rows = []
    for name, total, drawn in zip(("all", *SIZES, *class_names), totals, draws.T, strict=True):
        k_right, a_right = total.sum(1)
        interval = area_interval(total, drawn)
        share = 100 * a_right / max(k_right + a_right, 1)
        rows.append({"pixels": name, "number": k_right + a_right, "A right": share, **asdict(interval)})
    return pd.DataFrame(rows).rename(columns={"value": "ours"})
