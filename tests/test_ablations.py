"""The rows of the paper's tables: their names, and that notebook 02 extracts what they need."""

import pytest

from wsseg_core.base.config import load_profile
from wsseg_core.evaluate.ablations import ablation_settings, size_combinations
from wsseg_core.evaluate.tables import published
from wsseg_core.saliency.extraction import planned_extractions
from wsseg_core.saliency.subtraction import ORDERS

PROFILES = ["smoke", "toy", "voc"]


@pytest.mark.parametrize("name", PROFILES)
def test_every_row_finds_its_maps_among_the_extracted_ones(name: str) -> None:
    profile = load_profile(name)
    stored = {(e.guided, e.size, layer): e.classes for e in planned_extractions(profile) for layer in e.layers}
    for settings in ablation_settings(profile).values():
        for setting in settings:
            for size in setting.sizes:
                for layer in (layer for group in setting.layers for layer in group):
                    assert stored[setting.guided, size, layer] >= setting.min_candidates, setting.name


@pytest.mark.parametrize("name", PROFILES)
def test_names_are_unique(name: str) -> None:
    names = [setting.name for settings in ablation_settings(load_profile(name)).values() for setting in settings]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4", "table5"])
def test_the_published_setting_measures_every_published_row(table: str) -> None:
    rows = {setting.name for setting in ablation_settings(load_profile("voc"))[table]}
    assert set(published(f"dcsm_{table}")["row"]) <= rows


def test_everything_has_the_crf_but_the_rows_that_say_so() -> None:
    settings = [setting for settings in ablation_settings(load_profile("toy")).values() for setting in settings]
    assert {s.name for s in settings if s.crf is None} == {"simonyan", "simonyan_grabcut", "dcsm"}
    assert [s.name for s in settings if s.grabcut] == ["simonyan_grabcut"]


def test_orders_are_all_compared() -> None:
    assert [s.order for s in ablation_settings(load_profile("toy"))["orders"]] == list(ORDERS)


def test_sizes_follow_the_base_size() -> None:
    profiles = [load_profile(name) for name in ("study", "voc")]
    study, paper = (
        [tuple(round(100 * size / profile.data.image_size) for size in sizes) for sizes in size_combinations(profile)]
        for profile in profiles
    )
    assert study == paper
    assert size_combinations(load_profile("smoke")) == [(32,), (64,), (96,), (64, 96)]
