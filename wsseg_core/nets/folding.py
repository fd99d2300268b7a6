"""Batch normalisation merged into the convolutions before it."""

from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(model: Network) -> Network:
    """An inference copy without batch norm that computes the same scores.

    Each batch norm is merged into the convolution before it, so that the gradient at `conv3_1` is the one at the
    input of its ReLU, as in the VGG-16 of the DCSM paper. An identity takes its place, for blocks that call it by name.

    Args:
        model: a network whose modules stand in the order in which they run, as in `FcnVgg16` and torchvision's
            ResNets (`conv1`, `bn1`; `downsample.0`, `downsample.1`). A batch norm that does not stand right behind a
            convolution is kept.

    Returns:
        A network of the same type in evaluation mode, with the same layer names.
    """
    folded = deepcopy(model).eval()
    for parent in list(folded.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
                parent.set_submodule(norm_name, nn.Identity())
    return folded
