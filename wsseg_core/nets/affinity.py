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
from wsseg_core.nets.backbones import Backbone, FrozenBackbone, outline_of, resized

STRIDE = 8  # of the features, as released


class AffinityNet(nn.Module):
    """Features of three layers, each through a 1×1 convolution, then all through another.

    The layers are the `taps` of the classifier's outline: the ends of blocks 4 and 5 and fc7 in VGG-16, of the last
    three stages in other networks.

    Args:
        classifier: stays as it is; its weights are copied, but for its last layers.
        stride: of the features, at most that at which the first of the three layers ends (VGG-16: 8).
        width: the three embeddings have 1, 2 and 4 times as many channels; the classifier's own when 0.
        frozen: the trunk does not learn and stays at the stride that the classifier has; coarser layers of the three
            are up-sampled once they are embedded.

    Attributes:
        stride: as above.
        backbone: the dilated layers up to the last of the three. All other parameters start at random, and the released
            code trains them at ten times the rate.

    Raises:
        WorkbookError: another stride, or another kind of network.
    """

    def __init__(self, classifier: nn.Module, stride: int = STRIDE, width: int = 0, frozen: bool = False) -> None:
        super().__init__()
        outline = outline_of(classifier)
        self.stride = stride
        taps = outline.taps
        self.backbone = FrozenBackbone(classifier, taps) if frozen else Backbone(classifier, taps, stride)
        finest = self.backbone.strides[0]
        if finest != stride or (len(set(self.backbone.strides)) > 1 and not frozen):
            raise WorkbookError(
                f"affinity features at stride {stride}: use at most {finest}, where {outline.taps[0]} ends"
            )
        kept = [(width or outline.width) * 2**i for i in range(len(outline.taps))]
        self.embeddings = nn.ModuleList(map(_embedding, self.backbone.channels, kept))
        self.mix = nn.Conv2d(sum(kept), sum(kept), 1, bias=False)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, images: Tensor | list[Tensor]) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, 7·width, H/stride, W/stride); 448 channels in VGG-16.

        The three maps that the backbone gives for the images may be given in their place.
        """
        maps = self.backbone(images) if isinstance(images, Tensor) else images
        finest, *others = [embed(tap) for embed, tap in zip(self.embeddings, maps, strict=True)]
        fine = [finest, *(resized(values, finest.shape[2:]) for values in others)]
        return F.elu(self.mix(torch.cat(fine, 1)))


def _embedding(channels: int, kept: int) -> nn.Sequential:
    """1×1 convolution, normalisation over groups of 8 channels (fewer where 8 does not divide them), ELU."""
    conv = nn.Conv2d(channels, kept, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return nn.Sequential(conv, nn.GroupNorm(kept // math.gcd(kept, 8), kept), nn.ELU())
