"""Recombination of saliency maps, against a slow reading of the equations, on made-up maps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsseg_core.base.config import ClassifierConfig, CrfConfig, Profile, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.data.run import Run
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import (
    ImageMaps,
    SavedMaps,
    Setting,
    dcsm_setting,
    mask_from_saliency,
    segment_image,
    simonyan_setting,
)
from wsseg_core.saliency.extraction import block_layers, classify, conv_layers, extract, planned_extractions
from wsseg_core.saliency.grabcut import grabcut_labels
from wsseg_core.saliency.gradients import prepare
from wsseg_core.saliency.subtraction import released_saliency

VGG16 = ClassifierConfig()
SIDE = 12
PROBABILITIES = np.float32([0.2, 0.9, 0.1, 0.7])  # of 4 classes; 1 and 3 are detected, 0 is the runner-up
RANKING = np.array([1, 3, 0, 2])
DEFAULT = Setting("default", sizes=(8, 12), layers=block_layers(VGG16, (3, 4, 5)))
SETTINGS = [
    DEFAULT,
    replace(DEFAULT, alpha=8.0),
    replace(DEFAULT, min_candidates=0),
    replace(DEFAULT, min_candidates=4),
    replace(DEFAULT, sizes=(8,), layers=block_layers(VGG16, (1, 3))),
    replace(DEFAULT, guided=False),
    replace(DEFAULT, order="joint"),
    replace(DEFAULT, order="normalise_then_subtract"),
]


def made_up(ranking: np.ndarray, guided: bool, size: int, layers: Sequence[str]) -> dict[str, Tensor]:
    """Maps of the 4 classes, best first, that depend on everything they are asked for; no up-sampling needed."""
    seeds = {layer: sum(map(ord, layer)) + 1000 * size + guided for layer in layers}
    return {
        layer: torch.rand(4, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for layer, seed in seeds.items()
    }


@pytest.fixture
def maps() -> ImageMaps:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE - 2, 3), np.uint8)
    return ImageMaps(image, PROBABILITIES, PROBABILITIES > 0.5, made_up)


def by_the_equations(setting: Setting) -> np.ndarray:
    """Equations 4 and 5 in loops over sizes, blocks, layers, classes and rivals."""
    blocks = []
    for size in setting.sizes:
        for block in setting.layers:
            layers = []
            for raw in made_up(RANKING, setting.guided, size, block).values():
                raw = raw[:, :, : SIDE - 2].double().numpy()
                rows = max(2, setting.min_candidates)
                raw = raw[:rows]
                if setting.order == "joint":
                    raw = raw / raw.max()
                if setting.order == "normalise_then_subtract":
                    raw = np.stack([m / m.max() for m in raw])
                targets = []
                for c in range(2):
                    rivals = [other for other in range(rows) if other != c] if setting.min_candidates else []
                    m = sum(np.maximum(raw[c] - raw[other], 0) for other in rivals) if rivals else raw[c]
                    m = m / m.max() if setting.order == "subtract_then_normalise" else m
                    targets.append(np.tanh(setting.alpha * m))
                layers.append(targets)
            blocks.append(np.mean(layers, axis=0))
    return np.mean(blocks, axis=0)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.sizes}-{len(s.layers)}-{s.order}-{s.min_candidates}")
def test_class_maps_follow_the_equations(maps: ImageMaps, setting: Setting) -> None:
    np.testing.assert_allclose(maps.saliency(setting).numpy(), by_the_equations(setting), atol=1e-6)


def test_many_settings_at_once_are_each_of_them_alone(maps: ImageMaps) -> None:
    settings = [*SETTINGS, replace(DEFAULT, order="released"), *SETTINGS]
    together = maps.saliencies(settings)
    for setting, values in zip(settings, together, strict=True):
        torch.testing.assert_close(values, maps.saliency(setting), rtol=0, atol=0)


def test_the_released_variant_sums_the_layers_of_all_blocks(maps: ImageMaps) -> None:
    setting = replace(DEFAULT, order="released", sizes=(8,))
    raw = [m[..., : SIDE - 2] for m in made_up(RANKING, True, 8, conv_layers(VGG16, (3, 4, 5))).values()]
    torch.testing.assert_close(maps.saliency(setting), released_saliency([raw], 2, 3, 3.0))


def test_a_sweep_reads_each_map_once(maps: ImageMaps) -> None:
    asked = []
    maps.read = lambda ranking, guided, size, layers: (
        asked.append((size, tuple(layers))) or made_up(ranking, guided, size, layers)
    )
    maps.saliencies([replace(DEFAULT, alpha=alpha, min_candidates=n) for alpha in (1, 2, 3) for n in (0, 2, 4)])
    assert sorted(asked) == sorted((size, conv_layers(VGG16, [block])) for size in (8, 12) for block in (3, 4, 5))


def test_class_maps_never_leave_the_unit_interval(maps: ImageMaps) -> None:
    maps.read = lambda ranking, guided, size, layers: {layer: torch.ones(4, SIDE, SIDE) for layer in layers}
    setting = replace(DEFAULT, sizes=tuple(range(7)), alpha=50.0, min_candidates=0, crf=CrfConfig(iterations=1))
    assert maps.saliency(setting).max() == 1
    assert maps.mask(setting).shape == (SIDE, SIDE - 2)  # the CRF refuses what is not a probability


def test_settings_that_differ_in_their_names_have_one_mask(maps: ImageMaps) -> None:
    rows = [replace(DEFAULT, name="a"), replace(DEFAULT, name="b", alpha=0.01), replace(DEFAULT, name="c")]
    a, b, c = maps.masks(rows)
    np.testing.assert_array_equal(a, c)
    assert (a != b).any()


def test_a_mask_holds_the_detected_classes_where_they_beat_the_background(maps: ImageMaps) -> None:
    saliency = torch.tensor([[[0.6, 0.4, 0.8]], [[0.7, 0.4, 0.1]]])
    image = np.zeros((1, 3, 3), np.uint8)
    np.testing.assert_array_equal(mask_from_saliency(image, saliency, maps.classes, None), [[4, 0, 2]])


def test_an_image_without_a_detected_class_is_background() -> None:
    def refuse(ranking: np.ndarray, guided: bool, size: int, layers: Sequence[str]) -> dict[str, Tensor]:
        raise AssertionError("no map is needed")

    maps = ImageMaps(np.zeros((3, 4, 3), np.uint8), PROBABILITIES / 10, np.zeros(4, bool), refuse)
    assert maps.saliencies([DEFAULT, DEFAULT]).shape == (2, 0, 3, 4)
    np.testing.assert_array_equal(maps.mask(replace(DEFAULT, crf=CrfConfig())), np.zeros((3, 4), np.uint8))


def test_the_crf_of_each_setting_is_its_own(maps: ImageMaps) -> None:
    configs = [None, CrfConfig(w1=5, gamma_beta=80, iterations=2), CrfConfig(w1=0, w2=9, gamma_gamma=200, iterations=2)]
    settings = [replace(DEFAULT, name=str(config), crf=config) for config in configs * 2]
    for setting, mask in zip(settings, maps.masks(settings), strict=True):
        expected = mask_from_saliency(maps.image, maps.saliency(DEFAULT), maps.classes, setting.crf)
        np.testing.assert_array_equal(mask, expected)


def test_grabcut_takes_the_place_of_the_crf(maps: ImageMaps) -> None:
    setting = replace(DEFAULT, grabcut=True)
    expected = grabcut_labels(maps.image, maps.saliency(setting).numpy(), maps.classes)
    np.testing.assert_array_equal(maps.mask(setting), expected)


def test_too_few_stored_classes_are_told_and_more_than_exist_are_not_asked_for(maps: ImageMaps) -> None:
    all_four = maps.saliency(replace(DEFAULT, min_candidates=4))
    torch.testing.assert_close(maps.saliency(replace(DEFAULT, min_candidates=15)), all_four)
    maps.read = lambda *asked: {name: m[:3] for name, m in made_up(*asked).items()}
    with pytest.raises(WorkbookError, match=r"maps of 3 classes, but 4 .* raise saliency.max_classes"):
        maps.saliency(replace(DEFAULT, min_candidates=4))


def test_the_baseline_is_the_plain_gradient_at_the_image(maps: ImageMaps) -> None:
    profile = load_profile("voc")
    setting = simonyan_setting(profile)
    assert setting.layers == (("input",),)
    assert (setting.guided, setting.sizes, setting.min_candidates, setting.alpha) == (False, (500,), 0, 8.0)
    raw = made_up(RANKING, False, 500, ["input"])["input"][:2, :, : SIDE - 2]
    expected = torch.tanh(8 * raw / raw.amax((1, 2), keepdim=True))
    torch.testing.assert_close(maps.saliency(setting), expected)


def test_the_method_takes_its_values_from_the_profile() -> None:
    profile = load_profile("study")
    setting = dcsm_setting(profile, crf=True, alpha=5.0)
    assert (setting.sizes, setting.min_candidates) == (profile.saliency.sizes, 3)
    assert setting.layers == block_layers(VGG16, (3, 4, 5))
    assert (setting.alpha, setting.crf) == (5.0, profile.crf)


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    classifier = replace(profile.classifier, threshold=0.0)  # an untrained network detects what it likes
    return Run(replace(profile, data=data, classifier=classifier), 0, tmp_path / "results")


def network(profile: Profile) -> torch.nn.Module:
    return prepare(fold_batch_norm(new_classifier(profile.classifier, 3, seed=0)))


def test_one_image_from_scratch_is_what_the_stages_make_of_it(run: Run) -> None:
    model, ids = network(run.profile), run.val_ids[:1]
    classify(run, model, ids)
    for extraction in planned_extractions(run.profile):
        extract(run, model, ids, extraction)
    staged = SavedMaps(run).of(ids[0]).mask(dcsm_setting(run.profile, crf=True))
    at_once = segment_image(model, run.devkit.image(ids[0]), run.profile, threshold=0.0)
    assert len(np.unique(at_once)) > 1
    assert (staged == at_once).mean() > 0.99  # stored maps are rounded to half precision


def test_what_was_not_extracted_is_named(run: Run) -> None:
    model, ids = network(run.profile), run.val_ids[:1]
    with pytest.raises(WorkbookError, match="run notebook 02_saliency_extraction first"):
        SavedMaps(run)
    classify(run, model, ids)
    for extraction in planned_extractions(run.profile):
        extract(run, model, ids, extraction)
    with pytest.raises(WorkbookError, match="no plain maps of conv1_1 at 64 pixels"):
        SavedMaps(run).of(ids[0]).saliency(
            dcsm_setting(run.profile, guided=False, sizes=(64,), layers=block_layers(VGG16, (1,)))
        )


def test_known_labels_decide_what_is_drawn_in_the_seed_protocol(run: Run) -> None:
    model, ids = network(run.profile), run.val_ids
    classify(run, model, ids)
    for extraction in planned_extractions(run.profile):
        extract(run, model, ids, extraction)
    saved, by_score = SavedMaps(run, known_labels=True), SavedMaps(run)
    for image_id in ids:
        known = np.flatnonzero(run.devkit.labels(image_id))
        maps, scores = saved.of(image_id), by_score.of(image_id).probabilities
        assert maps.classes.tolist() == sorted(known, key=lambda c: -scores[c])
        raw = by_score.of(image_id).raw(True, 64, ["conv5_3"])[0]
        order = [by_score.of(image_id).ranking.tolist().index(c) for c in maps.ranking]
        torch.testing.assert_close(maps.raw(True, 64, ["conv5_3"], 3)[0], raw[order][:3])
        assert set(np.unique(maps.mask(dcsm_setting(run.profile)))) <= {0, *(known + 1)}
