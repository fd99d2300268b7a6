"""Finer feature maps from the same weights: pools that no longer stride, convolutions that look further apart.

Chen et al., "Semantic image segmentation with deep convolutional nets and fully connected CRFs", ICLR 2015, section 3.1
(the "hole" algorithm): a pool that keeps its resolution doubles the distance between the taps of every convolution
after it, so that each filter still meets the features at the spacing it was trained for.
"""

from copy import deepcopy

from torch import nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.vgg import CONV_LAYERS, FcnVgg16

STRIDES = tuple(2**pools for pools in range(1, len(CONV_LAYERS) + 1))


def dilate(model: FcnVgg16, stride: int) -> FcnVgg16:
    """A copy of a network whose score map is `stride` times smaller than the image, instead of 32 times.

    The pools beyond `stride` become 3×3 maxima with stride 1 and padding 1, as in the VGG-16 of PSA, and the
    convolutions after them are dilated by 2 for each such pool, with their padding. At stride 8 a 7×7 fc6 then sees as
    far as the 3×3 one with dilation 12 that PSA has. These are not the old features at more places: a 2×2 maximum
    cannot keep the size of its map and stay centred.

    Args:
        model: a network as `FcnVgg16` builds it, not dilated yet; left as it is. The copy has its weights under the
            same names, so that each loads what the other saved.
        stride: 2, 4, 8, 16 or 32; at 32 the copy computes what the model does.

    Raises:
        WorkbookError: any other stride.
    """
    if stride not in STRIDES:
        raise WorkbookError(f"stride {stride}: use one of {', '.join(map(str, STRIDES))}")
    dilated = deepcopy(model)
    reached, dilation = 1, 1
    for name, module in list(dilated.named_children()):
        if isinstance(module, nn.MaxPool2d) and reached < stride:
            reached *= 2
        elif isinstance(module, nn.MaxPool2d):
            dilation *= 2
            setattr(dilated, name, nn.MaxPool2d(3, stride=1, padding=1))
        elif isinstance(module, nn.Conv2d):
            module.dilation = tuple(rate * dilation for rate in module.dilation)
            module.padding = tuple(int(side) * dilation for side in module.padding)
    return dilated
