"""Learning from the difference of two masks, and merging them: the parts that SSDD's two stages share.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
Of one image there are two masks, the knowledge m^K and the advice m^A that may improve it, for instance the same mask
after a CRF. A network (`wsseg_core.nets.difference`) learns to foresee from one mask where the other differs. Where it
foresees a change of K but none of A, the label of K was probably wrong.

Masks are integers (B, H, W): 0 background, 1..C classes, 255 void, about which nothing is known.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg_core.base.config import DifferenceConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOID
from wsseg_core.nets.segmentation import check_masks

BALANCES = ("image", "batch")
MIN_SHARE = 0.5  # of its area in K that a class must keep in A; the threshold of the authors' slides and code


@dataclass(frozen=True)
class Biases:
    """What is added to the confidence in the advice, in probabilities; see `refine`.

    Attributes:
        advice: b̂, the head start of the advice.
        background: b^0, in favour of the mask that says background.
        survival: b^c of a class that collapses from K to A, in favour of the mask that says this class (authors' code).
    """

    advice: float
    background: float = 0.0
    survival: float = 1.0


def training_biases(config: DifferenceConfig) -> Biases:
    """Those of masks that are learnt from at once, in the dynamic stage."""
    return Biases(config.training_advice)


def seed_biases(config: DifferenceConfig) -> Biases:
    """Those of the static result, which becomes the seed of the dynamic stage."""
    return Biases(config.seed_advice, config.seed_background)


class Change(NamedTuple):
    """Where two masks differ.

    Attributes:
        target: M of SSDD, float32 (B, H, W): 1 where the labels differ, else 0.
        valid: bool (B, H, W): neither label is void.
    """

    target: Tensor
    valid: Tensor


class Refinement(NamedTuple):
    """Two masks merged.

    Attributes:
        mask: integer (B, H, W), 0..C or 255.
        confidence: w of SSDD, float32 (B, H, W): the advice was taken where it is 0 or more. 0 where a mask is void.
    """

    mask: Tensor
    confidence: Tensor


def change_target(knowledge: Tensor, advice: Tensor) -> Change:
    """What the difference detector is to foresee.

    The slides print 1 for equal labels; their text and the authors' code mean 1 for different ones, as here.

    Raises:
        WorkbookError: the masks differ in size.
    """
    _check_pair(knowledge, advice)
    valid = (knowledge != VOID) & (advice != VOID)
    return Change(((knowledge != advice) & valid).float(), valid)


def collapsed(knowledge: Tensor, advice: Tensor, labels: Tensor, minimum: float = MIN_SHARE) -> Tensor:
    """Labelled classes that lose most of their area from K to A (delta of SSDD below `minimum`).

    An image with such a class teaches the detector nothing: `included = ~collapsed(...).any(1)`.

    Args:
        knowledge: m^K, integer (B, H, W).
        advice: m^A, alike.
        labels: image-level labels (B, C), of 0 and 1 or bool.
        minimum: of the ratio of the two areas. Areas are counted where neither mask is void.

    Returns:
        bool (B, C). A class that is not in K cannot collapse; the authors' code counts one that is in neither mask as
        collapsed, and leaves its image out.

    Raises:
        WorkbookError: masks that do not belong together, or hold labels beyond C.
    """
    valid = change_target(knowledge, advice).valid
    _check_images(knowledge, labels)
    before, after = (_areas(mask, valid, labels.shape[1]) for mask in (knowledge, advice))
    return labels.bool() & (before > 0) & (after < minimum * before)


def _areas(masks: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Pixels of every foreground class in every image, int64 (B, C)."""
    check_masks(masks, num_classes)
    bins = torch.where(valid, masks.long(), 0).flatten(1)  # void pixels join the background, which is not counted
    bins += (num_classes + 1) * torch.arange(len(masks), device=masks.device)[:, None]
    return bins.flatten().bincount(minlength=len(masks) * (num_classes + 1)).view(len(masks), -1)[:, 1:]


def difference_loss(logits_k: Tensor, logits_a: Tensor, target: Tensor, valid: Tensor, included: Tensor) -> Tensor:
    """L_dd of SSDD: what the detector says of K and of A against where they differ, the two losses added.

    Added as the slides print it; the authors' code halves the sum. Arguments are those of `map_loss`.
    """
    return map_loss(logits_k, target, valid, included) + map_loss(logits_a, target, valid, included)


def map_loss(logits: Tensor, target: Tensor, valid: Tensor, included: Tensor, balance: str = "image") -> Tensor:
    """Binary cross entropy of one difference map, balanced between changed and unchanged pixels (J of SSDD).

    Of each image the mean over its changed pixels plus the mean over its unchanged ones, halved; of these the mean over
    the images. The balance is that of the authors' code; the slides print the plain mean and no minus sign. The second
    module of the dynamic stage, whose two maps have different targets, takes both means over the whole batch there.

    Args:
        logits: d before the sigmoid, float (B, H, W).
        target: float (B, H, W) of 0 and 1.
        valid: bool (B, H, W), the pixels that count.
        included: bool (B,), the images that count.
        balance: the changed pixels weigh as much as the unchanged ones of each "image", or of the "batch".

    Returns:
        float32 scalar, at least 0. A kind of pixels that an image, or the batch, does not have contributes 0; without
        any image, or any pixel, it is 0 with a gradient of 0.

    Raises:
        WorkbookError: the shapes do not belong together, or another balance.
    """
    if balance not in BALANCES:
        raise WorkbookError(f"a loss balanced by {balance!r} is not known; use {' or '.join(BALANCES)}")
    if not logits.shape == target.shape == valid.shape or included.shape != logits.shape[:1]:
        raise WorkbookError(
            f"difference map {tuple(logits.shape)}, target {tuple(target.shape)}, valid {tuple(valid.shape)}, "
            f"included {tuple(included.shape)}; bring the masks to the size of the map with `resize_masks`"
        )
    errors = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    counted = valid & included[:, None, None]
    unit = 1 if balance == "image" else 0  # the first of the dimensions that a mean is taken over
    by_kind = [_mean_where(errors.flatten(unit), (counted & (target == kind)).flatten(unit)) for kind in (0, 1)]
    loss = torch.stack(by_kind).mean(0)
    return _mean_where(loss, included) if balance == "image" else loss


def _mean_where(values: Tensor, selected: Tensor) -> Tensor:
    """Mean of the selected values along the last dimension; 0, not NaN, when there are none."""
    return torch.where(selected, values, 0).sum(-1) / selected.sum(-1).clamp_min(1)


@torch.no_grad()
def refine(
    knowledge: Tensor, advice: Tensor, logits_k: Tensor, logits_a: Tensor, shrunk: Tensor, biases: Biases
) -> Refinement:
    """Take at every pixel the label of K or that of A, whichever is less likely to change.

        w_u = d_u^K - d_u^A + b̂ + b(m_u^A) - b(m_u^K),    the advice where w_u >= 0, else the knowledge

    with d after the sigmoid, b(0) = `biases.background`, b(c) = `biases.survival` for a class of this image that
    collapses from K to A, and 0 for any other. So where K says such a class and A the background, w falls by 1 and K's
    label stays; where A says it and K does not, w rises by 1 and A's label is taken. That is a strong vote, not a veto:
    A's background still wins where d^K - d^A >= 1 - b̂ - b(0), and two collapsing classes cancel out. The signs of b are
    those of the authors' code; the slides swap K and A, and print b = 1 for the classes that do not collapse.

    Args:
        knowledge: m^K, integer (B, H, W).
        advice: m^A, alike. Where one of the two is void, the label of the other is taken.
        logits_k: d^K before the sigmoid, float (B, h, w); up-sampled bilinearly to the masks when smaller.
        logits_a: d^A, alike.
        shrunk: bool (B, C), what `collapsed` gave.
        biases: which apply.

    Raises:
        WorkbookError: masks that do not belong together, or hold labels beyond C.
    """
    valid = change_target(knowledge, advice).valid
    _check_images(knowledge, logits_k, logits_a, shrunk)
    by_class = F.pad(biases.survival * shrunk.float(), (1, 0), value=biases.background)  # (B, C+1)
    d_k, d_a = (_probabilities(logits, knowledge) for logits in (logits_k, logits_a))
    confidence = d_k - d_a + biases.advice + _look_up(by_class, advice) - _look_up(by_class, knowledge)
    confidence = confidence.masked_fill(~valid, 0)
    take_advice = torch.where(valid, confidence >= 0, knowledge == VOID)
    return Refinement(torch.where(take_advice, advice, knowledge), confidence)


def _probabilities(logits: Tensor, masks: Tensor) -> Tensor:
    """d at the size of the masks, (B, H, W)."""
    height, width = masks.shape[-2:]
    return F.interpolate(logits[:, None].float(), (height, width), mode="bilinear")[:, 0].sigmoid()


def _look_up(by_class: Tensor, masks: Tensor) -> Tensor:
    """The value of each pixel's label, (B, H, W), from those of all labels (B, C+1); any for a void pixel."""
    check_masks(masks, by_class.shape[1] - 1)
    return by_class.gather(1, torch.where(masks == VOID, 0, masks).long().flatten(1)).view(masks.shape)


def _check_pair(knowledge: Tensor, advice: Tensor) -> None:
    if knowledge.shape != advice.shape:
        raise WorkbookError(
            f"masks of {tuple(knowledge.shape)} and {tuple(advice.shape)} pixels cannot be compared; resize one of them"
        )


def _check_images(masks: Tensor, *others: Tensor) -> None:
    for values in others:
        if len(values) != len(masks):
            raise WorkbookError(f"masks of {len(masks)} images, but values of {len(values)}; give all of one batch")
