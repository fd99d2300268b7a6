"""Gradients at intermediate layers, against hand-worked networks, a slow oracle, and two other libraries."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop
from pytorch_grad_cam import GuidedBackpropReLUModel
from torch import nn
from torchvision.models import resnet18

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.saliency.gradients import prepare, saliency_maps


class Named(nn.Sequential):
    """conv -> ReLU -> score map of two classes, all 1x1, on three channels."""

    def __init__(self, conv, score, inplace=False):
        super().__init__()
        self.add_module("conv", nn.Conv2d(3, len(conv), 1, bias=False))
        self.add_module("relu", nn.ReLU(inplace))
        self.add_module("score", nn.Conv2d(len(conv), len(score), 1, bias=False))
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor(conv)[..., None, None])
            self.score.weight.copy_(torch.tensor(score)[..., None, None])


CONV = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
SCORE = [[2.0, -3.0], [-1.0, 4.0]]
# Two positions: both channels positive; only the second one.
IMAGE = torch.tensor([[[[1.0, -1.0]], [[1.0, 1.0]], [[0.0, 0.0]]]])


def network(seed=0, inplace=False):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(inplace),
        nn.Conv2d(8, 5, 1),
    )


class PooledScores(nn.Module):
    """The sum over positions of a score map, so that other libraries start from the same signal."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).sum((2, 3))


def slow_maps(model, image, class_index, layer, guided):
    """One class at a time, down to the image, with a hook on each ReLU module and one on the layer."""
    found = {}

    def gate(module, grad_input, grad_output):
        return (grad_input[0] * (grad_output[0] > 0),)

    handles = [m.register_full_backward_hook(gate) for m in model.modules() if isinstance(m, nn.ReLU) and guided]
    module = dict(model.named_modules())[layer]
    handles.append(module.register_full_backward_hook(lambda _, __, grad_output: found.update(gradient=grad_output[0])))
    image = image.clone().requires_grad_()
    model(image)[:, class_index].sum().backward()
    for handle in handles:
        handle.remove()
    return found["gradient"].abs().amax(1)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("layer", "guided", "expected"),
    [
        # Class 0 weighs the channels 2 and -3, class 1 -1 and 4; the second position has its first channel closed.
        ("relu", False, [[3, 3], [4, 4]]),
        ("conv", False, [[3, 3], [4, 4]]),
        ("conv", True, [[2, 0], [4, 4]]),
        ("input", True, [[2, 0], [4, 4]]),
    ],
)
def test_maps_worked_out_by_hand(layer, guided, expected, inplace):
    maps = saliency_maps(Named(CONV, SCORE, inplace), IMAGE, torch.tensor([[0, 1]]), [layer], guided)
    torch.testing.assert_close(maps[layer][0, :, 0], torch.tensor(expected, dtype=torch.float32))


def test_output_of_a_relu_has_not_passed_its_gate():
    maps = saliency_maps(Named(CONV, SCORE), IMAGE, torch.tensor([[0]]), ["relu", "conv"])
    assert maps["relu"].flatten().tolist() == [3, 3]
    assert maps["conv"].flatten().tolist() == [2, 0]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_equals_one_class_at_a_time(guided, inplace):
    image = torch.randn(1, 3, 9, 7)
    maps = saliency_maps(network(inplace=inplace), image, torch.tensor([[4, 0, 2]]), ["0", "2", "5"], guided)
    for layer in ("0", "2", "5"):
        for row, class_index in enumerate((4, 0, 2)):
            expected = slow_maps(network(), image, class_index, layer, guided)
            torch.testing.assert_close(maps[layer][:, row], expected)


@pytest.mark.parametrize("guided", [False, True])
def test_resnet_with_shared_in_place_relus(guided):
    torch.manual_seed(0)
    model = resnet18(num_classes=4).eval()
    image = torch.randn(1, 3, 64, 64)
    maps = saliency_maps(model, image, torch.tensor([[3, 1]]), ["conv1", "layer2", "layer3.0.conv1"], guided)

    def functional(images):  # the same network with a guided ReLU written out
        relu = GatedReLU.apply if guided else F.relu
        seen = {}

        def block(module, x, name):
            y = module.conv1(x)
            seen[f"{name}.conv1"] = y
            y = module.bn2(module.conv2(relu(module.bn1(y))))
            return relu(y + (x if module.downsample is None else module.downsample(x)))

        seen["conv1"] = model.conv1(images)
        x = model.maxpool(relu(model.bn1(seen["conv1"])))
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for index, module in enumerate(getattr(model, stage)):
                x = block(module, x, f"{stage}.{index}")
            seen[stage] = x
        return model.fc(model.avgpool(x).flatten(1)), seen

    for row, class_index in enumerate((3, 1)):
        scores, seen = functional(image)
        for layer in maps:
            (gradient,) = torch.autograd.grad(scores[0, class_index], seen[layer], retain_graph=True)
            torch.testing.assert_close(maps[layer][:, row], gradient.abs().amax(1))


class GatedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x > 0) * (gradient > 0)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_equals_captum_and_grad_cam_at_the_input():
    image = torch.randn(1, 3, 12, 12)
    maps = saliency_maps(network(), image, torch.tensor([[1, 3]]), ["input"])["input"]
    for row, class_index in enumerate((1, 3)):
        captum = GuidedBackprop(PooledScores(network())).attribute(image.clone().requires_grad_(), target=class_index)
        torch.testing.assert_close(maps[:, row], captum.abs().amax(1))
        grad_cam = GuidedBackpropReLUModel(PooledScores(network()), "cpu")(image.clone(), class_index)
        np.testing.assert_allclose(maps[0, row], np.abs(grad_cam).max(2), rtol=1e-5, atol=1e-7)


class Functional(nn.Module):
    """The same small network, with its ReLUs written in the ways in which people write them."""

    def __init__(self, relu):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.score = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 2, 1)
        self.relu = relu

    def forward(self, images):
        return self.score(self.relu(self.second(self.relu(self.first(images)))))


def statement_relu(x):
    x.relu_()
    return x


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    "relu", [torch.relu, torch.relu_, lambda x: F.relu(x, inplace=True), lambda x: x.relu(), statement_relu]
)
def test_every_spelling_of_relu(relu, guided):
    image = torch.randn(2, 3, 8, 8)
    classes, layers = torch.tensor([[0, 1], [1, 0]]), ["input", "first", "second"]
    maps = saliency_maps(Functional(relu), image, classes, layers, guided)
    expected = saliency_maps(Functional(nn.ReLU()), image, classes, layers, guided)
    for layer in layers:
        torch.testing.assert_close(maps[layer], expected[layer])


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.pool = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1), pool

    def forward(self, images):
        return self.second(self.pool(self.first(images)))


def pool_with_indices(x):
    return F.max_pool2d(x, 2, return_indices=True)[0]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AdaptiveMaxPool2d(3),
        lambda x: torch.max_pool2d(x, 3, 1),
        lambda x: F.max_pool2d(x, (2, 3), dilation=2),
        pool_with_indices,
    ],
)
def test_every_spelling_of_max_pooling(pool):
    model, image = Pooled(pool), torch.randn(2, 3, 11, 12)
    maps = saliency_maps(model, image, torch.tensor([[0, 1], [1, 1]]), ["first"])["first"]
    for index, row, class_index in [(0, 0, 0), (0, 1, 1), (1, 0, 1)]:
        expected = slow_maps(model, image[index : index + 1], class_index, "first", guided=False)
        torch.testing.assert_close(maps[index, row], expected[0])


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, (3, 5), padding=(0, 1), groups=4),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
    ],
)
@pytest.mark.parametrize("guided", [False, True])
def test_every_kind_of_depthwise_convolution(conv, guided):
    torch.manual_seed(0)
    layers = {"first": nn.Conv2d(3, 4, 3), "conv": conv, "relu": nn.ReLU(), "last": nn.Conv2d(conv.out_channels, 2, 1)}
    model, image = nn.Sequential(OrderedDict(layers)), torch.randn(2, 3, 11, 12)
    maps = saliency_maps(model, image, torch.tensor([[0, 1], [1, 1]]), ["first"], guided)["first"]
    for index, row, class_index in [(0, 0, 0), (0, 1, 1), (1, 0, 1)]:
        expected = slow_maps(model, image[index : index + 1], class_index, "first", guided)
        torch.testing.assert_close(maps[index, row], expected[0])


def test_batch_equals_one_by_one():
    images, classes = torch.randn(3, 3, 8, 8), torch.tensor([[0, 1], [4, 2], [3, 3]])
    together = saliency_maps(network(), images, classes, ["2", "5"])
    for index in range(3):
        alone = saliency_maps(network(), images[index : index + 1], classes[index : index + 1], ["2", "5"])
        for layer, maps in alone.items():
            torch.testing.assert_close(together[layer][index], maps[0])


def test_maximum_before_up_sampling_bounds_the_order_of_the_paper():
    """Up-sampling first, as in the paper, gives a lower map: by a third for the noise of a random network."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 64)
    model = FcnVgg16(4, width=8, fc_channels=32, fc6_kernel=3).eval()
    seen = {}
    hook = model.conv3_1.register_forward_hook(lambda _, __, output: seen.update(activation=output))
    scores = model(image)
    hook.remove()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), seen["activation"])

    def enlarge(maps):
        return F.interpolate(maps, scale_factor=4, mode="bilinear", align_corners=False)

    paper = enlarge(gradient).abs().amax(1, keepdim=True)
    ours = enlarge(saliency_maps(model, image, torch.tensor([[1]]), ["conv3_1"], guided=False)["conv3_1"])
    assert (paper <= ours * (1 + 1e-5)).all()
    assert 0.2 * ours.mean() < (ours - paper).mean() < 0.4 * ours.mean()
    assert np.corrcoef(ours.flatten(), paper.flatten())[0, 1] > 0.75


class RefusesBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("the backward pass went below the lowest layer")


class Refusing(nn.Module):
    def forward(self, x):
        x = RefusesBackward.apply(x)
        assert not x.requires_grad
        return x


def test_nothing_is_recorded_below_the_lowest_layer():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Refusing(), *network())
    assert saliency_maps(model, torch.randn(1, 3, 8, 8), torch.tensor([[0]]), ["2", "4"])["2"].amax() > 0


class Fails(nn.Module):
    def forward(self, x):
        raise ArithmeticError


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(fails):
    model = network().append(Fails() if fails else nn.Identity()).train()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    image = torch.randn(1, 3, 8, 8)
    try:
        saliency_maps(model, image, torch.tensor([[0]]), ["2"])
    except ArithmeticError:
        assert fails
    assert hook_count(model) == 0
    assert flags == ([p.requires_grad for p in model.parameters()], [m.training for m in model.modules()])
    assert all(p.grad is None for p in model.parameters())
    assert not image.requires_grad
    x = torch.tensor([1.0, -1.0], requires_grad=True)
    F.relu(x).backward(torch.tensor([-1.0, -1.0]))
    assert x.grad.tolist() == [-1, 0]  # ReLU is its plain self again


def test_runs_in_evaluation_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.9), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).train()
    image = torch.randn(1, 3, 8, 8)
    first, second = (saliency_maps(model, image, torch.tensor([[0]]), ["0"])["0"] for _ in range(2))
    assert torch.equal(first, second)
    assert model[2].num_batches_tracked == 0


def test_works_without_gradient_mode_and_with_frozen_parameters():
    image = torch.randn(1, 3, 8, 8)
    expected = saliency_maps(network(), image, torch.tensor([[1]]), ["2"])["2"]
    with torch.no_grad():
        assert torch.equal(
            saliency_maps(network().requires_grad_(False), image, torch.tensor([[1]]), ["2"])["2"], expected
        )


def test_bfloat16_is_close_and_gives_float32():
    image = torch.randn(1, 3, 32, 32)
    exact = saliency_maps(prepare(network()), image, torch.tensor([[0, 1]]), ["2"])["2"]
    rough = saliency_maps(prepare(network(), "bfloat16"), image, torch.tensor([[0, 1]]), ["2"])["2"]
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.1 * exact.mean()


@pytest.mark.parametrize("bias", [False, True])
def test_prepared_model_computes_the_same(bias):
    """Wide convolutions are computed in slices."""
    torch.manual_seed(0)
    wide = nn.Conv2d(8, 1100, 3, padding=1, stride=2, bias=bias)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), wide, nn.ReLU(), nn.Conv2d(1100, 3, 1))
    image, classes = torch.randn(1, 3, 12, 12), torch.tensor([[2, 0]])
    torch.testing.assert_close(prepare(model)(image), model(image))
    expected = saliency_maps(model, image, classes, ["0", "2"])
    for layer, maps in saliency_maps(prepare(model), image, classes, ["0", "2"]).items():
        torch.testing.assert_close(maps, expected[layer])


def test_prepare_leaves_the_model_alone():
    model = network().train()
    copy = prepare(model, "bfloat16")
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.training
    assert not copy.training


def test_layers_of_vgg_have_the_size_of_their_block():
    model = FcnVgg16(4, width=4, fc_channels=8, fc6_kernel=3)
    maps = saliency_maps(model, torch.randn(1, 3, 64, 64), torch.tensor([[0, 1, 2]]), ["conv3_1", "conv4_1", "conv5_3"])
    assert [tuple(m.shape) for m in maps.values()] == [(1, 3, 16, 16), (1, 3, 8, 8), (1, 3, 4, 4)]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.pair = Pair()

    def forward(self, x):
        self.unused(x)
        return self.pair(self.used(x))[0]


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(self.conv(x))


class InPlaceOnAPart(nn.Module):
    def forward(self, x):
        x = x * 1
        F.relu(x[:, :1], inplace=True)
        return x


@pytest.mark.parametrize(
    ("model", "layers", "index", "message"),
    [
        (
            FcnVgg16(2, width=1, fc_channels=1, fc6_kernel=1),
            ["conv3_4"],
            0,
            "no layer 'conv3_4'; near names are conv3_",
        ),
        (Branches(), ["idle"], 0, "'idle' does not run"),
        (Branches(), ["pair"], 0, "'pair' does not give a feature map"),
        (Branches(), ["used", "unused"], 0, "does not lead to the scores"),
        (Branches(), ["unused"], 0, "does not lead to the scores"),
        (Twice(), ["conv"], 0, "more than once"),
        (network(), ["0"], 5, "class index 5 is not one of the model's 5 classes"),
        (network(), ["0"], -1, "class index -1"),
        (nn.Sequential(nn.Conv2d(3, 2, 1), Pair()), ["0"], 0, "must give scores"),
        (nn.Sequential(nn.Conv2d(3, 2, 1), InPlaceOnAPart()), ["0"], 0, "cannot be guided"),
    ],
)
def test_bad_input_is_told_in_one_line(model, layers, index, message):
    with pytest.raises(WorkbookError, match=message) as error:
        saliency_maps(model, torch.randn(1, 3, 32, 32), torch.tensor([[index]]), layers)
    assert "\n" not in str(error.value)
    assert hook_count(model) == 0


def test_unknown_precision():
    with pytest.raises(WorkbookError, match="precision 'float17'"):
        prepare(network(), "float17")
