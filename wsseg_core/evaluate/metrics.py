"""The one scorer: a confusion matrix, the IoU of it, and bootstrap intervals over images.

Every score is kept as one confusion matrix an image, so that intervals and differences come from resampling
images and never from a formula that assumes a distribution. Measure: intersection over union per class from the
matrix summed over the split, averaged over classes (Everingham et al., PASCAL VOC 2012 devkit).
"""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_atomically
from wsseg_core.data.images import VOID
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.voc import VocDevkit

TEST_PROTOCOL = "test"  # the classes drawn are those that the classifier detects
SEED_PROTOCOL = "seed"  # the known image labels decide which classes may be drawn
PROTOCOLS = (TEST_PROTOCOL, SEED_PROTOCOL)
REQUIRED_DETAILS = ("split", "classes", "protocol", "void", "crf", "sizes", "pretraining", "seed")


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of every pair of true and predicted class.

    Args:
        truth: integer array of any shape, 0..num_classes, or 255 for void pixels, which are left out.
        prediction: integer array of the same shape, 0..num_classes.
        num_classes: C, without the background.

    Returns:
        int64 (C+1, C+1); rows are the truth, columns the prediction.

    Raises:
        WorkbookError: shapes differ, or a value is none of the classes; a prediction may not be void.
    """
    size = num_classes + 1
    if truth.shape != prediction.shape:
        raise WorkbookError(
            f"mask of shape {truth.shape}, prediction of shape {prediction.shape}; resize the prediction to the image"
        )
    _check_values(truth[truth != VOID], size, "mask", "check the devkit with `wsseg data check`")
    _check_values(prediction, size, "prediction", "a prediction names a class at every pixel, never void")
    scored = truth != VOID
    pairs = truth[scored].astype(np.int64) * size + prediction[scored].astype(np.int64)
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def _check_values(values: np.ndarray, size: int, what: str, remedy: str) -> None:
    if values.dtype.kind not in "ui":
        raise WorkbookError(f"{what} of type {values.dtype}, but classes are integers; {remedy}")
    if values.size and not 0 <= values.min() <= values.max() < size:
        wrong = np.unique(values[(values < 0) | (values >= size)])[:5].tolist()
        raise WorkbookError(f"{what} holds the values {wrong}, outside 0..{size - 1}; {remedy}")


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of every class.

    Args:
        confusion: (..., C+1, C+1), counts.

    Returns:
        float64 (..., C+1) in [0, 1]; NaN where the class is in neither the truth nor the prediction.
    """
    both = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    either = confusion.sum(-1) + confusion.sum(-2) - both
    return np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)


def mean_iou(confusion: np.ndarray) -> Any:
    """Mean IoU in percent over the classes that have one (official VOC measure); NaN when none has.

    Args:
        confusion: (..., C+1, C+1), counts; leading dimensions are kept.
    """
    per_class = iou(confusion)
    known = np.isfinite(per_class)
    total = np.where(known, per_class, 0).sum(-1)
    count = known.sum(-1)
    return 100 * np.divide(total, count, out=np.full_like(total, np.nan, dtype=np.float64), where=count > 0)[()]


def boundary_band(truth: np.ndarray, width: int) -> np.ndarray:
    """The pixels around true borders, a trimap: where a mask is hardest to get right.

    Kohli, Ladicky & Torr, IJCV 2009, as Krähenbühl & Koltun, NIPS 2011, score with it. A border is where two labels
    meet; void pixels, which VOC lays over its borders, belong to it as a label of their own.

    Args:
        truth: integer (H, W), 0..C or 255 for void.
        width: of the band to either side, in pixels; 1 or more.

    Returns:
        bool (H, W): no farther from a border than `width`, by the longer of the two ways along rows and columns.
    """
    edge = np.zeros(truth.shape, bool)
    for axis in (0, 1):
        differ = np.moveaxis(np.diff(truth.astype(np.int16), axis=axis) != 0, axis, 0)
        lines = np.moveaxis(edge, axis, 0)  # a view, through which both sides of a border are marked
        lines[:-1] |= differ
        lines[1:] |= differ
    return maximum_filter(edge, size=2 * width - 1)


def share_above(scores: "Scores", percent: float, samples: int = 1000, seed: int = 0) -> "Interval":
    """How many images are drawn well: the share whose own mean IoU is above a number, in percent.

    Args:
        scores: of a method.
        percent: of mean IoU, over the labels that the image or its prediction has.
        samples: resamples of the bootstrap over images.
        seed: of the resamples.

    Returns:
        NaN where no image was scored.
    """
    per_image = np.asarray(mean_iou(scores.confusions))
    counted = np.isfinite(per_image)  # else nothing of it was scored
    good = np.stack([counted & (per_image > percent), counted], axis=1).astype(np.int64)  # (n, 2)
    total, draws = good.sum(0), bootstrap_sums(good, samples, seed)
    if not total[1]:
        return Interval(math.nan, math.nan, math.nan)
    shares = 100 * draws[:, 0] / np.maximum(draws[:, 1], 1)
    return percentile_interval(100 * total[0] / total[1], shares)


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval, all in the same unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Scores:
    """How one method did on every image of a split.

    Attributes:
        name: the method, by the names in `wsseg_core.evaluate.claims`.
        image_ids: the n images, in the order of the matrices.
        confusions: int64 (n, C+1, C+1), rows are the truth.
        details: what the number means; all of `REQUIRED_DETAILS`, and whatever else is worth keeping.

    Raises:
        WorkbookError: a detail is missing, no image was scored, or the arrays do not belong together.
    """

    name: str
    image_ids: tuple[str, ...]
    confusions: np.ndarray
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_ids", tuple(self.image_ids))
        missing = [key for key in REQUIRED_DETAILS if key not in self.details]
        if missing:
            raise WorkbookError(f"scores {self.name!r} lack {', '.join(missing)}; every number must say them")
        if self.details["protocol"] not in PROTOCOLS:
            raise WorkbookError(f"scores {self.name!r}: protocol must be one of {', '.join(PROTOCOLS)}")
        shape, count = self.confusions.shape, len(self.image_ids)
        if not count or len(shape) != 3 or shape[0] != count or shape[1] != shape[2]:
            raise WorkbookError(
                f"scores {self.name!r}: {count} images need matrices of shape ({count}, C+1, C+1), not {shape}"
            )
        if self.confusions.dtype != np.int64 or len(set(self.image_ids)) != count:
            raise WorkbookError(f"scores {self.name!r}: counts must be int64 and every image scored once")

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the split, in percent."""
        return float(mean_iou(self.confusions.sum(0)))

    @property
    def class_iou(self) -> np.ndarray:
        """float64 (C+1,), IoU of every class over the split, in percent; NaN where a class never occurs."""
        return 100 * iou(self.confusions.sum(0))

    def interval(self, samples: int = 1000, seed: int = 0) -> Interval:
        """Mean IoU with the 95 % interval of a bootstrap over images."""
        draws = mean_iou(bootstrap_sums(self.confusions, samples, seed))
        return percentile_interval(self.mean_iou, draws)

    def save(self, path: Path) -> None:
        """Write everything to one compressed npz file, atomically."""
        buffer = io.BytesIO()
        record = json.dumps({"name": self.name, "image_ids": self.image_ids, "details": plain(dict(self.details))})
        np.savez_compressed(buffer, confusions=self.confusions, record=np.array(record))
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Read what `save` wrote.

        Raises:
            WorkbookError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                record = json.loads(str(file["record"]))
                return cls(record["name"], tuple(record["image_ids"]), file["confusions"], record["details"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            raise WorkbookError(f"{path}: missing or damaged; run the notebook that scores it again") from None


def paired_bootstrap(a: Scores, b: Scores, samples: int = 1000, seed: int = 0) -> Interval:
    """Difference a - b of the mean IoU in points, with the 95 % interval of a paired bootstrap.

    Every resample draws the same images for both, so that what makes an image hard for both cancels.

    Raises:
        WorkbookError: the two were not scored on the same images, classes, split and protocol.
    """
    one, other = (bootstrap_sums(counts, samples, seed) for counts in (a.confusions, _aligned(a, b)))
    draws = mean_iou(one) - mean_iou(other)
    return percentile_interval(a.mean_iou - b.mean_iou, draws)


def paired_class_bootstrap(a: Scores, b: Scores, samples: int = 1000, seed: int = 0) -> list[Interval]:
    """Difference a - b of the IoU of every class in points, with the 95 % intervals of a paired bootstrap.

    Resamples in which a class occurs for neither method are left out of its interval.

    Returns:
        C+1 intervals, the background's first; NaN where a class has no IoU.

    Raises:
        WorkbookError: the two were not scored on the same images, classes, split and protocol.
    """
    one, other = (bootstrap_sums(counts, samples, seed) for counts in (a.confusions, _aligned(a, b)))
    draws = 100 * (iou(one) - iou(other))  # (samples, C+1)
    values = a.class_iou - b.class_iou
    return [
        percentile_interval(value, column[np.isfinite(column)] if np.isfinite(value) else np.array([np.nan]))
        for value, column in zip(values, draws.T, strict=True)
    ]


def _aligned(a: Scores, b: Scores) -> np.ndarray:
    """The matrices of b in the order of the images of a, once it is sure that the two may be compared."""
    for key in ("split", "classes", "protocol", "void"):
        if a.details[key] != b.details[key]:
            raise WorkbookError(f"{a.name!r} and {b.name!r} differ in {key}; score both alike before comparing")
    if set(a.image_ids) != set(b.image_ids) or a.confusions.shape != b.confusions.shape:
        raise WorkbookError(f"{a.name!r} and {b.name!r} have other images or classes; score both on the same split")
    position = {image_id: index for index, image_id in enumerate(b.image_ids)}
    return b.confusions[[position[image_id] for image_id in a.image_ids]]


def bootstrap_sums(counts: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Counts per image, summed over the images of every resample.

    The same seed and number of images give the same resamples, which is what makes a comparison paired.

    Args:
        counts: (n, ...), one entry an image.
        samples: resamples, each of n images with replacement.
        seed: of the resamples.

    Returns:
        float64 (samples, ...), which counts pixels exactly up to 2^53.
    """
    images = len(counts)
    drawn = np.random.default_rng([seed, images]).integers(0, images, (samples, images))
    drawn += np.arange(samples)[:, None] * images
    weights = np.bincount(drawn.ravel(), minlength=samples * images).reshape(samples, images).astype(np.float64)
    return (weights @ counts.reshape(images, -1).astype(np.float64)).reshape(samples, *counts.shape[1:])


def percentile_interval(value: float, draws: np.ndarray) -> Interval:
    """A value with the 2.5 and 97.5 percentile of its resamples, float (samples,)."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def score_masks(
    devkit: VocDevkit,
    image_ids: Sequence[str],
    predictions: Callable[[str], np.ndarray] | Mapping[str, np.ndarray],
    *,
    name: str,
    details: Mapping[str, Any],
) -> Scores:
    """Compare predicted masks with the devkit's.

    Args:
        devkit: where the true masks are.
        image_ids: the images to score.
        predictions: gives the uint8 (H, W) mask of an image id, values 0..C; a function or a mapping.
        name: the method, by the names in `wsseg_core.evaluate.claims`.
        details: all of `REQUIRED_DETAILS`.

    Raises:
        WorkbookError: an image has no prediction, or `confusion_matrix` refuses a pair (the image is named).
    """
    if isinstance(predictions, Mapping):
        missing = [image_id for image_id in image_ids if image_id not in predictions]
        if missing:
            raise WorkbookError(f"{name!r}: no prediction for {missing[0]} ({len(missing)} missing); predict them all")
    predict = predictions.__getitem__ if isinstance(predictions, Mapping) else predictions
    masks = VocMasks(devkit)
    confusions = np.zeros((len(image_ids), devkit.num_classes + 1, devkit.num_classes + 1), np.int64)
    for index, image_id in enumerate(image_ids):
        truth = masks.mask(image_id)
        try:
            confusions[index] = confusion_matrix(truth, predict(image_id), devkit.num_classes)
        except WorkbookError as error:
            raise WorkbookError(f"{image_id}, {name!r}: {error}") from None
    return Scores(name, tuple(image_ids), confusions, details)
