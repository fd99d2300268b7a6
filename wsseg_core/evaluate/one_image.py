"""How well one mask of one image does, for explorers: the reader guesses first, and then looks at the truth."""

import numpy as np

from wsseg_core.data.images import VOID, DevkitError
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.voc import VocDevkit
from wsseg_core.evaluate.metrics import confusion_matrix, iou, mean_iou


def true_mask(devkit: VocDevkit, image_id: str) -> np.ndarray | None:
    """The mask of an image, uint8 (H, W), 0..C or 255; None where the data set has none of it."""
    masks = VocMasks(devkit)
    try:
        masks.path(image_id)
    except DevkitError:
        return None
    return masks.mask(image_id)


def iou_text(truth: np.ndarray, drawn: np.ndarray, names: list[str]) -> str:
    """Mean IoU of one image and the IoU of every class that is there or was drawn, in words; percent.

    Args:
        truth: uint8 (H, W), 0..C or 255.
        drawn: uint8 (H, W), 0..C or 255; void is not scored in either.
        names: of the C classes.
    """
    void = drawn == VOID
    counts = confusion_matrix(np.where(void, VOID, truth), np.where(void, 0, drawn), len(names))
    values = zip(("background", *names), 100 * iou(counts), strict=True)
    parts = ", ".join(f"{name} {value:.0f}" for name, value in values if np.isfinite(value))
    return f"mean IoU {mean_iou(counts):.0f} %: {parts}"
