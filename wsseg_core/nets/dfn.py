"""The head of a Discriminative Feature Network: stages are joined from the deepest up, each told what to attend to.

Yu et al., "Learning a discriminative feature network for semantic segmentation", CVPR 2018 (DFN), its smooth network.
The border network is left out. Departures: the three maps that our encoders hand out in place of ResNet's four stages,
brought to unit variance first as in `segmentation.StagesHead`; the number of channels is the caller's (DFN: 512).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsseg_core.nets.backbones import resized


class RefinementResidualBlock(nn.Module):
    """RRB: a 1×1 convolution gives the channels, and two 3×3 convolutions what is added to them.

    Args:
        in_channels: of the map.
        channels: of the result.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.unify = nn.Conv2d(in_channels, channels, 1)
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h, w), at least 0."""
        unified = self.unify(values)
        return (unified + self.residual(unified)).relu()


class ChannelAttentionBlock(nn.Module):
    """CAB: what the stage above has seen decides how much each channel of this stage counts.

    Args:
        channels: of both stages.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.Sigmoid()
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Join a stage and the one above it, (B, channels, h, w) both; the weights come from their averages."""
        averages = torch.cat([low, high], 1).mean((2, 3), keepdim=True)
        return low * self.weigh(averages) + high


class DfnHead(nn.Module):
    """The smooth network over three stages, with deep supervision: each stage has scores of its own.

    Args:
        in_channels: of the three maps, the finest first.
        num_classes: C; there are C+1 score maps.
        channels: inside.
        dropout: probability before the scores of the finest stage.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, channels: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in in_channels)
        self.top = nn.Conv2d(in_channels[-1], channels, 1)
        self.unify = nn.ModuleList(RefinementResidualBlock(count, channels) for count in in_channels)
        self.attend = nn.ModuleList(ChannelAttentionBlock(channels) for _ in in_channels)
        self.refine = nn.ModuleList(RefinementResidualBlock(channels, channels) for _ in in_channels)
        self.side_scores = nn.ModuleList(nn.Conv2d(channels, num_classes + 1, 1) for _ in in_channels[1:])
        self.score = nn.Conv2d(channels, num_classes + 1, 1)
        self.dropout, self.high_channels = nn.Dropout(dropout), channels

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map three feature maps to scores, features, and the scores of the other stages.

        Returns:
            Scores (B, C+1, h, w) and features (B, channels, h, w) at the finest grid; then scores (B, C+1, h', w') of
            each other stage, the deepest first.
        """
        normed = [norm(values) for norm, values in zip(self.norms, maps, strict=True)]
        high = self.top(normed[-1].mean((2, 3), keepdim=True))
        sides = []
        for stage in reversed(range(len(normed))):
            low = self.unify[stage](normed[stage])
            high = self.refine[stage](self.attend[stage](low, resized(high, low.shape[2:])))
            if stage:
                sides.append(self.side_scores[stage - 1](high))
        return self.score(self.dropout(high)), high, *sides
