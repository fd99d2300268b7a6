"""The factor lab: the same scene drawn anew in an explorer, and a study that trains with every value of a factor."""

import os
import re
from dataclasses import replace
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NARROW, selectors, shown, view
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal

from wsseg_core.base.config import FactorsConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import CORES
from wsseg_core.classify.classifier import mean_average_precision_interval, train_classifier
from wsseg_core.data.run import Run
from wsseg_core.data.toy.composition import draw_scene
from wsseg_core.evaluate import factor_study as study
from wsseg_core.evaluate.factor_study import (
    COLUMNS,
    FACTORS,
    NO_FACTORS,
    factor_run,
    factor_values,
    findings,
    study_conditions,
)
from wsseg_core.evaluate.metrics import TEST_PROTOCOL, confusion_matrix, mean_iou
from wsseg_core.workbook.explorers.factors import class_map_picture, factor_explorer
from wsseg_core.workbook.palette import COLOURS
from wsseg_core.workbook.widgets import HEADLESS

SMALL = FactorsConfig(train_images=3, val_images=2, steps=1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Drawn scenes, and a classifier that learns for a moment and detects everything."""
    profile = load_profile("smoke")
    drawn = replace(profile.toyvoc, train_images=4, val_images=3, image_size=48, supersampling=1)
    data = replace(profile.data, devkit=str(tmp_path / "devkit"), image_size=48)
    classifier, saliency = replace(NARROW, threshold=0.0, steps=2), replace(profile.saliency, sizes=(48, 64))
    changed = replace(profile, data=data, toyvoc=drawn, classifier=classifier, saliency=saliency, factors=SMALL)
    return Run(changed, 0, tmp_path / "results" / "smoke")


@pytest.fixture
def photographs(run: Run, tiny_devkit: Path) -> Run:
    return replace(
        run, profile=replace(run.profile, data=replace(run.profile.data, source="voc", devkit=str(tiny_devkit)))
    )


@pytest.fixture
def trained(run: Run) -> Run:
    train_classifier(run)
    return run


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that were trained, in this process, since the test began."""
    monkeypatch.setenv(CORES, "1")
    begun: list[Run] = []
    monkeypatch.setattr(study, "train_classifier", lambda run: begun.append(run) or train_classifier(run))
    return begun


class TestExplorer:
    @pytest.fixture
    def box(self, trained: Run, monkeypatch: pytest.MonkeyPatch) -> ipywidgets.VBox:
        monkeypatch.delenv(HEADLESS, raising=False)
        return factor_explorer(trained)

    def test_starts_with_the_scene_that_is_on_disk(self, trained: Run, box: ipywidgets.VBox) -> None:
        assert_array_equal(shown(box)[0], trained.devkit.image(trained.example_ids[0]))
        assert [selectors(box)[name].value for name in FACTORS] == [
            getattr(trained.profile.toyvoc, name) for name in FACTORS
        ]
        titles = re.findall(r"<figcaption>(.*?)</figcaption>", view(box))
        assert titles == ["image", "class maps", "without CRF", "with CRF"]

    @pytest.mark.parametrize("factor", [name for name in FACTORS if name != "cooccurrence"])
    def test_every_slider_draws_the_scene_anew_and_keeps_who_is_there(
        self, trained: Run, box: ipywidgets.VBox, factor: str
    ) -> None:
        before, slider, image_id = view(box), selectors(box)[factor], selectors(box)["image"].value
        slider.index = len(slider.options) - 1
        assert view(box) != before
        config = replace(trained.profile.toyvoc, occlusion=0.0)
        usual, turned = (
            draw_scene(int(image_id[-5:]), "val", replace(config, **changes))
            for changes in ({}, {factor: slider.value} if factor != "occlusion" else {})
        )
        assert [item.name for item in turned.objects] == [item.name for item in usual.objects]

    def test_of_some_scenes_cooccurrence_changes_the_picture(self, trained: Run, box: ipywidgets.VBox) -> None:
        changed = []
        for image_id in trained.val_ids:
            selectors(box)["image"].value = image_id
            selectors(box)["cooccurrence"].index = 0
            apart = shown(box)[0]
            selectors(box)["cooccurrence"].index = len(selectors(box)["cooccurrence"].options) - 1
            changed.append((apart != shown(box)[0]).any())
        assert any(changed)

    def test_the_classes_that_are_detected_stand_below_their_maps(self, trained: Run, box: ipywidgets.VBox) -> None:
        (words,) = re.findall(r"<div>([^<]+)</div></figure>", view(box))
        told = re.findall(r"(\w+) (0\.\d\d|1\.00)", words)
        assert len({name for name, _ in told} & {*trained.devkit.classes}) == 4
        assert words.endswith(" and 4 more")
        assert [float(value) for _, value in told] == sorted((float(value) for _, value in told), reverse=True)

    def test_the_truth_is_that_of_the_scene_as_it_is_drawn_now(self, trained: Run, box: ipywidgets.VBox) -> None:
        assert "IoU" not in view(box)
        slider = selectors(box)["head_to_body"]
        slider.index = 0
        selectors(box)["truth"].value = True
        *_, truth = shown(box)[:5]
        image_id = selectors(box)["image"].value
        scene = draw_scene(int(image_id[-5:]), "val", replace(trained.profile.toyvoc, head_to_body=slider.value))
        inside = (scene.mask > 0) & (scene.mask < 255)
        changed = (truth != shown(box)[0]).any(-1)
        assert changed[inside].mean() > 0.9
        assert not changed[~inside].any()
        assert len(re.findall(r"mean IoU \d+ %", view(box))) == 2

    def test_headless_every_factor_is_turned_once(self, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(HEADLESS, "1")
        figure = factor_explorer(trained)
        assert isinstance(figure, Figure)
        first, *others = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
        assert first.count("\n") == len(FACTORS) - 1
        assert others == ["occlusion 1", "camouflage 1", "head to body 0.5", "cooccurrence 1", "clutter 12", "noise 40"]
        assert sum(bool(axes.get_xlabel()) for axes in figure.axes) == 1 + len(FACTORS)

    def test_without_a_classifier_the_notebook_that_trains_it_is_named(self, run: Run) -> None:
        with pytest.raises(WorkbookError, match="run notebook 01_training first"):
            factor_explorer(run)

    def test_where_nothing_is_drawn_a_line_says_so(self, photographs: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert factor_explorer(photographs) is None
        assert capsys.readouterr().out == f"{NO_FACTORS}\n"


def test_the_maps_of_all_classes_in_one_picture() -> None:
    saliency = np.float32([[[1, 0.2], [0, 0]], [[0.5, 0.4], [0, 0.5]]])
    picture = class_map_picture(saliency, np.array([2, 0]))
    # Lines of the first class run along the first row, those of the third from corner to corner.
    assert_array_equal(picture[1, 1], (0.5 * COLOURS[0]).round())
    assert picture[1, 0].max() == 0
    assert picture.shape == (2, 2, 3)
    assert class_map_picture(np.zeros((0, 2, 3), np.float32), np.zeros(0, int)).max() == 0


class TestStudy:
    def test_has_three_values_of_every_factor_and_reads_what_is_on_disk(self, run: Run, trainings: list[Run]) -> None:
        table = study.factor_study(run)
        assert list(table.columns) == list(COLUMNS)
        assert list(table["factor"]) == [factor for factor in FACTORS for _ in range(3)]
        assert all(part["value"].is_monotonic_increasing for _, part in table.groupby("factor"))
        own = table[table["own"]]
        assert list(own["value"]) == [getattr(run.profile.toyvoc, factor) for factor in FACTORS]
        assert own.drop(columns=["factor", "value"]).nunique().eq(1).all()
        assert (own[["difference", "difference low", "difference high"]] == 0).all(axis=None)
        assert np.allclose(table["difference"], table["ours"] - own["ours"].iloc[0])
        assert table[["ours", "low", "high"]].stack().between(0, 100).all()
        assert len(trainings) == 13
        pd.testing.assert_frame_equal(study.factor_study(run), table)
        assert len(trainings) == 13
        assert not any(path.is_file() for path in run.artifacts("factors_drawn").rglob("*"))

    def test_processes_change_nothing(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(study, "FACTORS", ("noise",))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the other processes
        tables = []
        for cores in ("1", "2"):
            monkeypatch.setenv(CORES, cores)
            tables.append(study.factor_study(replace(run, folder=tmp_path / cores)))
        torch.set_num_threads(threads)
        pd.testing.assert_frame_equal(*tables)
        assert os.environ[CORES] == "2"

    def test_each_training_sees_its_factor_and_the_shortened_recipe(self, run: Run, trainings: list[Run]) -> None:
        study._measured(run, "noise-40", noise=40.0)
        (turned,) = trainings
        assert turned.profile.toyvoc == replace(run.profile.toyvoc, train_images=3, val_images=2, noise=40.0)
        assert turned.profile.classifier == replace(run.profile.classifier, steps=1)
        assert turned.folder.is_relative_to(run.folder)

    def test_goes_on_after_it_was_killed(self, run: Run, trainings: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
        whole = study._measured(replace(run, folder=run.folder.parent / "whole"), "noise-40", noise=40.0)
        measure, calls = study._measure, []

        def killed(image: str, run: Run, store: object) -> None:
            calls.append(image)
            if len(calls) == 2:
                raise KeyboardInterrupt
            measure(image, run, store)

        with monkeypatch.context() as patch:
            patch.setattr(study, "_measure", killed)
            with pytest.raises(KeyboardInterrupt):
                study._measured(run, "noise-40", noise=40.0)
        monkeypatch.setattr(study, "_measure", lambda image, **rest: calls.append(image) or measure(image, **rest))
        again = study._measured(run, "noise-40", noise=40.0)
        assert calls == ["toy_val_00000", "toy_val_00001", "toy_val_00001"]
        assert_array_equal(again.probabilities, whole.probabilities)
        assert_array_equal(again.scores.confusions, whole.scores.confusions)

    def test_another_value_or_recipe_is_measured_again(self, run: Run, trainings: list[Run]) -> None:
        study._measured(run, "profile")
        for changes in ({"steps": 2}, {"val_images": 3}):
            factors = replace(SMALL, **changes)
            study._measured(replace(run, profile=replace(run.profile, factors=factors)), "profile")
        brighter = replace(run.profile, toyvoc=replace(run.profile.toyvoc, light=0.0))
        study._measured(replace(run, profile=brighter), "profile")
        assert len(trainings) == 4

    def test_scores_are_those_of_the_masks_that_the_training_draws(self, run: Run) -> None:
        turned = factor_run(run, "here", occlusion=1.0)
        train_classifier(turned)
        model = study.lab_model(turned)
        expected, labels, scores = [], [], []
        for index in range(2):
            image_id, scene = f"toy_val_{index:05d}", draw_scene(index, "val", turned.profile.toyvoc)
            maps = study.lab_maps(model, turned.devkit.image(image_id), turned.profile)
            expected.append(confusion_matrix(scene.mask, maps.mask(study.lab_setting(run.profile)), 8))
            labels.append(scene.labels)
            scores.append(maps.probabilities)
        measured = study._measured(run, "occlusion-1", occlusion=1.0)
        assert measured.scores.details["protocol"] == TEST_PROTOCOL
        assert measured.scores.mean_iou == mean_iou(np.sum(expected, axis=0))
        row = study._row(run, measured, measured)
        precision = mean_average_precision_interval(np.stack(labels), np.stack(scores), 20)
        np.testing.assert_allclose(row[:3], 100 * np.array(precision))

    def test_an_end_that_is_the_profiles_own_value_is_there_once(self, run: Run) -> None:
        drawn = replace(run.profile.toyvoc, occlusion=1.0)
        assert factor_values(replace(run.profile, toyvoc=drawn), "occlusion") == [0, 1]
        assert factor_values(run.profile, "clutter") == [0, 4, 12]

    def test_of_photographs_there_is_nothing_to_study(
        self, photographs: Run, capsys: pytest.CaptureFixture[str], trainings: list[Run]
    ) -> None:
        table = study.factor_study(photographs)
        assert capsys.readouterr().out == f"{NO_FACTORS}\n"
        assert table.empty
        assert list(table.columns) == list(COLUMNS)
        assert findings(table) == []
        assert not trainings

    def test_the_caption_says_what_was_trained_and_scored(self, run: Run) -> None:
        text = study_conditions(run)
        assert text.startswith("3 scenes to learn from and 2 to score")
        assert all(words in text for words in ("48 pixels", "at most 1 steps", "test protocol", "seed 0"))


def row(factor: str, value: float, difference: tuple[float, float, float], own: bool = False) -> tuple:
    return factor, value, own, 50.0, 40.0, 60.0, 30.0, 25.0, 35.0, *difference


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        row("noise", 0.0, (0.4, -1.0, 1.9)),
        row("noise", 5.0, (0.0, 0.0, 0.0), own=True),
        row("noise", 40.0, (-5.25, -8.0, -2.0)),
        row("clutter", 0, (3.0, 0.5, 6.0)),
        row("clutter", 4, (0.0, 0.0, 0.0), own=True),
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_sentences_say_what_the_intervals_bear_out_and_no_more(table: pd.DataFrame) -> None:
    assert findings(table) == [
        "2 of 3 intervals of a difference exclude 0; by chance alone about 0.2 would.",
        "noise at 40 instead of 5: the mean IoU falls, -5.2 points [-8.0, -2.0].",
        "clutter at 0 instead of 4: the mean IoU rises, +3.0 points [+0.5, +6.0].",
        "noise at 0 instead of 5: +0.4 points [-1.0, +1.9]; these images do not tell whether the mean IoU rises or "
        "falls.",
    ]


def test_of_numbers_that_mean_nothing_nothing_is_said(table: pd.DataFrame) -> None:
    assert findings(table, meaningful=False) == []


@pytest.mark.parametrize(("low", "told"), [(0.0, "do not tell"), (0.1, "rises")])
def test_an_interval_that_touches_zero_does_not_exclude_it(low: float, told: str) -> None:
    rows = [row("noise", 0.0, (1.0, low, 2.0)), row("noise", 5.0, (0.0, 0.0, 0.0), own=True)]
    assert told in findings(pd.DataFrame(rows, columns=list(COLUMNS)))[1]
