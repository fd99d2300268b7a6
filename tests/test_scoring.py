"""Scores of settings on a tiny devkit, with made-up saliency maps in place of a network's."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from wsseg_core.base.config import CrfConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run
from wsseg_core.evaluate import scoring
from wsseg_core.evaluate.metrics import confusion_matrix, mean_iou
from wsseg_core.evaluate.scoring import crf_text, read_scores, score_parts, score_reliability, score_settings
from wsseg_core.saliency.dcsm import ImageMaps, dcsm_setting, mask_from_saliency

STRONG = CrfConfig(w1=8.0, gamma_beta=60.0, iterations=3)


class MadeUpMaps:
    """Stands in for `SavedMaps`: class 0 is detected everywhere, class 1 in every other image, none in the first."""

    def __init__(self, run: Run, known_labels: bool = False) -> None:
        self.devkit, self.known_labels = run.devkit, known_labels
        self.depends_on = {"steps": run.profile.classifier.steps}

    def of(self, image_id: str) -> ImageMaps:
        number = int(image_id[-1])
        probabilities = np.float32([0.9, 0.8 if number % 2 else 0.1, 0.2]) * (number > 1)
        return ImageMaps(self.devkit.image(image_id), probabilities, probabilities > 0.5, partial(self.read, number))

    def read(
        self, number: int, ranking: np.ndarray, guided: bool, size: int, layers: Sequence[str]
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(number)
        return {layer: torch.rand(3, 6, 6, generator=generator) for layer in layers}


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    monkeypatch.setattr(scoring, "SavedMaps", MadeUpMaps)
    return Run(replace(profile, data=data), 0, tmp_path / "results")


def settings(run: Run) -> list:
    tuned = replace(dcsm_setting(run.profile, "tuned"), crf=STRONG, crf_source="chosen on train")
    return [dcsm_setting(run.profile), dcsm_setting(run.profile, "dcsm_crf", crf=True), tuned]


def test_every_setting_is_scored_on_every_image(run: Run) -> None:
    rows = settings(run)
    scores = score_settings(run, "a", run.val_ids, "val", rows, "notebook")
    assert list(scores) == ["dcsm", "dcsm_crf", "tuned"]
    for setting in rows:
        for index, image_id in enumerate(run.val_ids):
            maps = MadeUpMaps(run).of(image_id)
            mask = mask_from_saliency(maps.image, maps.saliency(setting), maps.classes, setting.crf)
            expected = confusion_matrix(VocMasks(run.devkit).mask(image_id), mask, 3)
            np.testing.assert_array_equal(scores[setting.name].confusions[index], expected)
    assert (scores["dcsm"].confusions != scores["tuned"].confusions).any()


def test_every_number_says_which_crf_it_used(run: Run) -> None:
    scores = score_settings(run, "a", run.val_ids, "val", settings(run), "notebook")
    crfs = {name: value.details["crf"] for name, value in scores.items()}
    assert crfs == {
        "dcsm": "none",
        "dcsm_crf": "1/1/30/10/3, 2 iterations",
        "tuned": "8/1/30/60/3, 3 iterations; chosen on train",
    }
    assert crf_text(None, "chosen on train") == "none"


def test_only_pixels_near_a_true_border_count_by_hand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is right but for one pixel far from the border and one beside it."""
    truth = np.zeros((1, 8), np.uint8)
    truth[0, 4:] = 1
    drawn = truth.copy()
    drawn[0, [3, 7]] = 1, 0
    monkeypatch.setattr(scoring, "BOUNDARY_WIDTH", 2)
    maps = SimpleNamespace(probabilities=np.zeros(1), masks=lambda _: [drawn])
    found = scoring._boundary_confusions(maps, lambda _: truth, [None])
    assert found.tolist() == [[[1, 1], [0, 2]]]  # columns 2 to 5: of the background one is right, of the class both
    assert mean_iou(found[0]) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def test_what_was_scored_is_not_scored_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    score_settings(run, "a", run.val_ids[:2], "val", settings(run), "notebook")
    seen = []
    monkeypatch.setattr(
        MadeUpMaps,
        "of",
        lambda self, image_id: (
            seen.append(image_id)
            or ImageMaps(self.devkit.image(image_id), np.zeros(3, np.float32), np.zeros(3, bool), partial(self.read, 0))
        ),
    )
    score_settings(run, "a", run.val_ids, "val", settings(run), "notebook")
    assert seen == run.val_ids[2:]


def test_another_notebook_reads_them_back(run: Run) -> None:
    left = score_settings(run, "a", run.val_ids, "val", settings(run), "notebook")
    read = read_scores(run, "a", run.val_ids, "notebook")
    assert read["tuned"].details == left["tuned"].details
    np.testing.assert_array_equal(read["tuned"].confusions, left["tuned"].confusions)
    with pytest.raises(WorkbookError, match="run notebook other first"):
        read_scores(run, "b", run.val_ids, "other")
    steps = run.profile.classifier.steps
    trained_longer = replace(run.profile, classifier=replace(run.profile.classifier, steps=steps + 1))
    with pytest.raises(WorkbookError, match=f"steps = {steps}, but this run uses {steps + 1}"):
        read_scores(replace(run, profile=trained_longer), "a", run.val_ids, "notebook")


def test_reliability_counts_the_pixels_of_images_with_a_class(run: Run) -> None:
    ids = run.val_ids
    counts = score_reliability(run, "r", ids, "val", settings(run), "notebook")
    scored = [int((VocMasks(run.devkit).mask(image_id) != 255).sum()) for image_id in ids]
    scored[0] = 0  # no class is detected there
    scores = score_settings(run, "a", ids, "val", settings(run), "notebook")
    for name, reliability in counts.items():
        np.testing.assert_array_equal(reliability.counts[:, :, 0].sum(1), scored)
        right = np.trace(scores[name].confusions, axis1=1, axis2=2) * (np.array(scored) > 0)
        np.testing.assert_array_equal(reliability.counts[:, :, 2].sum(1), right)


def test_part_recall_counts_the_pixels_of_each_part_drawn_in_the_right_class(run: Run) -> None:
    rows = settings(run)[:2]
    table = score_parts(run, "p", run.train_ids, "train", rows, "notebook", samples=20).set_index(["row", "part"])
    for setting in rows:
        right = dict.fromkeys(("head", "body"), 0)
        total = dict.fromkeys(("head", "body"), 0)
        for image_id in run.train_ids:
            truth, parts = (VocMasks(run.devkit, kind).mask(image_id) for kind in ("class", "parts"))
            mask = MadeUpMaps(run).of(image_id).mask(setting)
            for value, part in ((1, "head"), (2, "body")):
                inside = (parts == value) & (truth != 255)
                right[part] += (mask == truth)[inside].sum()
                total[part] += inside.sum()
        for part in ("head", "body"):
            line = table.loc[(setting.name, part)]
            assert line["ours"] == pytest.approx(100 * right[part] / total[part])
            assert 0 <= line["low"] <= line["high"] <= 100
    assert table["ours"].max() > 0
