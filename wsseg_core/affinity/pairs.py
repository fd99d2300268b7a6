"""Pixel affinities learnt from CAMs: labels of pixel pairs, loss, and class maps that spread along what was learnt.

Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation" (PSA), CVPR 2018, sections 3.2 and 3.3; `random_walk` has the walk itself. No mask is read: a
pair of pixels is labelled where two CRFs over the CAMs of the known classes agree that both pixels are certain.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg_core.affinity.random_walk import (
    BETA,
    RADIUS,
    STEPS,
    affinities,
    pair_indices,
    random_walk,
    transition_matrix,
)
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.transforms import normalise
from wsseg_core.nets.affinity import AffinityNet
from wsseg_core.saliency.subtraction import background

WALK_ALPHA = 16.0  # of the released code
NEUTRAL = 255
MARGIN = 1e-5  # keeps both logarithms of the loss finite


class PairKinds(NamedTuple):
    """Which pairs of neighbours the loss learns from; a pair with a neutral pixel is of no kind.

    Attributes:
        background: bool (..., pairs), both pixels are background.
        foreground: bool (..., pairs), both are of one class.
        different: bool (..., pairs), their labels differ.
    """

    background: Tensor
    foreground: Tensor
    different: Tensor


def background_score(cam: Tensor, alpha: float) -> Tensor:
    """Background score (1 − max_c CAM_c)^α, section 3.1.

    Args:
        cam: float (K, H, W) in [0, 1], the maps of the classes in the image; K may be 0.
        alpha: above 0; the larger, the fewer pixels are background.

    Returns:
        float (H, W) in [0, 1]; 1 where K is 0.

    Raises:
        WorkbookError: values outside [0, 1], or an alpha that is not above 0.
    """
    if not ((cam >= 0) & (cam <= 1)).all():
        raise WorkbookError("CAMs hold values outside [0, 1] or NaN; divide each by its maximum where that is above 0")
    if not alpha > 0:
        raise WorkbookError(f"background score: alpha = {alpha} must be above 0; mend it in the profile")
    return background(cam) ** alpha


def with_background(cam: Tensor, alpha: float) -> Tensor:
    """CAMs and their background score, float (1 + K, H, W): what the CRF and the walk start from. See above."""
    return torch.cat([background_score(cam, alpha)[None], cam])


def affinity_labels(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Certain object, certain background, or neutral, section 3.2.

    A small α makes background strong: what is an object all the same is certain. A large α makes it weak: what is
    background all the same is certain. The rest is neutral. Where a CRF turned the two around, so that a pixel is an
    object under strong background and background under weak, background has it, as in the released code.

    Args:
        low: uint8 (H, W), arg-max of the CRF over CAMs with background of α = 4: 0 background, c + 1 for class c.
        high: the same with α = 32.

    Returns:
        uint8 (H, W): 0 background, c + 1 for class c, 255 neutral.

    Raises:
        WorkbookError: maps of two sizes.
    """
    if low.shape != high.shape:
        raise WorkbookError(f"affinity labels: maps are {low.shape} and {high.shape}; give two of one image")
    return np.where(high == 0, 0, np.where(low == 0, NEUTRAL, low)).astype(np.uint8)


def pair_kinds(labels: Tensor, radius: int = RADIUS) -> PairKinds:
    """Sort all pairs of neighbours by their labels.

    Args:
        labels: whole numbers (..., h, w), as `affinity_labels` gives them, on the grid of the features.
        radius: of the neighbourhood, pixels of the grid.
    """
    h, w = labels.shape[-2:]
    ends = pair_indices(h, w, radius).to(labels.device)
    first, second = labels.flatten(-2)[..., ends].unbind(-2)
    certain, same = (first != NEUTRAL) & (second != NEUTRAL), first == second
    return PairKinds(certain & same & (first == 0), certain & same & (first > 0), certain & ~same)


def pair_loss(affinity: Tensor, kinds: PairKinds) -> Tensor:
    """¼ background + ¼ foreground + ½ different pairs, each a mean over the pairs of its kind in the batch.

    Pairs of one label cost −log(a + 1e-5), others −log(1 − a + 1e-5), as in the released code. A kind without a pair
    costs 0.

    Args:
        affinity: float (..., pairs) in [0, 1], in single precision or better: in bfloat16 the margin is lost.
        kinds: of the same pairs.

    Returns:
        Scalar, with a gradient even if there is no pair.
    """
    alike, unlike = -torch.log(affinity + MARGIN), -torch.log(1 + MARGIN - affinity)
    same = (_mean(alike, kinds.background) + _mean(alike, kinds.foreground)) / 4
    return same + _mean(unlike, kinds.different) / 2


def affinity_loss(model: nn.Module, batch: tuple[Any, Tensor], radius: int = RADIUS) -> Tensor:
    """The loss of a batch, for `training.Recipe`.

    Args:
        model: gives features (B, D, h, w), an `AffinityNet`.
        batch: normalised images (B, 3, H, W), or their stored features, and their labels, integer (B, H, W), as
            `affinity_labels` gives them; padding is neutral. A position of the features takes the label at its centre;
            the released code averages the CRF's marginals over it, which costs as many planes an image as there are
            classes.
        radius: of the neighbourhood, positions of the features.
    """
    images, labels = batch
    given = isinstance(images, Tensor)
    features = model(images.to(memory_format=torch.channels_last) if given else images).float()
    nearest = F.interpolate(labels[:, None].float(), features.shape[-2:], mode="nearest-exact")[:, 0]
    return pair_loss(affinities(features, radius), pair_kinds(nearest, radius))


@torch.inference_mode()
def walk(
    model: AffinityNet,
    image: np.ndarray,
    cam: Tensor,
    alpha: float = WALK_ALPHA,
    beta: float = BETA,
    steps: int = STEPS,
    radius: int = RADIUS,
) -> Tensor:
    """Let the CAMs of an image walk along its affinities, section 3.3.

    Args:
        model: in evaluation mode, on any device.
        image: uint8 (H, W, 3), RGB. It is padded with the mean colour to a multiple of the network's stride.
        cam: float (K, H, W) in [0, 1].
        alpha: of the background score.
        beta: power of the affinities.
        steps: t.
        radius: of the neighbourhood, positions of the features.

    Returns:
        float32 (1 + K, h, w) in [0, 1] at the positions of the features, on the model's device, background first.

    Raises:
        WorkbookError: CAMs of another size or outside [0, 1], or an alpha, beta or radius that makes no sense.
    """
    height, width = image.shape[:2]
    if cam.shape[1:] != (height, width):
        raise WorkbookError(f"CAMs are {tuple(cam.shape)}, the image is {height}×{width}; resize them to the image")
    padding = (0, -width % model.stride, 0, -height % model.stride)
    like = next(model.parameters())
    features = model(F.pad(normalise(image), padding)[None].to(like))[0].float()
    scores = F.avg_pool2d(with_background(cam, alpha).to(features), model.stride, ceil_mode=True)
    return _walk(features, scores, beta, steps, radius)


@torch.inference_mode()
def walk_stored(
    model: AffinityNet,
    maps: Sequence[Tensor],
    cam: Tensor,
    alpha: float = WALK_ALPHA,
    beta: float = BETA,
    steps: int = STEPS,
    radius: int = RADIUS,
) -> Tensor:
    """As `walk`, from the stored features of the padded square of an image: float (channels, h, h) each.

    Returns:
        float32 (1 + K, h, w) in [0, 1], of the part of the square that is image; one position for longest side / h
        pixels, see `upsample`.
    """
    height, width = cam.shape[1:]
    like, longest = next(model.parameters()), max(height, width)
    features = model([values[None].to(like) for values in maps])[0].float()
    cells = features.shape[-1]
    h, w = (-(-side * cells // longest) for side in (height, width))
    square = F.pad(with_background(cam, alpha).to(features), (0, longest - width, 0, longest - height))
    scores = F.interpolate(square[None], (cells, cells), mode="area")[0, :, :h, :w]
    return _walk(features[:, :h, :w], scores, beta, steps, radius)


def _walk(features: Tensor, scores: Tensor, beta: float, steps: int, radius: int) -> Tensor:
    h, w = features.shape[-2:]
    transition = transition_matrix(affinities(features, radius), h, w, radius, beta)
    return random_walk(transition, scores, steps)


def upsample(walked: Tensor, stride: float, size: tuple[int, int]) -> Tensor:
    """What `walk` gave, at every pixel of its image: arg-max gives the mask.

    Args:
        walked: float (1 + K, h, w).
        stride: pixels a position.
        size: (H, W) of the image.

    Returns:
        float32 (1 + K, H, W) in [0, 1].
    """
    whole = F.interpolate(walked[None].float(), scale_factor=stride, mode="bilinear")[0]
    return whole[:, : size[0], : size[1]].clamp(0, 1)  # rounding may leave the range by a hair


def _mean(costs: Tensor, chosen: Tensor) -> Tensor:
    return (costs * chosen).sum() / chosen.sum().clamp(min=1)
