"""Fully convolutional classifiers over the convolutional networks of timm.

Wightman, "PyTorch Image Models". timm says of each of its networks where its stages end and how its images are to be
normalised; what a stage is for the rest of the workbook stands in `backbones`.
"""

import difflib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.backbones import IMAGENET_MEAN, IMAGENET_STD, Outline, keep_only
from wsseg_core.nets.tracing import PROBE, Step, evaluating, trace

PREFIX = "timm:"
LOW_STRIDE = 4  # least of the early features, VGG-16's have 2 and ResNet's 4
MIN_STAGES = 3  # with fewer there are no low and deep features, and no three taps for affinities


class Renormalise(nn.Module):
    """Images that were normalised with ImageNet's mean and deviation, normalised with others instead.

    Args:
        mean: of RGB values in [0, 1].
        std: deviation, alike.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        channel = [torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD, mean, std)]
        self.register_buffer("scale", channel[1] / channel[3], persistent=False)
        self.register_buffer("shift", (channel[0] - channel[2]) / channel[3], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map float (B, 3, H, W) to the same with the other normalisation."""
        return images * self.scale + self.shift


class FcnTimm(nn.Module):
    """A network of timm that scores every position of an image.

    Its pooling and its classes are left out; a 1×1 convolution `score` takes their place. All else is under `net`, with
    timm's own names.

    Args:
        name: of the network in timm.
        num_classes: C, foreground classes.

    Attributes:
        outline: see `backbones.Outline`.

    Raises:
        WorkbookError: timm has no network of this name (the nearest is told), or it gives no feature maps of at least
            three strides.
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.net = _create(name)
        cfg = self.net.pretrained_cfg
        mean, std = (tuple(map(float, cfg[key])) for key in ("mean", "std"))
        standard = (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
        self.renormalise = nn.Identity() if standard else Renormalise(mean, std)
        self.score = nn.Conv2d(_top_channels(name, self.net), num_classes, 1)
        # Small scores at first, or the maximum over the map makes every class look present.
        nn.init.normal_(self.score.weight, std=0.03)
        nn.init.zeros_(cast(Tensor, self.score.bias))
        steps = trace(self)
        keep_only(self, {step.module for step in steps})
        stages, low = _stages(name, self.net, steps)
        self.outline = Outline(stages, low, stages[-1], stages[-MIN_STAGES:], mean=mean, std=std)
        self.after_deep = _after(steps, self.outline.deep)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to class scores (B, C, h, w), before the sigmoid."""
        return self.score(self.net.forward_features(self.renormalise(images)))

    def top(self, deep: Tensor) -> Tensor:
        """The map that the class scores are read off, from the one at `outline.deep`: both (B, channels, h, w)."""
        for name in self.after_deep:
            deep = self.get_submodule(name)(deep)
        return deep

    def head(self, deep: Tensor) -> Tensor:
        """What `forward` makes of the map at `outline.deep`."""
        return self.score(self.top(deep))


def head_parameters(model: FcnTimm) -> list[nn.Parameter]:
    """Parameters of the class scores, which are trained first."""
    return list(model.score.parameters())


def load_imagenet_weights(model: FcnTimm, state: dict[str, Tensor]) -> None:
    """Copy timm's weights of the same network into a classifier, in place; `score` keeps its start.

    Args:
        model: as built, not folded.
        state: as timm has it; its classes are left out.

    Raises:
        ValueError: the shapes do not fit; nothing is copied then.
    """
    weights = model.net.state_dict()
    for name, values in weights.items():
        if name not in state or state[name].shape != values.shape:
            raise ValueError(f"{name}: the weights are of another network")
    model.net.load_state_dict({name: state[name] for name in weights})


def _create(name: str) -> Any:
    import timm  # takes seconds, and the other networks need it not

    family = name.partition(".")[0]
    if not timm.is_model(family):
        near = ", ".join(difflib.get_close_matches(family, timm.list_models(), n=3, cutoff=0))
        raise WorkbookError(
            f"classifier.architecture '{PREFIX}{name}': timm has no such network; near names are {near}"
        )
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    except TypeError:  # it always pools, which nobody asks it to
        return timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:  # an unknown tag behind the dot
        raise WorkbookError(f"classifier.architecture '{PREFIX}{name}': {str(error).splitlines()[0]}") from None


@torch.no_grad()
def _top_channels(name: str, net: Any) -> int:
    """Channels of what the network's own classes are computed from."""
    like = next(net.parameters())
    try:
        with evaluating(net):
            top = net.forward_features(torch.zeros(1, 3, PROBE, PROBE, device=like.device))
    except (RuntimeError, AssertionError, ValueError, AttributeError):
        top = None
    if not isinstance(top, Tensor) or top.ndim != 4 or top.shape[2] != top.shape[3]:
        raise _no_maps(name)
    return top.shape[1]


def _stages(name: str, net: Any, steps: Sequence[Step]) -> tuple[tuple[str, ...], str]:
    """Names of the layers at which the stages end, and of the first of them at stride 4 or more."""
    told = getattr(net, "feature_info", [])
    told = told if isinstance(told, list) else told.info
    ends = {step.name: step for step in steps}
    found = [ends.get(f"net.{stage['module']}") for stage in told]
    stages = [stage for stage in found if stage is not None and stage.writes]
    strides = [stage.writes for stage in stages]
    if len(stages) < max(MIN_STAGES, len(found)) or sorted(set(strides)) != strides:
        raise _no_maps(name)
    return tuple(stage.name for stage in stages), next(stage.name for stage in stages if stage.writes >= LOW_STRIDE)


def _no_maps(name: str) -> WorkbookError:
    return WorkbookError(
        f"classifier.architecture '{PREFIX}{name}': gives no feature maps of {MIN_STAGES} or more growing strides, "
        "which the later networks read; use a convolutional network, such as resnet18 or tf_efficientnet_lite0"
    )


def _after(steps: Sequence[Step], deep: str) -> tuple[str, ...]:
    """The outermost modules that run behind a layer, in their order."""
    place = next(i for i, step in enumerate(steps) if step.name == deep)
    later = [
        step.name
        for step in steps[place + 1 :]
        if not deep.startswith(f"{step.name}.") and step.name not in ("", "net", "score")
    ]
    return tuple(name for name in later if not any(name.startswith(f"{other}.") for other in later))
