"""Saliency maps on disk: what is planned, what is written, and what comes back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from wsseg_core.base.config import ClassifierConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import class_probabilities
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.saliency import extraction
from wsseg_core.saliency.extraction import (
    Extraction,
    classify,
    conv_layers,
    extract,
    load_maps,
    open_extraction,
    open_probabilities,
    planned_extractions,
)
from wsseg_core.saliency.gradients import INPUT, saliency_maps

LAYERS = ("conv3_1", "conv5_3")


def extracted(run: Run, model: nn.Module, classes: int = 2) -> Extraction:
    plan = Extraction("guided-48", True, 48, LAYERS, classes)
    classify(run, model, run.val_ids)
    extract(run, model, run.val_ids, plan)
    return plan


@pytest.mark.parametrize("name", ["smoke", "toy", "voc"])
def test_no_map_is_planned_twice(name: str) -> None:
    plan = planned_extractions(load_profile(name))
    maps = [(e.guided, e.size, layer) for e in plan for layer in e.layers]
    assert len(set(maps)) == len(maps)
    assert len({e.name for e in plan}) == len(plan)


def test_the_plan_of_the_paper() -> None:
    plan = {e.name: e for e in planned_extractions(load_profile("voc"))}
    assert plan["guided-500"].layers == conv_layers(ClassifierConfig(), (3, 4, 5))
    assert plan["guided-500"].classes == 15
    assert plan["plain-600"].classes == 3
    assert plan["lower-500"].layers == ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
    assert (plan["input-500"].layers, plan["input-500"].guided) == ((INPUT,), False)
    assert sum(name.startswith("guided") for name in plan) == 6


def test_the_plan_without_ablations_is_that_of_the_methods() -> None:
    profile = load_profile("smoke")
    plan = planned_extractions(replace(profile, saliency=replace(profile.saliency, ablations=False)))
    assert [e.name for e in plan] == ["guided-64", "guided-96", "input-64"]
    assert set(plan) < set(planned_extractions(profile))


def test_probabilities_are_those_of_the_network(run: Run, model: nn.Module) -> None:
    classify(run, model, run.val_ids)
    expected = class_probabilities(model, run.devkit, run.val_ids, 64, batch_size=1)
    for image_id, row in zip(run.val_ids, expected, strict=True):
        np.testing.assert_allclose(open_probabilities(run).load(image_id)["probabilities"], row, atol=1e-5)


def test_what_is_read_back_is_what_the_network_gives(run: Run, model: nn.Module) -> None:
    store = open_extraction(run, extracted(run, model))
    for image_id in run.val_ids:
        classes, maps = load_maps(store, image_id, LAYERS)
        probabilities = open_probabilities(run).load(image_id)["probabilities"]
        ranking = np.argsort(-probabilities, kind="stable")
        assert len(classes) >= 2
        np.testing.assert_array_equal(classes, ranking[: len(classes)])
        drawable = np.flatnonzero((probabilities > 0.5) | (run.devkit.labels(image_id) > 0))
        assert set(drawable) <= set(classes)
        image = resize_and_pad(run.devkit.image(image_id), 48)[None]
        expected = saliency_maps(model, image, torch.from_numpy(classes)[None], LAYERS)
        for layer in LAYERS:
            largest = expected[layer].max().item()
            torch.testing.assert_close(maps[layer], expected[layer][0], rtol=1e-3, atol=1e-3 * largest)


def test_small_gradients_survive_half_precision(run: Run, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.rand(3, 2, 4, 4) * 1e-12
    monkeypatch.setattr(extraction, "saliency_maps", lambda *arguments: dict.fromkeys(LAYERS, small))
    store = open_extraction(run, extracted(run, model))
    _, maps = load_maps(store, run.val_ids[1], LAYERS)
    torch.testing.assert_close(maps["conv3_1"], small[1], rtol=1e-3, atol=1e-15)


def test_a_gradient_of_zero_stays_zero(run: Run, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "saliency_maps", lambda *arguments: dict.fromkeys(LAYERS, torch.zeros(3, 2, 4, 4)))
    store = open_extraction(run, extracted(run, model))
    assert load_maps(store, run.val_ids[0], ["conv5_3"])[1]["conv5_3"].abs().max() == 0


def test_all_detected_classes_are_kept_even_beyond_the_plan(run: Run, model: nn.Module) -> None:
    classifier = replace(run.profile.classifier, threshold=0.0)
    run = replace(run, profile=replace(run.profile, classifier=classifier))
    store = open_extraction(run, extracted(run, model, classes=1))
    assert all(len(load_maps(store, image_id, LAYERS)[0]) == 3 for image_id in run.val_ids)


def test_only_what_is_missing_is_computed(run: Run, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = extracted(run, model)
    store = open_extraction(run, plan)
    store.path(run.val_ids[1]).unlink()
    seen = []
    monkeypatch.setattr(
        extraction,
        "saliency_maps",
        lambda m, images, *rest: seen.append(len(images)) or saliency_maps(m, images, *rest),
    )
    extract(run, model, run.val_ids, plan)
    extract(run, model, run.val_ids, plan)
    assert seen == [1]
    assert not store.missing(run.val_ids)


def test_maps_made_under_other_settings_are_not_read(run: Run, model: nn.Module) -> None:
    plan = extracted(run, model)
    with pytest.raises(WorkbookError, match="size = 48, but this run uses 32"):
        open_extraction(run, replace(plan, size=32))
    other = replace(run.profile, saliency=replace(run.profile.saliency, precision="bfloat16"))
    with pytest.raises(WorkbookError, match="run notebook 02_saliency_extraction again"):
        open_probabilities(replace(run, profile=other))
