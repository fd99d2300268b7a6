"""Class saliency maps: gradients of class scores at named layers of any CNN (DCSM 3.3).

Shimoda & Yanai, "Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation", ECCV 2016.
Guided back-propagation: Springenberg et al., "Striving for Simplicity", ICLR 2015 workshop. With the layer "input"
and plain gradients the maps are those of Simonyan et al., "Deep Inside Convolutional Networks", ICLR 2014 workshop.

One forward pass records the graph from the lowest layer asked for upwards; one backward pass, batched over the
classes, reads the gradient at every layer on its way down and stops at the lowest one.
"""

import contextlib
import copy
import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from wsseg_core.errors import WorkbookError

INPUT = "input"  # the name under which the image itself is asked for
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_RELUS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
_CLAMPS = frozenset({torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_} | {Tensor.clamp, Tensor.clamp_})


def saliency_maps(
    model: nn.Module, images: Tensor, class_indices: Tensor, layers: Sequence[str], guided: bool = True
) -> dict[str, Tensor]:
    edges: dict[str, GradientEdge] = {}
    with _evaluating(model), _taps(model, layers, edges), torch.enable_grad():
        with _GuidedReLU() if guided else contextlib.nullcontext():
            images = images.to(next(model.parameters()).dtype)
            weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
            scores = torch.func.functional_call(model, weights, (images,))
        signals = F.one_hot(class_indices.T, scores.shape[1]).to(scores)  # (K, B, C)
        signals = signals.reshape(*signals.shape, *[1] * (scores.ndim - 2)).expand(-1, *scores.shape)
        gradients = torch.autograd.grad(scores, [edges[l] for l in layers], signals, is_grads_batched=True)
    return {l: torch.linalg.vector_norm(g, torch.inf, 2).transpose(0, 1).float() for l, g in zip(layers, gradients)}


class _GuidedReLU(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in _RELUS and result.requires_grad:
            result.register_hook(lambda g: g.clamp(min=0))
        return result


@contextlib.contextmanager
def _taps(model, layers, edges):
    modules = dict(model.named_modules())

    def tap(name):
        def hook(module, args, output):
            if not output.requires_grad:
                output = output.detach().requires_grad_().clone()
            edges[name] = get_gradient_edge(output)
            return output
        return hook

    handles = [modules[l].register_forward_hook(tap(l)) for l in layers]
    try:
        yield
    finally:
        for h in handles:
            h.remove()


@contextlib.contextmanager
def _evaluating(model):
    states = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for m, s in states.items():
            m.training = s
