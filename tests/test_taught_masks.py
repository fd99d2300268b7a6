"""Result 2 less the seed, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from wsseg_core.evaluate import taught_masks
from wsseg_core.evaluate.taught_masks import BACKGROUNDS, best_background, result_minus_seed
from wsseg_core.refine.dynamic_step import DynamicSetting


def test_the_difference_by_hand(monkeypatch: pytest.MonkeyPatch):
    truth = np.array([[0, 0, 1, 1]] * 2, np.uint8)
    right, half = np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8)  # on a grid of half the size
    masks = {0: {"a": np.stack([right, half])}, 5: {"a": np.stack([half, right])}}
    monkeypatch.setattr(taught_masks, "taught", lambda run, name: masks)
    run = SimpleNamespace(devkit=SimpleNamespace(num_classes=1), seed=0)
    table = result_minus_seed(run, "dynamic", lambda image_id: truth, samples=10).set_index("step")  # type: ignore[arg-type]
    # All background: IoU of the background is 1/2, of the class 0.
    assert table.loc[0, ["seed", "result 2", "ours"]].tolist() == [100, 25, -75]
    assert table.loc[5, ["seed", "result 2", "ours", "low", "high"]].tolist() == [25, 100, 75, 75, 75]


def test_the_best_bias_is_the_first_of_the_best(monkeypatch: pytest.MonkeyPatch):
    truth, worse = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 0, 1]], np.uint8)
    masks = dict(zip(BACKGROUNDS, (worse, worse, truth, truth, worse), strict=True))
    asked = []

    def results(run, setting, seed, ids, backgrounds):
        asked.extend(ids)
        return [[masks[value] for value in backgrounds] for _ in ids]

    monkeypatch.setattr(taught_masks, "second_results", results)
    monkeypatch.setattr(taught_masks, "tuning_ids", lambda run: ["a", "b"])
    run = SimpleNamespace(devkit=SimpleNamespace(num_classes=1))
    value, table = best_background(run, None, None, lambda image_id: truth)  # type: ignore[arg-type]
    assert (value, asked) == (0.0, ["a", "b"])
    assert table["ours"].tolist() == pytest.approx([100 * (2 / 3 + 1 / 2) / 2] * 2 + [100] * 2 + [100 * 7 / 12])


def test_without_masks_the_bias_stays(monkeypatch: pytest.MonkeyPatch):
    nothing, mask = np.full((1, 2), 255, np.uint8), np.zeros((1, 2), np.uint8)
    monkeypatch.setattr(taught_masks, "second_results", lambda *_: [[mask] * len(BACKGROUNDS)])
    monkeypatch.setattr(taught_masks, "tuning_ids", lambda run: ["a"])
    run = SimpleNamespace(devkit=SimpleNamespace(num_classes=1))
    value, table = best_background(run, DynamicSetting("dynamic"), None, lambda image_id: nothing)  # type: ignore[arg-type]
    assert value == 0
    assert table["ours"].isna().all()
