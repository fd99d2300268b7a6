"""One step of SSDD's dynamic stage: the masks that it makes for itself, and the loss.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
A segmentation network corrects the masks that it learns from while it learns, in two steps of refinement:

1. What the main branch draws, m^r, against the same after a CRF, merged by the first difference detector.
2. The fixed seed m^0 against the result of step 1, merged by the second. Differences from a seed that never changes
   are easy to foresee; so its targets are where the two differ from what the *sub branch* draws, which learns the seed.

The main branch learns the result of step 2, the sub branch that result and the seed, half and half:

    L = L_main + (L_seed + L_result) / 2 + L_dd1 + L_dd2

Departures: over the first `warmup` steps, where there are any, the branches learn the seed alone while the detectors
learn to foresee; a run of few steps would otherwise be taught at its highest rate what detectors draw that know nothing
yet. The slides leave out no image from L_dd2; here an image is left out of the loss of any pair of masks between which
one of its classes collapses, as in L_dd1. The slides do not say what resolution masks have; here detectors and losses
work at stride 8, refinement and CRF on the pixels of the crop. The CRF sees the crop without its padding; its widths
are those for an image of that size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg_core.base.errors import WorkbookError
from wsseg_core.crf.pool import CrfPool
from wsseg_core.data.images import VOID
from wsseg_core.data.transforms import MEAN, STD
from wsseg_core.nets.dynamic import Branches, DynamicNet
from wsseg_core.nets.segmentation import resize_masks, segmentation_loss
from wsseg_core.refine.difference import Biases, change_target, collapsed, map_loss, refine

TARGETS = ("sub_branch", "seed")


@dataclass(frozen=True)
class DynamicSetting:
    """The dynamic stage, or an ablation of it; a row of a table.

    Attributes:
        name: of the row, and of the network.
        second_module: False: the result of step 1 is learnt at once.
        second_target: what the second detector foresees: where its masks differ from what the "sub_branch" draws, or,
            with "seed", from one another, so that the seed is what is compared with.
        refinement: False: no step at all, both branches go on learning the fixed seed. The control for the number of
            steps.

    Raises:
        WorkbookError: another target.
    """

    name: str
    second_module: bool = True
    second_target: str = "sub_branch"
    refinement: bool = True

    def __post_init__(self) -> None:
        if self.second_target not in TARGETS:
            raise WorkbookError(f"{self.name}: target {self.second_target!r} is not known; use {' or '.join(TARGETS)}")

    @property
    def modules(self) -> int:
        """How many difference detectors it takes."""
        return self.refinement * (1 + self.second_module)


class PendingCrf(NamedTuple):
    """One image in the pool.

    Attributes:
        labels: uint8 (K,), those of the rows that the CRF chooses from.
        window: where in the crop there is an image.
        rows: waits for the rows chosen, uint8, at the size of the window.
    """

    labels: Tensor
    window: tuple[slice, slice]
    rows: Callable[[], np.ndarray]


@dataclass
class Half:
    """Half a batch that has been through the network, and whose CRFs are under way.

    Attributes:
        branches: what the network said, with gradients.
        seed: m^0, uint8 (B, H, W); where it is void, so is every other mask.
        labels: image-level labels, bool (B, C).
        prediction: m^r, uint8 (B, H, W): the best, in the main branch, of the background and the image's own labels.
        crfs: one an image.
    """

    branches: Branches
    seed: Tensor
    labels: Tensor
    prediction: Tensor
    crfs: list[PendingCrf]

    @cached_property
    def advice(self) -> Tensor:
        """The prediction after the CRF, uint8 (B, H, W); waits for it."""
        masks = self.seed.clone()
        for mask, crf in zip(masks, self.crfs, strict=True):
            mask[crf.window] = crf.labels[torch.from_numpy(crf.rows()).to(crf.labels.device).long()]
        return masks.masked_fill_(self.seed == VOID, VOID)


class DynamicStep(nn.Module):
    """The network with the loss of a step, which is its `forward`, so that several processes can share a batch.

    Args:
        net: with `setting.modules` difference detectors.
        setting: the stage or an ablation.
        biases: of both refinements.
        pool: for the CRFs.
        warmup: steps of the training before the branches learn from what the detectors draw.
    """

    steps_seen: Tensor  # kept with the weights, so that a run that was killed knows where it was

    def __init__(
        self, net: DynamicNet, setting: DynamicSetting, biases: Biases, pool: CrfPool, warmup: int = 0
    ) -> None:
        super().__init__()
        self.net, self.setting, self.biases, self.pool, self.warmup = net, setting, biases, pool, warmup
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor, masks: Tensor, labels: Tensor, *maps: Tensor) -> Tensor:
        """Loss of a batch: the CRFs of its first half run while the second half goes through the network, and so on.

        Args:
            images: float (B, 3, H, W), normalised.
            masks: uint8 (B, 1, H, W), the fixed seeds, 0..C or 255.
            labels: image-level labels, bool (B, C).
            maps: what a trunk that does not learn gives for the images; left out, it looks at them now.

        Returns:
            float32 scalar; the losses of the halves count by their numbers of images.

        Raises:
            WorkbookError: scores that are not finite, or the errors of `CrfPool.submit`.
        """
        parts = zip(*(values.chunk(2) for values in (images, masks[:, 0], labels, *maps)), strict=True)
        halves = [self.look(*part) for part in parts]
        losses = [self._loss(half) * len(half.seed) / len(images) for half in halves]
        self.steps_seen += 1
        return torch.stack(losses).sum()

    def look(self, images: Tensor, seed: Tensor, labels: Tensor, *maps: Tensor) -> Half:
        """Show images to the network, draw m^r and hand it to the CRFs; without a refinement there are none."""
        branches = self.net(list(maps) or images.to(memory_format=torch.channels_last))
        if not branches.main.scores.isfinite().all():
            raise WorkbookError("the scores of the network are no longer finite; lower dynamic.learning_rate")
        crfs, drawn = [], []
        for scores, pixels, mask, present in zip(branches.main.scores, _pixels(images), seed, labels, strict=True):
            names = _own_labels(present)
            probabilities = _probabilities(scores, names, mask.shape)
            drawn.append(names[probabilities.argmax(0)])
            if self.setting.refinement:
                window = _window(mask.cpu().numpy())
                rows = self.pool.submit(pixels[window], probabilities[:, *window].cpu().numpy())
                crfs.append(PendingCrf(names, window, rows))
        return Half(branches, seed, labels, torch.stack(drawn).masked_fill_(seed == VOID, VOID), crfs)

    def _loss(self, half: Half) -> Tensor:
        result, difference = self._supervision(half)
        scores, sub_scores = half.branches.main.scores, half.branches.sub_scores
        sub = (segmentation_loss(sub_scores, half.seed) + segmentation_loss(sub_scores, result)) / 2
        return segmentation_loss(scores, result) + sub + difference

    def _supervision(self, half: Half) -> tuple[Tensor, Tensor]:
        """What the main branch is to learn, uint8 (B, H, W), and the loss of the detectors."""
        if not self.setting.refinement:
            return half.seed, half.seed.new_zeros((), dtype=torch.float32)
        result, difference = self.first_step(half)
        if self.setting.second_module:
            result, further = self.second_step(half, result)
            difference = difference + further
        return half.seed if self.steps_seen < self.warmup else result, difference

    def first_step(self, half: Half) -> tuple[Tensor, Tensor]:
        """Step 1: the prediction (knowledge) and the same after the CRF (advice).

        Returns:
            The masks merged, uint8 (B, H, W), and L_dd1.
        """
        knowledge, advice, labels = half.prediction, half.advice, half.labels
        (logits_k, logits_a), (small_k, small_a) = self._detect(0, half, knowledge, advice)
        loss = _foresee(logits_k, small_k, small_a, labels) + _foresee(logits_a, small_k, small_a, labels)
        return self._merge(half, knowledge, advice, logits_k, logits_a), loss

    def second_step(self, half: Half, first: Tensor) -> tuple[Tensor, Tensor]:
        """Step 2: the seed (knowledge) and the result of step 1, uint8 (B, H, W) (advice).

        Returns:
            The masks merged, uint8 (B, H, W), and L_dd2.
        """
        knowledge, advice, labels = half.seed, first, half.labels
        (logits_k, logits_a), (small_k, small_a) = self._detect(1, half, knowledge, advice)
        if self.setting.second_target == "sub_branch":
            sub = _best_labels(half.branches.sub_scores, labels)
            loss = _foresee(logits_k, small_k, sub, labels) + _foresee(logits_a, small_a, sub, labels)
        else:
            loss = _foresee(logits_k, small_k, small_a, labels) + _foresee(logits_a, small_k, small_a, labels)
        return self._merge(half, knowledge, advice, logits_k, logits_a), loss

    def _detect(self, number: int, half: Half, *masks: Tensor) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """d^K and d^A of one detector before the sigmoid, and the two masks on its grid, (B, h, w) all of them."""
        features = half.branches.main.detach()
        small = [resize_masks(mask, features.high.shape[-2:]) for mask in masks]
        return self.net.detectors[number](features, *small), small

    def _merge(self, half: Half, knowledge: Tensor, advice: Tensor, logits_k: Tensor, logits_a: Tensor) -> Tensor:
        shrunk = collapsed(knowledge, advice, half.labels)
        return refine(knowledge, advice, logits_k, logits_a, shrunk, self.biases).mask


def _foresee(logits: Tensor, knowledge: Tensor, advice: Tensor, labels: Tensor) -> Tensor:
    """Loss of one difference map against where two masks differ, without the images one of whose classes collapses."""
    included = ~collapsed(knowledge, advice, labels).any(1)
    return map_loss(logits, *change_target(knowledge, advice), included)


@torch.no_grad()
def _probabilities(scores: Tensor, names: Tensor, size: torch.Size) -> Tensor:
    """Softmax over some labels of one image, at the size of the crop: float32 (K, H, W) from scores (C+1, h, w)."""
    return F.interpolate(scores[names.long()][None].float(), tuple(size), mode="bilinear")[0].softmax(0)


@torch.no_grad()
def _best_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """uint8 (B, h, w), the best among the background and the labels of each image, from scores (B, C+1, h, w)."""
    drawn = F.pad(labels, (1, 0), value=True)[:, :, None, None]
    return scores.masked_fill(~drawn, -torch.inf).argmax(1).to(torch.uint8)


def _own_labels(present: Tensor) -> Tensor:
    """uint8 (K,), the background and the classes of an image, from bool (C,)."""
    return F.pad(present, (1, 0), value=True).nonzero()[:, 0].to(torch.uint8)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle of a mask, uint8 (H, W), with all that is not void, which leaves the padding out."""
    places = np.nonzero(mask != VOID)
    if not len(places[0]):
        return slice(None), slice(None)
    rows, columns = (slice(along.min(), along.max() + 1) for along in places)
    return rows, columns


def _pixels(images: Tensor) -> np.ndarray:
    """The images that were normalised, uint8 (B, H, W, 3)."""
    grey_levels = (images.cpu().float() * STD + MEAN) * 255
    return grey_levels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
