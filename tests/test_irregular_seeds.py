"""Errors that are made from true masks: how many, where, and what a sweep over them says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW, write_tiny_devkit

from wsseg_core.base.config import DataConfig, DifferenceConfig, Profile, SegmentationConfig, SweepConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import train_classifier
from wsseg_core.data.run import Run
from wsseg_core.evaluate.irregular_seeds import irregular_pair, irregular_sweep, with_errors, with_rim, without_void
from wsseg_core.evaluate.metrics import confusion_matrix, mean_iou

VOID = 255


def scene() -> np.ndarray:
    """Two objects of 20×20 pixels."""
    truth = np.zeros((60, 80), np.uint8)
    truth[5:25, 5:25], truth[30:50, 40:60] = 1, 2
    return truth


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_void_pixels_take_the_nearest_label():
    truth = np.array([[1, VOID, VOID, 0, VOID]], np.uint8)
    assert without_void(truth).tolist() == [[1, 1, 0, 0, 0]]
    assert without_void(np.full((1, 2), VOID, np.uint8)).tolist() == [[0, 0]]


def test_a_rim_by_hand():
    truth = np.zeros((5, 7), np.uint8)
    truth[2, 3] = 1
    grown = with_rim(truth, 4.0)  # four more pixels for one
    assert np.argwhere(grown).tolist() == [[1, 3], [2, 2], [2, 3], [2, 4], [3, 3]]


def test_a_rim_takes_the_label_of_the_nearest_object():
    truth = scene()
    grown = with_rim(truth, 0.3)
    added = grown != truth
    assert added.sum() == 240
    assert not truth[added].any()
    assert grown[4, 10] == 1
    assert grown[29, 50] == 2


def test_systematic_errors_are_the_outermost_pixels_of_objects():
    truth = scene()
    mask = with_errors(truth, 0.1, 0, rng())
    missing = np.argwhere(mask != truth)
    assert len(missing) == 80
    assert (mask[mask != truth] == 0).all()
    for y, x in missing:
        assert (truth[y - 1 : y + 2, x - 1 : x + 2] == 0).any()  # at the border of its object


@pytest.mark.parametrize("irregularity", [0, 0.5, 1])
def test_the_mean_iou_is_the_same_at_every_irregularity(irregularity: float):
    truth = scene()
    mask = with_errors(truth, 0.3, irregularity, rng())
    # 240 of 800 object pixels are missing, 120 of each: IoU 280/400 of the classes, 4000/4240 of the background
    assert mean_iou(confusion_matrix(truth, mask, 2)) == pytest.approx(100 * (0.7 + 0.7 + 4000 / 4240) / 3, abs=3)
    assert set(np.unique(mask)) <= {0, 1, 2}
    np.testing.assert_array_equal(mask, with_errors(truth, 0.3, irregularity, rng()))


def test_irregular_errors_are_things_that_are_not_there_and_holes_and_swaps():
    truth, kinds = scene(), set()
    for seed in range(20):
        mask = with_errors(truth, 0.5, 1, rng(seed))
        wrong = mask != truth
        kinds |= set(zip((truth[wrong] > 0).tolist(), (mask[wrong] > 0).tolist(), strict=True))
    assert kinds == {(False, True), (True, False), (True, True)}


def test_an_image_without_objects_has_no_errors():
    empty = np.zeros((4, 5), np.uint8)
    np.testing.assert_array_equal(with_errors(empty, 0.3, 0.5, rng()), empty)
    np.testing.assert_array_equal(with_rim(empty, 0.3), empty)


@pytest.mark.parametrize("irregularity", [-0.1, 1.5])
def test_an_irregularity_out_of_range_is_refused(irregularity: float):
    with pytest.raises(WorkbookError, match=f"irregularity = {irregularity:g}: use a number from 0, systematic, to 1"):
        with_errors(scene(), 0.3, irregularity, rng())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_tiny_devkit(tmp_path / "devkit")
    data = DataConfig(source="voc", devkit=str(tmp_path / "devkit"), train_split="train", image_size=32)
    segmentation = SegmentationConfig(channels=4, dilation=1, crop=32, batch_size=2, steps=9)
    sweeps = SweepConfig(irregular_steps=2, bootstrap_samples=10, crf_train_images=4)
    own = {"segmentation": segmentation, "sweeps": sweeps, "difference": DifferenceConfig(channels=4)}
    run = Run(Profile(data=data, classifier=NARROW, **own), 0, tmp_path / "results")
    train_classifier(run)
    return run


def test_a_sweep_has_a_row_for_every_irregularity_and_repeats_itself(run: Run):
    table = irregular_sweep(run, [0, 1])
    assert table["irregularity"].tolist() == [0, 1]
    assert table["K"].nunique() == 1  # the knowledge is the same
    shares = table[["K", "A", "refined", "no detector", "low", "high", "AUC", "AUC low", "AUC high"]]
    assert np.isfinite(shares.to_numpy()).all()
    better = table[["K", "A"]].max(axis=1)
    np.testing.assert_allclose(table["ours"], table["refined"] - better)
    assert table["AUC"].between(0, 1).all()
    again = irregular_sweep(run, [0, 1])
    np.testing.assert_array_equal(table, again)


def test_without_masks_nothing_is_trained_and_nothing_is_said(run: Run):
    for mask in run.devkit.root.glob("SegmentationClass/*"):
        mask.unlink()
    table = irregular_sweep(run, [0, 1])
    assert table["irregularity"].tolist() == [0, 1]
    assert table.drop(columns="irregularity").isna().all().all()
    assert not run.artifacts("refinement").exists()


def test_another_seed_makes_other_errors_and_an_irregularity_out_of_range_none(run: Run):
    one, other = (irregular_pair(replace(run, seed=seed), 1)[1].load(run.train_ids[0])["mask"] for seed in (0, 1))
    assert not np.array_equal(one, other)
    with pytest.raises(WorkbookError, match="irregularity = 2"):
        irregular_pair(run, 2)
