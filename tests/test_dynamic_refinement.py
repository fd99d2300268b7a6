"""The dynamic stage: its step with a network that says what it is told, its training as small as it may be."""

import math
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NARROW, killed_at_call, write_tiny_devkit
from torch import Tensor, nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import (
    CrfConfig,
    DataConfig,
    DifferenceConfig,
    DynamicConfig,
    Profile,
    SeedCrfConfig,
    SegmentationConfig,
    SweepConfig,
)
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import train_classifier
from wsseg_core.classify.training import read_checkpoint
from wsseg_core.crf.dense import dense_crf
from wsseg_core.crf.pool import CrfPool
from wsseg_core.data.images import VOID
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import normalise
from wsseg_core.evaluate.scoring import score_settings
from wsseg_core.nets.dynamic import Branches, DynamicNet
from wsseg_core.nets.segmentation import Features, SegmentationNet, resize_masks, segmentation_loss
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.refine import dynamic_stage, dynamic_step
from wsseg_core.refine.difference import Biases, difference_loss, map_loss
from wsseg_core.refine.dynamic_stage import (
    NOTEBOOK,
    crf_share,
    dynamic_settings,
    load_dynamic,
    refine_image,
    second_results,
    snapshots,
    taught,
    train_dynamic,
)
from wsseg_core.refine.dynamic_step import Answers, DynamicSetting, DynamicStep
from wsseg_core.segment.predictions import SegmentationMaps, extract_predictions, predict, segmentation_setting
from wsseg_core.segment.retraining import checkpoint_path, load_segmentation, train_segmentation

STATIC = "07_static_refinement"
CRF = CrfConfig(w1=5, gamma_beta=80, iterations=2)
DYNAMIC = DynamicSetting("dynamic")
BIASES = Biases(advice=0.4)
CAT, DOG = 1, 2


def only_line(error: pytest.ExceptionInfo[WorkbookError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- The step. Masks of 2×2 cells; the crop is as large as the grid, so that masks can be written down.


class Told(nn.Module):
    """A network whose branches draw given masks, (B, h, w), and whose detectors give given logits."""

    def __init__(self, main: list, sub: list, detections: list[tuple[list, list]], classes: int = 2) -> None:
        super().__init__()
        self.main, self.sub = (self._sure(mask, classes) for mask in (main, sub))
        self.compared: list[tuple[Tensor, Tensor]] = []
        self.read: list[Tensor] = []
        self.detectors = [partial(self._detect, *map(torch.tensor, detection)) for detection in detections]

    @staticmethod
    def _sure(masks: list, classes: int) -> nn.Parameter:
        return nn.Parameter(4.0 * F.one_hot(torch.tensor(masks), classes + 1).permute(0, 3, 1, 2))

    def forward(self, images: Tensor) -> Branches:
        return Branches(*(Features(scores, scores, scores) for scores in (self.main, self.sub)))

    def _detect(self, logits_k: Tensor, logits_a: Tensor, features: Features, k: Tensor, a: Tensor) -> tuple:
        assert not any(values.requires_grad for values in features[:3])
        self.read.append(features.high)
        self.compared.append((k, a))
        return logits_k.float(), logits_a.float()


class ToldPool:
    """CRFs that give given rows; keeps what it was handed."""

    def __init__(self, *rows: list) -> None:
        self.rows, self.seen = [np.array(row, np.uint8) for row in rows], []

    def submit(self, image: np.ndarray, probabilities: np.ndarray) -> Callable[[], np.ndarray]:
        self.seen.append((image, probabilities))
        return partial(self.rows.__getitem__, len(self.seen) - 1)


def loss_of(answers: Answers, balance: str = "image") -> Tensor:
    return torch.stack([map_loss(*answer, balance=balance) for answer in answers]).sum()


UNSURE = [[[0, 0], [0, 0]]]
ONE_IMAGE = torch.zeros(1, 3, 2, 2)


def step_of(net: nn.Module, pool: object, setting: DynamicSetting = DYNAMIC) -> DynamicStep:
    return DynamicStep(net, setting, BIASES, pool)  # type: ignore[arg-type]


def look(step: DynamicStep, seed: list, labels: list):
    return step.look(torch.zeros(len(seed), 3, 2, 2), torch.tensor(seed, dtype=torch.uint8), torch.tensor(labels) > 0)


def test_the_prediction_keeps_to_the_labels_of_the_image_and_void_stays_void():
    net = Told([[[0, 1], [2, 2]]], UNSURE, [])
    net.main.data[:, 1, 1, 1] = 3  # cat comes second there; elsewhere the background, as the first of equals
    half = look(step_of(net, ToldPool([[0, 0], [1, 1]])), [[[VOID, 0], [0, 0]]], [[1, 0]])
    assert half.prediction.tolist() == [[[VOID, CAT], [0, CAT]]]
    assert half.advice.tolist() == [[[VOID, 0], [CAT, CAT]]]


def test_the_crf_gets_the_pixels_and_the_labels_of_the_image_without_its_padding():
    image = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    net, pool = Told([[[0, 2], [2, 2]]], UNSURE, []), ToldPool([[1], [0]])
    seed = torch.tensor([[[VOID, 0], [VOID, 2]]], dtype=torch.uint8)
    half = step_of(net, pool).look(normalise(image)[None], seed, torch.tensor([[False, True]]))
    (pixels, probabilities), *others = pool.seen
    assert not others
    np.testing.assert_array_equal(pixels, image[:, 1:])
    assert (probabilities.dtype, probabilities.shape) == (np.float32, (2, 2, 1))
    sure = math.exp(4) / (math.exp(4) + 1)
    np.testing.assert_allclose(probabilities[1], sure, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-6)
    assert half.advice.tolist() == [[[VOID, DOG], [VOID, 0]]]  # rows are those of the background and of dog


def test_the_crf_sees_every_second_pixel_where_its_stride_says_so():
    image = np.repeat(np.repeat([[0, 40], [80, 200]], 2, 0), 2, 1)  # 4×4 pixels, alike in fours
    image[0, :2] = 10, 30  # and four of the mean 10
    net, pool = Told([[[0, 2], [2, 2]]], UNSURE, []), ToldPool([[1, 0], [0, 1]])
    step = DynamicStep(net, DYNAMIC, BIASES, pool, crf_stride=2)  # type: ignore[arg-type]
    colours = normalise(np.stack([image] * 3, -1).astype(np.uint8))[None]
    half = step.look(colours, torch.zeros(1, 4, 4, dtype=torch.uint8), torch.tensor([[False, True]]))
    ((pixels, probabilities),) = pool.seen
    assert pixels[..., 0].tolist() == [[10, 40], [80, 200]]
    assert probabilities.shape == (2, 2, 2)
    assert half.advice.tolist() == [[[DOG, 0], [0, DOG]]]


def test_step_one_by_hand():
    prediction, crf_rows = [[[1, 1], [1, 0]]], [[1, 0], [0, 1]]
    logits_k, logits_a = [[[9.0, 9.0], [-9.0, 0.0]]], [[[0.0, -9.0], [9.0, 0.0]]]
    net = Told(prediction, UNSURE, [(logits_k, logits_a)])
    step = step_of(net, ToldPool(crf_rows))
    result, answers = step.first_step(look(step, UNSURE, [[1, 0]]))
    # Changed are three pixels: the first sure to be wrong in K (0 is taken), the second in A (1 is kept), the third
    # alike in both, so that the head start of the advice decides. Cat keeps 2 of 3 pixels and does not collapse.
    assert result.tolist() == [[[CAT, 0], [CAT, CAT]]]
    changed = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    everywhere, kept = torch.ones(1, 2, 2, dtype=torch.bool), torch.tensor([True])
    expected = difference_loss(torch.tensor(logits_k), torch.tensor(logits_a), changed, everywhere, kept)
    torch.testing.assert_close(loss_of(answers), expected)
    assert [mask.tolist() for mask in net.compared[0]] == [prediction, [[[1, 0], [0, 1]]]]


def test_a_class_that_vanishes_under_the_crf_stays_and_teaches_nothing():
    doubtful = [[[3.0, 3.0], [3.0, 3.0]]]
    net = Told([[[1, 1], [1, 0]]], UNSURE, [(doubtful, doubtful)])
    step = step_of(net, ToldPool([[0, 0], [0, 0]]))
    result, answers = step.first_step(look(step, UNSURE, [[1, 0]]))
    assert result.tolist() == [[[CAT, CAT], [CAT, 0]]]
    assert loss_of(answers) == 0


def test_masks_that_are_equal_everywhere_are_left_alone():
    net = Told([[[1, 1], [0, 0]]], UNSURE, [([[[9.0, -9.0], [0.0, 0.0]]], [[[-9.0, 9.0], [0.0, 0.0]]])])
    step = step_of(net, ToldPool([[1, 1], [0, 0]]))
    result, answers = step.first_step(look(step, UNSURE, [[1, 0]]))
    assert result.tolist() == [[[CAT, CAT], [0, 0]]]
    assert loss_of(answers).isfinite()


SEED, FIRST, SUB = [[[1, 1], [0, 0]]], [[[1, 0], [1, 0]]], [[[1, 1], [1, 0]]]


@pytest.mark.parametrize(
    ("target", "targets", "expected"),
    [
        # About K: the third pixel, 1.288990; about A: where result 2 differs from the sub branch, 1.065066.
        ("sub_branch", ([[[0, 0], [1, 0]]], [[[0, 1], [1, 0]]]), 2.354056),
        # Where seed and result 1 differ: 0.776854 and 1.065066.
        ("seed", ([[[0, 1], [1, 0]]], [[[0, 1], [1, 0]]]), 1.841920),
    ],
)
def test_step_two_by_hand(target: str, targets: tuple[list, list], expected: float):
    logits_k, logits_a = [[[0.0, 2.0], [-1.0, 0.5]]], [[[1.0, -2.0], [2.0, 0.0]]]
    net = Told(FIRST, SUB, [([], []), (logits_k, logits_a)])
    step = step_of(net, ToldPool(FIRST[0]), replace(DYNAMIC, second_target=target))
    result, answers = step.second_step(look(step, SEED, [[1, 0]]), torch.tensor(FIRST, dtype=torch.uint8))
    # Second pixel: the seed's cat is wrong, third: the result's is, since 0.27 - 0.88 + 0.4 < 0; the seed is knowledge.
    assert result.tolist() == [[[1, 0], [0, 0]]]
    assert [mask.tolist() for mask in net.compared[0]] == [SEED, FIRST]
    assert torch.equal(net.read[0], net.sub)
    assert [answer.target.tolist() for answer in answers] == list(targets)
    assert loss_of(answers, "batch").item() == pytest.approx(expected, abs=1e-5)


def test_a_class_that_vanishes_from_the_seed_teaches_the_second_module_unless_its_loss_is_by_image():
    sure = [[[9.0, 9.0], [9.0, 9.0]]]
    counted = []
    for second_loss in ("batch", "image"):
        net = Told(UNSURE, UNSURE, [([], []), (sure, sure)])
        step = DynamicStep(net, DYNAMIC, BIASES, ToldPool(UNSURE[0]), second_loss=second_loss)  # type: ignore[arg-type]
        _, answers = step.second_step(look(step, [[[1, 1], [1, 0]]], [[1, 0]]), torch.zeros(1, 2, 2, dtype=torch.uint8))
        counted.append([answer.included.item() for answer in answers])
    assert counted[0] == [True, True]
    assert not counted[1][0]
    with pytest.raises(WorkbookError, match=r"dynamic.second_loss 'pixel' is unknown; use one of image, batch"):
        DynamicStep(net, DYNAMIC, BIASES, ToldPool(), second_loss="pixel")  # type: ignore[arg-type]


def test_the_sub_branch_too_keeps_to_the_labels():
    net = Told(UNSURE, [[[2, 2], [2, 2]]], [([], []), (UNSURE, UNSURE)])
    step = step_of(net, ToldPool(UNSURE[0]))
    _, answers = step.second_step(look(step, UNSURE, [[1, 0]]), torch.zeros(1, 2, 2, dtype=torch.uint8))
    # dog is no label: nothing differs from the background
    torch.testing.assert_close(loss_of(answers, "batch"), torch.tensor(math.log(2)))


def losses_by_hand(net: Told, seed: list, result: list) -> Tensor:
    seed_mask, result_mask = (torch.tensor(mask) for mask in (seed, result))
    sub = (segmentation_loss(net.sub, seed_mask) + segmentation_loss(net.sub, result_mask)) / 2
    return segmentation_loss(net.main, result_mask) + sub


def batch(seed: list, labels: list) -> tuple[Tensor, Tensor, Tensor]:
    masks = torch.tensor(seed, dtype=torch.uint8)[:, None]
    return torch.zeros(len(seed), 3, 2, 2), masks, torch.tensor(labels) > 0


@pytest.mark.parametrize("setting", dynamic_settings(), ids=lambda setting: setting.name)
def test_each_setting_learns_what_it_should(setting: DynamicSetting):
    wrong, right = [[[9.0, 9.0], [9.0, 9.0]]], [[[-9.0, -9.0], [-9.0, -9.0]]]
    net = Told([[[1, 1], [0, 0]]], SUB, [(wrong, right), (right, wrong)])  # step 1 takes the CRF, step 2 the seed
    step, seed = step_of(net, ToldPool([[1, 0], [1, 0]]), setting), [[[1, 0], [0, 0]]]
    loss = step(*batch(seed, [[1, 0]]))
    result = [[[1, 0], [1, 0]]] if setting.name in ("dynamic_one_module", "dynamic_no_detector") else seed
    assert len(net.compared) == setting.detectors
    half = look(step_of(net, ToldPool([[1, 0], [1, 0]]), setting), seed, [[1, 0]])
    further = [torch.zeros(())]
    if setting.refinement:
        first, answers = step.first_step(half)
        further += [loss_of(answers), loss_of(step.second_step(half, first)[1], "batch")][: setting.modules]
    torch.testing.assert_close(loss, losses_by_hand(net, seed, result) + sum(further))


def test_without_detectors_biases_and_rule_decide():
    """The cat of the first image loses more than half of its cells, and comes back; of the second, A is taken."""
    seeds, first = [[[1, 1], [1, 2]], [[1, 1], [1, 0]]], [[[0, 2], [0, 1]], [[1, 0], [1, 0]]]
    step = step_of(Told(first, seeds, []), ToldPool(*first), DynamicSetting("a", detector=False))
    half = look(step, seeds, [[1, 1], [1, 0]])
    result, (knowledge, advice) = step.second_step(half, torch.tensor(first, dtype=torch.uint8))
    assert result.tolist() == [[[1, 1], [1, 1]], first[1]]
    assert not knowledge.logits.any()
    assert not advice.logits.any()


def test_the_branches_learn_the_seed_alone_until_the_detectors_are_warm():
    setting, seed, crf = DynamicSetting("a", second_module=False), [[[1, 0], [0, 0]]], [[1, 0], [1, 0]]
    wrong, right = [[[9.0, 9.0], [9.0, 9.0]]], [[[-9.0, -9.0], [-9.0, -9.0]]]
    net = Told([[[1, 1], [0, 0]]], SUB, [(wrong, right)])  # takes the CRF
    step = DynamicStep(net, setting, BIASES, ToldPool(crf, crf, crf), warmup=2)  # type: ignore[arg-type]
    difference = loss_of(step.first_step(look(step_of(net, ToldPool(crf)), seed, [[1, 0]]))[1])
    assert difference > 0  # a detector learns all the while
    for learnt in (seed, seed, [crf]):
        torch.testing.assert_close(step(*batch(seed, [[1, 0]])), losses_by_hand(net, seed, learnt) + difference)


def test_a_target_that_is_not_known():
    with pytest.raises(WorkbookError, match="a: target 'crf' is not known; use sub_branch or seed"):
        DynamicSetting("a", second_target="crf")


@pytest.fixture(scope="module")
def start() -> SegmentationNet:
    """A network whose random scores differ from pixel to pixel."""
    torch.manual_seed(0)
    network = SegmentationNet(3, FcnVgg16(3, 2, fc_channels=4, fc6_kernel=3), channels=4, dilation=1, dropout=0.5)
    nn.init.normal_(network.head.score.weight, std=0.5)
    return network


def real_step(start: SegmentationNet, setting: DynamicSetting = DYNAMIC) -> DynamicStep:
    torch.manual_seed(1)
    net = DynamicNet(start, channels=8, modules=setting.detectors)
    return DynamicStep(net, setting, BIASES, CrfPool(CRF, workers=1)).train()


def noise_batch(images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, with seeds of labels 0..3 and a void margin, and at least one label an image."""
    generator = torch.Generator().manual_seed(images)
    masks = torch.randint(0, 4, (images, 1, 32, 32), generator=generator, dtype=torch.uint8)
    masks[..., :5] = VOID
    labels = torch.rand(images, 3, generator=generator) < 0.5
    labels[:, 0] = True
    return torch.randn(images, 3, 32, 32, generator=generator), masks, labels


def test_both_branches_start_alike_and_the_start_is_left_alone(start: SegmentationNet):
    before = {name: value.clone() for name, value in start.state_dict().items()}
    net, images = DynamicNet(start, channels=8).eval(), noise_batch(2)[0]
    main, sub = net(images)
    torch.testing.assert_close(main, sub, rtol=0, atol=0)
    torch.testing.assert_close(main, start.eval()(images).at_stride(4), rtol=0, atol=0)
    assert len(net.detectors) == 2
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


def gradients(module: nn.Module) -> list[bool]:
    return [value.grad is not None and bool(value.grad.any()) for value in module.parameters()]


def test_the_detectors_do_not_teach_the_encoder(start: SegmentationNet):
    step = real_step(start)
    images, masks, labels = noise_batch(2)
    half = step.look(images, masks[:, 0], labels)
    first, answers = step.first_step(half)
    _, further = step.second_step(half, first)
    (loss_of(answers) + loss_of(further)).backward()
    assert not any(gradients(step.net.segmentation) + gradients(step.net.sub_head))
    assert any(gradients(step.net.detectors[0]))
    assert any(gradients(step.net.detectors[1]))


@pytest.mark.parametrize("setting", dynamic_settings(), ids=lambda setting: setting.name)
def test_every_weight_has_a_gradient_so_that_processes_can_share_it(start: SegmentationNet, setting: DynamicSetting):
    step = real_step(start, setting)
    step(*noise_batch(3)).backward()
    assert all(value.grad is not None for value in step.parameters())


def test_halves_count_by_their_images_and_detectors_learn_from_the_whole_batch(start: SegmentationNet):
    values, parts = noise_batch(3), (slice(3), slice(2), slice(2, 3))
    control = replace(DYNAMIC, refinement=False)
    losses = [real_step(start, control).eval()(*(value[part] for value in values)) for part in parts]
    torch.testing.assert_close(losses[0], (2 * losses[1] + losses[2]) / 3)
    step, said, branches = real_step(start).eval(), [], torch.zeros(())
    images, masks, labels = values
    for part in parts[1:]:
        half = step.look(images[part], masks[part, 0], labels[part])
        first, answers = step.first_step(half)
        second, further = step.second_step(half, first)
        branches = branches + len(first) / 3 * dynamic_step._branch_loss(half, second)
        said.append([*answers, *further])
    whole = [map(torch.cat, zip(*of_map, strict=True)) for of_map in zip(*said, strict=True)]
    detectors = [map_loss(*a, balance=b) for a, b in zip(whole, ("image", "image", "batch", "batch"), strict=True)]
    torch.testing.assert_close(step(*values), branches + sum(detectors))


def test_padding_does_not_enter_the_losses(start: SegmentationNet):
    step, (images, masks, labels) = real_step(start).eval(), noise_batch(2)
    half = step.look(images, masks[:, 0], labels)
    first, _ = step.first_step(half)
    second, _ = step.second_step(half, first)
    void = resize_masks(masks[:, 0], (8, 8)) == VOID
    for mask in (half.prediction, half.advice, first, second):
        assert torch.equal(mask == VOID, void)


@pytest.mark.parametrize("setting", dynamic_settings(), ids=lambda setting: setting.name)
def test_images_without_a_label_and_images_that_are_void_teach_what_they_can(
    start: SegmentationNet, setting: DynamicSetting
):
    images, masks, labels = noise_batch(4)
    labels[1], masks[1, :, :, 5:] = False, 0
    masks[2] = VOID
    labels[3], masks[3] = False, VOID
    step = real_step(start, setting)
    loss = step(images, masks, labels)
    assert loss.isfinite()
    assert step(images[2:], masks[2:], labels[2:]) == 0
    half = step.look(images, masks[:, 0], labels)
    assert set(half.prediction[1].unique().tolist()) == {0, VOID}


def test_scores_that_are_not_finite_are_told(start: SegmentationNet):
    step = real_step(start)
    nn.init.constant_(step.net.segmentation.head.score.bias, math.nan)
    with pytest.raises(WorkbookError) as error:
        step(*noise_batch(1))
    assert "lower dynamic.learning_rate" in only_line(error)


# ---- The pool.


def crf_problem(labels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(labels)
    probabilities = rng.random((labels, 12, 16), np.float32)
    return rng.integers(0, 256, (12, 16, 3), np.uint8), probabilities / probabilities.sum(0)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_pool_gives_the_rows_of_the_crf_in_any_order(workers: int):
    problems = [crf_problem(labels) for labels in (1, 2, 3)]
    with CrfPool(CRF, workers) as pool:
        pending = [pool.submit(*problem) for problem in problems]
        for problem, rows in reversed(list(zip(problems, pending, strict=True))):
            expected = dense_crf(*problem, CRF).argmax(0)
            assert rows().dtype == np.uint8
            np.testing.assert_array_equal(rows(), expected)
        lap, next_lap = pool.lap(), pool.lap()
    assert 0 < lap["crf_wait"] <= lap["seconds"]
    assert next_lap["crf_wait"] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_crf_reaches_the_caller(workers: int):
    image, probabilities = crf_problem()
    with CrfPool(CRF, workers) as pool, pytest.raises(WorkbookError, match="class maps hold values outside"):
        pool.submit(image, probabilities * np.nan)()


def test_a_worker_that_died_is_told_in_one_line_now_and_later(monkeypatch: pytest.MonkeyPatch):
    with CrfPool(CRF, workers=2) as pool:
        pending = pool.submit(*crf_problem())
        pending()
        for process in multiprocessing.active_children():
            process.kill()
        for _ in range(2):
            with pytest.raises(WorkbookError) as error:
                pool.submit(*crf_problem())()
            assert "dense CRF: a worker process died" in only_line(error)


def test_workers_end_with_the_pool_after_an_error_too():
    pool = CrfPool(CRF, workers=2)
    with pytest.raises(WorkbookError, match="outside"), pool:
        pool.submit(crf_problem()[0], np.full((2, 12, 16), 2.0))()
    assert not multiprocessing.active_children()


# ---- The training.

SEGMENTATION = SegmentationConfig(
    channels=4, dilation=1, crop=32, resize_range=(0.8, 1.2), batch_size=3, steps=2, scales=(1.0,)
)


@pytest.fixture(autouse=True, scope="module")
def no_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # only a CPU repeats itself to the bit
        yield


def write_seeds(run: Run, alpha: int = 4) -> ArtifactStore:
    """Masks that know the image's labels and nothing else."""
    store = ArtifactStore.create(run.artifacts("seeds") / "static", {"alpha": alpha}, STATIC)
    for number, image_id in enumerate(run.train_ids):
        values = np.array([0, *(np.flatnonzero(run.devkit.labels(image_id)) + 1)], np.uint8)
        size = run.devkit.image(image_id).shape[:2]
        store.save(image_id, mask=np.random.default_rng([alpha, number]).choice(values, size))
    return store


def train(run: Run, setting: DynamicSetting = DYNAMIC, workers: int = 1) -> list[dict]:
    seed = ArtifactStore.open(run.artifacts("seeds") / "static", STATIC)
    return train_dynamic(run, setting, seed, "static", STATIC, workers=workers)


def weights(run: Run, name: str = "dynamic") -> dict[str, Tensor]:
    return read_checkpoint(checkpoint_path(run, name))["model"]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a static network and the dynamic stage, made where there is no pixel mask; only read."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_devkit(folder / "devkit")
    masks, hidden = folder / "devkit/SegmentationClass", folder / "hidden"
    masks.rename(hidden)
    profile = Profile(
        data=DataConfig(source="voc", devkit=str(folder / "devkit"), train_split="train", image_size=32),
        classifier=NARROW,
        segmentation=SEGMENTATION,
        difference=DifferenceConfig(channels=8),
        dynamic=DynamicConfig(resize_range=(0.8, 1.3), learning_rate=1e-3, steps=5, warmup_steps=2),
        seed_crf=SeedCrfConfig(iterations=2),
        sweeps=SweepConfig(example_images=2),
    )
    run = Run(profile, 0, folder / "results")
    train_classifier(run)
    train_segmentation(run, "static", write_seeds(run), STATIC)
    train(run)
    extract_predictions(run, "dynamic", run.val_ids, NOTEBOOK, load_dynamic(run, DYNAMIC))
    hidden.rename(masks)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """The same, to be changed."""
    shutil.copytree(trained.folder, tmp_path / "results")
    return replace(trained, folder=tmp_path / "results")


def with_dynamic(run: Run, **values: object) -> Run:
    return replace(run, profile=replace(run.profile, dynamic=replace(run.profile.dynamic, **values)))  # type: ignore[arg-type]


def test_the_learning_curve_tells_the_loss_and_the_wait(trained: Run):
    history = train(trained)  # trained already
    assert [row["step"] for row in history if "loss" in row] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(row["loss"]) for row in history if "loss" in row)
    measured = [row for row in history if "crf_wait" in row]
    assert [row["step"] for row in measured] == [1, 2, 3, 4, 5]
    assert all(0 < row["crf_wait"] < row["seconds"] for row in measured)
    assert 0 < crf_share(history) < 1


def test_the_share_of_the_crf_by_hand():
    rows = [{"step": 1, "loss": 2.0}, {"step": 1, "crf_wait": 1.0, "seconds": 2.0}]
    assert crf_share([*rows, {"step": 2, "crf_wait": 0.0, "seconds": 2.0}]) == pytest.approx(0.25)
    assert crf_share([]) == crf_share(rows[:1]) == 0


def test_a_killed_training_ends_with_the_same_weights_and_pictures(
    trained: Run, run: Run, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(checkpoint_path(run, "dynamic").parent)
    with monkeypatch.context() as patch:
        patch.setattr(dynamic_stage, "_loss", killed_at_call(dynamic_stage._loss, 4))
        with pytest.raises(RuntimeError, match="killed"):
            train(run)
    assert read_checkpoint(checkpoint_path(run, "dynamic"))["step"] == 3
    history = train(run)
    assert_same(weights(run), weights(trained))
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (history, train(trained))]
    assert losses[0] == losses[1]
    for step, masks in snapshots(trained, "dynamic").items():
        for image_id, mask in masks.items():
            np.testing.assert_array_equal(snapshots(run, "dynamic")[step][image_id], mask)


def test_the_number_of_workers_changes_nothing_and_none_is_left(trained: Run, run: Run):
    shutil.rmtree(checkpoint_path(run, "dynamic").parent)
    train(run, workers=2)
    assert_same(weights(run), weights(trained))
    assert not multiprocessing.active_children()


def test_no_worker_is_left_after_a_training_that_failed(run: Run, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(checkpoint_path(run, "dynamic").parent)
    monkeypatch.setattr(dynamic_stage, "_loss", killed_at_call(dynamic_stage._loss, 2))
    with pytest.raises(RuntimeError, match="killed"):
        train(run, workers=2)
    assert not multiprocessing.active_children()


def test_the_ablations_train_apart_and_the_control_draws_no_crf(run: Run):
    histories = {setting.name: train(run, setting) for setting in dynamic_settings()}
    ablations = ["dynamic_one_module", "dynamic_seed_target", "dynamic_no_detector"]
    assert list(histories) == ["dynamic", *ablations, "dynamic_fixed_seed"]
    assert len({history[-2]["loss"] for history in histories.values()}) == 5
    assert [name for name, history in histories.items() if crf_share(history) == 0] == ["dynamic_fixed_seed"]
    assert not any(load_dynamic(run, setting).training for setting in dynamic_settings())


def test_the_network_that_is_loaded_is_the_main_branch(trained: Run):
    network, stored = load_dynamic(trained, DYNAMIC), weights(trained)
    assert not network.training
    assert_same(
        {f"net.segmentation.{name}": value for name, value in network.state_dict().items()},
        {name: value for name, value in stored.items() if name.startswith("net.segmentation.")},
    )
    start = load_segmentation(trained, "static", STATIC)
    assert not torch.equal(network.head.score.weight, start.head.score.weight)
    assert not torch.equal(network.head.score.weight, stored["net.sub_head.score.weight"])


def test_predictions_are_those_of_the_main_branch_and_can_be_scored(trained: Run):
    maps, network = SegmentationMaps(trained, "dynamic", NOTEBOOK), load_dynamic(trained, DYNAMIC)
    row = segmentation_setting(trained.profile, "net_dynamic")
    for image_id in trained.val_ids:
        found = maps.of(image_id).label_probabilities(row)
        expected = predict(network, trained.devkit.image(image_id), row.sizes)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    scores = score_settings(trained, "test", trained.val_ids, "val", [row], NOTEBOOK, maps)
    assert scores["net_dynamic"].confusions.shape == (3, 4, 4)


def test_snapshots_start_with_the_start(trained: Run):
    taken, start = snapshots(trained, "dynamic"), load_segmentation(trained, "static", STATIC)
    assert list(taken) == [0, 1, 2, 3, 4, 5]
    several = ["2007_000001", "2007_000004"]  # the images with two classes
    assert all(sorted(masks) == several for masks in taken.values())
    for image_id, mask in taken[0].items():
        image, labels = trained.devkit.image(image_id), trained.devkit.labels(image_id)
        allowed = np.array([0, *(np.flatnonzero(labels) + 1)])
        said = predict(start, image, [32], flip=False)[allowed]
        assert (mask.dtype, mask.shape) == (np.uint8, image.shape[:2])
        np.testing.assert_array_equal(mask, allowed[said.argmax(0)])


def test_what_is_taught_on_the_way_is_kept(trained: Run):
    kept, seed = taught(trained, "dynamic"), ArtifactStore.open(trained.artifacts("seeds") / "static", STATIC)
    assert list(kept) == list(snapshots(trained, "dynamic"))
    assert all(sorted(masks) == sorted(trained.train_ids[: dynamic_stage.WATCHED]) for masks in kept.values())
    image_id = trained.train_ids[0]
    before, (seed_mask, second) = kept[0][image_id], kept[5][image_id]
    steps, size = refine_image(trained, DYNAMIC, seed, image_id), trained.devkit.image(image_id).shape[:2]
    for mask, expected in ((seed_mask, steps.seed), (second, steps.second)):
        np.testing.assert_array_equal(resize_masks(torch.from_numpy(mask)[None], size)[0], expected)
    np.testing.assert_array_equal(before[0], seed_mask)  # which is the same all the time
    with pytest.raises(WorkbookError, match="other: missing"):
        taught(trained, "other")


def test_a_long_training_takes_five_snapshots(run: Run):
    few = with_dynamic(run, steps=15)
    train(few, dynamic_settings()[-1])
    assert list(snapshots(few, "dynamic_fixed_seed")) == [0, 3, 6, 9, 12, 15]
    with pytest.raises(WorkbookError, match=r"dynamic_fixed_seed: what a variant is taught .* use 'dynamic'"):
        taught(few, "dynamic_fixed_seed")


def test_the_steps_of_one_image(trained: Run):
    seed = ArtifactStore.open(trained.artifacts("seeds") / "static", STATIC)
    image_id = trained.train_ids[0]
    steps, again = (refine_image(trained, DYNAMIC, seed, image_id) for _ in range(2))
    allowed = {0, *(np.flatnonzero(trained.devkit.labels(image_id)) + 1)}
    for name, mask in vars(steps).items():
        assert (mask.dtype, mask.shape) == (np.uint8, (32, 48))
        assert set(np.unique(mask)) <= allowed
        np.testing.assert_array_equal(mask, vars(again)[name])
    seed_mask = torch.from_numpy(seed.load(image_id)["mask"])[None]
    for size in ((24, 32), (6, 8), (32, 48)):  # the input, the grid, and back
        seed_mask = resize_masks(seed_mask, size)
    np.testing.assert_array_equal(steps.seed, seed_mask[0])
    assert ((steps.first == steps.prediction) | (steps.first == steps.crf)).all()
    with pytest.raises(WorkbookError, match="dynamic_one_module: it does not take both steps"):
        refine_image(trained, dynamic_settings()[1], seed, image_id)


def test_result_2_under_other_biases(trained: Run):
    seed, image_id = ArtifactStore.open(trained.artifacts("seeds") / "static", STATIC), trained.train_ids[0]
    ((own, much, own_again),) = second_results(trained, DYNAMIC, seed, [image_id], [0.0, 5.0, 0.0])
    steps = refine_image(trained, DYNAMIC, seed, image_id)
    np.testing.assert_array_equal(own, steps.second)
    np.testing.assert_array_equal(own, own_again)
    assert (much[(steps.seed == 0) & (steps.prediction == 0)] == 0).all()
    assert (much == 0).sum() > (own == 0).sum()


def test_another_seed_is_learnt_anew(trained: Run, run: Run):
    write_seeds(run, alpha=32)
    train(run)
    assert not torch.equal(weights(run)["net.sub_head.fc6.weight"], weights(trained)["net.sub_head.fc6.weight"])
    with pytest.raises(WorkbookError, match=f"alpha = 4, but this run uses 32; run notebook {NOTEBOOK} again"):
        SegmentationMaps(run, "dynamic", NOTEBOOK)


def test_what_is_missing_names_the_notebook(trained: Run, run: Run):
    with pytest.raises(WorkbookError, match=f"dynamic_one_module: missing; run notebook {NOTEBOOK} first"):
        load_dynamic(trained, dynamic_settings()[1])
    with pytest.raises(WorkbookError, match=f"other: missing; run notebook {NOTEBOOK} first"):
        snapshots(trained, "other")
    seed = ArtifactStore.open(run.artifacts("seeds") / "static", STATIC)
    with pytest.raises(WorkbookError, match=f"segmentation/nothing: missing; run notebook {STATIC} first"):
        train_dynamic(run, DYNAMIC, seed, "nothing", STATIC)
    seed.path(run.train_ids[2]).unlink()
    with pytest.raises(WorkbookError) as error:
        train(run)
    assert "no pseudo label, as for 1 of 6 training images" in only_line(error)
    assert f"run notebook {STATIC} again" in only_line(error)


def test_a_network_of_other_settings_is_refused(run: Run):
    with pytest.raises(WorkbookError, match=r"dynamic\.dynamic\.steps = 5, but this run uses 6"):
        load_dynamic(with_dynamic(run, steps=6), DYNAMIC)
