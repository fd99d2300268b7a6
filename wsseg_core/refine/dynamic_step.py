"""One step of SSDD's dynamic stage: the masks that it makes for itself, and the loss.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
A segmentation network corrects the masks that it learns from while it learns, in two steps of refinement:

1. What the main branch draws, m^r, against the same after a CRF, merged by the first difference detector.
2. The fixed seed m^0 against the result of step 1, merged by the second. Differences from a seed that never changes
   are easy to foresee; so its targets are where the seed (for d^K) and the result of step 2 (for d^A) differ from what
   the *sub branch* draws, which learns the seed; and the features that it reads are the sub branch's.

The main branch learns the result of step 2, the sub branch that result and the seed, half and half:

    L = L_main + (L_seed + L_result) / 2 + L_dd1 + L_dd2

As in the authors' code all this happens on one grid, `difference.stride` (theirs: 4, so 112×112 cells of a crop of
448); no image is left out of L_dd2, which is balanced over the batch (`dynamic.second_loss`; the slides say neither).

Departures, with what was measured on drawn scenes of 160 pixels:

- Over the first `warmup` steps, where there are any, the branches learn the seed alone while the detectors learn to
  foresee; a run of few steps would otherwise be taught at its highest rate what detectors draw that know nothing yet.
- The CRF sees the crop without its padding, at the stride `dynamic.crf_stride`, with widths for an image of that size.
  The authors' sees 112×112 pixels (stride 4) with the widths of whole photographs, 3 iterations: copied to the letter,
  its network had a mean IoU of 34.2 on val, against 40.4.
- A run of few epochs starts at the network of the static seeds, where theirs start at PSA's ResNet-38.
- One optimiser keeps its state over the whole training; theirs is made anew at every step, so that it has no momentum.
- Images are cropped with their proportions and without colour jitter; what that is worth was not measured.
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
from wsseg_core.nets.segmentation import Features, resize_masks, segmentation_loss
from wsseg_core.refine.difference import BALANCES, Biases, change_target, collapsed, map_loss, refine

TARGETS = ("sub_branch", "seed")


@dataclass(frozen=True)
class DynamicSetting:
    """The dynamic stage, or an ablation of it; a row of a table.

    Attributes:
        name: of the row, and of the network.
        second_module: False: the result of step 1 is learnt at once.
        second_target: what the second detector foresees: where its masks differ from what the "sub_branch" draws, or,
            with "seed", from one another, so that the seed is what is compared with.
        detector: False: none of the modules knows anything, d = ½, so that the biases and the rule against collapsing
            classes merge alone. The control for what the detectors foresee.
        refinement: False: no step at all, both branches go on learning the fixed seed. The control for the number of
            steps.
        background: b^0 of both refinements; SSDD's is 0 here.

    Raises:
        WorkbookError: another target.
    """

    name: str
    second_module: bool = True
    second_target: str = "sub_branch"
    detector: bool = True
    refinement: bool = True
    background: float = 0.0

    def __post_init__(self) -> None:
        if self.second_target not in TARGETS:
            raise WorkbookError(f"{self.name}: target {self.second_target!r} is not known; use {' or '.join(TARGETS)}")

    @property
    def modules(self) -> int:
        """How many steps of refinement it takes."""
        return self.refinement * (1 + self.second_module)

    @property
    def detectors(self) -> int:
        """How many difference detectors learn."""
        return self.modules * self.detector


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
        seed: m^0, uint8 (B, h, w), on the grid of the network; where it is void, so is every other mask.
        labels: image-level labels, bool (B, C).
        prediction: m^r, uint8 (B, h, w): the best, in the main branch, of the background and the image's own labels.
        crfs: one an image.
        size: (H, W) of what the CRFs see of the crop.
    """

    branches: Branches
    seed: Tensor
    labels: Tensor
    prediction: Tensor
    crfs: list[PendingCrf]
    size: tuple[int, int]

    @cached_property
    def advice(self) -> Tensor:
        """The prediction after the CRF, uint8 (B, h, w); waits for it."""
        masks = self.seed.new_zeros(len(self.seed), *self.size)
        for mask, crf in zip(masks, self.crfs, strict=True):
            mask[crf.window] = crf.labels[torch.from_numpy(crf.rows()).to(crf.labels.device).long()]
        return resize_masks(masks, self.seed.shape[1:]).masked_fill_(self.seed == VOID, VOID)


class Answer(NamedTuple):
    """What a detector said of one mask of each image, and what was to be foreseen; arguments of `map_loss`.

    Attributes:
        logits: d before the sigmoid, float (B, h, w).
        target: float (B, h, w), 1 where the mask differs from what it is compared with.
        valid: bool (B, h, w), the pixels that count.
        included: bool (B,), the images that count.
    """

    logits: Tensor
    target: Tensor
    valid: Tensor
    included: Tensor


Answers = tuple[Answer, Answer]  # about K and about A


class DynamicStep(nn.Module):
    """The network with the loss of a step, which is its `forward`, so that several processes can share a batch.

    Args:
        net: with `setting.detectors` difference detectors.
        setting: the stage or an ablation.
        biases: of both refinements.
        pool: for the CRFs.
        warmup: steps of the training before the branches learn from what the detectors draw.
        second_loss: see `config.DynamicConfig`.
        crf_stride: see `config.DynamicConfig`.

    Raises:
        WorkbookError: another loss.
    """

    steps_seen: Tensor  # kept with the weights, so that a run that was killed knows where it was

    def __init__(
        self,
        net: DynamicNet,
        setting: DynamicSetting,
        biases: Biases,
        pool: CrfPool,
        warmup: int = 0,
        second_loss: str = "batch",
        crf_stride: int = 1,
    ) -> None:
        super().__init__()
        if second_loss not in BALANCES:
            raise WorkbookError(f"dynamic.second_loss {second_loss!r} is unknown; use one of {', '.join(BALANCES)}")
        self.net, self.setting, self.biases, self.pool, self.warmup = net, setting, biases, pool, warmup
        self.second_loss, self.crf_stride = second_loss, crf_stride
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor, masks: Tensor, labels: Tensor, *maps: Tensor) -> Tensor:
        """Loss of a batch: the CRFs of its first half run while the second half goes through the network, and so on.

        Args:
            images: float (B, 3, H, W), normalised.
            masks: uint8 (B, 1, H, W), the fixed seeds, 0..C or 255.
            labels: image-level labels, bool (B, C).
            maps: what a trunk that does not learn gives for the images; left out, it looks at them now.

        Returns:
            float32 scalar. The branches' losses of the halves count by their numbers of images; the detectors' are
            those of the whole batch.

        Raises:
            WorkbookError: scores that are not finite, or the errors of `CrfPool.submit`.
        """
        parts = zip(*(values.chunk(2) for values in (images, masks[:, 0], labels, *maps)), strict=True)
        halves = [self.look(*part) for part in parts]
        losses, said = [], []
        for half in halves:
            result, answers = self._supervision(half)
            losses.append(_branch_loss(half, result) * len(half.seed) / len(images))
            said.append(answers)
        for module, of_halves in enumerate(zip(*said, strict=True)):
            whole = [Answer(*map(torch.cat, zip(*of_mask, strict=True))) for of_mask in zip(*of_halves, strict=True)]
            losses += [map_loss(*answer, balance=self._balance(module)) for answer in whole]
        self.steps_seen += 1
        return torch.stack(losses).sum()

    def look(self, images: Tensor, seed: Tensor, labels: Tensor, *maps: Tensor) -> Half:
        """Show images to the network, draw m^r and hand it to the CRFs; without a refinement there are none."""
        branches = self.net(list(maps) or images.to(memory_format=torch.channels_last))
        if not branches.main.scores.isfinite().all():
            raise WorkbookError("the scores of the network are no longer finite; lower dynamic.learning_rate")
        small = resize_masks(seed, branches.main.scores.shape[-2:])
        prediction = _best_labels(branches.main.scores, labels).masked_fill_(small == VOID, VOID)
        height, width = (-(-side // self.crf_stride) for side in seed.shape[1:])
        size = height, width
        crfs = self._submit(branches.main.scores, images, seed, labels, size) if self.setting.refinement else []
        return Half(branches, small, labels, prediction, crfs, size)

    def _submit(
        self, scores: Tensor, images: Tensor, seed: Tensor, labels: Tensor, size: tuple[int, int]
    ) -> list[PendingCrf]:
        crfs, seen, seeds = [], _pixels(F.adaptive_avg_pool2d(images, size)), resize_masks(seed, size)
        for of_image, pixels, mask, present in zip(scores, seen, seeds, labels, strict=True):
            names, window = _own_labels(present), _window(mask.cpu().numpy())
            probabilities = _probabilities(of_image, names, size)
            rows = self.pool.submit(pixels[window], probabilities[:, *window].cpu().numpy())
            crfs.append(PendingCrf(names, window, rows))
        return crfs

    def _supervision(self, half: Half) -> tuple[Tensor, list[Answers]]:
        """What the main branch is to learn, uint8 (B, h, w), and what each detector said."""
        if not self.setting.refinement:
            return half.seed, []
        result, answers = self.first_step(half)
        said = [answers]
        if self.setting.second_module:
            result, answers = self.second_step(half, result)
            said.append(answers)
        return half.seed if self.steps_seen < self.warmup else result, said

    def first_step(self, half: Half) -> tuple[Tensor, Answers]:
        """Step 1: the prediction (knowledge) and the same after the CRF (advice).

        Returns:
            The masks merged, uint8 (B, h, w), and what the detector said of both, for L_dd1.
        """
        knowledge, advice = half.prediction, half.advice
        logits_k, logits_a = self._ask(0, half.branches.main, knowledge, advice)
        result = self._merge(half, knowledge, advice, logits_k, logits_a)
        question = (*change_target(knowledge, advice), ~collapsed(knowledge, advice, half.labels).any(1))
        return result, (Answer(logits_k, *question), Answer(logits_a, *question))

    def second_step(self, half: Half, first: Tensor) -> tuple[Tensor, Answers]:
        """Step 2: the seed (knowledge) and the result of step 1, uint8 (B, h, w) (advice).

        Returns:
            The masks merged, uint8 (B, h, w), and what the detector said of both, for L_dd2.
        """
        logits_k, logits_a = self._ask(1, half.branches.sub, half.seed, first)
        result = self._merge(half, half.seed, first, logits_k, logits_a)
        if self.setting.second_target == "sub_branch":
            judge = _best_labels(half.branches.sub.scores, half.labels)
            pairs = (half.seed, judge), (result, judge)
        else:
            pairs = (half.seed, first), (half.seed, first)
        answer_k, answer_a = (
            Answer(logits, *change_target(*pair), self._counts(*pair, half.labels))
            for logits, pair in zip((logits_k, logits_a), pairs, strict=True)
        )
        return result, (answer_k, answer_a)

    def _ask(self, module: int, branch: Features, knowledge: Tensor, advice: Tensor) -> tuple[Tensor, Tensor]:
        """d of both masks before the sigmoid, float (B, h, w), from what a branch says without gradients.

        Without detectors it is 0, and what L_dd adds to the loss a constant.
        """
        if self.setting.detector:
            return self.net.detectors[module](branch.detach(), knowledge, advice)
        unsure = torch.zeros(knowledge.shape, device=knowledge.device)
        return unsure, unsure

    def _counts(self, knowledge: Tensor, advice: Tensor, labels: Tensor) -> Tensor:
        """The images that count in L_dd2, bool (B,)."""
        return ~collapsed(knowledge, advice, labels).any(1) | (self.second_loss == "batch")

    def _balance(self, module: int) -> str:
        return self.second_loss if module else "image"

    def _merge(self, half: Half, knowledge: Tensor, advice: Tensor, logits_k: Tensor, logits_a: Tensor) -> Tensor:
        shrunk = collapsed(knowledge, advice, half.labels)
        return refine(knowledge, advice, logits_k, logits_a, shrunk, self.biases).mask


def _branch_loss(half: Half, result: Tensor) -> Tensor:
    """L_main and L_sub."""
    main, sub = half.branches.main.scores, half.branches.sub.scores
    return segmentation_loss(main, result) + (segmentation_loss(sub, half.seed) + segmentation_loss(sub, result)) / 2


@torch.no_grad()
def _probabilities(scores: Tensor, names: Tensor, size: tuple[int, int]) -> Tensor:
    """Softmax over some labels of one image, at another size: float32 (K, H, W) from scores (C+1, h, w)."""
    return F.interpolate(scores[names.long()][None].float(), size, mode="bilinear")[0].softmax(0)


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
