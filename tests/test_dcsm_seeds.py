"""DCSM's masks of training images in batches, against the same images taken one by one, step by step."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_tiny_devkit

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain
from wsseg_core.classify.classifier import (
    classifier_settings,
    image_scores,
    load_classifier,
    new_classifier,
    train_classifier,
)
from wsseg_core.crf.dense import dense_crf
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import dcsm_setting
from wsseg_core.saliency.dcsm_seeds import batch_maps, dcsm_masks
from wsseg_core.saliency.extraction import layer_groups
from wsseg_core.saliency.gradients import prepare, saliency_maps
from wsseg_core.saliency.subtraction import background, candidates, class_maps

NOTEBOOK = "07_static"


pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a classifier and masks of DCSM, made where there is no pixel mask; only read."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_devkit(folder / "devkit")
    for masks in folder.glob("devkit/Segmentation*"):
        shutil.rmtree(masks)
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(folder / "devkit"))
    run = Run(replace(profile, data=data), 0, folder / "results")
    train_classifier(run)
    dcsm_masks(run, run.train_ids, NOTEBOOK)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """The same, to be changed."""
    shutil.copytree(trained.folder, tmp_path / "results")
    return replace(trained, folder=tmp_path / "results")


def with_values(run: Run, stage: str, **values: object) -> Run:
    return replace(run, profile=replace(run.profile, **{stage: replace(getattr(run.profile, stage), **values)}))


def masks_of(run: Run) -> dict[str, np.ndarray]:
    store = dcsm_masks(run, run.train_ids, NOTEBOOK)
    return {image_id: store.load(image_id)["mask"] for image_id in run.train_ids}


def agreement(left: np.ndarray, right: np.ndarray) -> float:
    """Share of the pixels with one label; a batch rounds otherwise than one image does."""
    return float((left == right).mean())


def by_hand(run: Run, image_id: str) -> np.ndarray:
    """Equations 3 to 5 of one image, one after the other, then the CRF."""
    profile = run.profile
    model = prepare(fold_batch_norm(load_classifier(run)))
    image, labels = run.devkit.image(image_id), torch.from_numpy(run.devkit.labels(image_id) > 0)
    with torch.inference_mode():
        scores = image_scores(model(resize_and_pad(image, profile.data.image_size)[None]))[0]
    classes, targets = candidates(scores, labels, profile.subtraction.min_candidates)
    groups, maps = layer_groups(profile), []
    for size in profile.saliency.sizes:
        layers = [layer for group in groups for layer in group]
        raw = saliency_maps(model, resize_and_pad(image, size)[None], classes[None], layers)
        maps += [class_maps([[raw[layer][0] for layer in group]], image.shape[:2], targets) for group in groups]
    saliency = torch.stack(maps).mean(0)
    marginals = dense_crf(image, torch.cat([background(saliency)[None], saliency]).numpy(), profile.crf)
    return np.concatenate([[0], classes[:targets].numpy() + 1])[marginals.argmax(0)]


def test_masks_are_those_of_one_image_after_the_other(trained: Run) -> None:
    for image_id, mask in masks_of(trained).items():
        assert mask.dtype == np.uint8
        assert agreement(mask, by_hand(trained, image_id)) > 0.99, image_id


def test_the_size_of_the_batches_changes_nothing(trained: Run, run: Run) -> None:
    shutil.rmtree(run.artifacts("seeds"))
    singly = masks_of(with_values(run, "saliency", batch_size=1))
    for image_id, mask in masks_of(trained).items():
        assert agreement(mask, singly[image_id]) > 0.99, image_id


def test_other_processes_can_be_told_what_to_do(trained: Run, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def through_pickle(function: Callable, items: list, **_: object) -> Iterator[None]:
        function, items = pickle.loads(pickle.dumps((function, items)))
        return map(function, items)

    monkeypatch.setattr("wsseg_core.saliency.dcsm_seeds.parallel_map", through_pickle)
    shutil.rmtree(run.artifacts("seeds"))
    drawn = masks_of(run)
    for image_id, mask in masks_of(trained).items():
        np.testing.assert_array_equal(mask, drawn[image_id])


def test_nothing_is_drawn_but_the_labels(trained: Run) -> None:
    for image_id, mask in masks_of(trained).items():
        labels = np.flatnonzero(trained.devkit.labels(image_id)) + 1
        assert set(np.unique(mask)) <= {0, *labels}
        assert mask.shape == trained.devkit.image(image_id).shape[:2]


def test_every_image_of_a_batch_keeps_its_own_classes(trained: Run) -> None:
    model = prepare(fold_batch_norm(load_classifier(trained)))
    batch = batch_maps(trained, model, trained.train_ids, dcsm_setting(trained.profile))
    for image_id, maps in zip(trained.train_ids, batch, strict=True):
        assert sorted(maps.classes) == np.flatnonzero(trained.devkit.labels(image_id)).tolist()


def test_an_image_without_a_label_is_background(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.profile.data.devkit, tmp_path / "devkit")
    run = with_values(run, "data", devkit=str(tmp_path / "devkit"))
    nameless = run.train_ids[1]
    (tmp_path / f"devkit/Annotations/{nameless}.xml").write_text("<annotation></annotation>")
    model = prepare(fold_batch_norm(new_classifier(run.profile.classifier, run.devkit.num_classes, seed=0)))
    setting = dcsm_setting(run.profile, crf=True)
    batch = batch_maps(run, model, run.train_ids[:2], setting)
    assert not batch[1].mask(setting).any()


def test_what_is_on_disk_is_left_alone_and_what_is_missing_is_made_again(run: Run) -> None:
    store, lost = dcsm_masks(run, run.train_ids, NOTEBOOK), run.train_ids[2]
    times = {image_id: store.path(image_id).stat().st_mtime_ns for image_id in run.train_ids}
    content = store.path(lost).read_bytes()
    store.path(lost).unlink()
    dcsm_masks(run, run.train_ids, NOTEBOOK)
    assert store.path(lost).read_bytes() == content
    assert [i for i in run.train_ids if store.path(i).stat().st_mtime_ns != times[i]] == [lost]


@pytest.mark.parametrize(("stage", "values"), [("subtraction", {"alpha": 8.0}), ("crf", {"w1": 7.0})])
def test_other_values_make_other_masks(run: Run, stage: str, values: dict[str, float]) -> None:
    changed = with_values(run, stage, **values)
    assert dcsm_masks(changed, [], NOTEBOOK).missing(run.train_ids) == run.train_ids


def test_the_store_says_what_it_is(trained: Run) -> None:
    store = ArtifactStore.open(trained.artifacts("seeds") / "dcsm_crf", NOTEBOOK)
    assert store.record["settings"]["seeds"]["crf"]["w1"] == trained.profile.crf.w1
    assert store.record["settings"]["classifier"] == plain(classifier_settings(trained))


def test_masks_without_a_classifier_are_refused(run: Run) -> None:
    shutil.rmtree(run.folder)
    with pytest.raises(WorkbookError, match="run notebook 01_training"):
        dcsm_masks(run, run.train_ids, NOTEBOOK)
