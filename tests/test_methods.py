"""The list of all methods, and the time of one image, with a random network and an SVM that knows nothing."""

import numpy as np
import pytest
import torch

from wsseg_core.base.config import available_profiles, load_profile
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.evaluate.claims import CLAIMS
from wsseg_core.evaluate.methods import (
    combination_settings,
    live_forward_maps,
    method_settings,
    other_network_settings,
    seconds_per_image,
)
from wsseg_core.forward.forward_backward import ForwardSetting, forward_setting
from wsseg_core.forward.mi_svm import MiSvm, MiSvms
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import dcsm_setting, segment_image
from wsseg_core.saliency.gradients import prepare

PROFILE = load_profile("smoke")
CLASSES = ("cat", "dog", "sheep")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return prepare(fold_batch_norm(new_classifier(PROFILE.classifier, len(CLASSES), seed=0).eval()))


@pytest.fixture(scope="module")
def svms() -> MiSvms:
    features = PROFILE.classifier.width * (2 * 1 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 8)  # channels of all convolutions
    svm = MiSvm(np.zeros(features, np.float32), np.float32([0]), np.zeros((0, 3), np.int64), np.array([True]))
    return MiSvms(CLASSES, (svm,) * len(CLASSES))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.mark.parametrize("name", available_profiles())
def test_every_claim_about_forward_maps_finds_its_rows(name: str) -> None:
    profile = load_profile(name)
    rows = [setting.name for setting in (*method_settings(profile), *other_network_settings(profile))]
    assert len(rows) == len(set(rows))
    claims = [claim for claim in CLAIMS if "MIRU" in claim.source or claim.id == "forward-adds"]
    assert len(claims) > 4
    prefix = f"{profile.other_network.architecture}_"
    named = {name.removeprefix(prefix) for claim in claims for name in (claim.left, *claim.right)}
    assert named <= set(rows)


def test_each_method_stands_there_without_and_with_a_crf() -> None:
    rows = {setting.name: setting for setting in method_settings(PROFILE)}
    for name, setting in rows.items():
        refined = bool(setting.crf or getattr(setting, "superpixel_crf", None))
        assert refined == name.endswith("_crf")
        if refined:
            assert name.removesuffix("_crf") in rows


def test_the_other_network_has_no_zoom_out_features() -> None:
    rows = other_network_settings(PROFILE)
    assert len({setting.name for setting in rows}) == len(method_settings(PROFILE)) - 4
    assert not [row for row in rows if isinstance(row, ForwardSetting) and row.source == "zoomout"]


def test_combinations_are_all_there_and_have_no_crf() -> None:
    rows = combination_settings(PROFILE)
    ways = {(row.combination, row.foreground) for row in rows if row.saliency}
    assert len(ways) == 4 * 3
    assert not [row for row in rows if row.crf or row.superpixel_crf]


def test_maps_made_on_the_spot_draw_what_segmentation_draws(
    model: torch.nn.Module, svms: MiSvms, image: np.ndarray
) -> None:
    maps = live_forward_maps(model, svms, image, PROFILE)
    assert maps.targets > 0
    mask = maps.mask(dcsm_setting(PROFILE, crf=True))
    np.testing.assert_array_equal(mask, segment_image(model, image, PROFILE, PROFILE.classifier.threshold))
    zoom_out = maps.class_maps(forward_setting(PROFILE, "zof", source="zoomout", saliency=False, prior=False))
    assert zoom_out.shape == (maps.targets, 40, 56)
    torch.testing.assert_close(zoom_out, torch.full_like(zoom_out, 0.5))  # an SVM that knows nothing


def test_every_method_takes_its_time(model: torch.nn.Module, svms: MiSvms, image: np.ndarray) -> None:
    for setting in method_settings(PROFILE):
        assert seconds_per_image(model, svms, [image], setting, PROFILE) > 0
