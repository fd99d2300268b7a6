"""The classifier whose score map is a class activation map.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CAM), CVPR 2016, section 3: VGGnet without its
fully connected layers and last pool, one more convolution of 3×3, and class scores by global average pooling. The
score map before the pooling is the map of the class.
"""

from itertools import takewhile

from torch import nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.dilation import dilate
from wsseg_core.nets.vgg import CONV_LAYERS, FcnVgg16


class CamVgg16(nn.Sequential):
    """The first blocks of VGG-16 at a stride of choice, a 3×3 convolution, and a score map for each class.

    It maps normalised images (B, 3, H, W) to scores (B, C, H/stride, W/stride), before the sigmoid; their mean over the
    positions is the score of the image. Layers of the blocks have the names that they have in `FcnVgg16`.

    Zhou et al. average the features and weigh the means; the mean of weighed features, with the bias, is the same.
    Departures: the fewer blocks, the less of the image a position sees. On scenes that all five blocks see as a whole
    every position can tell the class, and the maps spread over everything. And the last convolution is not dilated:
    it starts at random, so that there is no spacing that it was trained for.

    Args:
        num_classes: C, foreground classes.
        width: channels of block 1 (VGG-16: 64).
        batch_norm: as in `FcnVgg16`.
        blocks: of VGG-16, 2 to 5 (CAM: 5); the last one without its pool.
        channels: of the 3×3 convolution (CAM: 1024).
        stride: of the score map, at most 2^(blocks - 1); see `dilate`.

    Raises:
        WorkbookError: blocks that VGG-16 does not have, or a stride that they do not reach.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        batch_norm: bool = False,
        blocks: int = 5,
        channels: int = 1024,
        stride: int = 8,
    ) -> None:
        if not 2 <= blocks <= len(CONV_LAYERS) or stride > 2 ** (blocks - 1):
            raise WorkbookError(
                f"class activation maps of {blocks} blocks at stride {stride}: use 2 to {len(CONV_LAYERS)} blocks, "
                "and a stride of at most 2 to the power of one less; mend cam.blocks or cam.stride in the profile"
            )
        super().__init__()
        vgg = dilate(FcnVgg16(num_classes, width, batch_norm, fc_channels=1, fc6_kernel=1), stride)
        for name, module in takewhile(lambda named: named[0] != f"pool{blocks}", vgg.named_children()):
            self.add_module(name, module)
        features = len(vgg.state_dict()[f"{CONV_LAYERS[blocks][-1]}.weight"])
        self.cam_conv = nn.Conv2d(features, channels, 3, padding=1)
        self.cam_relu = nn.ReLU()
        self.score = nn.Conv2d(channels, num_classes, 1)
        nn.init.kaiming_normal_(self.cam_conv.weight, nonlinearity="relu")
        nn.init.normal_(self.score.weight, std=0.03)


def load_blocks(model: CamVgg16, classifier: nn.Module) -> None:
    """Copy the blocks of an `FcnVgg16` of the same width, in place; the last two layers keep their start."""
    weights, start = model.state_dict(), classifier.state_dict()
    shared = {name: start[name] for name in weights if name.startswith(("conv", "bn"))}
    model.load_state_dict(weights | shared)
