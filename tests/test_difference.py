"""Difference detection: masks of 2×2 pixels worked out by hand, and slow readings of the equations as oracles."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg_core.base.config import DifferenceConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.nets.difference import DifferenceDetector
from wsseg_core.nets.segmentation import Features, SegmentationNet, segmentation_loss
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.refine.difference import (
    Biases,
    change_target,
    collapsed,
    difference_loss,
    map_loss,
    refine,
    seed_biases,
    training_biases,
)

CLASSES = 3
VOID = 255
KNOWLEDGE = torch.tensor([[[0, 1], [1, VOID]]])
ADVICE = torch.tensor([[[0, 0], [1, 2]]])
TRAINING, SEED = training_biases(DifferenceConfig()), seed_biases(DifferenceConfig())
NO_BIAS = Biases(advice=0, background=0, survival=0)

labels_of_pixels = st.sampled_from([0, 1, 2, 3, VOID])


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Two masks (B, H, W), their logits, and image-level labels (B, C)."""
    size, height, width = (draw(st.integers(1, 3)) for _ in range(3))
    pixels = st.lists(labels_of_pixels, min_size=size * height * width, max_size=size * height * width)
    knowledge, advice = (torch.tensor(draw(pixels)).view(size, height, width) for _ in range(2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    logits_k, logits_a = 3 * torch.randn(2, size, height, width, generator=generator)
    return knowledge, advice, logits_k, logits_a, torch.randint(0, 2, (size, CLASSES), generator=generator)


def shrunk(*classes: int, images: int = 1) -> Tensor:
    flags = torch.zeros(images, CLASSES, dtype=torch.bool)
    flags[:, [c - 1 for c in classes]] = True
    return flags


def logit(*probabilities: float) -> Tensor:
    """Logits of one row of pixels, (1, 1, W)."""
    return torch.tensor(probabilities).logit().view(1, 1, -1)


def row(*labels: int) -> Tensor:
    return torch.tensor(labels).view(1, 1, -1)


def slow_collapsed(knowledge: Tensor, advice: Tensor, labels: Tensor) -> list[list[bool]]:
    result = []
    for k, a, present in zip(knowledge.flatten(1).tolist(), advice.flatten(1).tolist(), labels.tolist(), strict=True):
        pairs = [(one, other) for one, other in zip(k, a, strict=True) if VOID not in (one, other)]
        flags = []
        for c in range(1, CLASSES + 1):
            before, after = (sum(pair[i] == c for pair in pairs) for i in (0, 1))
            flags.append(bool(present[c - 1]) and before > 0 and after / before < 0.5)
        result.append(flags)
    return result


def slow_map_loss(logits: Tensor, target: Tensor, valid: Tensor, included: Tensor) -> float:
    losses = []
    for image in range(len(logits)):
        if not included[image]:
            continue
        terms: dict[bool, list[float]] = {True: [], False: []}
        for value, goal, counts in torch.stack([logits[image], target[image], valid[image]]).flatten(1).T.tolist():
            d = 1 / (1 + math.exp(-value))
            if counts:
                terms[bool(goal)].append(-math.log(d if goal else 1 - d))
        losses.append(sum(sum(kind) / len(kind) for kind in terms.values() if kind) / 2)
    return sum(losses) / len(losses) if losses else 0.0


def slow_refine(
    knowledge: Tensor, advice: Tensor, logits_k: Tensor, logits_a: Tensor, flags: Tensor, biases: Biases
) -> tuple[Tensor, Tensor]:
    mask, confidence = torch.zeros_like(knowledge), torch.zeros(knowledge.shape)
    for pixel in torch.cartesian_prod(*map(torch.arange, knowledge.shape)).view(-1, 3).tolist():
        image, y, x = pixel
        k, a = knowledge[image, y, x].item(), advice[image, y, x].item()
        if VOID in (k, a):
            mask[image, y, x] = a if k == VOID else k
            continue
        w = (logits_k[image, y, x].sigmoid() - logits_a[image, y, x].sigmoid()).item() + biases.advice
        for c in range(CLASSES + 1):
            bias = biases.background if c == 0 else biases.survival * flags[image, c - 1].item()
            w += bias * ((a == c) - (k == c))
        confidence[image, y, x] = w
        mask[image, y, x] = a if w >= 0 else k
    return mask, confidence


def test_change_of_a_2x2_mask():
    change = change_target(KNOWLEDGE, ADVICE)
    assert change.target.tolist() == [[[0, 1], [0, 0]]]
    assert change.valid.tolist() == [[[True, True], [True, False]]]
    assert change.target.dtype == torch.float32


def test_masks_of_other_sizes_are_refused():
    with pytest.raises(WorkbookError, match=r"\(1, 2, 2\) and \(1, 2, 1\)"):
        change_target(KNOWLEDGE, ADVICE[..., :1])


def test_a_class_collapses_below_half_of_its_area():
    knowledge = torch.tensor([[[1, 1], [1, 1]]]).repeat(3, 1, 1)
    advice = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]])  # half, a quarter, nothing left
    assert collapsed(knowledge, advice, torch.ones(3, CLASSES))[:, 0].tolist() == [False, True, True]
    assert collapsed(knowledge, advice, torch.ones(3, CLASSES), minimum=0.6)[:, 0].tolist() == [True, True, True]


def test_only_labelled_classes_of_the_knowledge_collapse():
    knowledge, advice = torch.tensor([[[1, 1], [2, 2]]]), torch.tensor([[[0, 0], [0, 3]]])
    assert collapsed(knowledge, advice, torch.tensor([[1, 0, 1]])).tolist() == [[True, False, False]]
    assert not collapsed(knowledge, advice, torch.zeros(1, CLASSES)).any()


def test_areas_are_compared_where_both_masks_are_known():
    knowledge, advice = torch.tensor([[[1, 1], [1, 1]]]), torch.tensor([[[1, VOID], [VOID, VOID]]])
    assert not collapsed(knowledge, advice, torch.ones(1, CLASSES)).any()


@given(batch=batches())
def test_collapse_is_that_of_a_slow_count(batch):
    knowledge, advice, _, _, labels = batch
    expected = slow_collapsed(knowledge, advice, labels)
    assert collapsed(knowledge, advice, labels).tolist() == expected
    assert collapsed(knowledge.byte(), advice.byte(), labels.bool()).tolist() == expected


def test_loss_of_a_2x2_mask_by_hand():
    change = change_target(KNOWLEDGE, ADVICE)  # changed: 1 pixel, unchanged: 2, void: 1
    d = torch.tensor([[[0.5, 0.25], [0.75, 0.9]]])
    expected = (-math.log(0.25) - (math.log(0.5) + math.log(0.25)) / 2) / 2
    assert map_loss(d.logit(), *change, torch.tensor([True])).item() == pytest.approx(expected)


def test_the_losses_of_both_maps_are_added():
    change, included = change_target(KNOWLEDGE, ADVICE), torch.tensor([True])
    logits_k, logits_a = torch.randn(2, 1, 2, 2)
    both = map_loss(logits_k, *change, included) + map_loss(logits_a, *change, included)
    torch.testing.assert_close(difference_loss(logits_k, logits_a, *change, included), both)


@given(batch=batches(), data=st.data())
def test_loss_is_that_of_a_slow_sum(batch, data):
    knowledge, advice, logits, _, _ = batch
    included = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    change = change_target(knowledge, advice)
    loss = map_loss(logits, *change, included).item()
    assert loss == pytest.approx(slow_map_loss(logits, *change, included), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("knowledge", "advice", "included"),
    [
        pytest.param(KNOWLEDGE, ADVICE, False, id="nothing included"),
        pytest.param(torch.full((1, 2, 2), VOID), ADVICE, True, id="all void"),
    ],
)
def test_a_loss_over_nothing_is_0_and_can_be_minimised(knowledge, advice, included):
    logits = torch.randn(2, 1, 2, 2, requires_grad=True)
    loss = difference_loss(*logits, *change_target(knowledge, advice), torch.tensor([included]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


TWO_TARGETS = torch.tensor([[[1.0, 0, 0]], [[1, 1, 0]]])
TWO_ANSWERS = torch.tensor([[[0.5, 0.25, 0.75]], [[0.8, 0.9, 0.5]]])
EVERYWHERE = torch.ones(2, 1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("balance", "included", "expected"),
    [
        # (ln 2 + (ln 4/3 + ln 4) / 2) / 2 = 0.765068 and ((ln 5/4 + ln 10/9) / 2 + ln 2) / 2 = 0.428700
        ("image", [True, True], 0.596884),
        ("image", [False, True], 0.428700),
        # (ln 2 + ln 5/4 + ln 10/9) / 3 = 0.340551 and (ln 4/3 + ln 4 + ln 2) / 3 = 0.789041
        ("batch", [True, True], 0.564796),
        ("batch", [True, False], 0.765068),
    ],
)
def test_two_balances_of_two_images_by_hand(balance, included, expected):
    loss = map_loss(TWO_ANSWERS.logit(), TWO_TARGETS, EVERYWHERE, torch.tensor(included), balance)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@given(batch=batches())
def test_the_balances_agree_on_one_image(batch):
    knowledge, advice, logits, _, _ = (values[:1] for values in batch)
    change, included = change_target(knowledge, advice), torch.tensor([True])
    torch.testing.assert_close(*(map_loss(logits, *change, included, balance) for balance in ("image", "batch")))


def test_a_balance_that_is_not_known():
    with pytest.raises(WorkbookError, match="a loss balanced by 'pixel' is not known; use image or batch"):
        map_loss(TWO_ANSWERS, TWO_TARGETS, EVERYWHERE, torch.tensor([True, True]), "pixel")


def test_refinement_of_seven_pixels_by_hand():
    """Cat is 1, dog 2; the dog collapses. Its bias is 1, that of the background 0.1, that of the advice 0.1."""
    knowledge, advice = row(1, 1, 1, 0, 1, 2, 2), row(1, 1, 0, 1, 0, 0, 0)
    d_k, d_a = logit(0.2, 0.1, 0.7, 0.3, 0.3, 0.6, 0.95), logit(0.1, 0.1, 0.2, 0.6, 0.4, 0.1, 0.05)
    result = refine(knowledge, advice, d_k, d_a, shrunk(2), SEED)
    torch.testing.assert_close(result.confidence, torch.tensor([[[0.2, 0.1, 0.7, -0.3, 0.1, -0.3, 0.1]]]))
    assert result.mask.tolist() == [[[1, 1, 0, 0, 0, 2, 0]]]


def test_equal_masks_teach_that_nothing_changes():
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    loss = map_loss(logits, *change_target(ADVICE, ADVICE), torch.tensor([True]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) / 2)
    assert (logits.grad > 0).all()


def test_shapes_that_do_not_belong_together_are_refused():
    change = change_target(KNOWLEDGE, ADVICE)
    with pytest.raises(WorkbookError, match="resize_masks"):
        map_loss(torch.zeros(1, 1, 1), *change, torch.tensor([True]))
    with pytest.raises(WorkbookError, match=r"included \(2,\)"):
        map_loss(torch.zeros(1, 2, 2), *change, torch.tensor([True, True]))
    with pytest.raises(WorkbookError, match="masks of 1 images, but values of 2"):
        collapsed(KNOWLEDGE, ADVICE, torch.ones(2, CLASSES))
    with pytest.raises(WorkbookError, match="masks of 1 images, but values of 2"):
        refine(KNOWLEDGE, ADVICE, *torch.zeros(2, 1, 2, 2), shrunk(images=2), SEED)


@pytest.mark.parametrize("wrong", [KNOWLEDGE + 3, KNOWLEDGE.float(), KNOWLEDGE[0]])
def test_bad_masks_are_refused(wrong):
    with pytest.raises(WorkbookError, match="masks"):
        collapsed(wrong, wrong, torch.ones(len(wrong), CLASSES))
    with pytest.raises(WorkbookError, match="masks"):
        refine(wrong, wrong, *torch.zeros(2, len(wrong), 2, 2), shrunk(images=len(wrong)), SEED)


def test_the_label_that_is_less_likely_to_change_wins():
    result = refine(row(1, 1), row(2, 2), logit(0.9, 0.2), logit(0.3, 0.3), shrunk(), NO_BIAS)
    assert result.mask.tolist() == [[[2, 1]]]
    torch.testing.assert_close(result.confidence, torch.tensor([[[0.6, -0.1]]]))


def test_a_draw_goes_to_the_advice():
    assert refine(row(1), row(2), logit(0.5), logit(0.5), shrunk(), NO_BIAS).mask.item() == 2


def test_the_head_start_of_the_advice_is_smaller_for_the_seed():
    d_k, d_a = logit(0.3, 0.3), logit(0.5, 0.8)  # the advice is the worse one, by 0.2 and by 0.5
    for biases, expected in ((TRAINING, [2, 1]), (SEED, [1, 1])):
        assert refine(row(1, 1), row(2, 2), d_k, d_a, shrunk(), biases).mask.tolist() == [[expected]]


def test_the_bias_of_the_background_is_for_whoever_says_it():
    biases = Biases(advice=0, background=0.1)
    result = refine(row(1, 0, 0), row(0, 1, 0), logit(0.5, 0.5, 0.5), logit(0.5, 0.5, 0.5), shrunk(), biases)
    torch.testing.assert_close(result.confidence, torch.tensor([[[0.1, -0.1, 0]]]))
    assert result.mask.tolist() == [[[0, 0, 0]]]


def test_a_collapsing_class_survives_in_both_masks():
    knowledge, advice = row(1, 1, 0, 2), row(0, 2, 1, 0)
    d_k, d_a = logit(0.7, 0.7, 0.1, 0.7), logit(0.2, 0.2, 0.9, 0.2)  # against class 1 everywhere
    assert refine(knowledge, advice, d_k, d_a, shrunk(), TRAINING).mask.tolist() == [[[0, 2, 0, 0]]]
    result = refine(knowledge, advice, d_k, d_a, shrunk(1), TRAINING)
    assert result.mask.tolist() == [[[1, 1, 1, 0]]]
    torch.testing.assert_close(result.confidence, torch.tensor([[[-0.1, -0.1, 0.6, 0.9]]]))


def test_the_survival_bias_is_no_veto_and_cancels_between_two_collapsing_classes():
    assert refine(row(1), row(0), logit(0.9), logit(0.1), shrunk(1), TRAINING).mask.item() == 0
    result = refine(row(1), row(2), logit(0.5), logit(0.5), shrunk(1, 2), TRAINING)
    assert result.confidence.item() == pytest.approx(TRAINING.advice)


def test_where_one_mask_is_void_the_other_decides():
    knowledge, advice = row(VOID, 1, VOID), row(2, VOID, VOID)
    result = refine(knowledge, advice, logit(0.1, 0.9, 0.5), logit(0.9, 0.1, 0.5), shrunk(), TRAINING)
    assert result.mask.tolist() == [[[2, 1, VOID]]]
    assert not result.confidence.any()


def test_a_class_that_vanishes_in_the_advice_is_kept_from_the_knowledge():
    knowledge, advice = torch.tensor([[[0, 1], [1, 1]]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    flags = collapsed(knowledge, advice, torch.tensor([[1, 0, 0]]))
    assert torch.equal(refine(knowledge, advice, *torch.zeros(2, 1, 2, 2), flags, TRAINING).mask, knowledge)
    assert torch.equal(refine(knowledge, advice, *torch.zeros(2, 1, 2, 2), shrunk(), TRAINING).mask, advice)


def test_an_image_without_foreground_label_stays_in_the_loss():
    nothing = torch.zeros(1, 2, 2, dtype=torch.int64)
    flags = collapsed(nothing, nothing, torch.zeros(1, CLASSES))
    assert (~flags.any(1)).tolist() == [True]
    assert torch.equal(refine(nothing, nothing, *torch.randn(2, 1, 2, 2), flags, SEED).mask, nothing)


def test_difference_maps_are_brought_to_the_size_of_the_masks():
    knowledge, advice = row(1, 1, 1, 1), row(2, 2, 2, 2)
    coarse = torch.tensor([[[-4.0, 4.0]]])  # up-sampled: -4, -2, 2, 4
    result = refine(knowledge, advice, coarse, torch.zeros(1, 1, 2), shrunk(), NO_BIAS)
    assert result.mask.tolist() == [[[1, 1, 2, 2]]]
    torch.testing.assert_close(result.confidence, torch.tensor([[[-4.0, -2, 2, 4]]]).sigmoid() - 0.5)


@given(batch=batches(), biases=st.sampled_from([TRAINING, SEED, NO_BIAS]))
def test_refinement_is_that_of_a_slow_loop(batch, biases):
    knowledge, advice, logits_k, logits_a, labels = batch
    flags = collapsed(knowledge, advice, labels)
    mask, confidence = slow_refine(knowledge, advice, logits_k, logits_a, flags, biases)
    result = refine(knowledge, advice, logits_k, logits_a, flags, biases)
    assert torch.equal(result.mask, mask)
    torch.testing.assert_close(result.confidence, confidence)


@given(batch=batches())
def test_refinement_changes_nothing_where_the_masks_agree(batch):
    knowledge, _, logits_k, logits_a, labels = batch
    refined = refine(knowledge.byte(), knowledge.byte(), logits_k, logits_a, labels.bool(), SEED).mask
    assert torch.equal(refined, knowledge.byte())


@pytest.fixture
def detector() -> DifferenceDetector:
    torch.manual_seed(0)
    return DifferenceDetector(CLASSES, low_channels=2, high_channels=5, channels=8)


@pytest.fixture
def features() -> Features:
    torch.manual_seed(1)
    shapes = [(2, channels, 3, 4) for channels in (CLASSES + 1, 2, 5)]
    return Features(*(torch.randn(shape, requires_grad=True) for shape in shapes))


@pytest.fixture
def masks() -> Tensor:
    """K and A of two images, (2, 2, 3, 4)."""
    torch.manual_seed(2)
    return torch.randint(0, CLASSES + 1, (2, 2, 3, 4))


def test_one_logit_a_pixel_for_each_mask(detector, features, masks):
    logit_k, logit_a = detector(features, *masks)
    assert logit_k.shape == logit_a.shape == (2, 3, 4)


def test_the_same_weights_judge_both_masks(detector, features, masks):
    logit_k, logit_a = detector.eval()(features, *masks)
    swapped_a, swapped_k = detector(features, *masks.flip(0))
    torch.testing.assert_close((logit_k, logit_a), (swapped_k, swapped_a))
    assert not torch.allclose(logit_k, logit_a)


def test_equal_masks_are_judged_alike_in_training(detector, features, masks):
    torch.testing.assert_close(*detector.train()(features, masks[0], masks[0].byte()))


def test_a_void_pixel_has_no_label(detector, features, masks):
    seen = []
    detector.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    masks[0, 0, 0] = torch.tensor([0, 2, 3, VOID])
    detector(features, *masks)
    assert seen[0][0, :, 0].T.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    detector(features, *torch.full_like(masks, VOID))
    assert not seen[1].any()


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_reaches_the_features_unless_they_are_detached(detector, features, masks, detach):
    logits = detector(features.detach() if detach else features, *masks)
    difference_loss(*logits, *change_target(*masks), torch.tensor([True, True])).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    assert [values.grad is not None for values in features[:3]] == [False, not detach, not detach]


def test_bad_input_of_the_detector_is_refused(detector, features, masks):
    with pytest.raises(WorkbookError, match="resize_masks"):
        detector(features, masks[0], masks[1, :, :2])
    with pytest.raises(WorkbookError, match="outside 0"):
        detector(features, masks[0], masks[1] + 4)


def test_the_detector_has_no_bias_and_no_statistics_and_is_as_wide_inside_as_out(detector, features, masks):
    weights = dict(detector.named_parameters())
    assert not [name for name in weights if not name.endswith("weight")]
    assert not list(detector.buffers())
    assert {module.out_channels for module in detector.residual if hasattr(module, "out_channels")} == {8}
    torch.testing.assert_close(detector.train()(features, *masks), detector.eval()(features, *masks))


def test_a_map_that_is_the_same_everywhere_has_no_border(detector):
    same = Features(*(torch.ones(1, channels, 4, 5) for channels in (CLASSES + 1, 2, 5)))
    logits, _ = detector(same, *torch.ones(2, 1, 4, 5, dtype=torch.int64))
    assert logits.max() - logits.min() < 1e-6  # padding with zeros would show


def test_both_networks_learn_together():
    torch.manual_seed(0)
    net = SegmentationNet(CLASSES, FcnVgg16(1, 2, True, 4, 3), channels=8, dilation=1, dropout=0)
    detector = DifferenceDetector(CLASSES, net.encoder.low_channels, high_channels=8, channels=8)
    optimizer = torch.optim.Adam([*net.parameters(), *detector.parameters()], 1e-2)
    images, (knowledge, advice) = torch.randn(4, 3, 32, 32), torch.randint(0, 4, (2, 4, 4, 4))
    losses = []
    for _ in range(10):
        out = net(images).at_stride(8)
        logits = detector(out.detach(), knowledge, advice)
        loss = segmentation_loss(out.scores, knowledge)
        loss = loss + difference_loss(*logits, *change_target(knowledge, advice), torch.ones(4, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
