"""Guided back-propagation through a recorded graph, and what it means at activations that are no ReLU.

Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop, state the rule for the
ReLU: a gradient passes where it is positive and the ReLU's input was positive. Our extension to ReLU6 and any hardtanh
or clamp, LeakyReLU, SiLU, Hardswish and GELU: the same two conditions, times the activation's own derivative; so
nothing passes a ReLU6 above 6, where that is 0, as nothing does in plain back-propagation.

The graph is walked once it is recorded, so that every spelling of an activation is met: module, function, method,
in-place. Whatever stands in it must be known: a rectifier, which is guided; a gate (the sigmoid of a squeeze and
excitation), whose factor has no dead side and is left alone; or an operation that is linear in what it is given,
normalises, or moves numbers about. Anything else is an error: never is a gradient called guided that is not.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import Node

from wsseg_core.base.errors import WorkbookError

MODULE = "module"  # key of a node's metadata: path of the module that recorded it


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RECTIFIERS = _words("Relu Hardtanh LeakyRelu Silu Hardswish Gelu Clamp ClampMin")
_GATES = _words("Sigmoid Hardsigmoid Softmax")
_PRODUCTS = _words("Mul Bmm Mm Addcmul")
_MOVES = _words(
    "View UnsafeView ReshapeAlias AsStrided Alias Expand Squeeze Unsqueeze Permute Transpose T Clone ToCopy Split "
    "SplitWithSizes Unbind Slice Select Narrow Cat Stack Index Roll Flip Repeat ConstantPadNd ReflectionPad2D "
    "ReplicationPad2D PixelShuffle PixelUnshuffle AccumulateGrad"
)
_SUMS = _words(
    "Add Sub Div Neg Sum Mean Addmm Convolution _DepthwiseConv2d AvgPool2D AdaptiveAvgPool2D MaxPool2DWithIndices "
    "_MaxPool2d AdaptiveMaxPool2D Amax UpsampleNearest2D UpsampleNearestExact2D UpsampleBilinear2D UpsampleBicubic2D "
    "NativeBatchNorm CudnnBatchNorm MiopenBatchNorm NativeLayerNorm NativeGroupNorm LinalgVectorNorm Pow Sqrt "
    "Rsqrt Var VarMean ScaledDotProductFlashAttentionForCpu ScaledDotProductEfficientAttention"
)
_KNOWN = _RECTIFIERS | _GATES | _PRODUCTS | _MOVES | _SUMS
_POINTWISE = _words("Sigmoid Hardsigmoid Hardtanh Clamp ClampMin Relu Add Sub Mul Div")  # of one input


def guide(scores: Tensor) -> None:
    """Make the backward pass from some scores a guided one; the rule dies with their graph.

    Args:
        scores: what the graph was recorded for.

    Raises:
        WorkbookError: the graph holds an operation that the rule does not know; it is named, with its module.
    """
    consumers: dict[Node, list[Node]] = {}
    for node in list(_walk(scores, consumers)):
        kind = _kind(node)
        if kind == "CopySlices":
            raise WorkbookError(
                f"{_place(node)}an in-place change of a part of a tensor cannot be guided; make it out-of-place"
            )
        gate = kind in _GATES
        if kind not in _KNOWN or (gate and not _only_multiplies(node, consumers)) or _gates_itself(node):
            _refuse(node)
        if kind in _RECTIFIERS:
            _guide_rectifier(node, kind)


def _walk(scores: Tensor, consumers: dict[Node, list[Node]]) -> Iterator[Node]:
    """Every node of the graph, once; `consumers` gathers who reads each."""
    waiting = [scores.grad_fn] if scores.grad_fn is not None else []
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for below, _ in node.next_functions:
            if below is not None:
                consumers.setdefault(below, []).append(node)
                if below not in seen:
                    seen.add(below)
                    waiting.append(below)


def _kind(node: Node) -> str:
    """`ReluBackward0` → `Relu`, `torch::autograd::CopySlices` → `CopySlices`."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def metadata(node: Node) -> dict[str, Any]:
    """What is noted at a node of a graph."""
    return cast(dict[str, Any], node.metadata)  # a property, which torch declares as a method


def _place(node: Node) -> str:
    path = metadata(node).get(MODULE)
    return f"{path}: " if path else ""


def _refuse(node: Node) -> None:
    name = _kind(node).lower().strip("_").removesuffix("kernel")
    spelled = "an activation of its own, x times a function of x," if name == "mul" else f"{name!r}"
    raise WorkbookError(
        f"{_place(node)}the guided rule does not know {spelled} and plain back-propagation is no substitute; use ReLU, "
        "ReLU6, LeakyReLU, SiLU, Hardswish or GELU as torch has them, or ask for plain gradients (guided = false)"
    )


def _guide_rectifier(node: Node, kind: str) -> None:
    saved: Any = node
    if kind in ("Clamp", "ClampMin"):
        low = saved._saved_min
        if isinstance(low, Tensor) or (low is not None and low > 0):  # then it is a floor and no rectifier
            _refuse(node)
    if kind == "Relu":  # its own derivative is 0 where the input was not positive
        # Its backward has just made this tensor, so that nobody else can see it change.
        node.register_hook(lambda gradients, _: (torch.relu_(gradients[0]),))
        return
    # An in-place LeakyReLU or hardtanh keeps its output, whose sign is that of the input.
    kept = (saved._saved_self if hasattr(saved, "_saved_self") else saved._saved_result).detach()
    node.register_hook(lambda gradients, _: (torch.relu_(gradients[0]).mul_(kept > 0), *gradients[1:]))


def _only_multiplies(gate: Node, consumers: dict[Node, list[Node]]) -> bool:
    """Whether all that reads a gate's output, but for moves, is a product; else it is an activation."""
    readers = consumers.get(gate, [])
    return bool(readers) and all(
        _kind(reader) in _PRODUCTS or (_kind(reader) in _MOVES | {"Sum"} and _only_multiplies(reader, consumers))
        for reader in readers
    )


def _gates_itself(product: Node) -> bool:
    """Whether a product is x · f(x) for a pointwise f, such as a SiLU written out, which is an activation."""
    edges = [edge for edge in product.next_functions if edge[0] is not None]
    if _kind(product) != "Mul" or len(edges) < 2:
        return False
    return edges[0] == edges[1] or _leads_to(*edges) or _leads_to(*reversed(edges))


def _leads_to(edge: tuple[Any, int], origin: tuple[Any, int]) -> bool:
    node, passed = edge[0], False
    while _kind(node) in _POINTWISE:
        below = [edge for edge in node.next_functions if edge[0] is not None]
        if len(below) != 1:
            return False
        passed = passed or _kind(node) not in ("Add", "Sub", "Mul", "Div")
        if below[0] == origin:
            return passed
        node = below[0][0]
    return False
