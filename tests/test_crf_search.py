import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from wsseg_core.base.config import CrfConfig, Profile, SweepConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.crf.dense import scale_widths
from wsseg_core.data.run import Run
from wsseg_core.evaluate.crf_search import (
    choose_crf,
    crf_name,
    grid_settings,
    grid_table,
    in_image_pixels,
    load_tuned_crf,
    on_border,
    tuning_ids,
    tuning_split,
)
from wsseg_core.evaluate.metrics import REQUIRED_DETAILS, TEST_PROTOCOL, Scores

PAPER = CrfConfig()
DETAILS = dict.fromkeys(REQUIRED_DETAILS, "any") | {"protocol": TEST_PROTOCOL}


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    sweeps = SweepConfig(crf_train_images=4, crf_w1=(1, 2, 4), crf_gamma_beta=(5, 10))
    one = replace(sweeps, crf_w2=(1,), crf_gamma_alpha=(30,), crf_gamma_gamma=(3,))
    return Run(replace(profile, data=data, sweeps=one), 0, tmp_path / "results")


def scores(run: Run, right: dict[str, int]) -> dict[str, Scores]:
    """One class; so many of 100 object pixels of every image are found under each combination."""
    ids = tuple(tuning_ids(run))
    matrices = {name: np.array([[[100, 0], [100 - n, n]]] * len(ids), np.int64) for name, n in right.items()}
    return {name: Scores(name, ids, counts, DETAILS) for name, counts in matrices.items()}


def mountain(run: Run, top: CrfConfig) -> dict[str, Scores]:
    """Scores that fall with the distance from one combination."""
    configs = {setting.name: setting.crf for setting in grid_settings(run)}
    heights = {
        name: round(90 - 5 * abs(config.w1 - top.w1) - abs(config.gamma_beta - top.gamma_beta))
        for name, config in configs.items()
        if config
    }
    return scores(run, heights)


def test_the_grid_is_every_combination_once_and_begins_with_the_paper(run: Run):
    settings = grid_settings(run)
    configs = [setting.crf for setting in settings]
    assert configs[0] == run.profile.crf
    assert {(config.w1, config.gamma_beta) for config in configs if config} == {
        (w1, beta) for w1 in (1, 2, 4) for beta in (5, 10)
    }
    assert len(configs) == len({setting.name for setting in settings}) == 6
    assert {replace(setting, name="", crf=None) for setting in settings} == {replace(settings[0], name="", crf=None)}


def test_the_papers_values_are_tried_even_when_the_grid_leaves_them_out(run: Run):
    sweeps = replace(run.profile.sweeps, crf_w1=(2,), crf_gamma_beta=(5,))
    narrow = replace(run, profile=replace(run.profile, sweeps=sweeps))
    assert [setting.name for setting in grid_settings(narrow)] == ["crf-1-1-30-10-3", "crf-2-1-30-5-3"]


def test_only_train_images_choose(run: Run):
    assert tuning_ids(run) == run.train_ids[:4]
    assert not set(tuning_ids(run)) & set(run.val_ids)
    assert tuning_split(run) == "train, first 4 images"


def test_without_any_mask_the_papers_values_stay_and_the_source_says_so(run: Run):
    settings, ids = grid_settings(run), tuple(tuning_ids(run))
    nothing = np.zeros((len(ids), 4, 4), np.int64)
    tuned = choose_crf(
        run, settings, {setting.name: Scores(setting.name, ids, nothing, DETAILS) for setting in settings}
    )
    assert (tuned.config, tuned.source) == (run.profile.crf, "CRF of the paper, as train images have no masks")
    assert np.isnan(load_tuned_crf(run).mean_iou)


def test_the_best_combination_is_found_and_kept(run: Run):
    best = replace(run.profile.crf, w1=2.0, gamma_beta=5.0)
    settings, measured = grid_settings(run), mountain(run, best)
    table = grid_table(settings, measured)
    assert table["ours"].is_monotonic_decreasing
    assert (table.loc[0, "w1"], table.loc[0, "gamma_beta"]) == (2, 5)
    assert on_border(table) == ["gamma_beta"]  # 2 lies between 1 and 4; what was not varied has no border
    tuned = choose_crf(run, settings, measured)
    assert tuned.config == best
    assert tuned.source == "CRF chosen with masks of 4 train images"
    assert tuned.image_ids == tuple(run.train_ids[:4])
    assert tuned.mean_iou == measured[crf_name(best)].mean_iou
    assert load_tuned_crf(run) == tuned


def test_of_equals_the_papers_values_are_taken(run: Run):
    settings = grid_settings(run)
    level = scores(run, dict.fromkeys([setting.name for setting in settings], 50))
    assert choose_crf(run, settings, level).config == run.profile.crf


def test_values_of_another_grid_or_a_damaged_file_are_refused(run: Run):
    with pytest.raises(WorkbookError, match="run notebook 04_crf_tuning first"):
        load_tuned_crf(run)
    settings = grid_settings(run)
    choose_crf(run, settings, mountain(run, PAPER))
    path = run.artifacts("crf") / "tuned.json"
    fewer: Profile = replace(run.profile, sweeps=replace(run.profile.sweeps, crf_train_images=3))
    with pytest.raises(WorkbookError, match="made under other settings"):
        load_tuned_crf(replace(run, profile=fewer))
    record = json.loads(path.read_text())
    del record["source"]
    for content in (json.dumps(record), "{", "[]"):
        path.write_text(content)
        with pytest.raises(WorkbookError, match="missing or damaged"):
            load_tuned_crf(run)


@pytest.mark.parametrize("size", [8, 160, 500, 613])
def test_unscaled_widths_come_out_as_they_are_printed(size: int):
    printed = scale_widths(in_image_pixels(PAPER, size), size, size // 2)
    assert asdict(printed) == pytest.approx(asdict(PAPER))
