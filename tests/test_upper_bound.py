"""The one place where true masks become pseudo labels, and the switch before it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOID
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run
from wsseg_core.segment.retraining import PseudoLabelled, check_pseudo_labels
from wsseg_core.segment.upper_bound import true_masks

NOTEBOOK = "07_static"


def switched(run: Run, supervised: bool) -> Run:
    config = replace(run.profile.segmentation, supervised=supervised)
    return replace(run, profile=replace(run.profile, segmentation=config))


def test_without_the_switch_no_mask_is_read(run: Run) -> None:
    with pytest.raises(WorkbookError, match=r"segmentation\.supervised = true"):
        true_masks(switched(run, False), NOTEBOOK)
    assert not run.artifacts("seeds").exists()


def test_masks_are_the_true_ones_of_the_training_images(run: Run) -> None:
    store, truth = true_masks(switched(run, True), NOTEBOOK), VocMasks(run.devkit)
    assert not store.missing(run.train_ids)
    assert store.missing(run.val_ids) == run.val_ids
    for image_id in run.train_ids:
        np.testing.assert_array_equal(store.load(image_id)["mask"], truth.mask(image_id))
    assert (store.load(run.train_ids[0])["mask"][:, -1] == VOID).all()


def test_a_network_can_learn_from_them(run: Run) -> None:
    run = switched(run, True)
    store = true_masks(run, NOTEBOOK)
    check_pseudo_labels(store, run.train_ids)
    _, masks, _ = PseudoLabelled(run.devkit, run.train_ids, [store], run.profile.segmentation, 0)[0, 0]
    assert masks.shape == (1, run.profile.segmentation.crop, run.profile.segmentation.crop)


def test_what_is_on_disk_is_left_alone(run: Run) -> None:
    run = switched(run, True)
    store = true_masks(run, NOTEBOOK)
    times = {image_id: store.path(image_id).stat().st_mtime_ns for image_id in run.train_ids[1:]}
    store.path(run.train_ids[0]).unlink()
    assert not true_masks(run, NOTEBOOK).missing(run.train_ids)
    assert times == {image_id: store.path(image_id).stat().st_mtime_ns for image_id in times}


def test_the_store_tells_who_asked_for_it(run: Run) -> None:
    true_masks(switched(run, True), NOTEBOOK)
    store = ArtifactStore.open(run.artifacts("seeds") / "supervised", NOTEBOOK)
    assert store.record["made_by"] == NOTEBOOK


def test_an_image_without_a_mask_is_named(run: Run, tiny_devkit: Path) -> None:
    lost = tiny_devkit / f"SegmentationClass/{run.train_ids[3]}.png"
    lost.unlink()
    with pytest.raises(WorkbookError, match=f"{lost.name}: missing mask"):
        true_masks(switched(run, True), NOTEBOOK)
