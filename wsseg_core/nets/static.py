"""The network of SSDD's static stage: segmentation, and difference detection on its features.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
The segmentation network is there for its features; the masks that it would draw are not used.
"""

from typing import NamedTuple

from torch import Tensor, nn

from wsseg_core.nets.difference import DifferenceDetector
from wsseg_core.nets.segmentation import SegmentationNet, resize_masks


class StaticOutput(NamedTuple):
    """What the network says about a batch of images and two masks of each, all at the stride of the detector.

    Attributes:
        scores: float (B, C+1, h, w), before the softmax; the background first.
        logits_k: d^K before the sigmoid, float (B, h, w).
        logits_a: d^A, alike.
    """

    scores: Tensor
    logits_k: Tensor
    logits_a: Tensor


class StaticNet(nn.Module):
    """A segmentation network with a difference detector at random beside its head.

    Args:
        segmentation: the network whose features are read; it becomes a part of this one.
        channels: see `DifferenceDetector`.
        stride: of its maps and of the scores that come with them, see `Features.at_stride`.
    """

    def __init__(self, segmentation: SegmentationNet, channels: int = 256, stride: int = 4) -> None:
        super().__init__()
        self.segmentation, self.stride = segmentation, stride
        encoder, head = segmentation.encoder, segmentation.head
        num_classes = head.score.out_channels - 1
        self.detector = DifferenceDetector(num_classes, encoder.low_channels, head.high_channels, channels)

    def forward(self, images: Tensor | list[Tensor], knowledge: Tensor, advice: Tensor) -> StaticOutput:
        """Say what is in images, and where two masks of each would change.

        The features enter the detector detached, as in the authors' code: what they are is left to the segmentation.

        Args:
            images: float (B, 3, H, W), normalised, or what the encoder's trunk gives for them.
            knowledge: m^K, integer (B, any height, any width), 0..C or 255; brought to the grid of the detector.
            advice: m^A, alike.

        Raises:
            WorkbookError: masks of another form, or not one an image.
        """
        features = self.segmentation(images).at_stride(self.stride)
        small = (resize_masks(masks, features.high.shape[-2:]) for masks in (knowledge, advice))
        return StaticOutput(features.scores, *self.detector(features.detach(), *small))
