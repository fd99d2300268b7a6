"""The guided rule at activations that are no ReLU, worked out by hand; and what it must refuse."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import SqueezeExcitation

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.gradients import prepare, saliency_maps

# One position each: negative, small, large enough to saturate a ReLU6.
INPUTS = [-1.0, 1.0, 8.0]
SIGMOID = 1 / (1 + math.exp(-1))
GELU = 0.5 * (1 + math.erf(1 / math.sqrt(2))) + math.exp(-0.5) / math.sqrt(2 * math.pi)
# Derivative of each at -1, 1 and 8, as school teaches them.
SLOPES = {
    "relu6": (0, 1, 0),
    "leaky_relu": (0.1, 1, 1),
    "silu": (None, SIGMOID * (1 + 1 - SIGMOID), None),
    "hardswish": (1 / 6, 5 / 6, 1),
    "gelu": (None, GELU, 1),
    "clamp": (0, 1, 1),
    "hardtanh": (1, 1, 1),
}
SPELLINGS = [
    ("relu6", nn.ReLU6()),
    ("relu6", nn.ReLU6(inplace=True)),
    ("relu6", F.relu6),
    ("relu6", lambda x: F.hardtanh(x, 0, 6)),
    ("relu6", lambda x: F.hardtanh_(x, 0, 6)),
    ("relu6", lambda x: x.clamp(0, 6)),
    ("relu6", lambda x: x.clamp_(0, 6)),
    ("leaky_relu", nn.LeakyReLU(0.1)),
    ("leaky_relu", lambda x: F.leaky_relu(x, 0.1)),
    ("leaky_relu", lambda x: F.leaky_relu_(x, 0.1)),
    ("silu", nn.SiLU()),
    ("silu", nn.SiLU(inplace=True)),
    ("silu", F.silu),
    ("hardswish", nn.Hardswish()),
    ("hardswish", lambda x: F.hardswish(x, inplace=True)),
    ("gelu", nn.GELU()),
    ("gelu", F.gelu),
    ("clamp", lambda x: x.clamp(min=0)),
    ("clamp", lambda x: torch.clamp(x, min=0.0)),
    ("clamp", lambda x: torch.clamp_min(x, 0)),
    ("clamp", lambda x: x.clip(min=0)),
    ("clamp", lambda x: x.clamp_(min=0)),
    ("clamp", torch.ops.aten.relu),
    ("hardtanh", nn.Hardtanh(-10, 10)),
]


class Activated(nn.Module):
    """Image -> identity `below` -> activation -> one score, `weight` times it."""

    def __init__(self, activation, weight=2.0):
        super().__init__()
        self.below, self.activation, self.score = nn.Identity(), activation, nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.score.weight, weight)

    def forward(self, images):
        return self.score(self.activation(self.below(images[:, :1]) * 1))


def gradients(activation, weight, guided):
    images = torch.tensor(INPUTS).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    maps = saliency_maps(Activated(activation, weight), images, torch.tensor([[0]]), ["below"], guided)
    return maps["below"].flatten().tolist()


@pytest.mark.parametrize(("name", "activation"), SPELLINGS)
def test_rule_worked_out_by_hand(name, activation):
    plain, guided = gradients(activation, 2.0, False), gradients(activation, 2.0, True)
    for value, slope in zip(plain, SLOPES[name], strict=True):
        assert slope is None or value == pytest.approx(2 * abs(slope), abs=1e-5)
    # A positive gradient, 2, arrives: it passes where the input was positive, times the derivative there.
    assert guided[0] == 0
    assert guided[1:] == pytest.approx(plain[1:])
    # A negative one passes nowhere.
    assert gradients(activation, -2.0, True) == [0, 0, 0]


def test_nothing_passes_a_saturated_relu6_plain_or_guided():
    assert gradients(nn.ReLU6(), 2.0, False) == [0, 2, 0]
    assert gradients(nn.ReLU6(), 2.0, True) == [0, 2, 0]
    assert gradients(nn.ReLU6(), -2.0, False) == [0, 2, 0]


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Deep(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1), "act": activation})
        self.score = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        return self.score(self.block["act"](self.block["conv"](self.stem(images))))


class Written(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("activation", "said"),
    [
        (nn.ELU(), "'elu'"),
        (nn.SELU(), "'elu'"),
        (nn.Mish(), "'mish'"),
        (nn.Softplus(), "'softplus'"),
        (nn.Tanh(), "'tanh'"),
        (nn.Sigmoid(), "'sigmoid'"),
        (nn.PReLU(), "'prelu'"),
        (nn.Threshold(0.1, 0), "'threshold'"),
        (Swish(), "x times a function of x"),
        (Written(lambda x: x * F.relu6(x + 3) / 6), "x times a function of x"),
        (Written(lambda x: x * x), "x times a function of x"),
        (Written(lambda x: torch.where(x > 0, x, 0)), "'where'"),
        (Written(lambda x: torch.maximum(x, torch.zeros(()))), "'maximum'"),
        (Written(torch.abs), "'abs'"),
        (Written(lambda x: x.clamp(min=0.5)), "'clamp'"),
        (Written(Hidden.apply), "'hidden'"),
    ],
)
def test_what_the_rule_does_not_know_is_named_with_its_module(activation, said):
    model, images, classes = Deep(activation), torch.randn(1, 3, 4, 4), torch.tensor([[0, 1]])
    with pytest.raises(WorkbookError) as error:
        saliency_maps(model, images, classes, ["stem"])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    if "hidden" not in said:  # nothing of torch is called there that could be asked where it stands
        assert str(error.value).startswith("block.act: ")
    assert saliency_maps(model, images, classes, ["stem"], guided=False)["stem"].max() > 0


def test_what_stands_below_the_lowest_layer_does_not_matter():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert saliency_maps(model, torch.randn(1, 3, 4, 4), torch.tensor([[0]]), ["2"])["2"].shape == (1, 1, 4, 4)


def test_gate_of_a_squeeze_and_excitation_passes():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SqueezeExcitation(4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert saliency_maps(model, torch.randn(1, 3, 4, 4), torch.tensor([[0]]), ["0"])["0"].isfinite().all()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("guided", [False, True])
def test_folded_batch_norm_changes_nothing_at_the_output_of_a_block(activation, guided):
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), activation()) for channels in (3, 8)
    ]
    model = nn.Sequential(*blocks, nn.Conv2d(8, 2, 1))
    for norm in (blocks[0][1], blocks[1][1]):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias), nn.init.normal_(norm.running_mean)
    arguments = torch.randn(2, 3, 8, 8), torch.tensor([[0, 1], [1, 0]]), ["0", "1"], guided
    expected, folded = saliency_maps(model, *arguments), saliency_maps(fold_batch_norm(model), *arguments)
    for layer in expected:
        torch.testing.assert_close(folded[layer], expected[layer], rtol=1e-4, atol=1e-5)


class TwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 600, 3), nn.BatchNorm2d(600), nn.ReLU())
        self.trunk, self.stem = self.blocks, self.blocks[0]
        self.score = nn.Conv2d(600, 2, 1)

    def forward(self, images):
        return self.score(self.trunk(images))


@pytest.mark.parametrize("change", [lambda model: model, fold_batch_norm, prepare])
def test_layer_under_two_names_is_found_under_both(change):
    torch.manual_seed(0)
    model = change(TwoNames())
    layers = ["blocks.0", "trunk.0", "stem", "trunk"]
    maps = saliency_maps(model, torch.randn(1, 3, 8, 8), torch.tensor([[0, 1]]), layers)
    assert torch.equal(maps["blocks.0"], maps["trunk.0"])
    assert torch.equal(maps["blocks.0"], maps["stem"])
