"""The segmentation network of the last stages, and its loss.

Chen et al., "Semantic image segmentation with deep convolutional nets and fully connected CRFs", ICLR 2015
(DeepLab-LargeFOV): a classification network whose features are computed at stride 8, and a head with a large field of
view. Besides the scores it hands out the two feature maps that difference detection reads: Shimoda & Yanai,
"Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOID
from wsseg_core.nets.backbones import Backbone, outline_of

STRIDE = 8  # of the scores and the features


class Features(NamedTuple):
    """What the network says about a batch of images, all at stride 8.

    Attributes:
        scores: float (B, C+1, h, w), before the softmax; the background first.
        low: e^l of SSDD, float (B, channels, h, w): features of the first block.
        high: e^h of SSDD, float (B, channels, h, w): features of the head, before its scores.
    """

    scores: Tensor
    low: Tensor
    high: Tensor

    def detach(self) -> "Features":
        """The same numbers, through which no gradient flows back."""
        return Features(*(values.detach() for values in self))


class Encoder(nn.Module):
    """The trunk of a classifier, at stride 8.

    Args:
        classifier: any with an outline, not dilated beyond stride 8 yet. It is copied, with its weights, and its
            classification head dropped. Batch normalisation stays what it is there: for statistics that are frozen,
            as in SSDD, fold them first (`fold_batch_norm`), or build the ResNet with
            `torchvision.ops.FrozenBatchNorm2d`.

    Raises:
        WorkbookError: another kind of network.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        outline = outline_of(classifier)
        self.backbone = Backbone(classifier, [outline.low, outline.deep], STRIDE)
        self.low_channels, self.deep_channels = self.backbone.channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images (B, 3, H, W) to features of the first and the last block, (B, channels, h, w) both.

        h is H / 8, rounded down over VGG-16 and up over a ResNet. The first block's features are averaged over the
        cells of that grid.
        """
        low, deep = self.backbone(images)
        return F.adaptive_avg_pool2d(low, deep.shape[-2:]), deep


class LargeFovHead(nn.Module):
    """DeepLab-LargeFOV's head: fc6 with holes, so that a small kernel sees far; fc7; one score map a label.

    Args:
        in_channels: of the encoder's last block.
        num_classes: C; there are C+1 score maps.
        channels: of fc6 and fc7 (LargeFOV: 1024).
        dilation: of fc6's 3×3 kernel, in cells of the grid (LargeFOV: 12; small images need less).
        dropout: probability after fc6 and fc7 (LargeFOV: 0.5).
    """

    def __init__(
        self, in_channels: int, num_classes: int, channels: int = 1024, dilation: int = 12, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        self.score = nn.Conv2d(channels, num_classes + 1, 1)
        self.dropout = nn.Dropout(dropout)
        for conv in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.normal_(self.score.weight, std=0.01)

    def forward(self, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (B, in_channels, h, w) to scores (B, C+1, h, w) and fc7's features (B, channels, h, w)."""
        high = self.fc7(self.dropout(self.fc6(deep).relu())).relu()
        return self.score(self.dropout(high)), high


class SegmentationNet(nn.Module):
    """An encoder and a head; the learning rates of the two differ (SSDD: the head's is ten times higher).

    Args:
        num_classes: C, foreground classes.
        classifier: see `Encoder`.
        channels: see `LargeFovHead`.
        dilation: see `LargeFovHead`.
        dropout: see `LargeFovHead`.
    """

    def __init__(
        self, num_classes: int, classifier: nn.Module, channels: int = 1024, dilation: int = 12, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = Encoder(classifier)
        self.head = LargeFovHead(self.encoder.deep_channels, num_classes, channels, dilation, dropout)

    def forward(self, images: Tensor) -> Features:
        """Map normalised images (B, 3, H, W) to scores and features at stride 8."""
        low, deep = self.encoder(images)
        scores, high = self.head(deep)
        return Features(scores, low, high)


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks on another grid: each cell takes the label at its centre.

    Args:
        masks: integer (B, H, W).
        size: (h, w), wanted.

    Returns:
        (B, h, w), of the same type.
    """
    return F.interpolate(masks[:, None].float(), tuple(size), mode="nearest-exact")[:, 0].to(masks.dtype)


def check_masks(masks: Tensor, num_classes: int) -> None:
    """Refuse masks that are not integer (B, H, W) with labels 0..C or 255.

    Raises:
        WorkbookError: they are not.
    """
    if masks.ndim != 3 or masks.is_floating_point():
        raise WorkbookError(f"masks must be integers (B, H, W), not {masks.dtype} {tuple(masks.shape)}; convert them")
    outside = masks[((masks < 0) | (masks > num_classes)) & (masks != VOID)]
    if len(outside):
        raise WorkbookError(
            f"masks hold the label {outside[0].item()}, outside 0..{num_classes} and not {VOID}; "
            "make them with the classes of this network"
        )


def segmentation_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy, averaged over the labelled pixels of the batch (L_seg of SSDD).

    The masks are brought to the grid of the scores, as DeepLab trains, and not the scores to the masks.

    Args:
        scores: float (B, C+1, h, w), before the softmax.
        masks: integer (B, H, W), 0..C, or 255 for pixels that teach nothing.

    Returns:
        float32 scalar, at least 0; 0, with a gradient of 0, when no pixel is labelled.

    Raises:
        WorkbookError: masks of another form, or not one an image.
    """
    check_masks(masks, scores.shape[1] - 1)
    if len(masks) != len(scores):
        raise WorkbookError(f"{len(masks)} masks for the scores of {len(scores)} images; give one mask an image")
    targets = resize_masks(masks, scores.shape[-2:]).long()
    total = F.cross_entropy(scores.float(), targets, ignore_index=VOID, reduction="sum")
    return total / (targets != VOID).sum().clamp_min(1)
