"""From saliency maps of single layers to distinct class maps: subtraction and aggregation (DCSM 3.3, eq. 4, 5, 7).

Shimoda & Yanai, "Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation", ECCV 2016.

The paper does not say where the division by the maximum stands in its equations 4 and 5 (it speaks of one for the
figures only), and the masks depend on it strongly. So the order is a choice with a name:

    subtract_then_normalise   subtract the raw maps, divide each difference by its maximum (the default)
    normalise_then_subtract   divide each map by its maximum, subtract
    both                      divide before and after the subtraction
    joint                     divide all classes by their one common maximum, subtract
    released                  after the authors' Caffe code: sum the layers first, then normalise and tanh before and
                              after one subtraction, then normalise (see `released_saliency`)

Everywhere the K rows of a map are its candidate classes, and the first `targets` of them are the ones to be drawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.transforms import unpad

RELEASED = "released"
ORDERS = ("subtract_then_normalise", "normalise_then_subtract", "both", "joint", RELEASED)


def candidates(scores: Tensor, drawn: Tensor, min_candidates: int) -> tuple[Tensor, int]:
    """Choose the classes of one image that compete: the drawn ones, and top-scoring others until there are N.

    Args:
        scores: float (C,), class scores of the image.
        drawn: bool (C,), classes to be drawn: `scores > 0.5` in the test protocol, the known labels in the seed one.
        min_candidates: N of DCSM table 4.

    Returns:
        Class indices, int64 (K,), the drawn ones first and each part by falling score, K = min(max(T, N), C); and T,
        the number of drawn ones, which may be 0.
    """
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[drawn[by_score].argsort(descending=True, stable=True)]
    targets = int(drawn.sum())
    return order[: max(targets, min_candidates)], targets


def subtract(maps: Tensor, targets: int, min_candidates: int = 3, order: str = ORDERS[0]) -> Tensor:
    """Take from each target what the other candidates share with it: eq. 4, the sum over c' ≠ c of max(M_c − M_c', 0).

    Args:
        maps: float (K, H, W), at least 0, rows as `candidates` gives them.
        targets: T, the leading rows wanted.
        min_candidates: N. The leading max(T, N) rows compete; 0 means no subtraction. Where only one row competes
            there is nothing to subtract either (the sum of eq. 4 would be empty and the map 0): the map stays.
        order: one of `ORDERS` but the last, which begins before the layers are told apart.

    Returns:
        float (T, H, W), at least 0. At most 1 when the order ends with a division by the maximum, else at most
        max(T, N) − 1. A map that is 0 everywhere stays so.

    Raises:
        WorkbookError: an unknown order.
    """
    if order not in ORDERS or order == RELEASED:
        raise WorkbookError(f"order of subtraction {order!r} is not known; use one of {', '.join(ORDERS)}")
    maps = maps[: max(targets, min_candidates)]
    if order in ("normalise_then_subtract", "both"):
        maps = normalise(maps)
    elif order == "joint":
        maps = _divide(maps, maps.max()) if maps.numel() else maps
    difference = _differences(maps, targets, min_candidates)
    return normalise(difference) if order in ("subtract_then_normalise", "both") else difference


def aggregate(differences: Sequence[Tensor], alpha: float) -> Tensor:
    """Average over layers and input sizes: eq. 5, the mean of tanh(α M̃).

    Args:
        differences: what `subtract` gives for each layer and size, each float (T, H, W).
        alpha: α, steepness; 3 in the paper.

    Returns:
        float (T, H, W) in [0, 1).
    """
    return torch.stack([torch.tanh(alpha * maps) for maps in differences]).mean(0)


def released_saliency(
    maps: Sequence[Sequence[Tensor]], targets: int, min_candidates: int = 3, alpha: float = 3.0
) -> Tensor:
    """The variant of the authors' released code, which differs from eq. 4 and 5 of their paper.

    At each input size the maps of all layers are summed first. The sum is divided by its maximum, times α, through
    tanh; subtracted once as in eq. 4; divided by its maximum, times α, through tanh again. The mean over the sizes is
    divided by its maximum.

    Args:
        maps: for each input size, for each layer, float (K, H, W), at least 0.
        targets: T, the leading rows wanted.
        min_candidates: N, as in `subtract`.
        alpha: steepness of both tanh; 3 there.

    Returns:
        float (T, H, W) in [0, 1].
    """
    rows = max(targets, min_candidates)
    totals = [torch.stack([layer[:rows] for layer in layers]).sum(0) for layers in maps]
    differences = [_differences(torch.tanh(alpha * normalise(t)), targets, min_candidates) for t in totals]
    return normalise(aggregate([normalise(difference) for difference in differences], alpha))


def class_maps(
    maps: Sequence[Sequence[Tensor]],
    size: tuple[int, int],
    targets: int,
    min_candidates: int = 3,
    alpha: float = 3.0,
    order: str = ORDERS[0],
) -> Tensor:
    """Distinct class maps of one image from what `saliency_maps` gives for it.

    Args:
        maps: for each input size, for each layer, float (K, h, h), of the padded square input.
        size: (H, W) of the image.
        targets: T, the leading rows wanted.
        min_candidates: N, as in `subtract`.
        alpha: α of eq. 5.
        order: one of `ORDERS`.

    Returns:
        float (T, H, W) in [0, 1].

    Raises:
        WorkbookError: an unknown order.
    """
    rows = max(targets, min_candidates)
    upsampled = [[unpad(layer[:rows], size) for layer in layers] for layers in maps]
    if order == RELEASED:
        return released_saliency(upsampled, targets, min_candidates, alpha)
    return aggregate([subtract(m, targets, min_candidates, order) for layers in upsampled for m in layers], alpha)


def background(maps: Tensor) -> Tensor:
    """Background map, float (H, W), from class maps (T, H, W) in [0, 1]: eq. 7, 1 − max_c M̂_c; 1 where T is 0."""
    return 1 - torch.cat([maps.new_zeros(1, *maps.shape[1:]), maps]).amax(0)


def normalise(maps: Tensor) -> Tensor:
    """Divide each map of (K, H, W) by its maximum; one that is 0 everywhere stays 0."""
    return _divide(maps, maps.amax((1, 2), keepdim=True))


def _divide(maps: Tensor, maximum: Tensor) -> Tensor:
    return maps / torch.where(maximum > 0, maximum, 1)


def _differences(maps: Tensor, targets: int, min_candidates: int) -> Tensor:
    """Equation 4 without its division."""
    if min_candidates == 0 or len(maps) < 2:
        return maps[:targets]
    differences = maps.new_empty(targets, *maps.shape[1:])
    for target, row in enumerate(differences):
        row.copy_((maps[target] - maps).clamp_(min=0).sum(0))
    return differences
