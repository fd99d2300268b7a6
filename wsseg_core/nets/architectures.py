"""The networks that can be the classifier, by name; a further one is a file beside this one and an entry here."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from wsseg_core.base.config import ClassifierConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets import vgg


class Architecture(NamedTuple):
    """A kind of network that can be the classifier.

    Attributes:
        build: makes the network from the config and the number of classes; its start is random.
        imagenet: name of its weights in torchvision.
        load_imagenet_weights: copies torchvision's state dict into a network; ValueError where it does not fit.
        head_parameters: what the first phase of the training changes.
    """

    build: Callable[[ClassifierConfig, int], nn.Module]
    imagenet: str
    load_imagenet_weights: Callable[[Any, dict[str, Tensor]], None]
    head_parameters: Callable[[Any], list[nn.Parameter]]


def _vgg16() -> Architecture:
    def build(config: ClassifierConfig, num_classes: int) -> nn.Module:
        arguments = (config.width, config.batch_norm, config.fc_channels, config.fc6_kernel)
        return vgg.FcnVgg16(num_classes, *arguments, dropout=config.dropout)

    return Architecture(build, "VGG16_Weights.IMAGENET1K_V1", vgg.load_imagenet_weights, vgg.head_parameters)


def _resnet18() -> Architecture:
    from wsseg_core.nets import resnet  # imports torchvision, which takes seconds, and VGG-16 needs it not

    def build(config: ClassifierConfig, num_classes: int) -> nn.Module:
        return resnet.FcnResNet18(num_classes, config.width)  # always with batch norm, and without VGG's fc layers

    return Architecture(build, "ResNet18_Weights.IMAGENET1K_V1", resnet.load_imagenet_weights, resnet.head_parameters)


ARCHITECTURES = {"vgg16": _vgg16, "resnet18": _resnet18}


def architecture_of(config: ClassifierConfig) -> Architecture:
    """The kind of network that a profile asks for.

    Raises:
        WorkbookError: there is none of this name.
    """
    if config.architecture not in ARCHITECTURES:
        raise WorkbookError(
            f"classifier.architecture {config.architecture!r} is unknown; use one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[config.architecture]()
