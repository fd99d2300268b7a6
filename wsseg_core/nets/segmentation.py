"""The segmentation network of the last stages, and its loss.

Chen et al., "Semantic image segmentation with deep convolutional nets and fully connected CRFs", ICLR 2015
(DeepLab-LargeFOV): a classification network whose features are computed at stride 8, and a head with a large field of
view. Besides the scores it hands out the two feature maps that difference detection reads: Shimoda & Yanai,
"Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOID
from wsseg_core.nets.backbones import Backbone, FrozenBackbone, outline_of, resized
from wsseg_core.nets.dfn import DfnHead

STRIDE = 8  # of the scores and the features
HEADS = ("largefov", "stages", "dfn")


class Features(NamedTuple):
    """What the network says about a batch of images, at stride 8 but for the low features.

    Attributes:
        scores: float (B, C+1, h, w), before the softmax; the background first.
        low: e^l of SSDD, float (B, channels, H', W'): features of an early stage, at the stride that it has.
        high: e^h of SSDD, float (B, channels, h, w): features of the head, before its scores.
        sides: scores of other stages, float (B, C+1, h', w'), which learn the same masks; of `dfn.DfnHead` alone.
    """

    scores: Tensor
    low: Tensor
    high: Tensor
    sides: tuple[Tensor, ...] = ()

    def detach(self) -> "Features":
        """The same numbers but those of the sides, through which no gradient flows back."""
        return Features(self.scores.detach(), self.low.detach(), self.high.detach())

    def at_stride(self, stride: int) -> "Features":
        """The same but those of the sides on one grid, of at least two cells a side, which padding by reflection needs.

        Scores and features of the head are interpolated bilinearly, low features averaged where the grid is coarser.
        """
        height, width = (max(2, side * STRIDE // stride) for side in self.scores.shape[-2:])
        size = height, width
        finer = self.low.shape[-2] > size[0] or self.low.shape[-1] > size[1]
        low = F.adaptive_avg_pool2d(self.low, size) if finer else resized(self.low, size)
        return Features(resized(self.scores, size), low, resized(self.high, size))


class Encoder(nn.Module):
    """The trunk of a classifier, at stride 8 unless it is frozen.

    Args:
        classifier: any with an outline, not dilated beyond stride 8 yet. It is copied, with its weights, and its
            classification head dropped. Batch normalisation stays what it is there: for statistics that are frozen,
            as in SSDD, fold them first (`fold_batch_norm`), or build the ResNet with
            `torchvision.ops.FrozenBatchNorm2d`.
        taps: read the three taps of the outline, the first of which is the low features, instead of low and deep ones.
        frozen: the trunk does not learn and stays at the stride that the classifier has.

    Attributes:
        low_channels: of the low features.
        deep_channels: of the deep ones; those of the last tap.
        channels: of all maps that are read.

    Raises:
        WorkbookError: another kind of network.
    """

    def __init__(self, classifier: nn.Module, taps: bool = False, frozen: bool = False) -> None:
        super().__init__()
        outline = outline_of(classifier)
        names = outline.taps if taps else (outline.low, outline.deep)
        self.backbone = FrozenBackbone(classifier, names) if frozen else Backbone(classifier, names, STRIDE)
        self.taps, self.channels = taps, self.backbone.channels
        self.low_channels, self.deep_channels = self.channels[0], self.channels[-1]

    def forward(self, images: Tensor | list[Tensor]) -> tuple[Tensor, Any]:
        """Map normalised images (B, 3, H, W) to features of an early and of the last stage, (B, channels, h, w) both.

        Of the last h is H / 8, rounded down over VGG-16 and up over a ResNet. With `taps` the second is the list of all
        three maps, and the first the first of them. The maps that the backbone gives for the images may be given in
        their place.
        """
        if isinstance(images, Tensor):
            images = self.backbone(images.to(memory_format=torch.channels_last))
        maps = [values.to(memory_format=torch.channels_last) for values in images]
        return maps[0], maps if self.taps else maps[1]


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
        self.dropout, self.high_channels = nn.Dropout(dropout), channels
        for conv in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.normal_(self.score.weight, std=0.01)

    def forward(self, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (B, in_channels, h, w) to scores (B, C+1, h, w) and fc7's features (B, channels, h, w)."""
        high = self.fc7(self.dropout(self.fc6(deep).relu())).relu()
        return self.score(self.dropout(high)), high


class StagesHead(nn.Module):
    """A head over three stages: context around the deepest, joined with what the two finer ones see.

    Chen et al., "Encoder-decoder with atrous separable convolution for semantic image segmentation", ECCV 2018
    (DeepLabv3+), with two rates, two finer stages and few channels. It is for trunks that do not learn, whose maps it
    first brings to unit variance.

    Args:
        in_channels: of the three maps, the finest first.
        num_classes: C; there are C+1 score maps.
        channels: inside.
        dilation: of the wider of the two rates, in cells of the deepest map.
        dropout: probability before the scores.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, channels: int = 64, dilation: int = 5, dropout: float = 0.1
    ) -> None:
        super().__init__()
        fine, middle, deep = in_channels
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in in_channels)
        rates = max(1, dilation // 2), dilation
        self.context = nn.ModuleList(
            [_conv(deep, channels, 1), *(_conv(deep, channels, 3, dilation=rate) for rate in rates)]
        )
        self.whole = nn.Conv2d(deep, channels, 1)
        self.join = _conv(3 * channels, channels, 1)
        self.middle = _conv(middle, max(1, channels // 2), 1)
        self.fine = _conv(fine, max(1, channels // 4), 1)
        self.mix = _conv(channels + max(1, channels // 2) + max(1, channels // 4), channels, 3)
        self.score = nn.Conv2d(channels, num_classes + 1, 1)
        self.dropout, self.high_channels = nn.Dropout(dropout), channels

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map three feature maps to scores (B, C+1, h, w) and features (B, channels, h, w), at the finest grid."""
        fine, middle, deep = (norm(values) for norm, values in zip(self.norms, maps, strict=True))
        around = self.join(torch.cat([conv(deep) for conv in self.context], 1))
        around = around + self.whole(deep.mean((2, 3), keepdim=True))
        seen = torch.cat([resized(around, middle.shape[2:]), self.middle(middle)], 1)
        high = self.mix(torch.cat([resized(seen, fine.shape[2:]), self.fine(fine)], 1))
        return self.score(self.dropout(high)), high


def _conv(in_channels: int, out_channels: int, side: int, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the map keeps its size."""
    conv = nn.Conv2d(in_channels, out_channels, side, padding=side // 2 * dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class SegmentationNet(nn.Module):
    """An encoder and a head; the learning rates of the two differ (SSDD: the head's is ten times higher).

    Args:
        num_classes: C, foreground classes.
        classifier: see `Encoder`.
        channels: see `LargeFovHead`.
        dilation: see `LargeFovHead`.
        dropout: see `LargeFovHead`.
        head: "largefov" for `LargeFovHead`, "stages" for `StagesHead`, "dfn" for `dfn.DfnHead`.
        frozen: the encoder does not learn, see `Encoder`.

    Raises:
        WorkbookError: another head.
    """

    def __init__(
        self,
        num_classes: int,
        classifier: nn.Module,
        channels: int = 1024,
        dilation: int = 12,
        dropout: float = 0.5,
        head: str = "largefov",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise WorkbookError(f"segmentation.head {head!r} is unknown; use one of {', '.join(HEADS)}")
        self.num_classes = num_classes
        self.encoder = Encoder(classifier, head != "largefov", frozen)
        maps = self.encoder.channels
        self.head: LargeFovHead | StagesHead | DfnHead
        if head == "largefov":
            self.head = LargeFovHead(maps[-1], num_classes, channels, dilation, dropout)
        elif head == "stages":
            self.head = StagesHead(maps, num_classes, channels, dilation, dropout)
        else:
            self.head = DfnHead(maps, num_classes, channels, dropout)

    def forward(self, images: Tensor | list[Tensor]) -> Features:
        """Map normalised images (B, 3, H, W), or what the encoder's trunk gives for them, to scores and features."""
        low, deep = self.encoder(images)
        scores, high, *sides = self.head(deep)
        return Features(scores, low, high, tuple(sides))


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks on another grid: each cell takes the label at its centre.

    Args:
        masks: integer (B, H, W).
        size: (h, w), wanted.

    Returns:
        (B, h, w), of the same type.
    """
    return F.interpolate(masks[:, None].float(), tuple(size), mode="nearest-exact")[:, 0].to(masks.dtype)


def on_grid(masks: Tensor, cells: int, fill: int) -> Tensor:
    """Masks of an image on the grid of its padded square, see `transforms.resize_and_pad`.

    Args:
        masks: integer (B, H, W).
        cells: of the grid, along each side.
        fill: label of the padding.

    Returns:
        (B, cells, cells), of the same type.
    """
    height, width = masks.shape[1:]
    longest = max(height, width)
    return resize_masks(F.pad(masks, (0, longest - width, 0, longest - height), value=fill), (cells, cells))


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
