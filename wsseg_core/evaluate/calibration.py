"""Do probabilities mean what they say? Reliability of the label drawn at each pixel (notebook 04).

Of all pixels whose label is drawn with probability p, a share of p should be right. The curve of that share over p is
the reliability diagram, and its mean distance from the diagonal, weighted by pixels, the expected calibration error
(Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, sections 2 and 2.1).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsseg_core.evaluate.metrics import VOID, Interval, bootstrap_sums, percentile_interval

BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was counted over the images of a split.

    Attributes:
        counts: float64 (n, bins, 3): pixels of every image whose label was drawn with a probability in the bin, the
            sum of those probabilities, and how many of the pixels are right.
    """

    counts: np.ndarray

    def curve(self, samples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """The reliability diagram, one line a bin that holds pixels, in percent.

        Returns:
            Columns `probability`, its mean in the bin; `ours`, `low` and `high`, the share of right pixels with its
            95 % interval over images; `pixels`, the share of all pixels.
        """
        total, draws = self.counts.sum(0), bootstrap_sums(self.counts, samples, seed)
        rows = []
        for index in np.flatnonzero(total[:, 0]):
            pixels, probability, right = total[index]
            known = draws[:, index, 0] > 0
            interval = percentile_interval(right / pixels, draws[known, index, 2] / draws[known, index, 0])
            values = (probability / pixels, interval.value, interval.low, interval.high, pixels / total[:, 0].sum())
            rows.append([100 * value for value in values])
        return pd.DataFrame(rows, columns=["probability", "ours", "low", "high", "pixels"], dtype=float)

    def error(self, samples: int = 1000, seed: int = 0) -> Interval:
        """Expected calibration error in points, with its 95 % interval over images; NaN when no class was drawn."""
        total, draws = self.counts.sum(0), bootstrap_sums(self.counts, samples, seed)
        return percentile_interval(float(_error(total[None])[0]), _error(draws))


def _error(counts: np.ndarray) -> np.ndarray:
    """Mean distance of probability and share of right pixels, points; counts are (..., bins, 3)."""
    apart, pixels = np.abs(counts[..., 1] - counts[..., 2]).sum(-1), counts[..., 0].sum(-1)
    return 100 * np.divide(apart, pixels, out=np.full(apart.shape, np.nan), where=pixels > 0)


def reliability_counts(probabilities: np.ndarray, values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count one image.

    Args:
        probabilities: float (L, H, W), at least 0; divided here by their sum over L.
        values: uint8 (L,), mask value of each row.
        truth: uint8 (H, W), 255 for void pixels, which are left out.

    Returns:
        float64 (bins, 3) as in `Reliability`; bins divide [0, 1] evenly.
    """
    scored = truth != VOID
    drawn = probabilities.argmax(0)[scored]
    confidence = (probabilities.max(0) / probabilities.sum(0))[scored].astype(np.float64)
    right = values[drawn] == truth[scored]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    weights = (np.ones_like(confidence), confidence, right.astype(np.float64))
    return np.stack([np.bincount(bins, weight, BINS) for weight in weights], axis=1)
