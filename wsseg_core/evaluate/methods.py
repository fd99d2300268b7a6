"""Every method of the workbook so far, by the names of `claims`: the table of notebook 05 in one registry.

Shimoda & Yanai, MIRU 2016, slides, part 1, compare FCN-MIL, ZOF with GBP and FCN with GBP; DCSM is their part 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from wsseg_core.base.config import Profile
from wsseg_core.evaluate.ablations import DCSM_METHODS
from wsseg_core.evaluate.claims import combination_key
from wsseg_core.forward.class_maps import CLASS_MAPS, COMBINATIONS, FOREGROUNDS
from wsseg_core.forward.forward_backward import AnySetting, ForwardImageMaps, ForwardSetting, Stored, forward_setting
from wsseg_core.forward.mi_svm import MiSvms
from wsseg_core.forward.zoom_out import superpixels, zoom_out_features
from wsseg_core.saliency.dcsm import dcsm_setting, live_maps, live_score_map

NOTEBOOK = "05_forward_and_backward_maps"
OTHER = "other"  # before the names of rows of the second network
Row: TypeAlias = Callable[[Profile, str], AnySetting]


def _superpixel_row(profile: Profile, name: str, **changes: Any) -> AnySetting:
    return forward_setting(profile, name, source="zoomout", superpixel_crf=profile.superpixel_crf, **changes)


# The rows of notebook 05 in their order: each makes its setting of a profile and its name. A further method is an entry
# here, and its words in `labels`.
METHODS: dict[str, Row] = {
    **DCSM_METHODS,
    "gbp_only": partial(dcsm_setting, min_candidates=0),
    "gbp_only_crf": partial(dcsm_setting, min_candidates=0, crf=True),
    "fcn_mil": partial(forward_setting, saliency=False, prior=False),
    "fcn_mil_crf": partial(forward_setting, saliency=False, prior=False, crf=True),
    "fcn_mil_ilp": partial(forward_setting, saliency=False),
    "fcn_mil_ilp_crf": partial(forward_setting, saliency=False, crf=True),
    "fcn_gbp": forward_setting,
    "fcn_gbp_crf": partial(forward_setting, crf=True),
    "zof": partial(forward_setting, source="zoomout", saliency=False),
    "zof_crf": partial(_superpixel_row, saliency=False),
    "zof_gbp": partial(forward_setting, source="zoomout"),
    "zof_gbp_crf": _superpixel_row,
}


def method_settings(profile: Profile) -> list[AnySetting]:
    """Every method so far, without a CRF and with it: the rows that notebook 05 compares in both protocols."""
    return [row(profile, name) for name, row in METHODS.items()]


def combination_settings(profile: Profile) -> list[ForwardSetting]:
    """FCN with GBP under every combination and foreground model, and FCN-MIL under every class map; without a CRF."""
    ways = [
        forward_setting(profile, combination_key(how, foreground), combination=how, foreground=foreground)
        for how in COMBINATIONS
        for foreground in FOREGROUNDS
    ]
    alone = [
        forward_setting(profile, f"fcn_mil-{name}", saliency=False, class_map=name, prior=False) for name in CLASS_MAPS
    ]
    return ways + alone


def other_network_settings(profile: Profile) -> list[AnySetting]:
    """The methods that do not ask for zoom-out features, under the names of the profile's other network.

    Args:
        profile: as `classifier.other_network` gives it.
    """
    wanted = [setting for setting in method_settings(profile) if "zof" not in setting.name]
    return [replace(setting, name=f"{OTHER}_{setting.name}") for setting in wanted]


def live_forward_maps(model: nn.Module, svms: MiSvms, image: np.ndarray, profile: Profile) -> ForwardImageMaps:
    """Maps of an image of any origin, made when a setting asks for them.

    Args:
        model: the classifier as `saliency.prepare` returns it.
        svms: what `zoom_out.train_zoom_out` learnt.
        image: uint8 (H, W, 3), any size.
        profile: sizes, threshold and superpixels.
    """
    score_map = live_score_map(model, image, profile.data.image_size)
    maps = live_maps(model, image, score_map, profile, profile.classifier.threshold)
    make: dict[str, Callable[[], Stored]] = {
        "fcn": lambda: {"scores": score_map.numpy()},
        "zoomout": partial(_live_zoom_out, model, svms, image, profile),
    }
    return ForwardImageMaps(maps, lambda source: make[source]())


def _live_zoom_out(model: nn.Module, svms: MiSvms, image: np.ndarray, profile: Profile) -> dict[str, np.ndarray]:
    segments = superpixels(image, profile.zoomout)
    features = zoom_out_features(model, image, segments, profile.data.image_size)
    return {"segments": segments, "probabilities": svms.probabilities(features)}


def seconds_per_image(
    model: nn.Module, svms: MiSvms, images: Sequence[np.ndarray], setting: AnySetting, profile: Profile
) -> float:
    """Median time from an image to its mask, everything included: network, superpixels, maps, CRF; in seconds."""
    times = []
    for image in images:
        started = perf_counter()
        live_forward_maps(model, svms, image, profile).mask(setting)
        times.append(perf_counter() - started)
    return float(np.median(times))
