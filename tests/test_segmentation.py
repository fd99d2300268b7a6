"""Training on pseudo labels and inference, with networks and images as small as they may be."""

import math
import pickle
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NARROW, write_tiny_devkit
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig, DataConfig, Profile, SegmentationConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import load_classifier, new_classifier, train_classifier
from wsseg_core.classify.training import read_checkpoint
from wsseg_core.crf.dense import dense_crf
from wsseg_core.data.images import VOID
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import MEAN, STD, normalise
from wsseg_core.evaluate.labels import row_label
from wsseg_core.evaluate.scoring import score_settings
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import STRIDE, SegmentationNet
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.segment import predictions, retraining
from wsseg_core.segment.predictions import (
    SegmentationImageMaps,
    SegmentationMaps,
    SegmentationSetting,
    extract_predictions,
    grid_log_probabilities,
    inference_sizes,
    network_rows,
    pixel_probabilities,
    predict,
    segmentation_setting,
)
from wsseg_core.segment.retraining import (
    PseudoLabelled,
    checkpoint_path,
    crop_padding,
    decaying_optimizer,
    load_segmentation,
    train_segmentation,
)

NOTEBOOK = "06_seeds"
CONFIG = SegmentationConfig(
    channels=4, dilation=1, crop=32, resize_range=(0.8, 1.2), batch_size=2, steps=4, scales=(0.75, 1.0)
)
CRF = CrfConfig(w1=5, gamma_beta=80, iterations=2)
SQUARE = "2007_000005"  # the one square image, 40×40


@pytest.fixture(autouse=True, scope="module")
def no_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # only a CPU repeats itself to the bit
        yield


def write_seeds(run: Run, folder: str = "seeds", alpha: int = 4) -> ArtifactStore:
    """Pseudo labels that know the image's labels and nothing else."""
    store = ArtifactStore.create(run.artifacts(folder), {"alpha": alpha}, NOTEBOOK)
    for number, image_id in enumerate(run.train_ids):
        height, width = run.devkit.image(image_id).shape[:2]
        values = np.array([0, *(np.flatnonzero(run.devkit.labels(image_id)) + 1), VOID], np.uint8)
        store.save(image_id, mask=np.random.default_rng([alpha, number]).choice(values, (height, width)))
    return store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a classifier, seeds, a network and its predictions, made where there is no pixel mask; only read."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_devkit(folder / "devkit")
    masks, hidden = folder / "devkit/SegmentationClass", folder / "hidden"
    masks.rename(hidden)
    data = DataConfig(source="voc", devkit=str(folder / "devkit"), train_split="train", image_size=32)
    run = Run(Profile(data=data, classifier=NARROW, segmentation=CONFIG), 0, folder / "results")
    train_classifier(run)
    train_segmentation(run, "psa", write_seeds(run), NOTEBOOK)
    extract_predictions(run, "psa", run.val_ids, NOTEBOOK)
    hidden.rename(masks)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """The same, to be changed."""
    shutil.copytree(trained.folder, tmp_path / "results")
    return replace(trained, folder=tmp_path / "results")


def seeds_of(run: Run) -> ArtifactStore:
    return ArtifactStore.open(run.artifacts("seeds"), NOTEBOOK)


def with_config(run: Run, **values: object) -> Run:
    config = replace(run.profile.segmentation, **values)  # type: ignore[arg-type]
    return replace(run, profile=replace(run.profile, segmentation=config))


def only_line(error: pytest.ExceptionInfo[WorkbookError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


class Extreme:
    """A generator that always draws the smallest value, or the largest."""

    def __init__(self, largest: bool) -> None:
        self.largest = largest

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        assert endpoint
        return high if self.largest else low


def test_a_crop_by_hand():
    high_and_narrow, low_and_wide = (10, 4), (4, 10)
    assert crop_padding(low_and_wide, 6, Extreme(largest=False)) == (-4, 0, 0, 2)
    assert crop_padding(low_and_wide, 6, Extreme(largest=True)) == (0, -4, 2, 0)
    assert crop_padding(high_and_narrow, 6, Extreme(largest=False)) == (0, 2, -4, 0)
    assert crop_padding((6, 6), 6, Extreme(largest=True)) == (0, 0, 0, 0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_a_crop_is_a_square_that_pads_or_cuts_but_not_both(height: int, width: int, crop: int, seed: int):
    left, right, top, bottom = crop_padding((height, width), crop, np.random.default_rng(seed))
    assert (height + top + bottom, width + left + right) == (crop, crop)
    assert left * right >= 0
    assert top * bottom >= 0


def brightness(image: Tensor) -> Tensor:
    """Red of a normalised image, in grey levels."""
    return ((image * STD + MEAN) * 255)[0].round()


def labelled(run: Run, tmp_path: Path, image_id: str, crop: int) -> PseudoLabelled:
    """One image at its own size, with labels that its colours tell."""
    image = run.devkit.image(image_id)
    store = ArtifactStore.create(tmp_path / "bright", {}, NOTEBOOK)
    store.save(image_id, mask=(image[..., 0] > 127).astype(np.uint8))
    ratio = max(image.shape) / crop
    return PseudoLabelled(run.devkit, [image_id], [store], replace(CONFIG, crop=crop, resize_range=(ratio, ratio)), 0)


def test_image_and_mask_are_cut_padded_and_mirrored_together(trained: Run, tmp_path: Path):
    image_id = trained.train_ids[0]  # 32×48
    images = labelled(trained, tmp_path, image_id, crop=40)  # cut along the width, padded along the height
    for step in range(8):
        image, masks, _ = images[step, 0]
        mask = masks[0]
        inside = mask != VOID
        assert image.shape == (3, 40, 40)
        assert mask.dtype == torch.uint8
        assert inside.sum() == 32 * 40
        assert inside.all(1).sum() == 32  # whole rows
        assert image[:, ~inside].abs().max() == 0  # the mean colour
        assert torch.equal(brightness(image)[inside] > 127, mask[inside] == 1)


def test_an_image_that_fits_is_only_mirrored(trained: Run, tmp_path: Path):
    images = labelled(trained, tmp_path, SQUARE, crop=40)
    original = normalise(trained.devkit.image(SQUARE))
    seen = set()
    for step in range(12):
        image, _, _ = images[step, 0]
        mirrored = not torch.allclose(image, original, atol=1e-5)
        torch.testing.assert_close(image, original.flip(2) if mirrored else original, rtol=0, atol=1e-5)
        seen.add(mirrored)
    assert seen == {False, True}


def test_the_longest_side_is_scaled_to_the_crop(trained: Run):
    config = replace(CONFIG, crop=24, resize_range=(0.5, 0.5))
    images = PseudoLabelled(trained.devkit, trained.train_ids, [seeds_of(trained)], config, 0)
    image, _, _ = images[0, 0]  # 32×48 becomes 8×12
    occupied = (image != 0).any(0)
    assert (occupied.any(1).sum(), occupied.any(0).sum()) == (8, 12)


def test_augmentation_depends_on_seed_step_and_image_alone(trained: Run):
    images, others = (
        PseudoLabelled(trained.devkit, trained.train_ids, [seeds_of(trained)], CONFIG, seed) for seed in (0, 1)
    )
    first = images[3, 2]
    images[4, 0]
    again = images[3, 2]
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    for other in (images[4, 2], others[3, 2]):
        assert not torch.equal(first[0], other[0])


def test_the_encoder_starts_as_the_classifier_with_its_batch_norm_folded(trained: Run, run: Run):
    start = with_config(run, learning_rate=0.0)
    train_segmentation(start, "still", seeds_of(run), NOTEBOOK)
    network = load_segmentation(start, "still", NOTEBOOK)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    classifier = fold_batch_norm(load_classifier(run))
    kernels = [m.weight for m in network.encoder.modules() if isinstance(m, nn.Conv2d)]
    expected = [m.weight for n, m in classifier.named_modules() if n.startswith("conv")]
    assert len(kernels) == 13
    for kernel, wanted in zip(kernels, expected, strict=True):
        torch.testing.assert_close(kernel, wanted, rtol=0, atol=0)


def test_the_head_learns_ten_times_faster_and_both_decay_to_nothing():
    network = SegmentationNet(3, FcnVgg16(3, 2, fc_channels=4, fc6_kernel=3), channels=4)
    for name in ("sgd", "adamw"):
        optimizer, schedule = decaying_optimizer(
            replace(CONFIG, optimizer=name, learning_rate=0.5, steps=4, schedule="polynomial"),
            network.encoder,
            [network.head],
        )
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
        for step in range(4):
            assert schedule.get_last_lr() == pytest.approx([0.5 * (1 - step / 4) ** 0.9, 5 * (1 - step / 4) ** 0.9])
            optimizer.step()
            schedule.step()
        assert schedule.get_last_lr() == [0, 0]


def test_the_rate_falls_along_a_polynomial_or_a_cosine_by_hand():
    network = SegmentationNet(3, FcnVgg16(3, 2, fc_channels=4, fc6_kernel=3), channels=4)
    expected = {"polynomial": [1, 0.7719, 0.5359, 0.2872, 0], "cosine": [1, 0.8536, 0.5, 0.1464, 0]}  # of 4 steps
    for schedule_name, rates in expected.items():
        config = replace(CONFIG, learning_rate=1.0, steps=4, schedule=schedule_name)
        optimizer, schedule = decaying_optimizer(config, network.encoder, [network.head])
        for rate in rates:
            assert schedule.get_last_lr() == pytest.approx([rate, 10 * rate], abs=1e-3)
            optimizer.step()
            schedule.step()
    with pytest.raises(WorkbookError, match=r"segmentation.schedule 'step' is unknown; use one of polynomial, cosine"):
        decaying_optimizer(replace(CONFIG, schedule="step"), network.encoder, [network.head])


def test_an_unknown_optimiser_is_named():
    network = SegmentationNet(3, FcnVgg16(3, 2, fc_channels=4, fc6_kernel=3), channels=4)
    with pytest.raises(WorkbookError, match=r"segmentation.optimizer 'adam' is unknown; use 'sgd' or 'adamw'"):
        decaying_optimizer(replace(CONFIG, optimizer="adam"), network.encoder, [network.head])


def test_a_killed_training_ends_with_the_same_weights(trained: Run, run: Run, monkeypatch: pytest.MonkeyPatch):
    finished = read_checkpoint(checkpoint_path(trained, "psa"))
    shutil.rmtree(run.artifacts("segmentation"))
    honest = PseudoLabelled.__getitem__

    def killed(self: PseudoLabelled, key: tuple[int, int]) -> tuple[Tensor, ...]:
        if key[0] == 2:
            raise KeyboardInterrupt
        return honest(self, key)

    monkeypatch.setattr(PseudoLabelled, "__getitem__", killed)
    with pytest.raises(KeyboardInterrupt):
        train_segmentation(run, "psa", seeds_of(run), NOTEBOOK)
    monkeypatch.setattr(PseudoLabelled, "__getitem__", honest)
    with pytest.raises(WorkbookError, match=f"training did not finish; run notebook {NOTEBOOK} again"):
        load_segmentation(run, "psa", NOTEBOOK)
    history = train_segmentation(run, "psa", seeds_of(run), NOTEBOOK)
    resumed = read_checkpoint(checkpoint_path(run, "psa"))
    assert history == finished["history"]
    assert all(torch.equal(value, finished["model"][name]) for name, value in resumed["model"].items())


def test_training_changes_encoder_and_head(trained: Run):
    network, start = load_segmentation(trained, "psa", NOTEBOOK), fold_batch_norm(load_classifier(trained))
    assert not network.training
    assert not torch.equal(network.encoder.backbone.trunk.conv1_1.weight, start.conv1_1.weight)
    assert network.head.score.bias.abs().max() > 0


def test_other_seeds_are_learnt_anew_and_old_predictions_refused(trained: Run, run: Run):
    train_segmentation(run, "psa", write_seeds(run, alpha=32), NOTEBOOK)
    before, after = (read_checkpoint(checkpoint_path(r, "psa"))["model"] for r in (trained, run))
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    with pytest.raises(WorkbookError, match=f"alpha = 4, but this run uses 32; run notebook {NOTEBOOK} again"):
        SegmentationMaps(run, "psa", NOTEBOOK)


def test_scales_belong_to_the_predictions_and_not_to_the_network(run: Run):
    other = with_config(run, scales=(1.0,))
    load_segmentation(other, "psa", NOTEBOOK)
    with pytest.raises(WorkbookError, match=r"sizes = \[24, 32\], but this run uses \[32\]"):
        SegmentationMaps(other, "psa", NOTEBOOK)


def test_a_network_of_other_settings_is_refused(run: Run):
    with pytest.raises(WorkbookError, match=r"segmentation\.channels = 4, but this run uses 6"):
        load_segmentation(with_config(run, channels=6), "psa", NOTEBOOK)


def test_what_is_missing_names_the_notebook(trained: Run, run: Run):
    with pytest.raises(WorkbookError) as error:
        load_segmentation(trained, "static", "07_static")
    assert only_line(error).endswith("segmentation/static: missing; run notebook 07_static first")
    shutil.rmtree(run.artifacts("predictions"))
    with pytest.raises(WorkbookError, match=f"predictions/psa: missing; run notebook {NOTEBOOK} first"):
        SegmentationMaps(run, "psa", NOTEBOOK)
    shutil.rmtree(run.artifacts("classifier"))
    with pytest.raises(WorkbookError, match="run notebook 01_training first"):
        train_segmentation(run, "psa", seeds_of(run), NOTEBOOK)


def test_an_image_without_a_pseudo_label_is_named(run: Run):
    masks = seeds_of(run)
    masks.path(run.train_ids[1]).unlink()
    with pytest.raises(WorkbookError) as error:
        train_segmentation(run, "psa", masks, NOTEBOOK)
    assert f"{run.train_ids[1]}.safetensors: no pseudo label, as for 1 of 6 training images" in only_line(error)
    assert f"run notebook {NOTEBOOK} again" in only_line(error)


def test_masks_that_are_all_void_are_refused_but_one_may_be(run: Run):
    masks = seeds_of(run)
    for image_id in run.train_ids[1:]:
        masks.save(image_id, mask=np.full(run.devkit.image(image_id).shape[:2], VOID, np.uint8))
    history = train_segmentation(run, "one", masks, NOTEBOOK)
    assert all(math.isfinite(row["loss"]) for row in history)
    masks.save(run.train_ids[0], mask=np.full((32, 48), VOID, np.uint8))
    with pytest.raises(WorkbookError, match="seeds: every pixel of every mask is void"):
        train_segmentation(run, "none", masks, NOTEBOOK)


def test_a_mask_of_another_size_than_its_image_is_named(run: Run):
    masks = seeds_of(run)
    masks.save(run.train_ids[0], mask=np.zeros((48, 32), np.uint8))
    images = PseudoLabelled(run.devkit, run.train_ids, [masks], CONFIG, 0)
    with pytest.raises(WorkbookError) as error:
        images[0, 0]
    assert "2007_000001.safetensors: the mask is (48, 32), its image (32, 48)" in only_line(error)
    assert f"run notebook {NOTEBOOK} again" in only_line(error)


@pytest.fixture(scope="module")
def network() -> SegmentationNet:
    """A network whose random scores are large enough to differ from pixel to pixel."""
    torch.manual_seed(0)
    network = SegmentationNet(3, FcnVgg16(3, 2, fc_channels=4, fc6_kernel=3), channels=4, dilation=1).eval()
    nn.init.normal_(network.head.score.weight, std=0.5)
    return network


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


@torch.no_grad()
def test_one_size_is_the_softmax_of_the_up_sampled_scores(network: SegmentationNet):
    image = noise(32, 48)
    scores = network(normalise(image)[None]).scores
    expected = F.interpolate(scores, (32, 48), mode="bilinear")[0].softmax(0)
    torch.testing.assert_close(predict(network, image, [48], flip=False), expected, rtol=0, atol=1e-5)
    assert expected.std((1, 2)).max() > 0.01


def test_several_sizes_are_averaged_as_probabilities_on_the_finest_grid(network: SegmentationNet):
    image = noise(32, 48)
    small, large = (network(retraining.scaled(image, size)[None]).scores for size in ((16, 24), (32, 48)))
    expected = (F.interpolate(small, (4, 6), mode="bilinear").softmax(1) + large.softmax(1)) / 2
    found = grid_log_probabilities(network, image, [48, 24], flip=False)
    torch.testing.assert_close(found.exp(), expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (50, 9)])
def test_the_prediction_of_a_mirrored_image_is_the_mirrored_prediction(network: SegmentationNet, size: tuple[int, int]):
    image = noise(*size)
    straight, mirrored = (predict(network, view, [48, 64]) for view in (image, image[:, ::-1]))
    torch.testing.assert_close(mirrored.flip(2), straight, rtol=0, atol=1e-5)
    one_way = predict(network, image, [48, 64], flip=False)
    assert (one_way - straight).abs().max() > 1e-4


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7), (33, 65)])
def test_images_of_any_size_are_predicted(network: SegmentationNet, size: tuple[int, int]):
    probabilities = predict(network, noise(*size), [24, 40])
    assert probabilities.shape == (4, *size)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(size))


def test_what_surely_is_not_there_stays_finite(network: SegmentationNet):
    sure = deepcopy(network)
    nn.init.constant_(sure.head.score.bias, 0)
    sure.head.score.bias.data[0] = 1e4
    assert grid_log_probabilities(sure, noise(8, 8), [8]).half().isfinite().all()
    assert predict(sure, noise(8, 8), [8])[0].min() == 1


def test_inference_sees_images_as_training_did():
    assert inference_sizes(SegmentationConfig()) == (360, 480, 600)
    assert inference_sizes(replace(CONFIG, crop=160, scales=(0.01, 1.0))) == (STRIDE, 160)


def test_what_is_stored_is_what_the_network_predicts(trained: Run):
    store = SegmentationMaps(trained, "psa", NOTEBOOK).store
    model = load_segmentation(trained, "psa", NOTEBOOK)
    for image_id in trained.val_ids:
        image, stored = trained.devkit.image(image_id), store.load(image_id)["log_probabilities"]
        assert stored.dtype == np.float16
        found = pixel_probabilities(torch.from_numpy(stored), image.shape[:2])
        torch.testing.assert_close(found, predict(model, image, inference_sizes(CONFIG)), rtol=0, atol=2e-3)


def test_only_missing_predictions_are_made(run: Run, monkeypatch: pytest.MonkeyPatch):
    store = SegmentationMaps(run, "psa", NOTEBOOK).store
    store.path(run.val_ids[1]).unlink()
    seen = []
    monkeypatch.setattr(
        predictions,
        "grid_log_probabilities",
        lambda model, image, sizes: seen.append(image.shape) or grid_log_probabilities(model, image, sizes),
    )
    extract_predictions(run, "psa", run.val_ids, NOTEBOOK)
    extract_predictions(run, "psa", run.val_ids, NOTEBOOK)
    assert seen == [run.devkit.image(run.val_ids[1]).shape]
    assert not store.missing(run.val_ids)


# Rows are the background and three classes, columns are pixels.
BY_HAND = torch.tensor([[0.5, 0.1, 0.1], [0.3, 0.2, 0.6], [0.195, 0.695, 0.295], [0.005, 0.005, 0.005]])
PLAIN = SegmentationSetting("plain", (8,))


def maps_by_hand(*drawn: bool) -> SegmentationImageMaps:
    return SegmentationImageMaps(noise(1, 3), BY_HAND.log()[:, None].half(), np.array(drawn))


def test_the_network_chooses_among_all_classes():
    maps = maps_by_hand(True, True, True)
    np.testing.assert_array_equal(maps.mask(PLAIN), [[0, 2, 1]])
    np.testing.assert_allclose(maps.probabilities, [0.6, 0.695, 0.005], atol=1e-3)
    np.testing.assert_allclose(maps.label_probabilities(PLAIN)[:, 0], BY_HAND, atol=1e-3)


def test_known_labels_share_what_the_others_had():
    maps = maps_by_hand(True, False, False)
    np.testing.assert_array_equal(maps.mask(PLAIN), [[0, 1, 1]])
    expected = [[5 / 8, 1 / 3, 1 / 7], [3 / 8, 2 / 3, 6 / 7]]
    np.testing.assert_allclose(maps.label_probabilities(PLAIN)[:, 0], expected, atol=1e-3)
    np.testing.assert_allclose(maps.probabilities, [6 / 7, 0, 0], atol=1e-3)
    assert (maps.targets, maps.classes.tolist()) == (1, [0])


def test_an_image_without_a_known_label_is_background():
    maps = maps_by_hand(False, False, False)
    for setting in (PLAIN, replace(PLAIN, crf=CRF)):
        np.testing.assert_array_equal(maps.mask(setting), [[0, 0, 0]])


def test_the_crf_sees_the_labels_that_matter():
    maps, setting = maps_by_hand(True, True, True), replace(PLAIN, crf=CRF)
    kept = maps.label_probabilities(PLAIN)[:3]  # class 3 is nowhere above 0.5 %
    expected = dense_crf(maps.image, kept, CRF)
    np.testing.assert_array_equal(maps.label_probabilities(setting), [*expected, np.zeros((1, 3))])
    np.testing.assert_array_equal(maps.mask(setting), expected.argmax(0))


def test_the_summed_unary_by_hand(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(predictions, "DenseCrf", lambda image, config: lambda unary: seen.append(unary) or unary)
    maps = maps_by_hand(True, True, True)
    maps.masks([replace(PLAIN, crf=CRF, unary="summed"), replace(PLAIN, crf=CRF)])
    # e^5, e^3 and e^1.95 over their sum: 0.5, 0.3 and 0.195 are driven apart
    np.testing.assert_allclose(seen[0][:, 0, 0], [0.8455, 0.1144, 0.0400], atol=2e-3)
    np.testing.assert_allclose(seen[1][:, 0, 0], [0.5, 0.3, 0.195], atol=1e-3)
    with pytest.raises(WorkbookError, match="plain: unary 'sum' is not known; use mean or summed"):
        replace(PLAIN, unary="sum")


def test_a_network_has_a_row_for_either_unary_and_tables_say_which(run: Run):
    rows = network_rows(run.profile, "psa")
    assert [row.name for row in rows] == ["net_psa", "net_psa_crf", "net_psa_crf_summed"]
    scores = score_settings(run, "unaries", run.val_ids, "val", rows, NOTEBOOK, SegmentationMaps(run, "psa", NOTEBOOK))
    told = [scores[row.name].details["crf"] for row in rows]
    assert told[0] == "none"
    assert told[2] == f"{told[1]}; summed unary"
    assert row_label("net_psa_crf_summed") == f"{row_label('net_psa')}, CRF on the summed unary"


def test_rows_that_differ_in_names_are_drawn_once(monkeypatch: pytest.MonkeyPatch):
    calls = []
    own = predictions.DenseCrf
    monkeypatch.setattr(predictions, "DenseCrf", lambda *a: lambda unary: calls.append(1) or own(*a)(unary))
    rows = [replace(PLAIN, name="a", crf=CRF), PLAIN, replace(PLAIN, name="b", crf=CRF, crf_source="searched")]
    a, plain, b = maps_by_hand(True, True, True).masks(rows)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(plain, [[0, 2, 1]])
    assert len(calls) == 1


def test_a_setting_takes_its_values_from_the_profile(trained: Run):
    profile = trained.profile
    assert segmentation_setting(profile, "net") == SegmentationSetting("net", (24, 32))
    assert segmentation_setting(profile, "net_crf", crf=True).crf == profile.seed_crf


def test_predictions_are_scored_in_both_protocols(run: Run):
    rows = [segmentation_setting(run.profile, "net"), segmentation_setting(run.profile, "net_crf", crf=True)]
    for known_labels, protocol in ((False, "test"), (True, "seed")):
        maps = pickle.loads(pickle.dumps(SegmentationMaps(run, "psa", NOTEBOOK, known_labels)))  # as workers get it
        scores = score_settings(run, protocol, run.val_ids, "val", rows, NOTEBOOK, maps)
        assert list(scores) == ["net", "net_crf"]
        assert scores["net"].details["protocol"] == protocol
        assert scores["net_crf"].confusions.shape == (3, 4, 4)
    for image_id in run.val_ids:
        allowed = {0, *(np.flatnonzero(run.devkit.labels(image_id)) + 1)}
        assert set(np.unique(maps.of(image_id).mask(rows[0]))) <= allowed


def test_networks_start_alike_whatever_was_drawn_before(run: Run):
    torch.manual_seed(99)
    train_segmentation(run, "again", seeds_of(run), NOTEBOOK)
    first, second = (read_checkpoint(checkpoint_path(run, name))["model"] for name in ("psa", "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_network_over_another_architecture(run: Run):
    classifier = replace(NARROW, architecture="resnet18", width=8)
    torch.manual_seed(0)
    network = retraining.new_network(run, new_classifier(classifier, 3, seed=0))
    assert predict(network.eval(), noise(20, 30), [32]).shape == (4, 20, 30)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
