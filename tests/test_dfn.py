"""The blocks of the Discriminative Feature Network, worked out by hand, and its size."""

import pytest
import torch
from torch import nn

from wsseg_core.base.config import ClassifierConfig
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.nets.dfn import ChannelAttentionBlock, DfnHead, RefinementResidualBlock
from wsseg_core.nets.segmentation import SegmentationNet


def fill(module: nn.Module, value: float) -> None:
    for weight in module.parameters():
        nn.init.constant_(weight, value)


def test_a_refinement_residual_block_by_hand() -> None:
    """One pixel: a 3×3 kernel sees it through its middle alone."""
    block = RefinementResidualBlock(2, 1).eval()
    block.unify.weight.data = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    block.unify.bias.data = torch.tensor([0.5])
    first, _, _, second = block.residual
    fill(first, 3.0)
    second.weight.data.fill_(-0.25)
    second.bias.data.fill_(1.0)
    values = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1)
    unified = 2 * 1.0 - 0.5 + 0.5  # 2
    expected = unified + (1 - 0.25 * 3 * unified)  # the fresh batch norm changes next to nothing
    assert block(values).item() == pytest.approx(expected, abs=1e-4)
    assert block(-values).item() == 0  # -1 unified, 0 after the inner ReLU, -1 + 1 after all


def test_a_channel_attention_block_by_hand() -> None:
    block = ChannelAttentionBlock(1)
    first, _, second, _ = block.weigh
    first.weight.data = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    first.bias.data = torch.tensor([-1.0])
    second.weight.data.fill_(0.5)
    second.bias.data.fill_(0.25)
    low, high = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    inner = 1.0 * 2 + 2.0 * 1 - 1  # of the averages 2 and 1
    weight = 1 / (1 + torch.tensor(-(0.5 * inner + 0.25)).exp())
    torch.testing.assert_close(block(low, high), low * weight + high)


def test_attention_looks_at_averages_alone() -> None:
    """Shuffled places of the upper stage leave the weights of the lower as they are."""
    torch.manual_seed(0)
    block, low, high = ChannelAttentionBlock(4), torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    shuffled = high.flatten(2)[..., torch.randperm(9)].view_as(high)
    torch.testing.assert_close(block(low, high) - high, block(low, shuffled) - shuffled)


def test_every_stage_has_scores_and_learns() -> None:
    torch.manual_seed(0)
    head = DfnHead((4, 6, 8), num_classes=3, channels=5)
    maps = [torch.randn(2, channels, side, side) for channels, side in ((4, 8), (6, 4), (8, 2))]
    scores, high, deepest, middle = head(maps)
    assert (scores.shape, high.shape) == ((2, 4, 8, 8), (2, 5, 8, 8))
    assert (deepest.shape, middle.shape) == ((2, 4, 2, 2), (2, 4, 4, 4))
    (scores.sum() + deepest.sum() + middle.sum()).backward()
    assert all(weight.grad is not None for weight in head.parameters())


@pytest.mark.parametrize("channels", [8, 16])
def test_the_number_of_weights_is_that_of_the_papers_blocks(channels: int) -> None:
    inputs, classes = (10, 20, 30), 3
    head, c = DfnHead(inputs, classes, channels), channels
    tail = 9 * c * c + 2 * c + 9 * c * c + c  # 3×3, batch norm, 3×3
    blocks = sum(count * c + c + tail for count in inputs) + 3 * (c * c + c + tail)
    attention = 3 * (2 * c * c + c + c * c + c)
    scores = 3 * (c * (classes + 1) + classes + 1)
    assert sum(weight.numel() for weight in head.parameters()) == inputs[-1] * c + c + blocks + attention + scores


@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_a_head_of_the_segmentation_network(frozen: bool) -> None:
    classifier = new_classifier(ClassifierConfig("resnet18", 8, weights="random"), 3, 0)
    network = SegmentationNet(3, classifier, channels=8, head="dfn", frozen=frozen).eval()
    said = network(torch.randn(1, 3, 64, 64))
    assert said.scores.shape[:2] == (1, 4)
    assert len(said.sides) == 2
    assert said.detach().sides == ()
