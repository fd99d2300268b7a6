"""What runs in a network, in which order and at which stride, found by showing it one empty image."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PROBE = 128  # side of the empty image: a multiple of every stride, and enough for networks that do not pad
COARSEST = 32  # stride beyond which nothing is a feature map; a squeeze-and-excitation has maps of one position


class Step(NamedTuple):
    """One module that ran, in the order in which they ended.

    Attributes:
        name: its path.
        module: itself.
        reads: stride of the feature map that it was given; 0 where that was none.
        writes: stride of the feature map that it gave; 0 where that was none.
        channels: of what it gave; 0 where that was no feature map.
        scored: the last convolution, that of the class scores, was given just this map.
    """

    name: str
    module: nn.Module
    reads: int
    writes: int
    channels: int
    scored: bool


@torch.no_grad()
def trace(model: nn.Module) -> list[Step]:
    """Run a network on an empty image and note every module; it stays as it is, and may be on the device `meta`."""
    steps: list[Step] = []
    tensors: list[tuple[Any, Any]] = []  # kept alive, so that none is taken for another
    like = next(model.parameters())
    with evaluating(model), ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(partial(_note, steps, tensors, name)).remove)
        model(torch.zeros(1, 3, PROBE, PROBE, dtype=like.dtype, device=like.device))
    last = max((i for i, step in enumerate(steps) if isinstance(step.module, nn.Conv2d)), default=0)
    scored = tensors[last][0]
    return [step._replace(scored=gave is scored) for step, (_, gave) in zip(steps, tensors, strict=True)]


def _note(
    steps: list[Step], tensors: list[tuple[Any, Any]], name: str, module: nn.Module, inputs: tuple[Any, ...], gave: Any
) -> None:
    given = inputs[0] if inputs else None
    tensors.append((given, gave))
    writes = _stride(gave)
    steps.append(Step(name, module, _stride(given), writes, gave.shape[1] if writes else 0, False))


def _stride(values: Any) -> int:
    if not isinstance(values, Tensor) or values.ndim != 4:
        return 0
    stride = 2 ** round(math.log2(PROBE / values.shape[2]))
    return stride if stride <= COARSEST else 0


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
