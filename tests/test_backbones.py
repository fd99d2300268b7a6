"""Any CNN as the backbone: its stages, finer strides from the same weights, and every later network over it."""

from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import NARROW, with_running_statistics
from torch import Tensor, nn

from wsseg_core.base.config import ClassifierConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.affinity import AffinityNet
from wsseg_core.nets.architectures import build_classifier, stages
from wsseg_core.nets.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, outline_of, stages_of
from wsseg_core.nets.cam import CamNet
from wsseg_core.nets.dilation import dilate
from wsseg_core.nets.dynamic import DynamicNet
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import SegmentationNet
from wsseg_core.nets.static import StaticNet
from wsseg_core.saliency.extraction import block_layers, layer_groups
from wsseg_core.saliency.gradients import prepare, saliency_maps

LITE0 = "timm:tf_efficientnet_lite0"
NETWORKS = [
    "vgg16",
    "resnet18",
    LITE0,
    "timm:resnet18",
    "timm:resnet50",
    "timm:mobilenetv3_small_050",
    "timm:convnext_tiny",
    "timm:vgg11",
    "timm:regnety_002",
]


def config(architecture: str, **values: object) -> ClassifierConfig:
    return replace(NARROW, architecture=architecture, width=8, **values)  # type: ignore[arg-type]


def network(architecture: str, stride: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return with_running_statistics(build_classifier(config(architecture, stride=stride), 3))


@pytest.mark.parametrize("architecture", NETWORKS)
def test_every_later_network_is_built_on_any_backbone(architecture: str) -> None:
    """One pass through all of them: scores, saliency, CAM, affinity, segmentation, static and dynamic."""
    model, images = network(architecture, stride=16), torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        scores, folded = model(images), fold_batch_norm(model)
        assert scores.shape == (2, 3, 2, 3)
        torch.testing.assert_close(folded(images), scores, rtol=1e-3, atol=1e-3)
        deep = Backbone(model, [outline_of(model).deep])(images)[0]
        torch.testing.assert_close(model.head(deep), scores)
        assert CamNet(model, 3, channels=8, stride=8)(images).shape == (2, 3, 4, 6)
        assert AffinityNet(model).eval()(images).shape[2:] == (4, 6)
        net = SegmentationNet(3, folded, channels=8, dilation=1)
        masks = torch.zeros(2, 32, 48, dtype=torch.uint8)
        assert StaticNet(net, 8).eval()(images, masks, masks).logits_k.shape == (2, 8, 12)
        assert DynamicNet(net, 8).eval()(images).sub.scores.shape == (2, 4, 8, 12)
    groups = [stage.layers for stage in stages_of(model)]
    layers = [layer for group in groups for layer in group]
    maps = saliency_maps(prepare(folded), images, torch.tensor([[0, 2], [1, 0]]), layers)
    assert all(maps[layer].isfinite().all() and maps[layer].shape[:2] == (2, 2) for layer in layers)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_stages_are_numbered_from_the_last_and_named_in_the_profile_alike(architecture: str) -> None:
    found = stages_of(network(architecture))
    assert tuple(stages(config(architecture)).values()) == found
    assert [stage.number for stage in found] == list(range(6 - len(found), 6))
    assert all(low.stride < high.stride for low, high in pairwise(found))
    layers = [layer for stage in found for layer in stage.layers]
    assert len(set(layers)) == len(layers)


def test_the_stages_of_the_networks_that_papers_name() -> None:
    lite0, convnext = stages(config(LITE0)), stages(config("timm:convnext_tiny"))
    assert [(stage.stride, stage.channels) for stage in lite0.values()] == [
        *((2, 16), (4, 24), (8, 40), (16, 112), (32, 320))
    ]
    assert lite0[3].layers == ("net.blocks.2.0", "net.blocks.2.1")
    assert lite0[5].layers[-1] == "net.blocks.6.0"
    assert list(convnext) == [2, 3, 4, 5]
    # The scores are read off the last block, where the gradient is the same at every position.
    assert convnext[5].layers == ("net.stages.3.blocks.0", "net.stages.3.blocks.1")
    assert stages(config("vgg16"))[4].layers == ("conv4_1", "conv4_2", "conv4_3")
    resnet = block_layers(config("resnet18"), (2, 3, 4))
    assert resnet == tuple((f"layer{i}.0", f"layer{i}.1") for i in (1, 2, 3))
    with pytest.raises(WorkbookError, match="timm:convnext_tiny has no stage 1, only 2, 3, 4, 5"):
        block_layers(config("timm:convnext_tiny"), (1, 3))


def test_the_layers_of_the_profile_come_before_those_of_its_blocks() -> None:
    from wsseg_core.base.config import load_profile

    profile = replace(load_profile("smoke"), classifier=config(LITE0))
    assert layer_groups(profile) == block_layers(config(LITE0), (3, 4, 5))
    own = (("net.blocks.4.0",), ("net.blocks.5.0", "net.blocks.6.0"))
    assert layer_groups(replace(profile, saliency=replace(profile.saliency, layers=own))) == own


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "resnet26", "convnext_atto", "regnety_002"])
def test_dilation_is_timms_where_timm_has_one(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 96)
    ours = network(f"timm:{name}").net
    theirs = timm.create_model(name, output_stride=8, num_classes=0, global_pool="").eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ours

        def forward(self, images: Tensor) -> Tensor:
            return self.net.forward_features(images)

    with torch.no_grad():
        found = dilate(Features(), 8)(images)
        assert found.shape[2:] == (8, 12)
        torch.testing.assert_close(found, theirs.forward_features(images), rtol=1e-4, atol=1e-4)


def test_dilating_twice_is_dilating_once() -> None:
    model, images = network(LITE0), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(dilate(dilate(model, 16), 8)(images), dilate(model, 8)(images))


def test_every_other_feature_of_a_dilated_network_is_the_old_one() -> None:
    model, images = network("timm:resnet18"), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(dilate(model, 16)(images)[..., ::2, ::2], model(images))


def test_images_of_another_normalisation_are_converted_by_the_network() -> None:
    model, pixels = network(LITE0), torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert (model.outline.mean, model.outline.std) == ((0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        expected = model.score(model.net.forward_features((pixels - 0.5) / 0.5))
        torch.testing.assert_close(model((pixels - mean) / std), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(network("timm:resnet18").renormalise, nn.Identity)


def test_a_backbone_is_a_copy_that_ends_where_it_is_read() -> None:
    model = network(LITE0)
    backbone, images = Backbone(model, ["net.blocks.1", "net.blocks.2"], stride=4), torch.randn(1, 3, 32, 32)
    names = {name for name, _ in backbone.trunk.named_parameters()}
    assert (backbone.channels, backbone.strides) == ((24, 40), (4, 4))
    assert any(name.startswith("net.blocks.2.") for name in names)
    assert not any(name.startswith(("net.blocks.3", "net.conv_head", "score")) for name in names)
    low, _ = backbone(images)
    seen: list[Tensor] = []
    with model.net.blocks[1].register_forward_hook(lambda *args: seen.append(args[2])):
        model(images)
    torch.testing.assert_close(low, seen[0])
    assert not any(module._forward_hooks for module in backbone.modules())
    next(backbone.parameters()).data.zero_()
    assert next(model.parameters()).any()


def test_every_parameter_of_a_segmentation_network_is_reached() -> None:
    for architecture in NETWORKS[1:4]:
        net = SegmentationNet(3, fold_batch_norm(network(architecture)), channels=8, dilation=1, dropout=0.0)
        F.cross_entropy(net(torch.randn(1, 3, 32, 32)).scores, torch.zeros(1, 4, 4, dtype=torch.long)).backward()
        assert all(weight.grad is not None for weight in net.parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("timm:resnet118", "timm has no such network; near names are resnet18"),
        ("timm:", "timm has no such network"),
        ("timm:resnet18.nothing", "Invalid pretrained tag"),
        ("timm:vit_tiny_patch16_224", "gives no feature maps of 3 or more growing strides"),
        ("timm:swin_tiny_patch4_window7_224", "gives no feature maps"),
        ("alexnet", "use one of vgg16, resnet18, timm:NAME"),
        ("vgg16:x", "use one of vgg16, resnet18, timm:NAME"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(architecture: str, said: str) -> None:
    with pytest.raises(WorkbookError, match=said) as error:
        build_classifier(config(architecture), 3)
    assert "\n" not in str(error.value)


def test_another_pooling_or_stride_is_refused() -> None:
    with pytest.raises(WorkbookError, match=r"classifier.pooling 'sum' is unknown; use one of max, average"):
        build_classifier(config("vgg16", pooling="sum"), 3)
    with pytest.raises(WorkbookError, match="stride 12: use one of"):
        build_classifier(config("vgg16", stride=12), 3)
    with pytest.raises(WorkbookError, match="affinity features at stride 16: use at most 8"):
        AffinityNet(network("timm:resnet18"), 16)
    with pytest.raises(WorkbookError, match=r"of 1 blocks at stride 2: use one of"):
        CamNet(network("timm:convnext_tiny"), 3, blocks=1, stride=2)
