"""Every name that the workbook gives to scores has words for people."""

from itertools import chain

import pandas as pd
import pytest

from wsseg_core.base.config import load_profile
from wsseg_core.evaluate.ablations import ablation_settings
from wsseg_core.evaluate.claims import LAST_STAGES
from wsseg_core.evaluate.labels import labelled, network_label, row_label
from wsseg_core.evaluate.methods import combination_settings, method_settings
from wsseg_core.refine.dynamic_stage import dynamic_settings


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net_psa_crf", "network on PSA seeds, CRF"),
        ("net_psa_crf_seeds_crf", "network on PSA seeds with CRF, CRF"),
        ("net_dynamic_fixed_seed", "dynamic, seed fixed (control)"),
        ("psa_crf_seed", "PSA seeds, CRF"),
        ("static_no_bias_seed", "static seeds, no biases"),
        ("dcsm_crf", "DCSM, CRF"),
        ("simonyan-alpha8", "input gradient, α = 8"),
        ("block4", "block 4"),
        ("blocks3-5", "blocks 3 to 5"),
        ("sizes80-100-120", "input of 80, 100, 120 %"),
        ("n15", "N = 15"),
        ("other_fcn_mil_crf", "second network: FCN-MIL, CRF"),
        ("combine-geometric_mean-otsu", "geometric mean, foreground: otsu"),
        ("always K", "always K"),
        ("horse", "horse"),
    ],
)
def test_words(name: str, words: str) -> None:
    assert row_label(name) == words


def test_no_row_of_the_workbook_is_shown_by_its_name() -> None:
    profile = load_profile("toy")
    settings = [*method_settings(profile), *combination_settings(profile)]
    names = {setting.name for setting in chain(settings, *ablation_settings(profile).values())}
    names |= {name for claim in LAST_STAGES for name in (claim.left, *claim.right)}
    assert not {name for name in names if "_" in row_label(name) or row_label(name) == name}
    networks = {setting.name for setting in dynamic_settings()}
    assert not {name for name in networks if "_" in network_label(name)}


def test_no_two_rows_have_the_same_words() -> None:
    profile = load_profile("toy")
    names = {setting.name for setting in chain(*ablation_settings(profile).values())}
    assert len({row_label(name) for name in names}) == len(names)


def test_labels_stand_in_columns_of_names_and_in_headers() -> None:
    frame = pd.DataFrame(
        {
            "row": ["dcsm", None],
            "network": ["static", "psa"],
            "class": ["n3", "cat"],
            "dcsm ours": [1, 2],
            "ours": [1, 2],
        }
    )
    shown = labelled(frame)
    assert shown["row"].tolist()[0] == "DCSM"
    assert pd.isna(shown["row"][1])
    assert shown["network"].tolist() == ["network on static seeds", "network on PSA seeds"]
    assert shown["class"].tolist() == ["n3", "cat"]
    assert shown.columns.tolist()[-2:] == ["DCSM ours", "ours"]
    assert frame.columns.tolist()[-2:] == ["dcsm ours", "ours"]
