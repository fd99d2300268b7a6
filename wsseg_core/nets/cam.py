"""The classifier whose score map is a class activation map.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CAM), CVPR 2016, section 3: VGGnet without its
fully connected layers and last pool, one more convolution of 3×3, and class scores by global average pooling. The
score map before the pooling is the map of the class.
"""

from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.backbones import Backbone, stages_of


class CamNet(nn.Module):
    """The first stages of a classifier at a stride of choice, a 3×3 convolution, and a score map for each class.

    It maps normalised images (B, 3, H, W) to scores (B, C, H/stride, W/stride), before the sigmoid; their mean over the
    positions is the score of the image.

    Zhou et al. average the features and weigh the means; the mean of weighed features, with the bias, is the same.
    Departures: the fewer stages, the less of the image a position sees. On scenes that all of them see as a whole
    every position can tell the class, and the maps spread over everything. And the last convolution is not dilated:
    it starts at random, so that there is no spacing that it was trained for.

    Args:
        classifier: whose stages are copied, with their weights; it stays as it is.
        num_classes: C, foreground classes.
        blocks: number of the last stage, see `backbones.Stage` (CAM: 5, of VGG-16 without its last pool).
        channels: of the 3×3 convolution (CAM: 1024).
        stride: of the score map, at most that of the last stage; see `dilate`.

    Raises:
        WorkbookError: a stage that the classifier does not have, or a stride that it does not reach.
    """

    def __init__(
        self, classifier: nn.Module, num_classes: int, blocks: int = 5, channels: int = 1024, stride: int = 8
    ) -> None:
        stages = {stage.number: stage for stage in stages_of(classifier)}
        if blocks < 2 or blocks not in stages or stride > stages[blocks].stride:
            reached = ", ".join(f"{number} (stride {stage.stride})" for number, stage in stages.items() if number > 1)
            raise WorkbookError(
                f"class activation maps of {blocks} blocks at stride {stride}: use one of {reached} blocks "
                "and at most its stride; mend cam.blocks or cam.stride in the profile"
            )
        super().__init__()
        self.backbone = Backbone(classifier, [stages[blocks].name], stride)
        self.cam_conv = nn.Conv2d(self.backbone.channels[0], channels, 3, padding=1)
        self.cam_relu = nn.ReLU()
        self.score = nn.Conv2d(channels, num_classes, 1)
        nn.init.kaiming_normal_(self.cam_conv.weight, nonlinearity="relu")
        nn.init.normal_(self.score.weight, std=0.03)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to scores, see above."""
        (features,) = self.backbone(images)
        return self.score(self.cam_relu(self.cam_conv(features)))


def load_blocks(model: CamNet, classifier: nn.Module) -> None:
    """Copy the weights of the stages from a classifier of the same kind, in place; the last two layers keep theirs."""
    start = classifier.state_dict()
    trunk = model.backbone.trunk
    trunk.load_state_dict({name: start[name] for name in trunk.state_dict()})
