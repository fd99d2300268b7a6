"""The static stage with a network and images as small as they may be; slow readings of the equations as oracles."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NARROW, killed_at_call, write_tiny_devkit
from torch import Tensor, nn

from wsseg_core.affinity import cam
from wsseg_core.affinity.seeds import mask_settings, seed_setting
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import DataConfig, DifferenceConfig, Profile, SegmentationConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import train_classifier
from wsseg_core.classify.training import Recipe, read_checkpoint
from wsseg_core.data.images import VOID
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import normalise
from wsseg_core.nets.segmentation import SegmentationNet, resize_masks, segmentation_loss
from wsseg_core.nets.static import StaticNet
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.refine import static_stage
from wsseg_core.refine.difference import Biases
from wsseg_core.refine.mask_pairs import Pair, check_pair, mask_pair
from wsseg_core.refine.static_stage import (
    NOTEBOOK,
    StaticSetting,
    checkpoint_path,
    difference_maps,
    load_static,
    open_refined,
    refine_image,
    refine_masks,
    refine_rows,
    refinement_size,
    static_loss,
    static_setting,
    static_settings,
    train_static,
)
from wsseg_core.segment.predictions import inference_sizes
from wsseg_core.segment.retraining import checkpoint_path as segmentation_checkpoint
from wsseg_core.segment.retraining import train_segmentation

CONFIG = SegmentationConfig(channels=4, dilation=1, crop=32, resize_range=(0.8, 1.2), batch_size=2, steps=4)
ALIKE, VANISHING, WITHOUT_CLASS = "2007_000001", "2007_000003", "2007_000005"  # kinds of images
Maps = tuple[Tensor, Tensor]


pytestmark = pytest.mark.usefixtures("one_process")


def write_pair(run: Run) -> None:
    """K, which knows the labels of the image and nothing else, and A, which has lost some of it."""
    knowledge, advice = (
        ArtifactStore.create(run.artifacts("seeds") / s.name, mask_settings(run, s), cam.NOTEBOOK)
        for s in (seed_setting(run.profile, "psa"), seed_setting(run.profile, "psa", crf=True))
    )
    for number, image_id in enumerate(run.train_ids):
        rng, (height, width) = np.random.default_rng(number), run.devkit.image(image_id).shape[:2]
        values = np.array([0, *(np.flatnonzero(run.devkit.labels(image_id)) + 1)], np.uint8)
        mask = rng.choice(values, (height, width))
        kept = rng.random((height, width)) < (0.1 if image_id == VANISHING else 0.8)
        knowledge.save(image_id, mask=mask)
        advice.save(image_id, mask=mask if image_id == ALIKE else np.where(kept, mask, 0).astype(np.uint8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with both networks and all merged masks, made where there is no pixel mask; only read."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_devkit(folder / "devkit")
    (folder / "devkit" / "Annotations" / f"{WITHOUT_CLASS}.xml").write_text("<annotation/>")
    for masks in folder.glob("devkit/Segmentation*"):
        shutil.rmtree(masks)
    data = DataConfig(source="voc", devkit=str(folder / "devkit"), train_split="train", image_size=32)
    profile = Profile(data=data, classifier=NARROW, segmentation=CONFIG, difference=DifferenceConfig(channels=8))
    run = Run(profile, 0, folder / "results")
    train_classifier(run)
    write_pair(run)
    for exclusion in (True, False):
        train_static(run, exclusion)
    refine_masks(run, static_settings(profile), run.train_ids)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """The same, to be changed."""
    shutil.copytree(trained.folder, tmp_path / "results")
    return replace(trained, folder=tmp_path / "results")


@pytest.fixture(scope="module")
def network() -> StaticNet:
    """A network whose random answers are large enough to differ from place to place."""
    torch.manual_seed(0)
    segmentation = SegmentationNet(3, FcnVgg16(3, 2, fc_channels=4, fc6_kernel=3), channels=4, dilation=1)
    network = StaticNet(segmentation, 8).eval()
    nn.init.normal_(network.detector.logit.weight, std=2.0)
    return network


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


def labels_of(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng([height, width, seed]).choice(np.array([0, 1, 2, 3, VOID], np.uint8), (height, width))


def batch_of(knowledge: Tensor, advice: Tensor, *present: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of noise as `PseudoLabelled` gives it, from masks (B, H, W) and the classes that all images have."""
    labels = torch.zeros(len(knowledge), 3, dtype=torch.bool)
    labels[:, [value - 1 for value in present]] = True
    images = torch.randn(len(knowledge), 3, *knowledge.shape[1:], generator=torch.Generator().manual_seed(0))
    return images, torch.stack([knowledge, advice], 1), labels


def random_masks(*values: int) -> Tensor:
    """Masks of two images, drawn independently of those with other values."""
    return torch.from_numpy(np.random.default_rng(values).choice(np.array(values, np.uint8), (2, 32, 40)))


def weights(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(path)["model"]


def only_line(error: pytest.ExceptionInfo[WorkbookError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def with_values(run: Run, stage: str, **values: object) -> Run:
    changed = replace(getattr(run.profile, stage), **values)
    return replace(run, profile=replace(run.profile, **{stage: changed}))


# The network and its loss


@torch.no_grad()
def test_the_network_is_a_segmentation_network_and_a_detector_on_its_features(network: StaticNet):
    images, masks, _ = batch_of(random_masks(0, 1, VOID), random_masks(0, 2))
    said, features = network(images, masks[:, 0], masks[:, 1]), network.segmentation(images).at_stride(4)
    expected = network.detector(features, *(resize_masks(masks[:, kind], (8, 10)) for kind in (0, 1)))
    torch.testing.assert_close(said.scores, features.scores)
    torch.testing.assert_close((said.logits_k, said.logits_a), expected)
    assert (said.logits_k - said.logits_a).abs().max() > 0.1


def cross_entropy(logits: Tensor, where: Tensor, changed: bool) -> float:
    """Mean over some places, one by one."""
    chances = [p if changed else 1 - p for p in logits[where].sigmoid().tolist()]
    return sum(-math.log(p) for p in chances) / max(len(chances), 1)


@torch.no_grad()
def test_the_loss_is_that_of_the_segmentation_and_of_both_maps(network: StaticNet):
    knowledge = random_masks(0, 1, VOID)
    advice = torch.where(random_masks(0, 1, 2) == 1, 0, knowledge).to(torch.uint8)  # a third of the pixels is cleared
    batch = batch_of(knowledge, advice, 1)
    said = network(batch[0], knowledge, advice)
    small = [resize_masks(masks, (8, 10)) for masks in (knowledge, advice)]
    expected = segmentation_loss(said.scores, knowledge).item()
    for logits in (said.logits_k, said.logits_a):
        for one, k, a in zip(logits.flatten(1), small[0].flatten(1), small[1].flatten(1), strict=True):
            known = (k != VOID) & (a != VOID)
            kinds = (cross_entropy(one, known & (k != a), True), cross_entropy(one, known & (k == a), False))
            expected += sum(kinds) / 2 / len(logits)  # the mean over kinds, and over images
    assert static_loss(network, batch).item() == pytest.approx(expected, rel=1e-4)


def test_an_image_whose_class_collapses_teaches_the_detector_nothing(network: StaticNet):
    knowledge, advice = random_masks(0, 1, 2), random_masks(0, 2)
    batch = batch_of(knowledge, advice, 1, 2)  # class 1 is in K and not in A
    alone = segmentation_loss(network(batch[0], knowledge, advice).scores, knowledge)
    torch.testing.assert_close(static_loss(network, batch), alone)
    assert static_loss(network, batch, exclusion=False) > alone + 0.1


def test_where_both_masks_are_alike_the_loss_and_its_gradient_are_finite(network: StaticNet):
    for mask in (random_masks(0, 1), random_masks(0), random_masks(VOID)):
        network.zero_grad()
        loss = static_loss(network, batch_of(mask, mask, 1))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_the_detector_leaves_the_features_alone(network: StaticNet):
    images, masks, _ = batch_of(random_masks(0, 1), random_masks(0, 2))
    network.zero_grad()
    network(images, masks[:, 0], masks[:, 1]).logits_k.sum().backward()
    assert all(p.grad is None for p in network.segmentation.parameters())
    assert network.detector.context[0].weight.grad.abs().max() > 0


# Training


def test_a_killed_training_ends_with_the_same_weights(trained: Run, run: Run, monkeypatch: pytest.MonkeyPatch):
    finished = read_checkpoint(checkpoint_path(trained))
    shutil.rmtree(run.artifacts("refinement"))
    monkeypatch.setattr(static_stage, "static_loss", killed_at_call(static_loss, 3))
    with pytest.raises(RuntimeError, match="killed"):
        train_static(run)
    monkeypatch.setattr(static_stage, "static_loss", static_loss)
    with pytest.raises(WorkbookError, match=f"training did not finish; run notebook {NOTEBOOK} again"):
        load_static(run)
    history = train_static(run)
    assert history == finished["history"]
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    resumed = weights(checkpoint_path(run))
    assert all(torch.equal(value, finished["model"][name]) for name, value in resumed.items())


def test_without_exclusion_the_detector_learns_something_else_and_the_segmentation_the_same(trained: Run):
    own, other = (weights(checkpoint_path(trained, exclusion)) for exclusion in (True, False))
    for name, value in own.items():
        if name.startswith("segmentation."):
            assert torch.equal(value, other[name])
    assert not torch.equal(own["detector.logit.weight"], other["detector.logit.weight"])


def test_the_segmentation_learns_as_if_there_were_no_detector_where_the_grid_is_that_of_its_scores(run: Run):
    run = with_values(run, "difference", stride=8)
    train_static(run)
    train_segmentation(run, "psa", mask_pair(run)[0], NOTEBOOK)
    static = weights(checkpoint_path(run))
    for name, value in weights(segmentation_checkpoint(run, "psa")).items():
        torch.testing.assert_close(static[f"segmentation.{name}"], value)


def test_head_and_detector_learn_ten_times_as_fast_as_the_encoder(run: Run, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[StaticNet, Recipe]] = []
    monkeypatch.setattr(static_stage, "fit", lambda model, recipe, *_: seen.append((model, recipe)) or [])
    train_static(run)
    model, recipe = seen[0]
    rates = {id(p): group["lr"] for group in recipe.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.segmentation.encoder.parameters()} == {CONFIG.learning_rate}
    others = [*model.segmentation.head.parameters(), *model.detector.parameters()]
    assert {rates[id(p)] for p in others} == {10 * CONFIG.learning_rate}
    assert (recipe.steps, recipe.batch_size) == (CONFIG.steps, CONFIG.batch_size)


def test_a_trained_network_is_in_evaluation_mode(trained: Run):
    network = load_static(trained)
    assert not any(module.training for module in network.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


# Maps of an image


@torch.no_grad()
def test_maps_are_the_mean_of_both_mirrorings(network: StaticNet):
    image, masks = noise(32, 48), [labels_of(32, 48, seed) for seed in (0, 1)]
    views = []
    for mirrored in (False, True):
        inputs = [normalise(image), *map(torch.from_numpy, masks)]
        said = network(*(values.flip(-1)[None] if mirrored else values[None] for values in inputs))
        views.append([maps[0].flip(-1) if mirrored else maps[0] for maps in said[1:]])
    expected = tuple((one + other) / 2 for one, other in zip(*views, strict=True))
    found = difference_maps(network, image, *masks, size=48)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (views[0][0] - views[1][0]).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (50, 9), (33, 65)])
def test_maps_of_images_of_any_size_mirror_with_the_image(network: StaticNet, size: tuple[int, int]):
    image, masks = noise(*size), [labels_of(*size, seed) for seed in (0, 1)]
    straight = difference_maps(network, image, *masks, size=40)
    mirrored = difference_maps(network, *(values[:, ::-1].copy() for values in (image, *masks)), size=40)
    for one, other in zip(straight, mirrored, strict=True):
        assert one.dtype == torch.float32
        assert one.shape == tuple(2 * max(1, round(side * 40 / max(size) / 8)) for side in size)
        torch.testing.assert_close(other.flip(-1), one, rtol=0, atol=1e-4)


def test_images_are_seen_at_the_middle_of_the_sizes_of_training():
    assert refinement_size(Profile(segmentation=CONFIG)) == 32
    assert refinement_size(Profile()) == inference_sizes(Profile().segmentation)[1] == 480


# Merging


def fixed_maps(shape: tuple[int, int]) -> Maps:
    """Logits of every pixel, drawn from a few values."""
    generator = torch.Generator().manual_seed(shape[0])
    values = torch.tensor([-2.0, -0.5, 0.0, 0.7, 3.0])
    drawn_k, drawn_a = values[torch.randint(0, 5, (2, *shape), generator=generator)]
    return drawn_k, drawn_a


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replaces the network's answers by `fixed_maps`; gets the size of every image that was looked at."""
    looks: list[tuple[int, int]] = []

    def answer(model: StaticNet, image: np.ndarray, *_: object) -> Maps:
        looks.append(image.shape[:2])
        return fixed_maps(image.shape[:2])

    monkeypatch.setattr(static_stage, "difference_maps", answer)
    return looks


def slow_refinement(k: np.ndarray, a: np.ndarray, maps: Maps, present: list[int], setting: StaticSetting) -> np.ndarray:
    """Equation by equation and pixel by pixel."""
    bias = dict.fromkeys((1, 2, 3), 0.0) | {0: setting.biases.background}
    for value in present:
        before, after = (k == value).sum(), (a == value).sum()
        if before and after < before / 2:
            bias[value] = setting.biases.survival
    result = k.copy()
    d_k, d_a = (1 / (1 + np.exp(-logits.double().numpy())) for logits in maps)
    for place in np.ndindex(*k.shape):
        told = {"both": d_k[place] - d_a[place], "knowledge": d_k[place] - 0.5, "neither": 0}
        told["other_image"] = told["both"]  # of the maps that are given
        w = told[setting.inputs] + setting.biases.advice + bias[a[place]] - bias[k[place]]
        if w >= -1e-7:
            result[place] = a[place]
    return result


def test_every_setting_merges_as_the_equations_say(run: Run, fixed: list[tuple[int, int]]):
    shutil.rmtree(run.artifacts("seeds") / "static")
    settings, pair = static_settings(run.profile), mask_pair(run)
    for setting in settings:
        shutil.rmtree(run.artifacts("seeds") / setting.name, ignore_errors=True)
    stores = refine_masks(run, settings, run.train_ids)
    assert list(stores) == [setting.name for setting in settings]
    for image_id, following in zip(run.train_ids, [*run.train_ids[1:], run.train_ids[0]], strict=True):
        knowledge, advice = (store.load(image_id)["mask"] for store in pair)
        present = [int(c) + 1 for c in np.flatnonzero(run.devkit.labels(image_id))]
        own, other = (fixed_maps(run.devkit.image(shown).shape[:2]) for shown in (image_id, following))
        resized = F.interpolate(torch.stack(other)[None], knowledge.shape, mode="bilinear")[0]
        for setting in settings:
            mask = stores[setting.name].load(image_id)["mask"]
            assert mask.dtype == np.uint8
            maps = (resized[0], resized[1]) if setting.inputs == "other_image" else own
            np.testing.assert_array_equal(mask, slow_refinement(knowledge, advice, maps, present, setting))
    drawn = [np.concatenate([s.load(i)["mask"].ravel() for i in run.train_ids]) for s in (*stores.values(), *pair)]
    assert (
        len({mask.tobytes() for mask in drawn}) == len(drawn) - 1
    )  # the same maps: exclusion makes no difference here


def test_what_decided_is_told(trained: Run, fixed: list[tuple[int, int]]):
    image_id = trained.train_ids[1]
    for inputs in ("both", "knowledge"):
        setting = StaticSetting("row", biases=Biases(advice=0.1, survival=0), inputs=inputs)
        refined = refine_image(trained, load_static(trained), setting, image_id)
        d_k, d_a = (logits.sigmoid().numpy() for logits in fixed_maps(refined.mask.shape))
        np.testing.assert_allclose(refined.d_k, d_k, atol=1e-6)
        np.testing.assert_allclose(refined.d_a, d_a if inputs == "both" else 0.5, atol=1e-6)
        np.testing.assert_allclose(refined.confidence, refined.d_k - refined.d_a + 0.1, atol=1e-6)
        advised = np.where(refined.confidence >= 0, refined.advice, refined.knowledge)
        np.testing.assert_array_equal(refined.mask, advised)


def test_the_controls_do_not_hear_what_is_said_of_the_image(trained: Run, monkeypatch: pytest.MonkeyPatch):
    first = trained.train_ids[0]
    values = iter([(3.0, -3.0), (-2.0, 1.0)])  # of the image, then of the next

    def answer(model: StaticNet, image: np.ndarray, *_: object) -> Maps:
        of_k, of_a = next(values)
        return torch.full((2, 2), of_k), torch.full((2, 2), of_a)

    monkeypatch.setattr(static_stage, "difference_maps", answer)
    biases = Biases(0.25, 0, 0)
    rows = [StaticSetting(inputs, biases=biases, inputs=inputs) for inputs in ("other_image", "neither")]
    other, neither = refine_rows(trained, load_static(trained), rows, first)
    np.testing.assert_allclose(neither.confidence, 0.25)
    np.testing.assert_array_equal(neither.mask, neither.advice)
    expected = 1 / (1 + math.exp(2)) - 1 / (1 + math.exp(-1)) + 0.25  # -0.36: K stays
    np.testing.assert_allclose(other.confidence, expected, atol=1e-6)
    np.testing.assert_array_equal(other.mask, other.knowledge)


def test_masks_that_are_alike_stay_as_they_are(trained: Run):
    for image_id in (ALIKE, WITHOUT_CLASS):
        knowledge = mask_pair(trained)[0].load(image_id)["mask"]
        assert knowledge.any() == (image_id == ALIKE)
        for setting in static_settings(trained.profile):
            np.testing.assert_array_equal(open_refined(trained, setting).load(image_id)["mask"], knowledge)


def test_a_class_that_vanishes_in_the_advice_survives(trained: Run):
    knowledge = mask_pair(trained)[0].load(VANISHING)["mask"]
    refined = open_refined(trained, static_setting(trained.profile)).load(VANISHING)["mask"]
    advised = refine_image(trained, load_static(trained), StaticSetting("all", biases=Biases(1, 0, 0)), VANISHING)
    assert (advised.mask > 0).sum() < 0.2 * (knowledge > 0).sum()  # without that bias it would be gone
    assert (refined > 0).sum() > 0.8 * (knowledge > 0).sum()


def test_one_look_serves_all_settings_of_a_network(run: Run, fixed: list[tuple[int, int]]):
    shutil.rmtree(run.artifacts("seeds"))
    write_pair(run)
    refine_masks(run, static_settings(run.profile), run.train_ids)
    looks = 3 * len(run.train_ids)  # there are two networks, and one of them looks at the next image, too
    assert len(fixed) == looks
    refine_masks(run, static_settings(run.profile), run.train_ids)
    assert len(fixed) == looks


def test_only_missing_masks_are_made_and_they_are_the_same(trained: Run, run: Run, monkeypatch: pytest.MonkeyPatch):
    setting, image_id, looks = static_setting(run.profile), run.train_ids[2], []
    open_refined(run, setting).path(image_id).unlink()
    honest = difference_maps
    monkeypatch.setattr(static_stage, "difference_maps", lambda *a: looks.append(a[1].shape) or honest(*a))
    store = refine_masks(run, [setting], run.train_ids)["static"]
    assert looks == [run.devkit.image(image_id).shape]
    expected = open_refined(trained, setting).load(image_id)["mask"]
    np.testing.assert_array_equal(store.load(image_id)["mask"], expected)


def test_a_segmentation_network_learns_from_the_merged_masks(run: Run):
    store = open_refined(run, static_setting(run.profile))
    assert store.folder == run.artifacts("seeds") / "static"
    history = train_segmentation(run, "static", store, NOTEBOOK)
    assert all(math.isfinite(row["loss"]) for row in history)


# Other pairs of masks


def pair_of(folder: Path, *kinds: list[np.ndarray]) -> Pair:
    """Two stores with the masks of two images each."""
    stores = [ArtifactStore.create(folder / name, {"kind": name}, NOTEBOOK) for name in ("one", "other")]
    for store, masks in zip(stores, kinds, strict=True):
        for image_id, mask in zip(("a", "b"), masks, strict=False):
            store.save(image_id, mask=mask)
    return stores[0], stores[1]


def labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        ([labels([0, 1]), labels([2])], [labels([0, 1]), labels([2])], "one and other are the same for every image"),
        ([labels([0, 1]), labels([2])], [labels([0]), labels([2])], r"a: the masks of one and other are \(1, 2\) and"),
        (
            [labels([0, 1]), labels([2])],
            [labels([0, 1]), labels([1])],
            "only one of one and other knows the class 'dog'",
        ),
        ([labels([0, 1]), labels([7])], [labels([0, 1]), labels([1])], "hold the label 7, but there are 2 classes"),
        ([labels([0, 1]), labels([1])], [labels([0, 1])], "other/b.safetensors: no pseudo label, as for 1 of 2"),
        ([labels([VOID]), labels([VOID])], [labels([0]), labels([1])], "one: every pixel of every mask is void"),
    ],
)
def test_pairs_that_cannot_be_learnt_from_are_refused(tmp_path: Path, one: list, other: list, problem: str):
    with pytest.raises(WorkbookError, match=problem) as error:
        check_pair(pair_of(tmp_path, one, other), ["a", "b"], ["cat", "dog"])
    only_line(error)


def test_any_pair_of_masks_can_be_merged(run: Run):
    names = {"one": 0.2, "other": 0.6}
    stores = [ArtifactStore.create(run.artifacts("seeds") / name, {"kind": name}, NOTEBOOK) for name in names]
    for store, share in zip(stores, names.values(), strict=True):
        for number, image_id in enumerate(run.train_ids):
            mask = mask_pair(run)[0].load(image_id)["mask"]
            hidden = np.random.default_rng([number, int(10 * share)]).random(mask.shape) < share
            store.save(image_id, mask=np.where(hidden, 0, mask).astype(np.uint8))
    pair = stores[0], stores[1]
    train_static(run, pair=pair)
    assert checkpoint_path(run, pair=pair).parent.name == "static_one_other"
    setting, image_id = static_setting(run.profile), run.train_ids[0]
    refined = refine_image(run, load_static(run, pair=pair), setting, image_id, pair)
    np.testing.assert_array_equal(refined.knowledge, stores[0].load(image_id)["mask"])
    np.testing.assert_array_equal(refined.mask, np.where(refined.confidence >= 0, refined.advice, refined.knowledge))
    assert load_static(run)  # the network of PSA's pair is still there
    with pytest.raises(WorkbookError, match="one and one are the same for every image"):
        train_static(run, pair=(stores[0], stores[0]))


# Settings and what is missing


def test_settings_take_their_values_from_the_profile():
    config = DifferenceConfig(training_advice=0.3, seed_advice=0.2, seed_background=0.05)
    profile = Profile(difference=config)
    own, no_bias, all_images, knowledge, no_detector, other_image, training = static_settings(profile)
    assert own == static_setting(profile) == StaticSetting("static", biases=Biases(0.2, 0.05))
    assert no_bias == StaticSetting("static_no_bias", biases=Biases(0, 0, 0))
    assert all_images == replace(own, name="static_no_exclusion", exclusion=False)
    assert knowledge == replace(own, name="static_knowledge", inputs="knowledge")
    assert no_detector == replace(own, name="static_no_detector", inputs="neither")
    assert other_image == replace(own, name="static_other_image", inputs="other_image")
    assert training == StaticSetting("static_training_bias", biases=Biases(0.3))
    assert StaticSetting("static") == static_setting(Profile())
    with pytest.raises(
        WorkbookError, match="row: inputs 'advice' are not known; use both or knowledge or neither or other_image"
    ):
        StaticSetting("row", inputs="advice")


def test_what_is_missing_names_the_notebook_that_makes_it(run: Run):
    setting = static_setting(run.profile)
    shutil.rmtree(run.artifacts("seeds") / "static")
    with pytest.raises(WorkbookError) as error:
        open_refined(run, setting)
    assert only_line(error).endswith(f"seeds/static: missing; run notebook {NOTEBOOK} first")
    shutil.rmtree(run.artifacts("refinement"))
    for stage in (lambda: load_static(run), lambda: refine_masks(run, [setting], run.train_ids)):
        with pytest.raises(WorkbookError, match=f"refinement/static: missing; run notebook {NOTEBOOK} first"):
            stage()
    classifier = run.artifacts("classifier")
    classifier.rename(classifier.with_name("hidden"))
    with pytest.raises(WorkbookError, match="run notebook 01_training first"):
        train_static(run)
    shutil.rmtree(run.artifacts("seeds") / "psa_crf")
    for stage in (lambda: train_static(run), lambda: refine_masks(run, [setting], run.train_ids)):
        with pytest.raises(WorkbookError, match=f"seeds/psa_crf: missing; run notebook {cam.NOTEBOOK} first"):
            stage()


def test_an_image_without_a_mask_and_a_mask_of_another_size_are_named(run: Run):
    advice, (first, second) = mask_pair(run)[1], run.train_ids[:2]
    advice.path(first).unlink()
    with pytest.raises(WorkbookError) as error:
        train_static(run)
    assert f"psa_crf/{first}.safetensors: no pseudo label, as for 1 of 6 training images" in only_line(error)
    advice.save(second, mask=np.zeros((3, 4), np.uint8))
    setting = replace(static_setting(run.profile), name="new")
    for image_id, problem in ((first, "missing or damaged"), (second, r"the mask is \(3, 4\), its image \(34, 46\)")):
        with pytest.raises(WorkbookError, match=f"{image_id}.safetensors: {problem}; run notebook {cam.NOTEBOOK}"):
            refine_masks(run, [setting], [image_id])


def test_what_was_made_under_other_settings_is_refused_with_both_values(run: Run):
    with pytest.raises(WorkbookError, match=r"static.channels = 8, but this run uses 12"):
        load_static(with_values(run, "difference", channels=12))
    with pytest.raises(WorkbookError, match=r"walk.alpha = 16.0, but this run uses 4.0; run notebook 06"):
        mask_pair(with_values(run, "cam", alpha=4.0))
    other = with_values(run, "difference", seed_advice=0.25)
    load_static(other)  # biases belong to the masks, not to the network
    with pytest.raises(WorkbookError, match=r"refinement.biases.advice = 0.1, but this run uses 0.25"):
        open_refined(other, static_setting(other.profile))
    with pytest.raises(WorkbookError, match=r"segmentation.steps = 4, but this run uses 5"):
        refine_masks(with_values(run, "segmentation", steps=5), [static_setting(run.profile)], run.train_ids)
    assert open_refined(run, static_setting(run.profile)).missing(run.train_ids) == []  # which left them alone
