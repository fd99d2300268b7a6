"""Fully convolutional ResNet-18 of any width.

He et al., "Deep residual learning for image recognition", CVPR 2016, as torchvision builds it, with its blocks and its
layer names (`conv1`, `layer3.1`, ...). In place of the average pooling and `fc` stands a 1×1 convolution `score`, so
that an image of any size gives a map of scores. The papers of this workbook use VGG-16 alone: this is a second network
to hold their method against.
"""

from dataclasses import replace
from typing import cast

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.backbones import RESNET

FULL_WIDTH = 64
MIN_WIDTH = (
    8  # below, the gradient of a strided 1×1 convolution overruns its memory on processors with AVX2 (oneDNN 3.13)
)


class FcnResNet18(ResNet):
    """ResNet-18 that scores every position of an image.

    Args:
        num_classes: C, foreground classes.
        width: channels of the first stage (ResNet-18: 64), 8 or more; the other stages follow in ResNet's proportions.

    Raises:
        WorkbookError: it is narrower.
    """

    def __init__(self, num_classes: int, width: int = FULL_WIDTH) -> None:
        if width < MIN_WIDTH:
            raise WorkbookError(f"a ResNet-18 of width {width} is too narrow; use {MIN_WIDTH} or more")
        self.width = width
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.num_classes = num_classes
        self.outline = replace(RESNET, width=width)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        del self.avgpool, self.fc
        self.score = nn.Conv2d(8 * width, num_classes, 1)
        # Small scores at first, or the maximum over the map makes every class look present.
        nn.init.normal_(self.score.weight, std=0.03)
        nn.init.zeros_(cast(Tensor, self.score.bias))

    def _make_layer(
        self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == FULL_WIDTH:  # the first stage, which is as wide as the convolution before it
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // FULL_WIDTH, blocks, stride, dilate)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to class scores (B, C, ⌈H/32⌉, ⌈W/32⌉), before the sigmoid."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.head(self.layer4(self.layer3(self.layer2(self.layer1(features)))))

    def top(self, deep: Tensor) -> Tensor:
        """The map that the class scores are read off, (B, channels, h, w): layer4 itself."""
        return deep

    def head(self, deep: Tensor) -> Tensor:
        """What `forward` makes of layer4, (B, channels, h, w)."""
        return self.score(self.top(deep))


def head_parameters(model: FcnResNet18) -> list[nn.Parameter]:
    """Parameters of the class scores, which are trained first as DCSM 4.2 trains VGG's layers above pool5."""
    return list(model.score.parameters())


def load_imagenet_weights(model: FcnResNet18, state: dict[str, Tensor]) -> None:
    """Copy torchvision's ImageNet ResNet-18 into a network of full width, in place; `score` keeps its start.

    Args:
        model: width 64.
        state: `torchvision.models.resnet18(...).state_dict()`; its `fc` is left out.

    Raises:
        ValueError: the shapes do not fit; nothing is copied then.
    """
    weights = model.state_dict()
    for name, values in state.items():
        if name.startswith("fc."):
            continue
        if name not in weights or weights[name].shape != values.shape:
            raise ValueError(f"{name}: the network is not ResNet-18 of full width")
        weights[name] = values
    model.load_state_dict(weights)
