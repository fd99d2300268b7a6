"""What every network of the workbook is built on: the trunk of a classifier, read at layers of its own.

A classifier says in an `Outline` where its stages end and which of their maps the later networks read; everything else
(strides, channels, the layers of each stage at which saliency maps are taken) is found by tracing it once.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.dilation import dilate
from wsseg_core.nets.tracing import Step, trace

LAST_STAGE = 5  # number of the last one: VGG-16's five are 1 to 5, and a network of four has 2 to 5
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Outline:
    """Which layers of a classifier matter to others.

    Attributes:
        stages: the last layer of each stage, lowest first.
        low: the early features that difference detection reads.
        deep: where the trunk ends, which the classifier's `head` and a segmentation network's own head read.
        taps: what pixel affinities are made of, three layers.
        width: channels that the later networks measure their own by; VGG-16 has 64.
        mean: of RGB values in [0, 1] that the network was made for. All networks are given images that are normalised
            with ImageNet's mean and deviation; one that was made for others converts them itself, so that none can
            be shown the wrong ones.
        std: deviation, alike.
    """

    stages: tuple[str, ...]
    low: str
    deep: str
    taps: tuple[str, ...]
    width: int = 64
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


RESNET_STAGES = ("relu", "layer1", "layer2", "layer3", "layer4")
RESNET = Outline(RESNET_STAGES, low="layer1", deep="layer4", taps=RESNET_STAGES[2:])


def outline_of(classifier: nn.Module) -> Outline:
    """The outline that a classifier carries as `outline`; a ResNet as torchvision builds it needs none.

    Raises:
        WorkbookError: it has none.
    """
    outline = getattr(classifier, "outline", None)
    if outline is None and not all(hasattr(classifier, name) for name in RESNET_STAGES):
        raise WorkbookError(
            f"no backbone in a {type(classifier).__name__}; use FcnVgg16 or a ResNet, "
            "or a network of timm (classifier.architecture = 'timm:NAME')"
        )
    return outline or RESNET


class Stage(NamedTuple):
    """What a classifier computes at one resolution.

    Attributes:
        number: 1 to 5, counted so that the last one is 5.
        name: the layer at which it ends.
        stride: of its feature map.
        channels: of its feature map.
        layers: where its saliency maps are taken by default, lowest first: the outputs of its blocks, or of its
            convolutions where it has no blocks. The layer that the scores are read off is left out: its gradient is
            the same at every position.
    """

    number: int
    name: str
    stride: int
    channels: int
    layers: tuple[str, ...]


def stages_of(classifier: nn.Module) -> tuple[Stage, ...]:
    """The stages of a classifier, lowest first."""
    steps, outline = trace(classifier), outline_of(classifier)
    found, before, taken = [], 0, {step.name for step in steps if step.scored}
    for end in (next(i for i, step in enumerate(steps) if step.name == name) for name in outline.stages):
        layers = _block_outputs([step for step in steps[before : end + 1] if step.writes])
        if layers:  # else it is the pool behind a stage
            found.append((steps[end], tuple(name for name in layers if name not in taken)))
        before = end + 1
        taken.update(layers)
    first = LAST_STAGE + 1 - len(found)
    return tuple(
        Stage(i, step.name, step.writes, step.channels, layers) for i, (step, layers) in enumerate(found, first)
    )


def parameters_from(classifier: nn.Module, number: int) -> list[nn.Parameter]:
    """The parameters of a stage and of all that runs after it, the class scores included.

    Raises:
        WorkbookError: there is no stage of this number.
    """
    stages = {stage.number: stage for stage in stages_of(classifier)}
    if number not in stages:
        raise WorkbookError(f"no stage {number} to train from, only {', '.join(map(str, stages))}; mend train_from")
    if number == min(stages):
        return list(classifier.parameters())
    below = Backbone(classifier, [stages[number - 1].name])
    lower = {name for name, _ in below.trunk.named_parameters()}
    return [parameter for name, parameter in classifier.named_parameters() if name not in lower]


def _block_outputs(within: Sequence[Step]) -> list[str]:
    """The blocks among modules that ran one after the other, lowest first; the convolutions where there is no block."""
    names = {step.name for step in within}
    outermost = [step for step in within if not any(step.name.startswith(f"{other}.") for other in names)]
    units = [step for step in outermost if _convolves(step.module)]
    containers = [step for step in units if not isinstance(step.module, nn.Conv2d)]
    if not containers:
        return [step.name for step in units]
    return [name for step in containers for name in _blocks(step.name, step.module)]


def _blocks(name: str, module: nn.Module) -> list[str]:
    """Paths of the repeated blocks within a stage's module; its own where nothing is repeated."""
    children = [(f"{name}.{key}", child) for key, child in module.named_children() if _convolves(child)]
    blocks = [(path, child) for path, child in children if not isinstance(child, nn.Conv2d)]
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return [found for path, child in blocks for found in _blocks(path, child)] or [name]
    lists = [(path, child) for path, child in blocks if isinstance(child, nn.Sequential) and _nested(child)]
    if len(lists) == 1:
        return _blocks(*lists[0])
    alike = len(blocks) == len(list(module.children())) and len({type(child) for _, child in blocks}) == 1
    return [path for path, _ in blocks] if alike and blocks else [name]


def _nested(module: nn.Module) -> bool:
    return any(_convolves(child) and not isinstance(child, nn.Conv2d) for child in module.children())


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


class _Enough(Exception):
    """Everything that was asked for has been read."""


class Backbone(nn.Module):
    """The trunk of a classifier: a copy of it that ends where the last of some layers does.

    Args:
        classifier: has an outline, see `outline_of`; it stays as it is.
        names: layers that are read.
        stride: no map is more than so many times smaller than the image, see `dilate`; as it is when left out.

    Attributes:
        names: as above.
        trunk: the copy, with the classifier's names and weights.
        channels: of each map that is read.
        strides: of each map that is read.

    Raises:
        WorkbookError: another kind of network, or one that cannot be computed at this stride.
    """

    def __init__(self, classifier: nn.Module, names: Sequence[str], stride: int | None = None) -> None:
        super().__init__()
        self.names = tuple(names)
        self.trunk = deepcopy(classifier) if stride is None else dilate(classifier, stride)
        steps = list(self._until_read(trace(self.trunk)))
        keep_only(self.trunk, {step.module for step in steps})
        ends = {step.name: step for step in steps}
        self.channels = tuple(ends[name].channels for name in self.names)
        self.strides = tuple(ends[name].writes for name in self.names)

    def _until_read(self, steps: Sequence[Step]) -> Iterator[Step]:
        left = set(self.names)
        for step in steps:
            yield step
            left.discard(step.name)
            if not left:
                return

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to the maps that are read, (B, channels, h, w) each."""
        found: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name in self.names:
                hook = self.trunk.get_submodule(name).register_forward_hook(partial(self._read, found, name))
                hooks.callback(hook.remove)
            with suppress(_Enough):
                self.trunk(images)
        return [found[name] for name in self.names]

    def _read(self, found: dict[str, Tensor], name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        found.setdefault(name, output)
        if len(found) == len(self.names):
            raise _Enough


class FrozenBackbone(Backbone):
    """A trunk that does not learn: its weights and the statistics of its batch norm stay what they are.

    Its maps are rounded to what float16 can hold, so that they are to the bit what `classify.features` reads back. Its
    weights are stored with the classifier and with no network above it: of a small head, they would be nearly all.
    """

    def __init__(self, classifier: nn.Module, names: Sequence[str], stride: int | None = None) -> None:
        super().__init__(classifier, names, stride)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stay in evaluation mode, whatever the network around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """As `Backbone.forward`, rounded; no gradient flows back."""
        return [values.half().to(values.dtype) for values in super().forward(images)]

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Nothing beside what the parts before it gave."""
        return OrderedDict() if destination is None else destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.update(super().state_dict(prefix=prefix))
        super()._load_from_state_dict(state_dict, prefix, *args)


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, channels, h, w) at another size, bilinearly; as it is where it has that size."""
    return values if values.shape[2:] == tuple(size) else F.interpolate(values, tuple(size), mode="bilinear")


def keep_only(model: nn.Module, ran: set[nn.Module]) -> None:
    """Take the modules out of a network that it did not run, in place: their parameters would never learn."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if not any(module in ran for module in child.modules()):
                parent._modules[name] = nn.Identity()
