"""The network that guesses from an image and one mask of it where another mask would differ.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD):
d = f(e^h(x), e^l(x), m̂), with features of a segmentation network and the mask in binary form. Right labels are regular
and wrong ones are not, so that where two masks disagree the one whose change is foreseen is probably the wrong one.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.segmentation import Features, check_masks


class DifferenceDetector(nn.Module):
    """f of SSDD: features → 3×3 convolution, mask → 1×1 convolution; both → residual bottleneck → one logit a pixel.

    As in the authors' code the bottleneck is as wide inside as out, 3×3 convolutions pad by reflection, and the logit
    has no bias. Their batch normalisation stays at the statistics it starts from, mean 0 and variance 1, which changes
    nothing; so there is none here. (With live statistics, a quarter of the width and low features of 16 channels, d^K -
    d^A told the right mask from the wrong one with an area under the curve of 0.567 on drawn scenes, like this 0.588.)

    The features are read once for both masks, and both go through as one batch.

    Args:
        num_classes: C, foreground classes.
        low_channels: of `Features.low`.
        high_channels: of `Features.high`.
        channels: inside (the authors' code: 256).
    """

    def __init__(self, num_classes: int, low_channels: int, high_channels: int, channels: int = 256) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.context = nn.Sequential(_conv(low_channels + high_channels, channels, 3), nn.ReLU())
        self.embedding = nn.Sequential(_conv(num_classes + 1, channels, 1), nn.ReLU())
        self.shortcut = _conv(2 * channels, channels, 1)
        narrow, wide = _conv(2 * channels, channels, 1), _conv(channels, channels, 3)
        self.residual = nn.Sequential(narrow, nn.ReLU(), wide, nn.ReLU(), _conv(channels, channels, 1))
        self.logit = _conv(channels, 1, 1)

    def forward(self, features: Features, knowledge: Tensor, advice: Tensor) -> tuple[Tensor, Tensor]:
        """Say for each pixel of two masks how likely it changes; a high value means that the label is probably wrong.

        Args:
            features: of the images; `features.detach()` where the segmentation network is not to learn from it, as in
                the dynamic stage (and, in the authors' code, in the static one).
            knowledge: m^K, integer (B, h, w) at the size of the features, 0..C or 255.
            advice: m^A, alike.

        Returns:
            d^K and d^A, float (B, h, w) each, before the sigmoid.

        Raises:
            WorkbookError: masks of another form or size.
        """
        masks = torch.cat([self._binary(mask, features) for mask in (knowledge, advice)])  # (2B, C+1, h, w)
        context = self.context(torch.cat([features.high, features.low], 1))
        both = torch.cat([torch.cat([context, context]), self.embedding(masks)], 1)
        merged = (self.shortcut(both) + self.residual(both)).relu()
        logit_k, logit_a = self.logit(merged)[:, 0].chunk(2)
        return logit_k, logit_a

    def _binary(self, mask: Tensor, features: Features) -> Tensor:
        """m̂: one channel a label; a void pixel has none."""
        check_masks(mask, self.num_classes)
        wanted = len(features.high), *features.high.shape[-2:]
        if mask.shape != wanted:
            raise WorkbookError(f"masks {tuple(mask.shape)} for features {wanted}; use `resize_masks` on them first")
        labels = torch.arange(self.num_classes + 1, device=mask.device).view(1, -1, 1, 1)
        return (mask[:, None] == labels).to(features.high)


def _conv(in_channels: int, out_channels: int, side: int) -> nn.Conv2d:
    """Without a bias; the map, of at least two cells a side where the kernel is larger than one, keeps its size."""
    mode: Literal["reflect", "zeros"] = "reflect" if side > 1 else "zeros"
    return nn.Conv2d(in_channels, out_channels, side, padding=side // 2, padding_mode=mode, bias=False)
