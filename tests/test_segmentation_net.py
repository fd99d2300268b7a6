"""The segmentation network over VGG-16 and ResNets, and its loss, on networks and images as small as they may be."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet, resnet18, resnet34
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.dilation import dilate
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import (
    Encoder,
    LargeFovHead,
    SegmentationNet,
    check_masks,
    resize_masks,
    segmentation_loss,
)
from wsseg_core.nets.vgg import FcnVgg16

VOID = 255
MASK = torch.tensor([[[0, 1], [2, VOID]]])


@pytest.fixture(autouse=True)
def same_weights_every_time() -> None:
    torch.manual_seed(0)


def vgg(width: int = 2, batch_norm: bool = False) -> FcnVgg16:
    return FcnVgg16(3, width, batch_norm, fc_channels=4, fc6_kernel=3)


def shallow(block: type[BasicBlock] | type[Bottleneck], **arguments: list[bool]) -> ResNet:
    """The smallest ResNet that has every kind of convolution: two blocks a stage."""
    return ResNet(block, [2, 2, 2, 2], num_classes=2, **arguments).eval()


def net(backbone: nn.Module, channels: int = 6, **arguments: float) -> SegmentationNet:
    return SegmentationNet(3, backbone, channels, **arguments)


def last_stage(model: ResNet, images: Tensor) -> Tensor:
    stem = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(stem))))


def slow_loss(scores: Tensor, masks: Tensor) -> float:
    terms = []
    for image_scores, mask in zip(scores, masks, strict=True):
        for y, row in enumerate(mask):
            for x, label in enumerate(row):
                if label != VOID:
                    values = [math.exp(score) for score in image_scores[:, y, x]]
                    terms.append(-math.log(values[label] / sum(values)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (41, 64)])
def test_over_vgg_maps_have_stride_8_and_the_low_ones_4_rounded_down(size):
    for width in (1, 3):
        out = net(vgg(width))(torch.randn(2, 3, *size))
        grid = size[0] // 8, size[1] // 8
        assert out.scores.shape == (2, 4, *grid)
        assert out.low.shape == (2, 4 * width, size[0] // 4, size[1] // 4)
        assert out.high.shape == (2, 6, *grid)


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (41, 64)])
def test_over_a_resnet_maps_have_stride_8_and_the_low_ones_4_rounded_up(size):
    out = net(resnet18()).eval()(torch.randn(1, 3, *size))
    grid, fine = ((-(-size[0] // stride), -(-size[1] // stride)) for stride in (8, 4))
    assert (out.scores.shape, out.low.shape, out.high.shape) == ((1, 4, *grid), (1, 64, *fine), (1, 6, *grid))


@pytest.mark.parametrize(("backbone", "low", "deep"), [(resnet34, 64, 512), (lambda: shallow(Bottleneck), 256, 2048)])
def test_other_resnets(backbone, low, deep):
    encoder = Encoder(backbone()).eval()
    assert (encoder.low_channels, encoder.deep_channels) == (low, deep)
    features = encoder(torch.randn(1, 3, 16, 24))
    assert [values.shape for values in features] == [(1, low, 4, 6), (1, deep, 2, 3)]


def test_folded_and_batch_normalised_vgg_give_the_same_features():
    backbone = vgg(batch_norm=True).eval()
    images = torch.randn(1, 3, 24, 24)
    for one, other in zip(Encoder(backbone).eval()(images), Encoder(fold_batch_norm(backbone))(images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_low_features_are_the_last_at_stride_4_and_averaged_where_the_grid_is_coarser():
    backbone, images = vgg(), torch.randn(1, 3, 32, 32)
    early = images
    for name, module in backbone.named_children():
        early = module(early)
        if name == "relu3_3":
            break
    features = net(backbone)(images)
    torch.testing.assert_close(features.low, early)
    torch.testing.assert_close(features.at_stride(8).low, F.avg_pool2d(early, 2))
    torch.testing.assert_close(features.at_stride(8).scores, features.scores, rtol=0, atol=0)


@pytest.mark.parametrize(("stride", "grid"), [(8, (2, 3)), (4, (4, 6)), (2, (8, 12)), (1, (16, 24))])
def test_all_maps_can_be_brought_to_one_grid(stride, grid):
    features = net(vgg())(torch.randn(2, 3, 16, 24)).at_stride(stride)
    assert {values.shape[2:] for values in features[:3]} == {grid}
    assert features.scores.isfinite().all()


def test_a_grid_has_two_cells_a_side_at_least():
    features = net(vgg())(torch.randn(1, 3, 8, 8)).at_stride(8)
    assert {values.shape[2:] for values in features[:3]} == {(2, 2)}


def test_the_backbone_is_copied():
    backbone = vgg()
    encoder = Encoder(backbone)
    next(encoder.parameters()).data.zero_()
    assert next(backbone.parameters()).any()
    assert backbone(torch.randn(1, 3, 64, 64)).shape == (1, 3, 2, 2)


def test_another_backbone_is_refused():
    with pytest.raises(WorkbookError, match="Linear; use FcnVgg16 or a ResNet"):
        Encoder(nn.Linear(2, 2))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_every_fourth_feature_of_a_dilated_resnet_is_the_original_one(block):
    model, images = shallow(block), torch.randn(1, 3, 64, 96)
    dilated = dilate(model, 8)
    with torch.no_grad():
        coarse, fine = last_stage(model, images), last_stage(dilated, images)
    assert (coarse.shape[-2:], fine.shape[-2:]) == ((2, 3), (8, 12))
    torch.testing.assert_close(fine[..., ::4, ::4], coarse)


def test_bottlenecks_are_dilated_as_torchvision_does():
    model, images = shallow(Bottleneck), torch.randn(1, 3, 40, 40)
    theirs = shallow(Bottleneck, replace_stride_with_dilation=[False, True, True])
    theirs.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(last_stage(dilate(model, 8), images), last_stage(theirs, images))


def test_frozen_batch_norm_learns_nothing():
    model = net(ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d))
    before = {name: value.clone() for name, value in model.encoder.named_buffers()}
    assert before
    model(torch.randn(2, 3, 16, 16)).scores.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.named_buffers())


def test_fc6_sees_as_far_as_its_dilation():
    head = LargeFovHead(1, 2, channels=2, dilation=3, dropout=0)
    nn.init.ones_(head.fc6.weight)
    nn.init.ones_(head.fc7.weight)
    deep = torch.zeros(1, 1, 9, 9)
    deep[..., 4, 4] = 1
    reached = head(deep)[1][0, 0].nonzero().tolist()
    assert reached == [[y, x] for y in (1, 4, 7) for x in (1, 4, 7)]


def test_scores_are_read_off_the_high_features():
    model = net(vgg(), dropout=0.0)
    out = model(torch.randn(1, 3, 24, 24))
    torch.testing.assert_close(model.head.score(out.high), out.scores)


def test_detached_features_carry_no_gradient():
    out = net(vgg())(torch.randn(1, 3, 16, 16))
    assert all(values.requires_grad for values in out[:3])
    assert not any(values.requires_grad for values in out.detach()[:3])
    assert all(torch.equal(*pair) for pair in zip(out[:3], out.detach()[:3], strict=True))


def test_loss_of_a_2x2_mask_by_hand():
    scores = torch.zeros(1, 3, 2, 2)
    scores[0, 1, 0, 1] = math.log(2)  # label 1 has probability 2/4 there, every other label 1/3 everywhere
    expected = (math.log(3) + math.log(2) + math.log(3)) / 3
    assert segmentation_loss(scores, MASK).item() == pytest.approx(expected)


def test_loss_is_the_mean_over_the_labelled_pixels_of_the_batch():
    scores = torch.randn(3, 4, 3, 5)
    masks = torch.randint(0, 4, (3, 3, 5))
    masks[0, :2] = masks[2] = VOID
    assert segmentation_loss(scores, masks).item() == pytest.approx(slow_loss(scores, masks), rel=1e-5)
    assert segmentation_loss(scores, masks.byte()).item() == pytest.approx(slow_loss(scores, masks), rel=1e-5)


def test_loss_without_a_labelled_pixel_is_0_and_can_be_minimised():
    scores = torch.randn(2, 3, 2, 2, requires_grad=True)
    loss = segmentation_loss(scores, torch.full((2, 2, 2), VOID))
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_large_masks_are_brought_to_the_grid_of_the_scores():
    scores = torch.randn(1, 3, 2, 2)
    large = MASK.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.equal(segmentation_loss(scores, large), segmentation_loss(scores, MASK))


def test_a_resized_mask_has_the_labels_at_the_centres_of_its_cells():
    mask = torch.arange(36, dtype=torch.uint8).view(1, 6, 6)
    assert torch.equal(resize_masks(mask, (2, 2)), mask[:, 1::3, 1::3])
    assert torch.equal(resize_masks(mask, (6, 6)), mask)
    assert resize_masks(torch.full((2, 5, 7), VOID), (2, 3)).tolist() == [[[VOID] * 3] * 2] * 2


@pytest.mark.parametrize("masks", [MASK.float(), MASK[0], torch.tensor([[[3]]]), torch.tensor([[[-1]]])])
def test_bad_masks_are_refused(masks):
    with pytest.raises(WorkbookError, match="masks"):
        check_masks(masks, 2)
    with pytest.raises(WorkbookError, match="masks"):
        segmentation_loss(torch.zeros(1, 3, 2, 2), masks)


def test_every_image_needs_its_mask():
    with pytest.raises(WorkbookError, match="1 masks for the scores of 2 images"):
        segmentation_loss(torch.zeros(2, 3, 2, 2), MASK)


@pytest.mark.parametrize("backbone", [vgg, lambda: ResNet(BasicBlock, [1, 1, 1, 1])])
def test_some_steps_fit_a_mask(backbone):
    model = net(backbone(), dilation=1, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images, masks = torch.randn(2, 3, 32, 32), torch.randint(0, 4, (2, 4, 4))
    losses = []
    for _ in range(8):
        loss = segmentation_loss(model(images).scores, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
