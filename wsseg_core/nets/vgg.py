"""Fully convolutional VGG-16 of any width.

Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, made fully
convolutional as in DCSM section 3.2: fc6, fc7 and the class scores are convolutions, so that an image of any size
gives a map of scores. Every layer is an attribute under its Caffe name (`conv3_1`, `relu3_1`, `pool3`, `fc6`, ...),
which is how the saliency maps ask for it.
"""

from torch import Tensor, nn

from wsseg_core.nets.backbones import Outline

CONVS_PER_BLOCK = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
CHANNELS_PER_WIDTH = {1: 1, 2: 2, 3: 4, 4: 8, 5: 8}
CONV_LAYERS = {
    block: tuple(f"conv{block}_{index}" for index in range(1, count + 1)) for block, count in CONVS_PER_BLOCK.items()
}


class FcnVgg16(nn.Module):
    """VGG-16 whose fully connected layers are convolutions.

    Args:
        num_classes: C, foreground classes.
        width: channels of block 1 (VGG-16: 64); the other blocks follow in VGG's proportions.
        batch_norm: put a batch normalisation (`bn1_1`, ...) after each convolution of the five blocks. Not in the
            paper; a network trained from scratch needs it.
        fc_channels: channels of fc6 and fc7 (VGG-16: 4096).
        fc6_kernel: odd kernel side of fc6 (VGG-16: 7).
        fc6_padding: padding of fc6; half of the kernel when left out, so that the score map has the size of pool5.
            With 0 and a 224×224 image the network is VGG-16 itself.
        dropout: probability after fc6 and fc7 (VGG-16: 0.5).
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        batch_norm: bool = False,
        fc_channels: int = 4096,
        fc6_kernel: int = 7,
        fc6_padding: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        stages = tuple(layers[-1].replace("conv", "relu") for layers in CONV_LAYERS.values())
        # Low features: the last map at stride 4, that of SSDD's; block 1 of a narrow network has few channels.
        self.outline = Outline(stages, low="relu3_3", deep="pool5", taps=(*stages[-2:], "relu7"), width=width)
        channels = 3
        for block, layers in CONV_LAYERS.items():
            out = width * CHANNELS_PER_WIDTH[block]
            for conv in layers:
                suffix = conv.removeprefix("conv")
                self.add_module(conv, nn.Conv2d(channels, out, 3, padding=1, bias=not batch_norm))
                if batch_norm:
                    self.add_module(f"bn{suffix}", nn.BatchNorm2d(out))
                self.add_module(f"relu{suffix}", nn.ReLU())
                channels = out
            self.add_module(f"pool{block}", nn.MaxPool2d(2))
        padding = fc6_kernel // 2 if fc6_padding is None else fc6_padding
        self.fc6 = nn.Conv2d(channels, fc_channels, fc6_kernel, padding=padding)
        self.relu6 = nn.ReLU()
        self.drop6 = nn.Dropout(dropout)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.relu7 = nn.ReLU()
        self.drop7 = nn.Dropout(dropout)
        self.score = nn.Conv2d(fc_channels, num_classes, 1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Small scores at first, or the maximum over the map makes every class look present.
        nn.init.normal_(self.score.weight, std=0.03)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to class scores (B, C, H/32, W/32), before the sigmoid."""
        for module in filter(None, self._modules.values()):  # children() would skip a module that is used twice
            images = module(images)
        return images

    def head(self, deep: Tensor) -> Tensor:
        """What `forward` makes of pool5, (B, channels, h, w): fc6, fc7 and the class scores."""
        for name in ("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "score"):
            deep = self.get_submodule(name)(deep)
        return deep


def head_parameters(model: FcnVgg16) -> list[nn.Parameter]:
    """Parameters of the layers above pool5, which DCSM 4.2 trains first."""
    return [*model.fc6.parameters(), *model.fc7.parameters(), *model.score.parameters()]


def load_imagenet_weights(model: FcnVgg16, state: dict[str, Tensor]) -> None:
    """Copy torchvision's ImageNet VGG-16 into a network of full width, in place; `score` keeps its start.

    Args:
        model: width 64, no batch norm, 4096 channels in fc6 and fc7, kernel 7.
        state: `torchvision.models.vgg16(...).state_dict()`; its Linear layers (4096, 512·7·7) and (4096, 4096)
            become convolutions with the same numbers, so that a 224×224 image gives the same features.

    Raises:
        ValueError: the shapes do not fit.
    """
    features = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    names = [name for layers in CONV_LAYERS.values() for name in layers]
    sources = dict(zip(names, [f"features.{index}" for index in features], strict=True))
    sources |= {"fc6": "classifier.0", "fc7": "classifier.3"}
    weights = model.state_dict()
    for name, source in sources.items():
        for part in (".weight", ".bias"):
            ours, theirs = weights.get(name + part), state[source + part]
            if ours is None or ours.numel() != theirs.numel():
                raise ValueError(f"{name}: the network is not VGG-16 of full width without batch norm")
            weights[name + part] = theirs.view_as(ours)
    model.load_state_dict(weights)
