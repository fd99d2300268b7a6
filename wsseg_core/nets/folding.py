"""Batch normalisation merged into the convolutions before it, and layers that take the place of others."""

from collections import OrderedDict
from collections.abc import Mapping
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
        A network of the same type in evaluation mode, with the same layer names. What a batch norm has within (timm's
        have an activation there) stays under its name.
    """
    folded = deepcopy(model).eval()
    replacements: dict[nn.Module, nn.Module] = {}
    for parent in folded.modules():
        for (_, conv), (_, norm) in pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                replacements[conv] = fuse_conv_bn_eval(conv, norm)
                within = dict(norm.named_children())
                replacements[norm] = nn.Sequential(OrderedDict(within)) if within else nn.Identity()
    replace_modules(folded, replacements)
    return folded


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put modules in the place of others, in place, under every name that each is held under."""
    for parent in list(model.modules()):
        for name, module in parent._modules.items():
            if module is not None and module in replacements:
                parent._modules[name] = replacements[module]
