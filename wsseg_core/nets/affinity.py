"""AffinityNet: features in which pixels of one thing are near each other.

Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation" (PSA), CVPR 2018, section 3.2. Channels, group normalisation and initial weights are those of the VGG-16
in the released code.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.dilation import dilate
from wsseg_core.nets.vgg import FcnVgg16

# Layers whose features are used, the convolutions that make them, and what is kept of each per channel of block 1.
TAPS = {"relu4_3": ("conv4_3", 1), "relu5_3": ("conv5_3", 2), "relu7": ("fc7", 4)}
MAX_STRIDE = 8  # that of relu4_3


class AffinityNet(nn.Module):
    """Features of blocks 4, 5 and fc, each through a 1×1 convolution, then all through another.

    Args:
        backbone: a classifier, which stays as it is; its weights are copied, but for `score`.
        stride: of the features, 2, 4 or 8.

    Attributes:
        stride: as above.
        backbone: the dilated layers up to fc7. All other parameters start at random, and the released code trains them
            at ten times the rate.

    Raises:
        WorkbookError: another stride.
    """

    def __init__(self, backbone: FcnVgg16, stride: int = MAX_STRIDE) -> None:
        super().__init__()
        if stride > MAX_STRIDE:
            raise WorkbookError(f"affinity features at stride {stride}: use 2, 4 or {MAX_STRIDE}, where block 4 ends")
        self.stride = stride
        self.backbone = dilate(backbone, stride)
        del self.backbone.drop7, self.backbone.score
        weights = backbone.state_dict()
        made = [len(weights[f"{conv}.weight"]) for conv, _ in TAPS.values()]
        kept = [factor * len(weights["conv1_1.weight"]) for _, factor in TAPS.values()]
        self.embeddings = nn.ModuleList(map(_embedding, made, kept))
        self.mix = nn.Conv2d(sum(kept), sum(kept), 1, bias=False)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, 7·width, H/stride, W/stride); 448 channels in VGG-16."""
        tapped = []
        for name, module in self.backbone.named_children():
            images = module(images)
            if name in TAPS:
                tapped.append(images)
        embedded = [embed(features) for embed, features in zip(self.embeddings, tapped, strict=True)]
        return F.elu(self.mix(torch.cat(embedded, 1)))


def _embedding(channels: int, kept: int) -> nn.Sequential:
    """1×1 convolution, normalisation over groups of 8 channels (fewer where 8 does not divide them), ELU."""
    conv = nn.Conv2d(channels, kept, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return nn.Sequential(conv, nn.GroupNorm(kept // math.gcd(kept, 8), kept), nn.ELU())
