"""Class saliency maps: gradients of class scores at named layers of any CNN (DCSM 3.3).

Shimoda & Yanai, "Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation", ECCV 2016.
Guided back-propagation: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop.
Plain gradients at the layer "input" are the maps of Simonyan et al., "Deep Inside Convolutional Networks", ICLR 2014
workshop.

One forward pass records the graph from the lowest layer asked for upwards. One backward pass, batched over the
classes, reads the gradients on its way down and ends at that layer.
"""

import contextlib
import copy
import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.folding import replace_modules
from wsseg_core.nets.tracing import evaluating
from wsseg_core.saliency.guided import MODULE, guide, metadata

INPUT = "input"  # the layer name under which the image itself is asked for
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SLICE = 512  # output channels
_POOLS = frozenset({F.max_pool2d, torch.max_pool2d})


def saliency_maps(
    model: nn.Module, images: Tensor, class_indices: Tensor, layers: Sequence[str], guided: bool = True
) -> dict[str, Tensor]:
    """Largest absolute gradient over the channels of each layer, for several classes of each image.

    For class c the signal is 1 at every position of channel c of the score map and 0 elsewhere; what arrives at the
    activation L_i is dS_c/dL_i (DCSM eq. 3). The paper up-samples before it takes the maximum over the channels; here
    the maximum comes first and up-sampling is left to the caller, which is far cheaper. Bilinear interpolation is
    convex, so the paper's order gives a map that is never larger than ours.

    "The gradient at a layer" is the one at the output of the module of that name. At `conv4_2` it has therefore
    passed the gate of the ReLU that follows; at `relu4_2` it has not.

    Args:
        model: any CNN whose forward gives a score map (B, C, h, w) or scores (B, C). It is run in evaluation mode and
            left as it was: training flags, hooks, `requires_grad` and `grad` of its parameters.
        images: float (B, 3, H, W), normalised; cast to the model's dtype.
        class_indices: int64 (B, K), the classes wanted in each image, from 0 for the first foreground class.
        layers: names as in `model.named_modules()`, each with an output (B, channels, h, w); "input" is the image.
        guided: guided back-propagation: at every ReLU, and by our extension at ReLU6, LeakyReLU, SiLU, Hardswish and
            GELU, only positive gradients pass, at positions whose input was positive; see `saliency.guided`. Batch norm
            makes no difference to the rule: folded or not, a block's output has the same gradient.

    Returns:
        For each layer, float32 (B, K, h, w), at least 0, without upper bound.

    Raises:
        WorkbookError: an unknown layer, one that does not run (or runs twice, or gives no feature map, or does not
            lead to the scores), a class index that the model does not have, scores of another form, or an activation
            that the guided rule does not know.
    """
    edges: dict[str, GradientEdge] = {}
    with evaluating(model), _taps(model, layers, edges), torch.enable_grad():
        scores = _forward(model, images, INPUT in layers, edges)
    for name in layers:
        if name not in edges:
            raise WorkbookError(f"layer {name!r} does not run in this model's forward pass; ask for another layer")
    if guided:
        guide(scores)
    signals = _signals(scores, class_indices)
    targets = [edges[name] for name in layers]
    try:
        gradients = torch.vmap(lambda signal: torch.autograd.grad(scores, targets, signal))(signals)
    except RuntimeError as error:
        if "not have been used" not in str(error) and "does not require grad" not in str(error):
            raise
        raise WorkbookError(
            f"one of the layers {', '.join(layers)} does not lead to the scores; leave it out"
        ) from None
    maps = [torch.maximum(g.amax(2), -g.amin(2)).transpose(0, 1).float() for g in gradients]  # (B, K, h, w)
    return dict(zip(layers, maps, strict=True))


def prepare(model: nn.Module, precision: str = "float32") -> nn.Module:
    """A frozen copy of a model for inference: evaluation mode, channels-last weights, the dtype of `precision`.

    Args:
        model: any CNN.
        precision: "float32" or "bfloat16".

    Returns:
        A model with the same layer names and scores. A convolution with many output channels is computed in slices of
        them, so that its name has one more level of parameters below it (`fc6.conv.weight`).

    Raises:
        WorkbookError: another precision.
    """
    if precision not in PRECISIONS:
        raise WorkbookError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    replace_modules(frozen, {module: _SlicedConv2d(module) for module in frozen.modules() if _is_wide(module)})
    return frozen.to(PRECISIONS[precision]).to(memory_format=torch.channels_last)


class _SlicedConv2d(nn.Module):
    """A convolution, computed 512 output channels at a time.

    The backward pass through one with thousands of them (VGG's fc6) keeps no weight in the CPU's cache: oneDNN's
    channels-last kernel runs it 2.5 times slower in float32, 1.8 times in bfloat16, than the slices and their sum.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        weights = conv.weight.split(_SLICE)
        biases = conv.bias.split(_SLICE) if conv.bias is not None else [None] * len(weights)
        slices = [conv._conv_forward(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        return torch.cat(slices, 1)


def _is_wide(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d  # one of another kind may pad by itself, as timm's Conv2dSame
        and module.out_channels > _SLICE
        and module.kernel_size != (1, 1)
        and module.groups == 1
    )


class _Recording(TorchFunctionMode):
    """While active, the graph says which module recorded what, and two layers are faster backwards: see below.

    Both are part of the graph that is recorded and die with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running = [""]  # paths of the modules, the outermost first

    @contextlib.contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Record what a model does."""
        with contextlib.ExitStack() as stack:
            for path, module in model.named_modules():
                enter = module.register_forward_pre_hook(lambda *_, path=path: self.running.append(path))
                leave = module.register_forward_hook(self._leave, always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
            stack.enter_context(self)
            yield

    def _leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _POOLS and args and args[0].requires_grad:
            result = _MaxPool2d.apply(args[0], _pool_window(*args[1:], **kwargs))
        elif func is torch.conv2d and not kwargs and _is_depthwise(*args):
            result = _DepthwiseConv2d.apply(*args[:3], *args[4:6])
        else:
            result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.grad_fn is not None:
            metadata(result.grad_fn).setdefault(MODULE, self.running[-1])
        return result


def _pool_window(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, **_: Any
) -> tuple[Any, ...]:
    return kernel_size, stride or kernel_size, padding, dilation, ceil_mode


class _MaxPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        pooled, indices = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, indices)
        ctx.window = window
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _MaxPool2dGradient.apply(gradient, *ctx.saved_tensors, ctx.window), None


class _MaxPool2dGradient(torch.autograd.Function):
    """One class after the other: torch's rule for several leaves the channels-last layout, at ten times the cost."""

    @staticmethod
    def forward(gradient: Tensor, x: Tensor, indices: Tensor, window: tuple[Any, ...]) -> Tensor:
        return torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *window, indices)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass  # torch asks for it where there is a vmap; nobody differentiates a gradient twice, so nothing is kept

    @staticmethod
    def vmap(info: Any, in_dims: Any, gradients: Tensor, *pool: Any) -> tuple[Tensor, int]:
        one_by_one = [_MaxPool2dGradient.forward(gradient, *pool) for gradient in gradients.movedim(in_dims[0], 0)]
        return torch.cat(one_by_one).unflatten(0, (len(one_by_one), -1)), 0


def _is_depthwise(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> bool:
    """Whether each channel has its own filter, without a stride, padded no wider than the filter reaches."""
    tuples = all(isinstance(values, tuple) for values in (stride, padding, dilation))
    if not tuples or stride != (1, 1) or not 1 < groups == len(weight) == x.shape[1]:
        return False
    reach = (d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
    return x.requires_grad and all(p <= r for p, r in zip(padding, reach, strict=True))


class _DepthwiseConv2d(torch.autograd.Function):
    """Its gradient is a depthwise convolution with the filters turned round.

    Said so, oneDNN computes it with the kernel of the forward pass. Its own rule for the gradient takes fourteen times
    as long where the filters are dilated, as in the last stage of an EfficientNet of output stride 16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, dilation: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        ctx.dilation = dilation
        return F.conv2d(x, weight, bias, 1, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        turned = ctx.saved_tensors[0].flip(2, 3)
        return F.conv2d(gradient, turned, None, 1, ctx.padding, ctx.dilation, len(turned)), None, None, None, None


def _forward(model: nn.Module, images: Tensor, tap_input: bool, edges: dict[str, GradientEdge]) -> Tensor:
    # Detached weights keep the graph from reaching below the lowest tap, and the parameters from being touched.
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    images = images.detach().to(next((weight.dtype for weight in weights.values()), images.dtype))
    with _Recording().of(model):
        images = _tap(INPUT, images, edges) if tap_input else images
        scores = torch.func.functional_call(model, weights, (images,))
    if not isinstance(scores, Tensor) or scores.ndim not in (2, 4):
        raise WorkbookError("the model must give scores (B, C) or a score map (B, C, h, w); wrap it so that it does")
    return scores


def _tap(name: str, output: Any, edges: dict[str, GradientEdge]) -> Tensor:
    """Remember where in the graph an output stands; the first output on the way up becomes the graph's leaf."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise WorkbookError(f"layer {name!r} does not give a feature map (B, channels, h, w); ask for another layer")
    if name in edges:
        raise WorkbookError(f"layer {name!r} runs more than once in a forward pass; ask for another layer")
    if not output.requires_grad:
        output = output.detach().requires_grad_().clone()  # a leaf itself may not be changed by an in-place ReLU
    edges[name] = get_gradient_edge(output)
    return output


@contextlib.contextmanager
def _taps(model: nn.Module, layers: Sequence[str], edges: dict[str, GradientEdge]) -> Iterator[None]:
    modules = dict(model.named_modules(remove_duplicate=False))  # a layer may be held under several names
    for name in layers:
        if name not in modules and name != INPUT:
            near = ", ".join(difflib.get_close_matches(name, modules, cutoff=0))
            raise WorkbookError(f"the model has no layer {name!r}; near names are {near}")
    with contextlib.ExitStack() as stack:
        for name in set(layers) - {INPUT}:
            hook = modules[name].register_forward_hook(lambda _, __, output, name=name: _tap(name, output, edges))
            stack.callback(hook.remove)
        yield


def _signals(scores: Tensor, class_indices: Tensor) -> Tensor:
    """One gradient of the scores for each of the K classes."""
    classes = scores.shape[1]
    outside = class_indices[(class_indices < 0) | (class_indices >= classes)]
    if len(outside):
        raise WorkbookError(
            f"class index {outside[0].item()} is not one of the model's {classes} classes, 0 to {classes - 1}"
        )
    signals = F.one_hot(class_indices.T, classes).to(scores)  # (K, B, C)
    return signals.reshape(*signals.shape, *[1] * (scores.ndim - 2)).expand(-1, *scores.shape)  # (K, B, C[, h, w])
