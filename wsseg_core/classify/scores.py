"""From a score map to the scores of an image, their loss, and how good they are."""

import numpy as np
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from wsseg_core.data.run import Run


def image_scores(score_map: Tensor, pooling: str = "max") -> Tensor:
    """Global max (DCSM) or average pooling: scores of the image, (B, C), from its score map (B, C, h, w)."""
    return score_map.mean((2, 3)) if pooling == "average" else score_map.amax((2, 3))


def pooling_of(model: nn.Module) -> str:
    """How a classifier pools its score map; "max", as in the paper, where it does not say."""
    return getattr(model, "pooling", "max")


def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid cross entropy of (B, C), summed over classes and averaged over the images, DCSM equations 1 and 2."""
    return F.binary_cross_entropy_with_logits(scores.float(), labels, reduction="none").sum(1).mean()


def precision_by_class(run: Run, scores: np.ndarray) -> dict[str, float]:
    """Average precision of every class, `ap/<class>` in [0, 1], from scores of the validation images, float (n, C).

    NaN for a class that no image shows.
    """
    labels = run.devkit.label_matrix(run.val_ids)
    return {
        f"ap/{name}": float(average_precision_score(labels[:, c], scores[:, c])) if labels[:, c].any() else float("nan")
        for c, name in enumerate(run.devkit.classes)
    }
