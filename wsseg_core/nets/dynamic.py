"""The network of SSDD's dynamic stage: one encoder, two segmentation branches and the modules that compare masks.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
The main branch learns the refined masks and is what is kept in the end; the sub branch stays closer to the seed.
"""

from copy import deepcopy
from typing import NamedTuple

from torch import Tensor, nn

from wsseg_core.nets.difference import DifferenceDetector
from wsseg_core.nets.segmentation import Features, SegmentationNet


class Branches(NamedTuple):
    """What the two branches say about a batch of images, at the stride of the detectors.

    Attributes:
        main: scores and features of the main branch, which the first detector reads.
        sub: of the sub branch, which the second detector reads. The low features are the same.
    """

    main: Features
    sub: Features


class DynamicNet(nn.Module):
    """Two branches that start alike, and difference detectors that start at random.

    Args:
        start: a trained segmentation network. It is copied: its encoder, and its head for both branches. SSDD starts
            the heads at random; it also trains them for much longer.
        channels: see `DifferenceDetector`.
        modules: how many detectors: 2, or fewer in ablations.
        stride: of all maps, see `Features.at_stride`.

    Attributes:
        segmentation: encoder and main branch.
        sub_head: of the sub branch.
        detectors: the first compares prediction and CRF, the second the seed and what the first step gave.
    """

    def __init__(self, start: SegmentationNet, channels: int = 256, modules: int = 2, stride: int = 4) -> None:
        super().__init__()
        self.stride = stride
        self.segmentation = deepcopy(start)
        self.sub_head = deepcopy(start.head)
        sizes = start.head.score.out_channels - 1, start.encoder.low_channels, start.head.high_channels, channels
        self.detectors = nn.ModuleList(DifferenceDetector(*sizes) for _ in range(modules))

    def forward(self, images: Tensor | list[Tensor]) -> Branches:
        """Map normalised images (B, 3, H, W), or what the encoder's trunk gives for them, to what both branches say."""
        low, deep = self.segmentation.encoder(images)
        said = (head(deep) for head in (self.segmentation.head, self.sub_head))
        return Branches(*(Features(scores, low, high).at_stride(self.stride) for scores, high, *_ in said))
