"""The networks that can be the classifier, by name; a further one is a file beside this one and an entry here."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wsseg_core.base.config import ClassifierConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets import vgg
from wsseg_core.nets.backbones import Stage, stages_of
from wsseg_core.nets.dilation import dilate
from wsseg_core.nets.pretrained import timm_weights, torchvision_weights

TIMM = "timm:"  # before the name of a network of timm
POOLINGS = ("max", "average")


class Architecture(NamedTuple):
    """A kind of network that can be the classifier.

    Attributes:
        build: makes the network from the config and the number of classes; its start is random.
        imagenet_weights: fetches the state dict of its ImageNet weights; WorkbookError where they cannot be had.
        load_imagenet_weights: copies the state dict of those into a network; ValueError where it does not fit.
        head_parameters: what the first phase of the training changes.
    """

    build: Callable[[ClassifierConfig, int], nn.Module]
    imagenet_weights: Callable[[], dict[str, Tensor]]
    load_imagenet_weights: Callable[[Any, dict[str, Tensor]], None]
    head_parameters: Callable[[Any], list[nn.Parameter]]


def _vgg16(_: str) -> Architecture:
    def build(config: ClassifierConfig, num_classes: int) -> nn.Module:
        arguments = (config.width, config.batch_norm, config.fc_channels, config.fc6_kernel)
        return vgg.FcnVgg16(num_classes, *arguments, dropout=config.dropout)

    fetch = partial(torchvision_weights, "VGG16_Weights.IMAGENET1K_V1")
    return Architecture(build, fetch, vgg.load_imagenet_weights, vgg.head_parameters)


def _resnet18(_: str) -> Architecture:
    from wsseg_core.nets import resnet  # imports torchvision, which takes seconds, and VGG-16 needs it not

    def build(config: ClassifierConfig, num_classes: int) -> nn.Module:
        return resnet.FcnResNet18(num_classes, config.width)  # always with batch norm, and without VGG's fc layers

    fetch = partial(torchvision_weights, "ResNet18_Weights.IMAGENET1K_V1")
    return Architecture(build, fetch, resnet.load_imagenet_weights, resnet.head_parameters)


def _timm(name: str) -> Architecture:
    from wsseg_core.nets import timm_nets

    def build(config: ClassifierConfig, num_classes: int) -> nn.Module:
        return timm_nets.FcnTimm(name, num_classes)

    fetch = partial(timm_weights, name)
    return Architecture(build, fetch, timm_nets.load_imagenet_weights, timm_nets.head_parameters)


ARCHITECTURES = {"vgg16": _vgg16, "resnet18": _resnet18, TIMM: _timm}


def architecture_of(config: ClassifierConfig) -> Architecture:
    """The kind of network that a profile asks for.

    Raises:
        WorkbookError: there is none of this name.
    """
    kind, colon, name = config.architecture.partition(":")
    if kind + colon not in ARCHITECTURES:
        raise WorkbookError(
            f"classifier.architecture {config.architecture!r} is unknown; use one of vgg16, resnet18, timm:NAME"
        )
    return ARCHITECTURES[kind + colon](name)


def build_classifier(config: ClassifierConfig, num_classes: int) -> nn.Module:
    """An untrained network, at random, with the stride and the pooling of the profile.

    Returns:
        The network; its `pooling` says how the scores of the image come from its map.

    Raises:
        WorkbookError: an unknown architecture or pooling, or a stride that the network cannot have.
    """
    if config.pooling not in POOLINGS:
        raise WorkbookError(f"classifier.pooling {config.pooling!r} is unknown; use one of {', '.join(POOLINGS)}")
    model = architecture_of(config).build(config, num_classes)
    if config.stride < 32:
        model = dilate(model, config.stride)
    model.pooling = config.pooling  # type: ignore[assignment]
    return model


@lru_cache(maxsize=8)
def _stages(config: ClassifierConfig) -> tuple[Stage, ...]:
    with torch.device("meta"):  # neither time nor random numbers for weights that nobody reads
        return stages_of(build_classifier(config, 1))


def stages(config: ClassifierConfig) -> dict[int, Stage]:
    """The stages of the classifier that a profile asks for, by number; see `backbones.Stage`."""
    return {stage.number: stage for stage in _stages(config)}
