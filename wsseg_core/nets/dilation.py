"""Finer feature maps from the same weights: nothing strides beyond a point, and what follows looks further apart.

Chen et al., "Semantic image segmentation with deep convolutional nets and fully connected CRFs", ICLR 2015, section 3.1
(the "hole" algorithm): a pool that keeps its resolution doubles the distance between the taps of every convolution
after it, so that each filter still meets the features at the spacing it was trained for.
"""

from copy import deepcopy
from typing import Any, TypeVar

from torch import nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.folding import replace_modules
from wsseg_core.nets.tracing import trace

STRIDES = (2, 4, 8, 16, 32)
Network = TypeVar("Network", bound=nn.Module)


def dilate(model: Network, stride: int) -> Network:
    """A copy of a network whose feature maps are nowhere more than `stride` times smaller than the image.

    What would stride further no longer strides. A convolution that then reads a map n times finer than it was trained
    for is dilated n times, with its padding; one that itself strode still reads the map that it knows. So every n-th
    feature of a network that strides in its convolutions is the old one. A pool is not dilated, and one of even side
    becomes a maximum (or average) over 3×3 with padding 1, as in the VGG-16 of PSA: a 2×2 one cannot keep the size of
    its map and stay centred, so that there the features are not the old ones at more places. A convolution of even
    side (ConvNeXt's) is padded to the same size instead.

    Args:
        model: any CNN; left as it is. One that is dilated already can be dilated further. The copy has its weights
            under the same names, so that each loads what the other saved.
        stride: 2, 4, 8, 16 or 32; nothing changes where the network does not stride beyond it.

    Raises:
        WorkbookError: any other stride, or something in the network strides that is neither convolution nor pool.
    """
    if stride not in STRIDES:
        raise WorkbookError(f"stride {stride}: use one of {', '.join(map(str, STRIDES))}")
    dilated = deepcopy(model)
    for step in trace(dilated):
        if isinstance(step.module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and step.reads:
            replace_modules(dilated, {step.module: _dilated(step.module, step.reads, stride)})
    beyond = [step.name for step in trace(dilated) if step.reads <= stride < step.writes]
    if beyond:
        raise WorkbookError(f"{beyond[0]} strides beyond {stride} and cannot be dilated; use a larger stride")
    return dilated


def _dilated(layer: Any, reads: int, stride: int) -> nn.Module:
    """A convolution or pool for a map that may now be finer than the `reads` times smaller one that it had."""
    factor, kernel = max(1, reads // stride), _pair(layer.kernel_size)
    if reads >= stride and max(_pair(layer.stride)) > 1:
        if kernel[0] % 2 == 0 and not isinstance(layer, nn.Conv2d):
            return nn.MaxPool2d(3, 1, 1) if isinstance(layer, nn.MaxPool2d) else nn.AvgPool2d(3, 1, 1, False, False)
        layer.stride = (1, 1)
        layer.padding = layer.padding if kernel[0] % 2 else "same"
    if factor > 1 and isinstance(layer, nn.Conv2d):
        layer.dilation = tuple(factor * rate for rate in _pair(layer.dilation))
        if layer.padding != "same":
            layer.padding = tuple(factor * side for side in _pair(layer.padding))
    return layer


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
